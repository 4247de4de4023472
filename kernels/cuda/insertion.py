"""Back-projection on a GPU, with the same result from run to run whatever the order in which threads add.

Insertions are summed as whole multiples of powers of two, chosen for every particle so that its sums fit into 64 bits,
and join the sums of the unit, in double precision, before the next particle.  Rounding to multiples moves an insertion
by at most ``2**-57`` of the particle's largest coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.cuda.launch import launch

FloatArray = npt.NDArray[np.float64]

SCALED_BITS = 57
"""Coefficients are scaled to so many bits.  Five more and the sign are left for those that meet at a grid point: fewer
than 45 of one orientation lie within a voxel of it, as they are ``pad >= 1`` apart, and a particle's weights sum to 1.
"""


class FixedPointSums:
    """Sums of one class (P, P, P//2 + 1) on the device: real part, imaginary part and weight of every point."""

    def __init__(self, shape: tuple[int, ...], backend: Backend) -> None:
        self._size, self._points, self._backend = shape[0], math.prod(shape), backend
        self._sums = backend.xp.zeros((self._points, 3), dtype=np.float64)
        # the same for all classes: it is empty from one particle to the next
        self._insertions = backend.scratch.empty("insertions", (self._points, 3), np.dtype(np.int64), backend.xp)
        self._insertions[...] = 0

    @contextmanager
    def particle(self, data: Any, weight: Any) -> Iterator[None]:
        """Context in which a particle is inserted; ``data`` and ``weight`` (n_f,) are all of its coefficients."""
        self._scales = _scale(abs(data)), _scale(weight)
        yield
        arguments = (self._insertions, *self._scales, self._sums, 3 * self._points)
        launch("settle", 3 * self._points, arguments, self._backend)

    def back_project(
        self,
        rotations: FloatArray,
        points: FloatArray,
        image: tuple[Any, Any],
        weights: Any,
        phases: Any,
        rotated: Any,
        which: npt.NDArray[np.int64],
    ) -> FloatArray:
        """Insert the particle at some orientations, see :func:`kernels.back_projection.back_project`.

        Parameters
        ----------
        rotations : (n_r, 3, 3) ``pad * A^T``; points : (3, n_f); both on the host.

        Returns
        -------
        (3, n_f) totals.
        """
        backend, xp, shape = self._backend, self._backend.xp, (len(rotations), 2, points.shape[1])
        moved = backend.reused("moved", *shape)
        placed = [xp.asarray(each) for each in (rotations, points)]
        entries = [xp.asarray(each) for each in (weights.starts, weights.column, weights.weight)]
        arguments = (
            *(self._insertions, *self._scales, self._size, *placed, xp.stack([image[0].real, image[0].imag, image[1]])),
            *(*entries, phases, shape[0], shape[2], moved),
        )
        launch("back_project", shape[0] * shape[2], arguments, backend)
        rotated = rotated[xp.asarray(which)]
        power = xp.asarray(weights.totals()) @ xp.square(rotated).sum(axis=1)
        real = (rotated * moved).sum(axis=(0, 1))
        imaginary = (rotated[:, 0] * moved[:, 1] - rotated[:, 1] * moved[:, 0]).sum(axis=0)
        totals: FloatArray = backend.to_host(xp.stack([power, real, imaginary]))
        return totals

    def add_to(self, data: npt.NDArray[np.complex128], weight: FloatArray) -> None:
        """Add the sums to those on the host, and begin again."""
        real, imaginary, counted = self._backend.to_host(self._sums).T.reshape(3, *data.shape)
        data.real += real
        data.imag += imaginary
        weight += counted
        self._sums[...] = 0


def _scale(amplitudes: Any) -> float:
    """Power of two by which numbers up to the largest of the ``amplitudes`` are multiplied."""
    return math.ldexp(1.0, SCALED_BITS - math.frexp(float(amplitudes.max()))[1])
