"""Iterative gridding weights: the inverse of the sampling density of an accumulator (Pipe & Menon, MRM 41, 179, 1999).

The density is convolved with a Kaiser-Bessel blob by multiplying its real-space transform with that of the blob.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import scipy.fft
from scipy.special import iv, jv

from kernels.fourier import inverse_in_place
from kernels.geometry import FloatArray, padded_radius, padded_squared_radius

BLOB_RADIUS = 3.8
BLOB_ALPHA = 15.0
TABLE_ENTRIES = 10000
TABLE_STEP = 0.5 / TABLE_ENTRIES
SMALLEST_DENSITY = 1e-6


@cache
def blob_table() -> FloatArray:
    """Transform of the blob at multiples of ``TABLE_STEP`` below 0.5, divided by its value at 0; ``(10000,)``."""
    x = 2.0 * np.pi * BLOB_RADIUS * np.arange(TABLE_ENTRIES) * TABLE_STEP
    difference = BLOB_ALPHA**2 - x**2
    root = np.sqrt(np.abs(difference))
    bessel = np.where(difference >= 0.0, iv(1.5, np.minimum(root, BLOB_ALPHA)), jv(1.5, root))
    values = bessel / root**1.5
    return np.asarray(values / values[0], dtype=np.float64)


def blob_weights(size: int, field: float) -> FloatArray:
    """Real-space weights ``(size, size, size)`` of the blob on the wrapped positions of a cube of odd ``size``.

    ``field`` is the real-space extent that corresponds to frequency 1, padding times box. The table is read at the
    entry below the frequency, without interpolation, and is 0 from frequency 0.5 on; position ``size//2`` counts as
    negative (RELION's rules).
    """
    index = np.arange(size)
    position = np.where(index < size // 2, index, index - size).astype(np.float64)
    weights = np.empty((size,) * 3)
    table = np.append(blob_table(), 0.0)
    for plane, z2 in zip(weights, position**2, strict=True):
        radius2 = z2 + position[:, None] ** 2 + position[None, :] ** 2
        entry = (np.sqrt(radius2) / field / TABLE_STEP).astype(np.int64)
        plane[:] = table[np.minimum(entry, TABLE_ENTRIES)]
    return weights


def gridding_weights(weight_rft: FloatArray, box: int, pad: float, r_max: int, iterations: int = 10) -> FloatArray:
    """Weights that turn an accumulator into samples on a regular grid.

    Parameters
    ----------
    weight_rft : (P, P, P//2 + 1) float64, z and y centred, Hermitian on the plane x = 0.
    box : size of the map in voxels.

    Returns
    -------
    (P, P, P//2 + 1) float64, z and y centred; 0 outside the padded radius.
    """
    size = weight_rft.shape[0]
    inside = scipy.fft.ifftshift(padded_squared_radius(size) < padded_radius(r_max, pad) ** 2, axes=(0, 1))
    density = scipy.fft.ifftshift(weight_rft, axes=(0, 1))
    blob = blob_weights(size, box * pad)
    gridding: FloatArray = inside.astype(np.float64)
    for _ in range(iterations):
        real = inverse_in_place((gridding * density).astype(np.complex128))
        real *= blob
        rft = scipy.fft.rfftn(real, norm="forward", overwrite_x=True)
        del real  # at any time one array of the whole cube beside the blob
        convolved = np.abs(rft)
        del rft
        np.maximum(convolved, SMALLEST_DENSITY, out=convolved)
        np.divide(gridding, convolved, out=gridding, where=inside)
    return np.asarray(scipy.fft.fftshift(gridding, axes=(0, 1)), dtype=np.float64)
