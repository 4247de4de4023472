"""Rotate-and-sample and insertion with whole-array operations of NumPy: the twins of the compiled kernels."""

from __future__ import annotations

from typing import Any

import numpy as np


def _taps(rotations: Any, points: Any, size: int) -> tuple[Any, list[tuple[Any, Any]]]:
    """Sign of the imaginary part ``(n, n_f)`` and the eight ``(flat index, trilinear weight)`` pairs of every point."""
    position = np.einsum("nij,jf->inf", rotations, points)
    sign = np.where(position[0] < 0, -1, 1).astype(points.dtype)
    position = position * sign
    corner = np.floor(position)
    fraction = position - corner
    x, y, z = corner.astype(np.int64) + np.asarray([0, size // 2, size // 2]).reshape(3, 1, 1)
    taps = []
    for k in range(2):
        for j in range(2):
            for i in range(2):
                part = [fraction[a] if step else 1 - fraction[a] for a, step in enumerate((i, j, k))]
                taps.append((((z + k) * size + y + j) * (size // 2 + 1) + x + i, part[0] * part[1] * part[2]))
    return sign, taps


def sample_arrays(reference: Any, rotations: Any, points: Any) -> Any:
    """:func:`kernels.projection.sample`; ``rotations`` are ``pad * A^T``."""
    sign, taps = _taps(rotations, points, reference.shape[0])
    flat = reference.reshape(-1)
    value = sum(flat[index] * factor for index, factor in taps)
    return np.stack([value.real, sign * value.imag], axis=1)


def insert_arrays(data: Any, weight: Any, rotations: Any, points: Any, values: Any, weights: Any) -> None:
    """:func:`kernels.projection.insert`; ``rotations`` are ``pad * A^T``."""
    sign, taps = _taps(rotations, points, data.shape[0])
    counted = weights > 0
    size = data.size
    for index, factor in taps:
        where, share = index[counted], factor[counted]
        real = np.bincount(where, weights=share * values[:, 0][counted], minlength=size)
        imaginary = np.bincount(where, weights=share * (sign * values[:, 1])[counted], minlength=size)
        data += (real + 1j * imaginary).reshape(data.shape)
        weight += np.bincount(where, weights=share * weights[counted], minlength=size).reshape(weight.shape)
