"""CUDA C kernels without a GPU: the same text compiled by g++, in the place of ``cupy.RawModule``."""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import find_program

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(')


class RawModule:
    """``cupy.RawModule``: compiled kernels by name."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        compiler = find_program("g++", "it is in the Debian package of the same name")
        entries = "".join(
            f'extern "C" int run_{name}(unsigned blocks, unsigned threads, void** arguments, unsigned count) '
            f"{{ return run({name}, blocks, threads, arguments, count); }}\n"
            for name in KERNEL.findall(code)
        )
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "kernels.so")
            command = [compiler, "-xc++", "-std=c++17", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", *options]
            source = f'#include "{HEADER}"\n{code}\n{entries}'
            built = subprocess.run([*command, "-o", library, "-"], input=source, text=True, capture_output=True)
            assert built.returncode == 0, built.stderr
            self._library = ctypes.CDLL(library)

    def get_function(self, name: str) -> Callable[[tuple[int], tuple[int], tuple[Any, ...]], None]:
        """The kernel as a function of blocks, threads and arguments; an argument's type is checked by nobody else."""
        run = self._library[f"run_{name}"]

        def kernel(grid: tuple[int], block: tuple[int], args: tuple[Any, ...]) -> None:
            held = [_argument(each) for each in args]
            pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(each) for each in held))
            assert run(grid[0], block[0], pointers, len(held)) == 0, f"{name} does not take {len(held)} arguments"

        return kernel


def _argument(value: Any) -> Any:
    """As CuPy hands it over: int as long long, float as double, of an array the pointer."""
    if type(value) is int:
        return ctypes.c_longlong(value)
    if type(value) is float:
        return ctypes.c_double(value)
    array: np.ndarray = value._values  # of a device array
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
