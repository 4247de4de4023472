"""Boxes, frequencies and shells: which Fourier coefficients exist and how they are counted.

Arrays are z, y, x.  A half transform of a cubic box of even size ``n`` has shape ``(n, n, n//2 + 1)``; along z and y
the index ``i`` stands for the frequency ``i`` up to and including Nyquist (``i <= n/2``) and for ``i - n`` beyond it.
Source: RELION 3.1's conventions, verified by the parity tests.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


def relion_round(values: npt.ArrayLike) -> IntArray:
    """Round half away from zero (RELION's ROUND, which is neither banker's rounding nor ``floor(x + 0.5)``)."""
    array = np.asarray(values, dtype=np.float64)
    return np.trunc(array + np.copysign(0.5, array)).astype(np.int64)


def half_shape(size: int) -> tuple[int, int, int]:
    """Shape ``(n, n, n//2 + 1)`` of the half transform of a cubic box of ``size`` voxels."""
    return size, size, size // 2 + 1


def frequencies(size: int) -> IntArray:
    """Signed integer frequencies of a full axis of an even ``size``; Nyquist counts as ``+size/2``. Shape
    ``(size,)``.
    """
    index = np.arange(size)
    return np.where(index < size // 2 + 1, index, index - size)


@cache
def half_frequencies(size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Integer frequencies ``(kz, ky, kx)`` of a half transform, shaped to broadcast to :func:`half_shape`."""
    full = frequencies(size)
    return full[:, None, None], full[None, :, None], np.arange(size // 2 + 1)[None, None, :]


@lru_cache(maxsize=6)  # image sizes grow with the resolution
def squared_radius(size: int) -> IntArray:
    """``|k|^2`` of every stored coefficient of a half transform; shape :func:`half_shape`, int64."""
    kz, ky, kx = half_frequencies(size)
    return kz**2 + ky**2 + kx**2


@lru_cache(maxsize=6)
def shells(size: int) -> IntArray:
    """Shell ``ROUND(|k|)`` of every stored coefficient, corners included (rule R2)."""
    return relion_round(np.sqrt(squared_radius(size)))


@lru_cache(maxsize=6)
def likelihood_shells(size: int) -> IntArray:
    """Shells for the likelihood and noise sums (rule R1): ``-1`` for coefficients that are not counted.

    Excluded are shells beyond ``size/2`` and, on the redundant plane ``kx == 0``, the half with ``ky < 0``.
    """
    _, ky, kx = half_frequencies(size)
    shell = shells(size)
    return np.where((shell < size // 2 + 1) & ~((kx == 0) & (ky < 0)), shell, -1)


def shell_counts(size: int) -> IntArray:
    """Number of coefficients counted by rule R1 in every shell ``0 .. size/2``."""
    shell = likelihood_shells(size)
    return np.bincount(shell[shell >= 0], minlength=size // 2 + 1)


def padded_radius(r_max: int, pad: float) -> int:
    """Largest radius kept on the padded Fourier grid, ``ROUND(pad * r_max)``."""
    return int(relion_round(pad * r_max))


def padded_size(r_max: int, pad: float) -> int:
    """Odd size ``P`` of the padded half grid ``(P, P, P//2 + 1)`` with z and y centred and x from 0."""
    return 2 * (padded_radius(r_max, pad) + 1) + 1


@lru_cache(maxsize=2)  # grids grow with the resolution
def padded_squared_radius(size: int) -> IntArray:
    """``|k|^2`` on a centred padded half grid of odd ``size`` P; shape ``(P, P, P//2 + 1)``."""
    centred = np.arange(size) - size // 2
    x = np.arange(size // 2 + 1)
    return centred[:, None, None] ** 2 + centred[None, :, None] ** 2 + x[None, None, :] ** 2


@cache
def distance_from_centre(size: int) -> FloatArray:
    """Distance in voxels from the box centre ``size//2`` for every voxel of a cubic box; shape ``(n, n, n)``."""
    axis = (np.arange(size) - size // 2).astype(np.float64)
    return np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
