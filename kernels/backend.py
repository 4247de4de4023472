"""Where arrays live and how much memory they may take: passed as an argument, never a module global."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.fft

from kernels.clock import Clock


class Scratch:
    """Large arrays of one work unit, filled again and again: new memory would take as long as what fills it."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}

    def empty(self, purpose: str, shape: tuple[int, ...], dtype: np.dtype[Any], xp: Any) -> Any:
        """An array with any content, whose memory was that of the last one for the same purpose."""
        size = math.prod(shape)
        if purpose not in self._held or self._held[purpose].size < size:
            self._held[purpose] = xp.empty(size, dtype=dtype)
        return self._held[purpose][:size].reshape(shape)

    def kept(self, purpose: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when the unit first needed it for this purpose."""
        if purpose not in self._held:
            self._held[purpose] = make()
        return self._held[purpose]


@dataclass(frozen=True)
class Backend:
    """One device: its array module, precision and memory budget.

    Attributes
    ----------
    xp, fft : CuPy and its twin of scipy.fft; NumPy and scipy.fft on the CPU.
    real : dtype of bulk real arrays; ``complex`` is the matching complex dtype.
    memory_bytes : budget for the temporary arrays of one work unit.
    device : number of the GPU; 0 on the CPU.
    tf32 : whether products of the first pass are rounded (:mod:`kernels.cuda.tf32`).
    clock, scratch : what the time of a work unit is counted with, and arrays that it uses again; a unit has its own.
    """

    xp: Any
    fft: Any
    real: np.dtype[Any]
    memory_bytes: int
    device: int = 0
    tf32: bool = False
    clock: Clock = field(default_factory=Clock, compare=False, repr=False)
    scratch: Scratch = field(default_factory=Scratch, compare=False, repr=False)

    @property
    def complex(self) -> np.dtype[Any]:
        """Complex dtype with the precision of ``real``."""
        return np.result_type(self.real, np.complex64)

    @property
    def is_cpu(self) -> bool:
        """Whether arrays are NumPy arrays."""
        return self.xp is np

    def reused(self, purpose: str, *shape: int) -> Any:
        """A real array to be filled, valid until the next one for the same purpose."""
        return self.scratch.empty(purpose, shape, self.real, self.xp)

    def activate(self) -> None:
        """Make the calling thread use this device, and limit what its plans of transforms may take there."""
        if not self.is_cpu:
            self.xp.cuda.Device(self.device).use()  # threads start with GPU 0
            self.xp.fft.config.get_plan_cache().set_memsize(self.memory_bytes // 8)

    def free_memory(self) -> None:
        """Give back to the device what is kept for later arrays."""
        if not self.is_cpu:
            self.xp.fft.config.get_plan_cache().clear()
            self.xp.get_default_memory_pool().free_all_blocks()

    def to_host(self, array: Any) -> Any:
        """Copy ``array`` to a NumPy array (no copy on the CPU)."""
        return array if self.is_cpu else self.xp.asnumpy(array)


def cpu_backend(precision: str = "float32", memory_bytes: int = 2 << 30) -> Backend:
    """NumPy with ``precision`` ``float32`` or ``float64``."""
    return Backend(np, scipy.fft, np.dtype(precision), memory_bytes)


def cuda_backend(
    precision: str = "float32", *, device: int = 0, reserved_bytes: int = 0, units: int = 1, tf32: bool = False
) -> Backend:
    """CuPy on one GPU, which becomes the calling thread's.

    Parameters
    ----------
    device : number of the GPU.
    reserved_bytes : of the memory that is free now, what must stay so.
    units : work units that run at once and share half of the memory that is free and not reserved.
    tf32 : round the factors of the products of the first pass.

    Raises
    ------
    RuntimeError
        CuPy is not installed or sees no such device, or the device cannot compute or has no memory to give.
    """
    try:
        import cupy
        import cupy.cublas
        import cupyx.scipy.fft
    except ImportError as error:
        raise RuntimeError(f"CuPy cannot be imported ({error})") from error
    if not cupy.is_available():
        raise RuntimeError("CuPy finds no usable CUDA device")
    found = int(cupy.cuda.runtime.getDeviceCount())
    if device >= found:
        raise RuntimeError(f"there is no GPU {device}, the numbers go from 0 to {found - 1}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: the same sums from run to run
    try:
        cupy.cuda.Device(device).use()
        product = cupy.ones((2, 2)) @ cupy.ones((2, 2))  # needs the compiler and the libraries that CuPy loads late
        float(product.sum())
    except (ImportError, OSError, MemoryError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
        raise RuntimeError(f"GPU {device} cannot compute ({' '.join(str(error).split())})") from error
    usable = int(cupy.cuda.runtime.memGetInfo()[0]) - reserved_bytes
    if usable <= 0:
        raise RuntimeError(f"GPU {device} has less than {reserved_bytes >> 20} MB of free memory")
    if reserved_bytes:
        cupy.get_default_memory_pool().set_limit(size=usable)
    budget = usable // 2 // max(1, units)
    return Backend(cupy, cupyx.scipy.fft, np.dtype(precision), budget, device, tf32)
