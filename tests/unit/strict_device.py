"""A stand-in for CuPy without a GPU: NumPy underneath, but as strict about where arrays live as CuPy and stricter.

A :class:`DeviceArray` refuses to meet a NumPy array in arithmetic, as an index or as ``out``, and refuses NumPy's
functions and implicit conversion.  The functions take the parameters of their namesakes in CuPy 14; nothing else is
offered, so that code which runs here uses only what CuPy has.  What CuPy would copy to the device in silence (index
arrays, lists) is refused too: such copies are to be visible in the kernels.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.fft

from kernels.backend import Backend
from kernels.cuda.tf32 import DEFAULT_MATH, TF32_TENSOR_OP_MATH
from tests.unit.cuda_on_cpu import RawModule  # noqa: F401 -- the stand-in of cupy.RawModule

SCALARS = (bool, int, float, complex, np.generic)


class DeviceArray:
    """An array that only meets its own kind and scalars; reductions and single elements are 0-dimensional arrays."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        raise TypeError(f"numpy.{ufunc.__name__} on a device array")

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} on a device array")

    def get(self) -> np.ndarray:
        return self._values.copy()

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    @property
    def size(self) -> int:
        return self._values.size

    @property
    def ndim(self) -> int:
        return self._values.ndim

    @property
    def dtype(self) -> np.dtype:
        return self._values.dtype

    @property
    def real(self) -> DeviceArray:
        return DeviceArray(self._values.real)

    @property
    def imag(self) -> DeviceArray:
        return DeviceArray(self._values.imag)

    @property
    def T(self) -> DeviceArray:  # noqa: N802 -- NumPy's name
        return DeviceArray(self._values.T)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._values)

    def __int__(self) -> int:
        return int(self._values)

    def __float__(self) -> float:
        return float(self._values)

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self._values[_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[_index(key)] = _operand(value)

    def set(self, arr: np.ndarray, stream: Any) -> None:
        stream.later(lambda: np.copyto(self._values, arr))

    def astype(self, dtype: Any) -> DeviceArray:
        return DeviceArray(self._values.astype(dtype))

    def copy(self) -> DeviceArray:
        return DeviceArray(self._values.copy())

    def reshape(self, *shape: Any) -> DeviceArray:
        return DeviceArray(self._values.reshape(*shape))

    def ravel(self) -> DeviceArray:
        return DeviceArray(self._values.ravel())

    def swapaxes(self, axis1: int, axis2: int) -> DeviceArray:
        return DeviceArray(self._values.swapaxes(axis1, axis2))

    def sum(self, axis: Any = None) -> DeviceArray:
        return DeviceArray(self._values.sum(axis=axis))

    def max(self, axis: Any = None) -> DeviceArray:
        return DeviceArray(self._values.max(axis=axis))

    def argmin(self, axis: Any = None) -> DeviceArray:
        return DeviceArray(self._values.argmin(axis=axis))


def _operand(value: Any) -> Any:
    if isinstance(value, DeviceArray):
        return value._values
    if isinstance(value, SCALARS):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _on_device(value: Any) -> Any:
    if not isinstance(value, DeviceArray):
        raise TypeError(f"a device array is needed, not {type(value)}")
    return value._values


def _index(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_index(part) for part in key)
    if isinstance(key, DeviceArray):
        return key._values
    if key is None or key is Ellipsis or (isinstance(key, int | np.integer) and not isinstance(key, bool)):
        return key
    if isinstance(key, slice):
        return slice(*(None if part is None else operator.index(part) for part in (key.start, key.stop, key.step)))
    raise IndexError(f"Unsupported type {type(key)}")


def _define_operators() -> None:
    """Give :class:`DeviceArray` Python's operators, forward, reflected and in place."""

    def forward(function: Callable[[Any, Any], Any]) -> Any:
        return lambda self, other: DeviceArray(function(self._values, _operand(other)))

    def reflected(function: Callable[[Any, Any], Any]) -> Any:
        return lambda self, other: DeviceArray(function(_operand(other), self._values))

    def in_place(function: Callable[[Any, Any], Any]) -> Any:
        def apply(self: DeviceArray, other: Any) -> DeviceArray:
            function(self._values, _operand(other))
            return self

        return apply

    def alone(function: Callable[[Any], Any]) -> Any:
        return lambda self: DeviceArray(function(self._values))

    for name in ("add", "sub", "mul", "truediv", "pow", "matmul"):
        setattr(DeviceArray, f"__{name}__", forward(getattr(operator, name)))
        setattr(DeviceArray, f"__r{name}__", reflected(getattr(operator, name)))
    for name in ("iadd", "isub", "imul", "itruediv"):
        setattr(DeviceArray, f"__{name}__", in_place(getattr(operator, name)))
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "and_", "or_"):
        setattr(DeviceArray, f"__{name.rstrip('_')}__", forward(getattr(operator, name)))
    for name in ("neg", "invert", "abs"):
        setattr(DeviceArray, f"__{name}__", alone(getattr(operator, name)))


_define_operators()


def asarray(a: Any, dtype: Any = None) -> DeviceArray:
    """``cupy.asarray``: the explicit way to the device."""
    return DeviceArray(np.array(a._values if isinstance(a, DeviceArray) else a, dtype=dtype))


def asnumpy(a: Any) -> np.ndarray:
    """``cupy.asnumpy``: the explicit way back."""
    return a.get() if isinstance(a, DeviceArray) else np.asarray(a)


def ascontiguousarray(a: Any, dtype: Any = None) -> DeviceArray:
    return DeviceArray(np.ascontiguousarray(_on_device(a), dtype=dtype))


def empty(shape: Any, dtype: Any = float) -> DeviceArray:
    """``cupy.empty``; filled with NaN where the dtype has it, as nobody may rely on what was there."""
    values = np.empty(shape, dtype=dtype)
    if values.dtype.kind in "fc":
        values.fill(np.nan)
    return DeviceArray(values)


def empty_like(prototype: Any, dtype: Any = None) -> DeviceArray:
    return empty(_on_device(prototype).shape, dtype or prototype.dtype)


def zeros(shape: Any, dtype: Any = float) -> DeviceArray:
    return DeviceArray(np.zeros(shape, dtype=dtype))


def ones(shape: Any, dtype: Any = float) -> DeviceArray:
    return DeviceArray(np.ones(shape, dtype=dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> DeviceArray:
    return DeviceArray(np.full(shape, _operand(fill_value), dtype=dtype))


def stack(tup: Any, axis: int = 0) -> DeviceArray:
    return DeviceArray(np.stack([_on_device(part) for part in tup], axis=axis))


def concatenate(tup: Any, axis: int = 0) -> DeviceArray:
    return DeviceArray(np.concatenate([_on_device(part) for part in tup], axis=axis))


def where(condition: Any, x: Any, y: Any) -> DeviceArray:
    return DeviceArray(np.where(_on_device(condition), _operand(x), _operand(y)))


def flatnonzero(a: Any) -> DeviceArray:
    return DeviceArray(np.flatnonzero(_on_device(a)))


def bincount(x: Any, weights: Any = None, minlength: int | None = None) -> DeviceArray:
    """``cupy.bincount``, which counts in int64 when there is nothing to count."""
    index = _on_device(x)
    if index.size == 0:
        return zeros(minlength or 0, dtype=np.int64)
    return DeviceArray(np.bincount(index, None if weights is None else _on_device(weights), minlength or 0))


def einsum(*operands: Any) -> DeviceArray:
    return DeviceArray(np.einsum(operands[0], *(_on_device(operand) for operand in operands[1:])))


def matmul(x1: Any, x2: Any, out: Any = None) -> DeviceArray:
    product = np.matmul(_on_device(x1), _on_device(x2))
    if out is None:
        return DeviceArray(product)
    _on_device(out)[...] = product
    return out


def square(x: Any) -> DeviceArray:
    return DeviceArray(np.square(_on_device(x)))


def sqrt(x: Any) -> DeviceArray:
    return DeviceArray(np.sqrt(_on_device(x)))


def floor(x: Any) -> DeviceArray:
    return DeviceArray(np.floor(_on_device(x)))


def maximum(x1: Any, x2: Any) -> DeviceArray:
    return DeviceArray(np.maximum(_on_device(x1), _operand(x2)))


def rfftn(x: Any, s: Any = None, axes: Any = None, norm: Any = None) -> DeviceArray:
    """``cupyx.scipy.fft.rfftn``."""
    return DeviceArray(scipy.fft.rfftn(_on_device(x), s=s, axes=axes, norm=norm))


def irfftn(x: Any, s: Any = None, axes: Any = None, norm: Any = None) -> DeviceArray:
    """``cupyx.scipy.fft.irfftn``."""
    return DeviceArray(scipy.fft.irfftn(_on_device(x), s=s, axes=axes, norm=norm))


class _MemoryPool:
    """``cupy.get_default_memory_pool()``, which keeps nothing."""

    def free_all_blocks(self) -> None:
        """There are none."""


def get_default_memory_pool() -> _MemoryPool:
    return _MemoryPool()


class _Device:
    """``cupy.cuda.Device``: the only one there is."""

    def __init__(self, device: int) -> None:
        if device != 0:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def use(self) -> None:
        """Device 0 is always in use."""


class _Stream:
    """``cupy.cuda.Stream``: what it is given happens as late as the program allows, when somebody waits for it."""

    def __init__(self, *, non_blocking: bool = False) -> None:
        self._waiting: list[Callable[[], None]] = []

    def later(self, work: Callable[[], None]) -> None:
        self._waiting.append(work)

    def wait_event(self, event: _Event) -> None:
        event.synchronize()

    def synchronize(self) -> None:
        while self._waiting:
            self._waiting.pop(0)()


class _Event:
    """``cupy.cuda.Event``; the current stream is never behind, so that only other streams have to be waited for."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self._stream: _Stream | None = None

    def record(self, stream: _Stream | None = None) -> None:
        self._stream = stream

    def synchronize(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


class _PlanCache:
    """``cupy.fft.config.get_plan_cache()``, which keeps nothing."""

    def clear(self) -> None:
        """There is no plan."""

    def set_memsize(self, memsize: int) -> None:
        """Nothing has any size."""


class _Handle:
    """Of cuBLAS, with its mode."""

    mode = DEFAULT_MATH


def _gemm(transa: str, transb: str, a: Any, b: Any) -> DeviceArray:
    """``cupy.cublas.gemm`` of matrices as they are."""
    assert (transa, transb) == ("N", "N")
    factors = _on_device(a), _on_device(b)
    if _handle.mode == TF32_TENSOR_OP_MATH:
        factors = tuple(_tf32(each) for each in factors)
    return DeviceArray(np.asfortranarray(np.matmul(*factors)))


def _tf32(values: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits of mantissa."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


_handle = _Handle()
cublas = SimpleNamespace(gemm=_gemm)
cuda = SimpleNamespace(
    Device=_Device,
    device=SimpleNamespace(get_cublas_handle=lambda: _handle),
    cublas=SimpleNamespace(setMathMode=lambda handle, mode: setattr(handle, "mode", mode)),
    Stream=_Stream,
    Event=_Event,
    get_current_stream=_Stream,
    alloc_pinned_memory=bytearray,
)
fft = SimpleNamespace(config=SimpleNamespace(get_plan_cache=_PlanCache))


def strict_backend(precision: str = "float32", memory_bytes: int = 2 << 30) -> Backend:
    """A backend whose arrays are :class:`DeviceArray`."""
    this = sys.modules[__name__]
    return Backend(this, SimpleNamespace(rfftn=rfftn, irfftn=irfftn), np.dtype(precision), memory_bytes)
