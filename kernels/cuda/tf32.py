"""Products of matrices on tensor cores: single precision whose factors are rounded to 10 bits of mantissa."""

from __future__ import annotations

from typing import Any

from kernels.backend import Backend

DEFAULT_MATH, TF32_TENSOR_OP_MATH = 0, 3
"""Of ``cublasMath_t``; CuPy has no names for all of them."""


def tf32_product(left: Any, right: Any, backend: Backend) -> Any:
    """``left @ right`` of float32 matrices; no other product is rounded, in no other thread either."""
    cuda = backend.xp.cuda
    handle = cuda.device.get_cublas_handle()  # the thread's own
    cuda.cublas.setMathMode(handle, TF32_TENSOR_OP_MATH)
    try:
        return backend.xp.cublas.gemm("N", "N", left, right)
    finally:
        cuda.cublas.setMathMode(handle, DEFAULT_MATH)
