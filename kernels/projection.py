"""Rotate-and-sample a padded reference in Fourier space, and its exact adjoint, insertion.

The reference is a centred half grid ``(P, P, P//2 + 1)``: z and y centred, x from 0.  The transform of a particle
with rotation matrix ``A`` at frequency ``k`` is the reference at ``A^-1 k * pad``, by trilinear interpolation; points
with negative x are reached through Friedel symmetry.  Source: Scheres, J.
Struct. Biol. 180, 519 (2012).

The compiled kernels serve the CPU; the ``*_arrays`` functions are the same mathematics for any array module and their
twins in the tests.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.fft

from kernels.backend import Backend
from kernels.fourier import move_origin
from kernels.geometry import distance_from_centre, padded_radius, padded_size, padded_squared_radius, relion_round
from kernels.trilinear import sample_tiles


def interpolation_correction(size: int, pad: float) -> Any:
    """``sinc(r / (N pad))^2``, by which trilinear interpolation on the padded grid damps a map; shape ``(N, N, N)``."""
    return np.sinc(distance_from_centre(size) / (size * pad)) ** 2


def reference_rft(reference: Any, pad: float, r_max: int) -> Any:
    """Oversampled centred half transform of a map, on the scale of the unpadded transform.

    Parameters
    ----------
    reference : (N, N, N) real map, z y x.
    pad : oversampling factor.
    r_max : largest radius needed, in unpadded Fourier voxels.

    Returns
    -------
    (P, P, P//2 + 1) complex128 array with ``P = padded_size(r_max, pad)``, zero outside the sphere of radius ``pad *
    r_max``.
    """
    size = reference.shape[-1]
    corrected = np.asarray(reference, dtype=np.float64) / interpolation_correction(size, pad)
    padded = int(relion_round(pad * size))
    padded += padded % 2
    box = np.zeros((padded,) * 3)
    start = padded // 2 - size // 2
    box[(slice(start, start + size),) * 3] = corrected
    rft = scipy.fft.rfftn(box, norm="forward")
    del box
    move_origin(rft)
    rft *= float(pad) ** 3
    return _recentre(rft, r_max, pad)


def _recentre(rft: Any, r_max: int, pad: float) -> Any:
    """Cut the sphere of radius ``pad * r_max`` out of a half transform, on a centred grid."""
    size, available = padded_size(r_max, pad), rft.shape[-2] // 2
    centred = np.arange(size) - size // 2
    inside = (centred <= available) & (
        centred > -available
    )  # an even grid stores its Nyquist frequency as positive only
    wrapped = centred[inside] % rft.shape[-2]
    x = np.arange(min(size // 2, available) + 1)
    grid = np.zeros((size, size, size // 2 + 1), dtype=rft.dtype)
    rows = np.flatnonzero(inside)
    grid[np.ix_(rows, rows, x)] = rft[np.ix_(wrapped, wrapped, x)]
    grid[padded_squared_radius(size) > padded_radius(r_max, pad) ** 2] = 0
    return grid


def sample(reference: Any, matrices: Any, frequencies_xyz: Any, pad: float, backend: Backend, out: Any = None) -> Any:
    """Rotated references, real and imaginary parts stacked for use in matrix products.

    Parameters
    ----------
    reference : (P, P, P//2 + 1) complex centred half grid (:func:`reference_rft`) on the backend's device.
    matrices : (n, 3, 3) rotation matrices A.
    frequencies_xyz : (3, n_f) frequencies kx, ky, kz in unpadded voxels, within the reference's radius.
    out : where the result is put, otherwise a new array.

    Returns
    -------
    (n, 2, n_f) real array; ``[:, 0]`` real and ``[:, 1]`` imaginary parts.
    """
    with backend.clock.stage("sample"):
        backend.clock.count("samples", len(matrices) * frequencies_xyz.shape[1])
        return _sample(reference, matrices, frequencies_xyz, pad, backend, out)


def _sample(reference: Any, matrices: Any, frequencies_xyz: Any, pad: float, backend: Backend, out: Any) -> Any:
    rotations = np.ascontiguousarray(np.swapaxes(matrices, -1, -2) * pad, dtype=backend.real)
    points = np.ascontiguousarray(frequencies_xyz, dtype=backend.real)
    if not backend.is_cpu:
        sampled = sample_arrays(reference, backend.xp.asarray(rotations), backend.xp.asarray(points), backend.xp)
        if out is None:
            return sampled
        out[...] = sampled
        return out
    if out is None:
        out = np.empty((len(rotations), 2, points.shape[1]), dtype=backend.real)
    sample_tiles(reference.reshape(-1).view(backend.real), reference.shape[0], rotations, points, out)
    return out


def insert(data: Any, weight: Any, matrices: Any, frequencies_xyz: Any, values: Any, weights: Any, pad: float) -> None:
    """Add rotated transforms to an accumulator in place: the adjoint of :func:`sample` on host arrays.

    Parameters
    ----------
    data, weight : (P, P, P//2 + 1) complex128 and float64 sums.
    matrices : (n, 3, 3) rotation matrices A; frequencies_xyz : (3, n_f).
    values : (n, 2, n_f) real, real and imaginary parts; weights : (n, n_f) real, points with a weight of 0 are skipped.
    """
    rotations = np.ascontiguousarray(np.swapaxes(matrices, -1, -2) * pad, dtype=np.float64)
    points = np.ascontiguousarray(frequencies_xyz, dtype=np.float64)
    _insert(data, weight, rotations, points, np.ascontiguousarray(values), np.ascontiguousarray(weights))


@numba.njit(cache=True, nogil=True)
def _insert(data: Any, weight: Any, rotations: Any, points: Any, values: Any, weights: Any) -> None:
    centre = data.shape[0] // 2
    for n in range(rotations.shape[0]):
        r = rotations[n]
        for f in range(points.shape[1]):
            w = float(weights[n, f])
            if w <= 0.0:
                continue
            kx, ky, kz = points[0, f], points[1, f], points[2, f]
            px = r[0, 0] * kx + r[0, 1] * ky + r[0, 2] * kz
            py = r[1, 0] * kx + r[1, 1] * ky + r[1, 2] * kz
            pz = r[2, 0] * kx + r[2, 1] * ky + r[2, 2] * kz
            re, im = float(values[n, 0, f]), float(values[n, 1, f])
            if px < 0:
                px, py, pz, im = -px, -py, -pz, -im
            fx, fy, fz = np.floor(px), np.floor(py), np.floor(pz)
            x, y, z = int(fx), int(fy) + centre, int(fz) + centre
            dx, dy, dz = px - fx, py - fy, pz - fz
            value = complex(re, im)
            for k in range(2):
                wz = dz if k else 1.0 - dz
                for j in range(2):
                    wzy = wz * (dy if j else 1.0 - dy)
                    near, far = wzy * (1.0 - dx), wzy * dx
                    data[z + k, y + j, x] += near * value
                    data[z + k, y + j, x + 1] += far * value
                    weight[z + k, y + j, x] += near * w
                    weight[z + k, y + j, x + 1] += far * w


def _taps(rotations: Any, points: Any, size: int, xp: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Sign of the imaginary part ``(n, n_f)`` and the eight ``(flat index, trilinear weight)`` pairs of every point."""
    position = xp.einsum("nij,jf->inf", rotations, points)
    sign = xp.where(position[0] < 0, -1, 1).astype(points.dtype)
    position = position * sign
    corner = xp.floor(position)
    fraction = position - corner
    x, y, z = corner.astype(np.int64) + xp.asarray([0, size // 2, size // 2]).reshape(3, 1, 1)
    taps = []
    for k in range(2):
        for j in range(2):
            for i in range(2):
                part = [fraction[a] if step else 1 - fraction[a] for a, step in enumerate((i, j, k))]
                taps.append((((z + k) * size + y + j) * (size // 2 + 1) + x + i, part[0] * part[1] * part[2]))
    return sign, taps


def sample_arrays(reference: Any, rotations: Any, points: Any, xp: Any) -> Any:
    """:func:`sample` with whole-array operations on the device of ``xp``; ``rotations`` are ``pad * A^T``."""
    sign, taps = _taps(rotations, points, reference.shape[0], xp)
    flat = reference.reshape(-1)
    value = sum(flat[index] * factor for index, factor in taps)
    return xp.stack([value.real, sign * value.imag], axis=1)


def insert_arrays(data: Any, weight: Any, rotations: Any, points: Any, values: Any, weights: Any, xp: Any) -> None:
    """:func:`insert` with whole-array operations on the device of ``xp``; ``rotations`` are ``pad * A^T``."""
    sign, taps = _taps(rotations, points, data.shape[0], xp)
    counted = weights > 0
    size = data.size
    for index, factor in taps:
        where, share = index[counted], factor[counted]
        real = xp.bincount(where, weights=share * values[:, 0][counted], minlength=size)
        imaginary = xp.bincount(where, weights=share * (sign * values[:, 1])[counted], minlength=size)
        data += (real + 1j * imaginary).reshape(data.shape)
        weight += xp.bincount(where, weights=share * weights[counted], minlength=size).reshape(weight.shape)
