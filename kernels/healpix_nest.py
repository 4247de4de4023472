"""Centres of the pixels of the HEALPix sphere in the NEST scheme (Gorski et al. 2005, ApJ 622, 759).

The order of the floating-point operations matters here: pixel centres lie exactly on the borders of asymmetric units
(rot 60 for C3, 45 for C4 ...), and the last bit decides on which side of the unit RELION keeps such a direction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# For each of the twelve base pixels: the ring of its southern corner, and the position of that corner along the ring.
_FACE_RING = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
_FACE_COLUMN = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])


def child_offsets(oversampling: int) -> IntArray:
    """NEST offsets of the ``4**q`` children of a pixel, y outer and x inner (x on the even bits, y on the odd bits)."""
    index = np.arange(2**oversampling, dtype=np.int64)
    spread = np.zeros_like(index)
    for bit in range(oversampling):
        spread |= ((index >> bit) & 1) << (2 * bit)
    return (2 * spread[:, None] + spread).ravel()


def _even_bits(values: IntArray, order: int) -> IntArray:
    """The number made of the bits 0, 2, 4 ... of non-negative values below ``4**order``."""
    gathered = np.zeros_like(values)
    for bit in range(order):
        gathered |= ((values >> (2 * bit)) & 1) << bit
    return gathered


def pixel_centres(order: int, pixels: npt.ArrayLike) -> FloatArray:
    """Directions of NEST pixels of the grid with ``12 * 4**order`` pixels.

    Parameters
    ----------
    pixels : integers (...) in ``[0, 12 * 4**order)``.

    Returns
    -------
    float64 (..., 2) rot in (-180, 180] and tilt in [0, 180], degrees.
    """
    nside = 2**order
    face, inside = np.divmod(np.asarray(pixels, dtype=np.int64), nside * nside)
    x, y = _even_bits(inside, order), _even_bits(inside >> 1, order)
    ring = _FACE_RING[face] * nside - x - y - 1
    north, south = ring < nside, ring > 3 * nside
    quarter = np.where(north, ring, np.where(south, 4 * nside - ring, nside))  # pixels in a quarter of the ring
    area = 4.0 / (12 * nside * nside)
    cap = quarter * quarter * area
    z = np.where(north, 1 - cap, np.where(south, cap - 1, (2 * nside - ring) * (2 * nside * area)))
    shift = np.where(north | south, 0, (ring - nside) & 1)
    column = (_FACE_COLUMN[face] * quarter + x - y + 1 + shift) // 2
    column += 4 * nside * ((column < 1).astype(np.int64) - (column > 4 * nside))
    rot = (column - (shift + 1) * 0.5) * ((np.pi / 2) / quarter) * 180.0 / np.pi
    rot = np.where(rot > 180.0, rot - 360.0, rot)
    return np.stack([rot, np.arccos(z) * 180.0 / np.pi], axis=-1)


def largest_pixel_radius_deg(order: int) -> float:
    """Largest distance, in degrees, between a pixel's centre and its corners on the grid of an order."""
    nside = 2**order
    polar = 1 - (1 - 1 / nside) ** 2 / 3
    corner_z, corner_phi = 2 / 3, np.pi / (4 * nside)
    cosine = np.sqrt((1 - corner_z**2) * (1 - polar**2)) * np.cos(corner_phi) + corner_z * polar
    return float(np.rad2deg(np.arccos(cosine)))
