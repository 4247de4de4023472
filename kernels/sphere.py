"""The Fourier coefficients that the E-step works on, and translations as phases on them.

A :class:`Sphere` lists the stored coefficients with ``|k| <= size/2`` of a half transform as lines of constant kz and
ky, so that phases separate into one factor per axis and any range of whole lines can be processed on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.geometry import frequencies, half_frequencies, likelihood_shells, shells, squared_radius


@dataclass(frozen=True)
class Sphere:
    """Coefficients with ``|k| <= size/2``, in the order of the flattened half transform.

    Attributes
    ----------
    flat : (n_f,) indices into the flattened half transform of ``size``.
    frequencies_xyz : (3, n_f) int64 kx, ky, kz.
    shell : (n_f,) ``ROUND(|k|)``.
    likelihood : (n_f,) bool, counted by rule R1 (DC included).
    inserted : (n_f,) bool, counted when a transform is inserted into an accumulator.
    lines : (n_lines, 2) int64 first coefficient and length of every line of constant kz and ky; kx runs from 0.
    """

    size: int
    flat: npt.NDArray[np.int64]
    frequencies_xyz: npt.NDArray[np.int64]
    shell: npt.NDArray[np.int64]
    likelihood: npt.NDArray[np.bool_]
    inserted: npt.NDArray[np.bool_]
    lines: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.flat)

    def blocks(self, coefficients: int) -> Iterator[tuple[slice, slice]]:
        """Yield ``(coefficient slice, line slice)`` pairs of whole lines with about ``coefficients`` coefficients
        each.
        """
        first = 0
        ends = self.lines.sum(axis=1)
        while first < len(self.lines):
            begin = int(self.lines[first, 0])
            last = max(first + 1, int(np.searchsorted(ends, begin + coefficients, side="right")))
            yield slice(begin, int(ends[last - 1])), slice(first, last)
            first = last


@cache
def sphere(size: int) -> Sphere:
    """Build the :class:`Sphere` of an even box ``size``."""
    flat = np.flatnonzero(squared_radius(size).ravel() <= (size // 2) ** 2)
    kz, ky, kx = (np.broadcast_to(axis, (size, size, size // 2 + 1)).ravel()[flat] for axis in half_frequencies(size))
    starts = np.flatnonzero(kx == 0)
    lengths = np.diff(np.append(starts, len(flat)))
    return Sphere(
        size=size,
        flat=flat,
        frequencies_xyz=np.stack([kx, ky, kz]),
        shell=shells(size).ravel()[flat],
        likelihood=likelihood_shells(size).ravel()[flat] >= 0,
        inserted=~((kx == 0) & (kz < 0)),
        lines=np.stack([starts, lengths], axis=1),
    )


def phase_tables(shifts_xyz_px: Any, size: int, box: int) -> tuple[Any, Any, Any]:
    """Phase factors ``exp(-2 pi i k s / box)`` per axis.

    Parameters
    ----------
    shifts_xyz_px : (T, 3) shifts in voxels of the full box.
    size : size of the (cropped) half transform whose frequencies are tabulated; box : full box size N.

    Returns
    -------
    Three (T, n_k) complex128 arrays: kx in ``0 .. size/2``; ky and kz in the order of
    :func:`kernels.geometry.frequencies`.
    """
    full = frequencies(size)
    axes = (full[: size // 2 + 1], full, full)
    x, y, z = (
        np.exp((-2j * np.pi / box) * np.asarray(shifts_xyz_px)[:, axis, None] * axes[axis][None, :])
        for axis in range(3)
    )
    return x, y, z


def shifted(
    values: Any, shifts_xyz_px: Any, points: Sphere, box: int, backend: Backend, lines: slice = slice(None)
) -> Any:
    """Transforms of a particle under many translations, stacked for matrix products.

    Parameters
    ----------
    values : (n_b,) complex coefficients of the lines ``lines`` of ``points``.
    shifts_xyz_px : (T, 3) host array.

    Returns
    -------
    (T, 2, n_b) real array of the backend: ``values * exp(-2 pi i k . s / box)``, real and imaginary parts.
    """
    with backend.clock.stage("shift"):
        return _shifted(values, shifts_xyz_px, points, box, backend, lines)


def _shifted(values: Any, shifts_xyz_px: Any, points: Sphere, box: int, backend: Backend, lines: slice) -> Any:
    x, y, z = phase_tables(shifts_xyz_px, points.size, box)
    chosen = points.lines[lines]
    begin, end = int(chosen[0, 0]), int(chosen[-1].sum())
    if not backend.is_cpu:
        return _shifted_arrays(values, x, y, z, points.frequencies_xyz[:, begin:end], backend)
    row_y, row_z = points.frequencies_xyz[1:, chosen[:, 0]]
    rows = z[:, row_z] * y[:, row_y]
    stacked = np.empty((len(x), 2, end - begin), dtype=backend.real)
    starts = chosen.copy()
    starts[:, 0] -= begin
    _shift_lines(
        np.ascontiguousarray(values.real, dtype=backend.real),
        np.ascontiguousarray(values.imag, dtype=backend.real),
        np.ascontiguousarray(rows.real, dtype=backend.real),
        np.ascontiguousarray(rows.imag, dtype=backend.real),
        np.ascontiguousarray(x.real, dtype=backend.real),
        np.ascontiguousarray(x.imag, dtype=backend.real),
        starts,
        stacked,
    )
    return stacked


def _shifted_arrays(values: Any, x: Any, y: Any, z: Any, frequencies_xyz: Any, backend: Backend) -> Any:
    """Whole-array twin of the compiled kernel behind :func:`shifted`."""
    xp = backend.xp
    kx, ky, kz = (xp.asarray(axis) for axis in frequencies_xyz)
    phases = xp.asarray(z)[:, kz] * xp.asarray(y)[:, ky] * xp.asarray(x)[:, kx]
    product = values[None, :] * phases.astype(backend.complex)
    return xp.stack([product.real, product.imag], axis=1)


@numba.njit(cache=True, nogil=True)
def _shift_lines(re: Any, im: Any, row_re: Any, row_im: Any, x_re: Any, x_im: Any, lines: Any, stacked: Any) -> None:
    for t in range(stacked.shape[0]):
        for n in range(lines.shape[0]):
            start, length = lines[n, 0], lines[n, 1]
            a, b = row_re[t, n], row_im[t, n]
            for k in range(length):
                c = a * x_re[t, k] - b * x_im[t, k]
                d = a * x_im[t, k] + b * x_re[t, k]
                u, v = re[start + k], im[start + k]
                stacked[t, 0, start + k] = c * u - d * v
                stacked[t, 1, start + k] = c * v + d * u
