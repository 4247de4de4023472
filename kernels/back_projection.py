"""Back-projection: the retained orientations of a particle, summed over translations and inserted into the sums.

On the CPU everything happens to one tile of coefficients after the other while it is in cache; on a device a kernel of
its own sums and inserts (:mod:`kernels.cuda.insertion`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.cuda.insertion import FixedPointSums
from kernels.trilinear import add_packed, back_project_tiles

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ORIENTATIONS_PER_FLUSH = 512
"""Insertions of so many orientations, about one an orientation at any point, are summed before the sums get them."""


class Inserted:
    """What is inserted into the sums of one class, in place.

    On the CPU insertions are gathered on a grid of their own, in the precision of the values and with everything that
    belongs to a point side by side; a GPU has sums of its own.  The sums (P, P, P//2 + 1) have it all after
    :meth:`finish`.
    """

    def __init__(self, data: npt.NDArray[np.complex128], weight: FloatArray, backend: Backend) -> None:
        self.data, self.weight = data, weight
        self.on_device = None if backend.is_cpu else FixedPointSums(data.shape, backend)
        self._packed = np.zeros((data.size if backend.is_cpu else 0, 4), dtype=backend.real)
        self._orientations = 0

    def packed(self, orientations: int) -> Any:
        """The grid (points, 4) for that many more orientations: real part, imaginary part, weight, unused."""
        if self._orientations + orientations > ORIENTATIONS_PER_FLUSH:
            self.finish()
        self._orientations += orientations
        return self._packed

    def particle(self, data: Any, weight: Any) -> AbstractContextManager[None]:
        """Context in which a particle with the coefficients (n_f,) ``data`` and ``weight`` is inserted."""
        return nullcontext() if self.on_device is None else self.on_device.particle(data, weight)

    def finish(self) -> None:
        """Add what is gathered to the sums."""
        if self.on_device is not None:
            self.on_device.add_to(self.data, self.weight)
        elif self._orientations:
            add_packed(self._packed, self.data.reshape(-1).view(np.float64).reshape(-1, 2), self.weight.reshape(-1))
        self._orientations = 0


@dataclass(frozen=True)
class PoseWeights:
    """Posterior weights of orientations and translations, sparse, one orientation after the other.

    Attributes
    ----------
    starts : (n_r + 1,) first entry of every orientation; column, weight : (m,) translation and weight of every entry.
    """

    starts: IntArray
    column: IntArray
    weight: npt.NDArray[Any]

    @classmethod
    def of(cls, row: IntArray, column: IntArray, weight: npt.NDArray[Any], orientations: int) -> PoseWeights:
        """From parallel arrays (m,) in any order."""
        order = np.lexsort((column, row))
        return cls(np.searchsorted(row[order], np.arange(orientations + 1)), column[order], weight[order])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, block: slice) -> PoseWeights:
        starts = self.starts[block.start : block.stop + 1]
        entries = slice(starts[0], starts[-1])
        return PoseWeights(starts - starts[0], self.column[entries], self.weight[entries])

    def totals(self) -> npt.NDArray[Any]:
        """(n_r,) weight of every orientation."""
        return np.add.reduceat(self.weight, self.starts[:-1])


def back_project(
    inserted: Inserted,
    matrices: FloatArray,
    frequencies_xyz: Any,
    pad: float,
    image: tuple[Any, Any],
    weights: PoseWeights,
    phases: Any,
    rotated: Any,
    which: IntArray,
    totals: FloatArray,
    backend: Backend,
) -> None:
    """Insert a particle at some orientations, and add up what its noise and scale need.

    Parameters
    ----------
    matrices : (n_r, 3, 3) rotation matrices A; frequencies_xyz : (3, n_f).
    image : (n_f,) complex and (n_f,) real, what is inserted and its weight; where that is 0 nothing is.
    weights : of the n_r orientations and of the n_t translations with the ``phases`` (n_t, 2, n_f).
    rotated : (n, 2, n_f) rotated references, of which ``which`` (n_r,) belong to the orientations.
    totals : (3, n_f); ``sum_r w_r |A_r|^2`` and the real and imaginary parts of ``sum_r conj(A_r) G_r`` are added,
        with ``G_r = sum_t w(r, t) phase_t``.
    """
    rotations = np.ascontiguousarray(np.swapaxes(matrices, -1, -2) * pad, dtype=backend.real)
    points = np.ascontiguousarray(frequencies_xyz, dtype=backend.real)
    if inserted.on_device is not None:
        totals += inserted.on_device.back_project(rotations, points, image, weights, phases, rotated, which)
        return
    data, weight = image
    back_project_tiles(
        inserted.packed(len(matrices)).reshape(-1),
        inserted.data.shape[0],
        rotations,
        points,
        np.stack([data.real, data.imag, weight]),
        weights.starts,
        weights.column,
        weights.weight,
        phases,
        rotated,
        which,
        totals,
    )
