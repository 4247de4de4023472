"""Rotate-and-sample a padded reference in Fourier space, and its exact adjoint, insertion.

The reference is a centred half grid ``(P, P, P//2 + 1)``: z and y centred, x from 0.  The transform of a particle
with rotation matrix ``A`` at frequency ``k`` is the reference at ``A^-1 k * pad``, by trilinear interpolation; points
with negative x are reached through Friedel symmetry.  Source: Scheres, J.
Struct. Biol. 180, 519 (2012).

The compiled kernels serve the CPU; on a GPU their twins of ``kernels/cuda/estep.cu`` do.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.fft

from kernels.backend import Backend
from kernels.cuda.launch import launch
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
    count, length = len(rotations), points.shape[1]
    if out is None:
        out = backend.xp.empty((count, 2, length), dtype=backend.real)
    if not backend.is_cpu:
        placed = [backend.xp.asarray(each) for each in (rotations, points)]
        launch("sample", count * length, (reference, reference.shape[0], *placed, count, length, out), backend)
        return out
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
