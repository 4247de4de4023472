"""Finding the points of the first pass that carry the weight on a GPU: scores are read twice, and nothing of their size
is written or comes to the host.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.cuda.launch import launch

CAPACITY = 1 << 14
"""Points there is room for at first."""

LOOKING = 1 << 16
"""Threads that look for the largest weight: each at several points, so that few meet where they compare."""


def near_largest(
    orientation: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    scores: Any,
    distance: float,
    backend: Backend,
) -> tuple[float, npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    """The largest log weight, and which points have one that is at most ``distance`` less.

    Parameters
    ----------
    orientation, offset : (K, R) and (T,) log priors on the host; scores : (K, R, T) on the device, C-contiguous.

    Returns
    -------
    The largest log weight, NaN when there is a NaN; flat indices (m,), ascending, and log weights (m,), on the host.
    """
    xp, count = backend.xp, scores.size
    priors = [xp.asarray(each, dtype=backend.real) for each in (orientation, offset)]
    points = (*priors, scores, len(offset), count)
    found = xp.zeros(2, dtype=np.uint64)  # the largest weight, and how many are near it
    launch("largest_weight", LOOKING, (*points, LOOKING, found), backend)
    capacity = CAPACITY
    while True:
        index = backend.scratch.empty("index of points", (capacity,), np.dtype(np.int64), xp)
        near = backend.reused("weights of points", capacity)
        launch("near_largest", count, (*points, distance, capacity, found, index, near), backend)
        largest, number = map(int, backend.to_host(found))
        if number <= capacity:
            break
        capacity = number
        found[1:] = 0
    places = backend.to_host(index[:number])
    order = np.argsort(places)
    return _number(largest), places[order], backend.to_host(near[:number])[order]


def _number(order: int) -> float:
    """The number of which the kernels made a whole one with the same order."""
    top = 1 << 63
    bits = order - top if order & top else ~order & (2 * top - 1)
    number: float = struct.unpack("<d", struct.pack("<Q", bits))[0]
    return number
