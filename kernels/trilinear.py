"""Compiled inner loops of trilinear interpolation on a centred half grid, and of its adjoint.

Coefficients are worked on in tiles of ``TILE``: first the positions of a tile, which the compiler vectorises over
coefficients, then one coefficient after the other with all its values side by side.  The eight neighbours are four
pairs that lie next to each other along x; LLVM's vectors for such short rows are written out here, because Numba
vectorises over the long loop only.

All of it is one file because Numba compiles a kernel again only when the kernel's own file has changed.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as typed_intrinsic

intrinsic: Any = typed_intrinsic  # Numba types the decorated function with its typing context as an argument

TILE = 128
TAPS = 6
"""Rows of a tile's table: the weights of the four pairs (y, z), (y+1, z), (y, z+1), (y+1, z+1), the fraction along x,
and the sign of the imaginary part.
"""
ORIENTATIONS_PER_TILE = 16


@numba.njit(nogil=True, fastmath=True, inline="always")
def locate(rotation: Any, kx: Any, ky: Any, kz: Any, size: int, corner: Any, taps: Any) -> None:
    """Fill in where the coefficients of a tile fall on the grid.

    Parameters
    ----------
    rotation : (3, 3) ``pad * A^T``; kx, ky, kz : (n,) frequencies, n at most ``TILE``.
    size : P; corner : (TILE,) int32 flat index of the lower corner; taps : (TAPS, TILE).
    """
    half = size // 2 + 1
    real = rotation.dtype.type
    centre, width = real(size // 2), real(size)
    # read before the loop: the compiler cannot know that the tables which it writes are not the rotation
    xx, xy, xz = rotation[0, 0], rotation[0, 1], rotation[0, 2]
    yx, yy, yz = rotation[1, 0], rotation[1, 1], rotation[1, 2]
    zx, zy, zz = rotation[2, 0], rotation[2, 1], rotation[2, 2]
    for i in range(len(kx)):
        px = xx * kx[i] + xy * ky[i] + xz * kz[i]
        sign = real(1) if px >= 0 else real(-1)
        px = px * sign
        py = (yx * kx[i] + yy * ky[i] + yz * kz[i]) * sign + centre
        pz = (zx * kx[i] + zy * ky[i] + zz * kz[i]) * sign + centre
        x, y, z = np.floor(px), np.floor(py), np.floor(pz)
        dy, dz = py - y, pz - z
        both = dy * dz
        taps[0, i] = real(1) - dy - dz + both
        taps[1, i] = dy - both
        taps[2, i] = dz - both
        taps[3, i] = both
        taps[4, i] = px - x
        taps[5, i] = sign
        corner[i] = np.int32(z * width + y) * half + np.int32(x)  # P**2 is exact in single precision


_unpacked: Any = cgutils.unpack_tuple


class _Vectors:
    """Arithmetic on short vectors with the type of an array's numbers, in LLVM's intermediate language."""

    def __init__(self, context: Any, builder: Any, array: Any) -> None:
        self.builder = builder
        self.scalar = context.get_value_type(array.dtype)
        self.bytes = array.dtype.bitwidth // 8
        self._array = context.make_array(array)
        self._context = context

    def fast(self, operation: str, one: Any, other: Any) -> Any:
        return getattr(self.builder, operation)(one, other, flags=("fast",))

    def lanes(self, vector: Any, *chosen: int) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)
        return self.builder.shuffle_vector(vector, vector, mask)

    def packed(self, *scalars: Any) -> Any:
        vector = ir.Constant(ir.VectorType(self.scalar, len(scalars)), ir.Undefined)
        for lane, scalar in enumerate(scalars):
            vector = self.builder.insert_element(vector, scalar, ir.Constant(ir.IntType(32), lane))
        return vector

    def repeated(self, scalar: Any, count: int) -> Any:
        return self.lanes(self.packed(scalar), *[0] * count)

    def pointer(self, array: Any, index: Any) -> Any:
        """To the four numbers of ``array`` from ``index`` on."""
        first = self.builder.gep(self._array(self._context, self.builder, array).data, [index])
        return self.builder.bitcast(first, ir.VectorType(self.scalar, 4).as_pointer())

    def pairs(self, corner: Any, steps: Any) -> list[Any]:
        """Indices of the pairs (y, z), (y+1, z), (y, z+1), (y+1, z+1)."""
        along_y, along_z = _unpacked(self.builder, steps)
        above = self.builder.add(corner, along_z)
        return [corner, self.builder.add(corner, along_y), above, self.builder.add(above, along_y)]


@intrinsic
def blend(_typing: Any, flat: Any, corner: Any, steps: Any, taps: Any) -> Any:
    """Interpolated real and imaginary part.

    Parameters
    ----------
    flat : (2 * points,) real and imaginary parts in turns; corner : index of the lower corner in it.
    steps : the distances in it along y and z; taps : the weights of the four pairs and the fraction along x.
    """
    real = flat.dtype
    signature = types.UniTuple(real, 2)(flat, corner, steps, taps)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = _Vectors(context, builder, signature.args[0])
        *weights, dx = _unpacked(builder, arguments[3])
        total = None
        for index, weight in zip(v.pairs(arguments[1], arguments[2]), weights, strict=True):
            near_far = builder.load(v.pointer(arguments[0], index), align=v.bytes)
            part = v.fast("fmul", v.repeated(weight, 4), near_far)
            total = part if total is None else v.fast("fadd", total, part)
        near, far = v.lanes(total, 0, 1), v.lanes(total, 2, 3)
        result = v.fast("fadd", near, v.fast("fmul", v.repeated(dx, 2), v.fast("fsub", far, near)))
        parts = [builder.extract_element(result, ir.Constant(ir.IntType(32), lane)) for lane in (0, 1)]
        return context.make_tuple(builder, signature.return_type, parts)

    return signature, generate


@intrinsic
def deposit(_typing: Any, flat: Any, corner: Any, steps: Any, taps: Any, value: Any) -> Any:
    """Add a ``value`` (real part, imaginary part, weight) to its eight neighbours: the adjoint of :func:`blend`.

    ``flat`` holds four numbers a point: real part, imaginary part, weight, and one that stays as it is.
    """
    signature = types.void(flat, corner, steps, taps, value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        v = _Vectors(context, builder, signature.args[0])
        *weights, dx = _unpacked(builder, arguments[3])
        whole = v.packed(*_unpacked(builder, arguments[4]), ir.Constant(v.scalar, 0.0))
        far = v.fast("fmul", whole, v.repeated(dx, 4))
        near = v.fast("fsub", whole, far)
        for index, weight in zip(v.pairs(arguments[1], arguments[2]), weights, strict=True):
            for offset, part in ((0, near), (4, far)):
                pointer = v.pointer(arguments[0], builder.add(index, ir.Constant(index.type, offset)))
                added = v.fast("fmul", part, v.repeated(weight, 4))
                builder.store(v.fast("fadd", builder.load(pointer, align=v.bytes), added), pointer, align=v.bytes)
        return context.get_dummy_value()

    return signature, generate


@numba.njit(cache=True, nogil=True, fastmath=True)
def sample_tiles(flat: Any, size: int, rotations: Any, points: Any, stacked: Any) -> None:
    """Sample a reference.

    Parameters
    ----------
    flat : (2 * points,) the grid's real and imaginary parts in turns; size : P.
    rotations : (n, 3, 3) ``pad * A^T``; points : (3, n_f) frequencies; stacked : (n, 2, n_f), filled in.
    """
    # a tile is sampled for a group of orientations, often neighbours, while its part of the reference is in cache
    count, coefficients = rotations.shape[0], points.shape[1]
    steps = (np.uint64(2 * (size // 2 + 1)), np.uint64(2 * (size // 2 + 1) * size))
    corner, taps = np.empty(TILE, dtype=np.int32), np.empty((TAPS, TILE), dtype=rotations.dtype)
    for group in range(0, count, ORIENTATIONS_PER_TILE):
        for first in range(0, coefficients, TILE):
            last = min(first + TILE, coefficients)
            for n in range(group, min(group + ORIENTATIONS_PER_TILE, count)):
                locate(
                    rotations[n],
                    points[0, first:last],
                    points[1, first:last],
                    points[2, first:last],
                    size,
                    corner,
                    taps,
                )
                re, im = stacked[n, 0, first:last], stacked[n, 1, first:last]
                for i in range(last - first):
                    weights = (taps[0, i], taps[1, i], taps[2, i], taps[3, i], taps[4, i])
                    real, imaginary = blend(flat, np.uint64(2) * np.uint64(corner[i]), steps, weights)
                    re[i] = real
                    im[i] = taps[5, i] * imaginary


@numba.njit(cache=True, nogil=True, fastmath=True)
def back_project_tiles(
    packed: Any,
    size: int,
    rotations: Any,
    points: Any,
    image: Any,
    starts: Any,
    column: Any,
    weight: Any,
    phases: Any,
    rotated: Any,
    which: Any,
    totals: Any,
) -> None:
    """Insert an image at many orientations, summed over translations (:func:`kernels.back_projection.back_project`).

    Parameters
    ----------
    packed : (4 * points,) grid of :func:`deposit`; size : P; rotations : (n, 3, 3) ``pad * A^T``; points : (3, n_f).
    image : (3, n_f) real part, imaginary part, weight.
    starts, column, weight : sparse weights of the orientations and of the translations with ``phases`` (n_t, 2, n_f).
    rotated : (., 2, n_f) of which ``which`` (n,) are used; totals : (3, n_f) float64, added to.
    """
    steps = (np.uint64(4 * (size // 2 + 1)), np.uint64(4 * (size // 2 + 1) * size))
    corner, taps = np.empty(TILE, dtype=np.int32), np.empty((TAPS, TILE), dtype=rotations.dtype)
    moved, sums = np.empty((2, TILE), dtype=rotations.dtype), np.empty((3, TILE), dtype=rotations.dtype)
    for first in range(0, points.shape[1], TILE):
        last = min(first + TILE, points.shape[1])
        kx, ky, kz = points[0, first:last], points[1, first:last], points[2, first:last]
        re, im, counted = image[0, first:last], image[1, first:last], image[2, first:last]
        sums[:] = 0
        for n in range(rotations.shape[0]):
            total = _translated(starts[n], starts[n + 1], column, weight, phases, first, last, moved)
            _add_products(total, rotated[which[n], 0, first:last], rotated[which[n], 1, first:last], moved, sums)
            locate(rotations[n], kx, ky, kz, size, corner, taps)
            for i in range(last - first):
                if counted[i] > 0:
                    value = (
                        re[i] * moved[0, i] - im[i] * moved[1, i],
                        (re[i] * moved[1, i] + im[i] * moved[0, i]) * taps[5, i],
                        total * counted[i],
                    )
                    weights = (taps[0, i], taps[1, i], taps[2, i], taps[3, i], taps[4, i])
                    deposit(packed, np.uint64(4) * np.uint64(corner[i]), steps, weights, value)
        for part in range(3):
            for i in range(last - first):
                totals[part, first + i] += sums[part, i]


@numba.njit(nogil=True, fastmath=True, inline="always")
def _translated(begin: int, end: int, column: Any, weight: Any, phases: Any, first: int, last: int, moved: Any) -> Any:
    """Sum the phases of some translations, weighted, into ``moved`` (2, TILE), and return the sum of the weights."""
    moved[:] = 0
    total = weight.dtype.type(0)
    for entry in range(begin, end):
        share = weight[entry]
        total += share
        for part in range(2):
            phase = phases[column[entry], part, first:last]
            for i in range(last - first):
                moved[part, i] += share * phase[i]
    return total


@numba.njit(nogil=True, fastmath=True, inline="always")
def _add_products(total: Any, re: Any, im: Any, moved: Any, sums: Any) -> None:
    """Add ``total |A|^2`` and the real and imaginary parts of ``conj(A) G`` to the rows of ``sums`` (3, TILE)."""
    for i in range(len(re)):
        sums[0, i] += total * (re[i] * re[i] + im[i] * im[i])
        sums[1, i] += re[i] * moved[0, i] + im[i] * moved[1, i]
        sums[2, i] += re[i] * moved[1, i] - im[i] * moved[0, i]


@numba.njit(cache=True, nogil=True)
def add_packed(packed: Any, data: Any, weight: Any) -> None:
    """Add a grid of :func:`deposit` (points, 4) to sums (points, 2) and their weights (points,), and set it to zero."""
    for point in range(packed.shape[0]):
        if packed[point, 2] != 0:
            data[point, 0] += packed[point, 0]
            data[point, 1] += packed[point, 1]
            weight[point] += packed[point, 2]
            packed[point, 0] = packed[point, 1] = packed[point, 2] = 0


@numba.njit(cache=True, nogil=True, fastmath=True)
def summed_power(stacked: Any, gains: Any) -> Any:
    """(n, m) squared amplitudes of stacked coefficients (n, 2, n_f), summed with the weights ``gains`` (m, n_f)."""
    sums = np.empty((stacked.shape[0], gains.shape[0]), dtype=stacked.dtype)
    for n in range(stacked.shape[0]):
        re, im = stacked[n, 0], stacked[n, 1]
        for m in range(gains.shape[0]):
            gain, total = gains[m], stacked.dtype.type(0)
            for f in range(len(re)):
                total += gain[f] * (re[f] * re[f] + im[f] * im[f])
            sums[n, m] = total
    return sums
