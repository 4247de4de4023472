"""From scores to posterior weights, and which of them are significant.

Weights are kept as logarithms relative to the largest: sums run over the points that can matter in double precision.
Source: RELION 3.1's rule; Scheres, J. Struct. Biol. 180, 519 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.cuda.selection import near_largest
from kernels.likelihood import FloatArray

IntArray = npt.NDArray[np.int64]

NEGLIGIBLE = 60.0
"""Points whose log weight lies this far below the largest are left out: together they weigh less than 1e-17 of it."""


@dataclass(frozen=True)
class Significant:
    """The significant points of one particle.

    Attributes
    ----------
    index : (m,) flat indices of the significant points, ascending; weight : (m,) their share of the whole sum.
    count : points accumulated before the fraction was exceeded (ties of the last one excluded).
    best : flat index of the largest weight, the first one among ties; best_weight : its share of the whole sum.
    log_sum : logarithm of the sum of all weights.
    """

    index: IntArray
    weight: FloatArray
    count: int
    best: int
    best_weight: float
    log_sum: float


def significant_poses(
    orientation: FloatArray, offset: FloatArray, scores: Any, fraction: float, most: int, backend: Backend
) -> Significant:
    """Find the poses that carry ``fraction`` of the weight.

    Parameters
    ----------
    orientation, offset : (K, R) and (T,) log priors on the host; ``-inf`` where none was tried.
    scores : (K, R, T) array of the backend: logarithms of likelihoods, but for constants and sign.
    fraction, most : see `significant`.

    Raises
    ------
    FloatingPointError
        No pose has a finite weight.
    """
    if not backend.is_cpu:
        return _significant(*near_largest(orientation, offset, scores, NEGLIGIBLE, backend), fraction, most)
    log_weight = orientation.astype(backend.real)[:, :, None] - scores
    log_weight += offset.astype(backend.real)
    return significant(log_weight.ravel(), fraction, most)


def significant(log_weight: npt.NDArray[np.floating[Any]], fraction: float, most: int) -> Significant:
    """Find the points that carry ``fraction`` of the weight.

    Parameters
    ----------
    log_weight : (n,); ``-inf`` where a point was not tried.
    fraction : RELION's adaptive fraction; the point at which the running sum first exceeds it sets the threshold, and
        points as heavy as the threshold are significant too.
    most : cap on the accumulated points, or -1.

    Raises
    ------
    FloatingPointError
        No point has a finite weight.
    """
    largest = float(log_weight.max())
    index = np.flatnonzero(log_weight >= largest - NEGLIGIBLE) if np.isfinite(largest) else np.zeros(0, dtype=np.int64)
    return _significant(largest, index, log_weight[index], fraction, most)


def _significant(
    largest: float, index: IntArray, near: npt.NDArray[np.floating[Any]], fraction: float, most: int
) -> Significant:
    """`significant` of the points ``index``, whose log weights ``near`` are those close to the largest."""
    if not np.isfinite(largest):
        raise FloatingPointError("no orientation has a weight above zero")
    weight = np.exp(near.astype(np.float64) - largest)
    total = float(weight.sum())
    descending = np.sort(weight[weight > 0.5 * (1.0 - fraction) * total / len(weight)])[::-1]
    count = int(np.searchsorted(np.cumsum(descending), fraction * total, side="right")) + 1
    count = min(count, len(descending), most if most > 0 else len(descending))
    kept = weight >= descending[count - 1]
    return Significant(
        index=index[kept],
        weight=weight[kept] / total,
        count=count,
        best=int(index[np.argmax(weight)]),
        best_weight=1.0 / total,
        log_sum=largest + float(np.log(total)),
    )


def winner(score: Any) -> Significant:
    """Give all the weight to the least score (cross-correlation); the logarithm of the sum is minus that score.

    Raises
    ------
    FloatingPointError
        The least score is not finite.
    """
    best = int(score.argmin())
    if not np.isfinite(float(score[best])):
        raise FloatingPointError("no orientation has a finite correlation")
    return Significant(np.array([best]), np.ones(1), 1, best, 1.0, -float(score[best]))
