"""How the particles of a run are cut into chunks and units of work, and in which order the sums of units are merged.

Everything here follows from the number of particles alone: never from the number of threads or workers, the box, the
device or what happened before. That is what makes the bytes of a run the same wherever it is computed.

A chunk is what is stored as one object and read with one request: up to 32 particles, 32 MiB at box 64. A unit is what
is computed as one task: whole chunks, a few seconds on a GPU, so that a worker that is given 30 s notice can finish it
and one that is killed loses little, yet enough particles to share rotated references. Sets of more than 32768
particles get units of several chunks, so that the units of an iteration stay few enough for a scheduler and a listing.
"""

from __future__ import annotations

SMALLEST_BATCH, LARGEST_BATCH = 10, 32
UNITS_OF_A_SMALL_SET = 8
MOST_UNITS = 1024
FAN_IN = 16


def batch_size(particles: int) -> int:
    """Particles of a chunk: an eighth of a small set, so that several units can be computed at once, 32 of a large one.

    Examples
    --------
    >>> [batch_size(n) for n in (1, 16, 160, 5000)]
    [10, 10, 20, 32]
    """
    return min(max(-(-particles // UNITS_OF_A_SMALL_SET), SMALLEST_BATCH), LARGEST_BATCH)


def chunk_rows(particles: int) -> list[range]:
    """Rows of the particle table in each chunk."""
    return _cut(particles, batch_size(particles))


def chunks_per_unit(particles: int) -> int:
    """Chunks of a unit: as few as keep the number of units at or below 1024.

    Examples
    --------
    >>> [chunks_per_unit(n) for n in (1, 32768, 32769, 1_000_000)]
    [1, 1, 2, 31]
    """
    chunks = -(-particles // batch_size(particles))
    return max(1, -(-chunks // MOST_UNITS))


def unit_rows(particles: int) -> list[range]:
    """Rows of the particle table in each unit; units start and end with chunks."""
    return _cut(particles, batch_size(particles) * chunks_per_unit(particles))


def reduction_levels(units: int) -> list[list[range]]:
    """The tree in which sums are merged: for each level, the members of the level below that each node merges in order.

    Nodes of level 0 merge units, those of level ``n`` nodes of level ``n - 1``. What the last level leaves, 16 or
    fewer, is merged by the driver from left to right; up to 16 units need no level at all.

    Examples
    --------
    >>> reduction_levels(16)
    []
    >>> reduction_levels(18)
    [[range(0, 16), range(16, 18)]]
    >>> [len(level) for level in reduction_levels(1024)]
    [64, 4]
    """
    levels: list[list[range]] = []
    while units > FAN_IN:
        levels.append(_cut(units, FAN_IN))
        units = len(levels[-1])
    return levels


def unit_name(unit: int, digest: str) -> str:
    """Name of a unit's object in the folder of its iteration.

    ``digest`` is that of the unit's input, so that what was computed from another input is never taken for it.
    """
    return f"unit_{unit:05d}_{digest}.npz"


def node_name(level: int, node: int, digest: str) -> str:
    """Name of the object of one node of the tree; levels count from 1 here, units being level 0."""
    return f"node_{level}_{node:05d}_{digest}.npz"


def _cut(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
