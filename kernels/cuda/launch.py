"""Compiling the CUDA C kernels once in a process, and starting them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from kernels.backend import Backend

THREADS = 256
SOURCE = Path(__file__).with_name("estep.cu")


def launch(kernel: str, threads: int, arguments: tuple[Any, ...], backend: Backend) -> None:
    """Start a kernel of ``estep.cu`` with at least so many threads.

    Parameters
    ----------
    arguments : C-contiguous arrays of the device, int for ``integer`` and float for ``double``.
    """
    compiled = _compiled(kernel, backend.xp, "float" if backend.real.itemsize == 4 else "double")
    compiled((-(-threads // THREADS),), (THREADS,), arguments)


@cache
def _compiled(kernel: str, xp: Any, real: str) -> Any:
    return _module(xp, real).get_function(kernel)


@cache
def _module(xp: Any, real: str) -> Any:
    return xp.RawModule(code=SOURCE.read_text(), options=(f"-Dreal={real}",))
