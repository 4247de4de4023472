"""Centred Fourier transforms with RELION's scaling, cropping and phase shifts.

The forward transform is divided by the number of voxels and its phase origin is the box centre ``size//2``; the
inverse is not scaled.  Half transforms carry the suffix ``_rft``.  Source: RELION 3.1's
conventions.

The centred transforms and :func:`crop` work on the device where their array is; the others on NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft

from kernels.geometry import frequencies, half_frequencies, squared_radius


def centre_signs(size: int) -> Any:
    """``(-1)^(kz + ky + kx)`` on the half grid, which moves the phase origin to the centre of an even box; int64."""
    kz, ky, kx = half_frequencies(size)
    return 1 - 2 * ((kz + ky + kx) & 1)


def forward(volume: Any, fft: Any = scipy.fft) -> Any:
    """Centred half transform of real volumes.

    Parameters
    ----------
    volume : (..., n, n, n) real array, z y x; float32 gives complex64, float64 gives complex128.
    fft : module with ``rfftn`` (``scipy.fft`` or its CuPy twin).

    Returns
    -------
    (..., n, n, n//2 + 1) complex array, divided by ``n**3``.
    """
    rft = fft.rfftn(volume, axes=(-3, -2, -1), norm="forward")
    move_origin(rft)
    return rft


def inverse(rft: Any, fft: Any = scipy.fft) -> Any:
    """Real volumes ``(..., n, n, n)`` of centred half transforms ``(..., n, n, n//2 + 1)``; not scaled."""
    moved = rft.copy()
    move_origin(moved)
    return fft.irfftn(moved, s=(rft.shape[-2],) * 3, axes=(-3, -2, -1), norm="forward")


def inverse_in_place(rft: Any) -> Any:
    """Real volume ``(n, n, n)`` of a half transform ``(n, n, n//2 + 1)``, not scaled, whose memory it takes to work in.

    The same numbers as of ``scipy.fft.irfftn``, which would need room for one more transform.
    """
    rft = scipy.fft.ifftn(rft, axes=(0, 1), norm="forward", overwrite_x=True)
    return scipy.fft.irfft(rft, n=rft.shape[0], axis=2, norm="forward", overwrite_x=True)


def move_origin(rft: Any) -> None:
    """Multiply by :func:`centre_signs` in place; in an even box indices are as even or odd as their frequencies."""
    rft[..., 1::2, :, :] *= -1
    rft[..., 1::2, :] *= -1
    rft[..., 1::2] *= -1


def crop(rft: Any, size: int, xp: Any = np) -> Any:
    """Crop half transforms to an even ``size`` no larger than their own, keeping the cube's corners.

    The kept frequencies are ``(-size/2, size/2]`` along z and y and ``[0, size/2]`` along x; ``xp`` is the array
    module of ``rft``.
    """
    if size == rft.shape[-2]:
        return rft
    index = xp.asarray(frequencies(size) % rft.shape[-2])
    return rft[..., index[:, None, None], index[None, :, None], xp.asarray(np.arange(size // 2 + 1))[None, None, :]]


def enlarge(rft: Any, size: int) -> Any:
    """Zero-fill a half transform to a larger even ``size``; only coefficients within the old half-size are copied."""
    old = rft.shape[-2]
    if size == old:
        return rft
    larger = np.zeros((*rft.shape[:-3], size, size, size // 2 + 1), dtype=rft.dtype)
    index = frequencies(old) % size
    kept = np.where(squared_radius(old) <= (old // 2) ** 2, rft, 0)
    larger[..., index[:, None, None], index[None, :, None], np.arange(old // 2 + 1)[None, None, :]] = kept
    return larger


def shift(rft: Any, shift_xyz_px: Any, box_size: int | None = None) -> Any:
    """Move a density by ``shift_xyz_px`` voxels: multiply by ``exp(-2 pi i k . s / N)``.

    Parameters
    ----------
    rft : (n, n, n//2 + 1) complex half transform.
    shift_xyz_px : (3,) shift along x, y, z in voxels of the full box.
    box_size : N of the formula when ``rft`` was cropped from a larger box; by default the transform's own size.
    """
    size = rft.shape[-2]
    kz, ky, kx = half_frequencies(size)
    x, y, z = (float(component) for component in shift_xyz_px)
    phase = (kx * x + ky * y + kz * z) * (-2.0 * np.pi / (box_size or size))
    return rft * np.exp(1j * phase).astype(rft.dtype)
