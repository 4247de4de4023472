"""The Fourier coefficients that the E-step works on, and translations as phases on them.

A :class:`Sphere` lists the stored coefficients with ``|k| <= size/2`` of a half transform as lines of constant kz and
ky, so that phases separate into one factor per axis and any range of whole lines can be processed on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.cuda.launch import launch
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


@lru_cache(maxsize=6)  # image sizes grow with the resolution
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
    values: Any,
    shifts_xyz_px: Any,
    points: Sphere,
    box: int,
    backend: Backend,
    lines: slice = slice(None),
    out: Any = None,
) -> Any:
    """Transforms of a particle under many translations, stacked for matrix products.

    Parameters
    ----------
    values : (n_b,) complex coefficients of the lines ``lines`` of ``points``.
    shifts_xyz_px : (T, 3) host array.
    out : where the result is put, otherwise a new array.

    Returns
    -------
    (T, 2, n_b) real array of the backend: ``values * exp(-2 pi i k . s / box)``, real and imaginary parts.
    """
    with backend.clock.stage("shift"):
        return _shifted(values, shifts_xyz_px, points, box, backend, lines, out)


def _shifted(
    values: Any, shifts_xyz_px: Any, points: Sphere, box: int, backend: Backend, lines: slice, out: Any
) -> Any:
    x, y, z = phase_tables(shifts_xyz_px, points.size, box)
    chosen = points.lines[lines]
    begin, end = int(chosen[0, 0]), int(chosen[-1].sum())
    length = end - begin
    stacked = backend.xp.empty((len(x), 2, length), dtype=backend.real) if out is None else out
    if not backend.is_cpu:
        tables = [backend.xp.asarray(each, dtype=backend.complex) for each in (x, y, z)]
        frequencies_xyz = backend.xp.asarray(np.ascontiguousarray(points.frequencies_xyz[:, begin:end]))
        arguments = (values, *tables, frequencies_xyz, points.size, len(x), length, stacked)
        launch("shift", len(x) * length, arguments, backend)
        return stacked
    starts = np.column_stack([chosen[:, 0] - begin, chosen[:, 1], *points.frequencies_xyz[1:, chosen[:, 0]]])
    along_x = np.stack([x.real, x.imag]).astype(backend.real)
    _shift_lines(np.stack([values.real, values.imag]).astype(backend.real), along_x, y, z, starts, stacked)
    return stacked


@numba.njit(cache=True, nogil=True, fastmath=True)
def _shift_lines(values: Any, along_x: Any, y: Any, z: Any, lines: Any, stacked: Any) -> None:
    # values (2, n_b), along_x (2, T, n_k), stacked (T, 2, n_b); lines: first coefficient, length, ky, kz
    real = stacked.dtype.type
    for t in range(stacked.shape[0]):
        x_re, x_im = along_x[0, t], along_x[1, t]
        for n in range(lines.shape[0]):
            begin, end = lines[n, 0], lines[n, 0] + lines[n, 1]
            row = z[t, lines[n, 3]] * y[t, lines[n, 2]]
            a, b = real(row.real), real(row.imag)
            re, im = values[0, begin:end], values[1, begin:end]
            moved_re, moved_im = stacked[t, 0, begin:end], stacked[t, 1, begin:end]
            for k in range(len(re)):
                c, d = a * x_re[k] - b * x_im[k], a * x_im[k] + b * x_re[k]
                moved_re[k] = c * re[k] - d * im[k]
                moved_im[k] = c * im[k] + d * re[k]
