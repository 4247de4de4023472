"""Memory of a run, counted from its settings: one account for `tomoburst plan` and for the budget of ``--memory``.

Sizes are in bytes, and each term is the most that is held at once. A process holds its code and libraries, what grows
with the box, the references, and for each unit under way the particles, the blocks and the sums; in the M-step the sums
of all units and the arrays of reconstructions. What is left of a budget buys time: rotated references are kept and not
sampled again, results of units are merged without being read back, two halves are reconstructed at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runner.plan.cost import (
    GRID_BYTES,
    REAL,
    Data,
    Kind,
    Sharpness,
    accumulator_bytes,
    grid_voxels,
    half_voxels,
    result_bytes,
)
from runner.plan.units import FAN_IN

SCORES_PER_BATCH, PARTICLES_PER_BATCH = 1 << 25, 16
COEFFICIENTS_PER_BLOCK, ROWS_PER_BLOCK, COARSE_ROWS_PER_BLOCK = 4096, 128, 512
"""Shapes of the E-step's blocks: those of `kernels.expectation` and `kernels.scores`."""

GATHER_NUMBERS = 4
"""Numbers of the E-step's precision for each voxel of the grid on which a unit gathers insertions."""

SUM_BYTES = 8
"""Of a real number while sums are added."""

COPIES_OF_A_RESULT = 3
"""The sums of a unit, and its object while it is put together and while it is written."""

WRITTEN_COPIES_OF_A_RESULT = 2
"""The object of a unit whose thread goes on while it is written, and the request's."""

COARSE_POINT_BYTES = 48
"""Numbers of a point of the first pass while the significant ones are found: scores, weights, order."""

FINE_POINT_BYTES = 96
"""Numbers of a point of the second pass, of which the parts are joined and the significant ones found."""

TABLE_BYTES_PER_VOXEL = 96
"""Tables of shells and frequencies at some image sizes, masks, and maps while they are filtered."""

PREPARATION_BYTES_PER_VOXEL = 48
"""A particle while it is masked, with the noise around it, in double precision."""

GRID_TABLE_BYTES = 3 * 8
"""Radius and shell of each voxel of a padded grid, and which of them units write."""

RECONSTRUCTION_BYTES, PADDED_BOX_BYTES = 80, 32
"""Of a reconstruction: for each voxel of the half grid, and of the padded box with its transform."""

PARTICLE_BYTES = 4096
"""Of one row of the particle table, as text and as numbers."""

CTF_CACHE_BYTES = 2**28
"""CTF volumes that a process remembers (`runner.execute.images`)."""

ACCURACY_PARTICLES = 100


@dataclass(frozen=True)
class Shares:
    """What a process may spend on speed.

    Attributes
    ----------
    references_bytes : of one unit, for rotated references that are kept from the second pass to the sums.
    results_bytes : for results of units that wait to be merged; reconstructions : how many at once.
    """

    references_bytes: int
    results_bytes: int
    reconstructions: int


LEAST = Shares(0, 0, 1)
WITHOUT_BUDGET = Shares(2**29, 2**30, 2)


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes
    ----------
    base_bytes : before it has read anything, its kernels loaded.
    threads : units that it computes at once; under_way : these and the ones that wait for a store meanwhile.
    precision_bytes : of a real number of the E-step.
    """

    base_bytes: int
    threads: int = 1
    under_way: int = 1
    precision_bytes: int = REAL


FLAT = Sharpness(1000, 6, 300)
"""The flattest posterior that a budget provides for: so many significant coarse orientations, each with so many
offsets. Where it is sharper, or in local searches with fewer orientations, this is more than is needed."""


def flattest(kind: Kind) -> Sharpness:
    """The flattest posterior of one kind of iteration: of a unit one such particle counts."""
    return replace(FLAT, orientations=kind.classes * min(kind.orientations, FLAT.orientations))


@dataclass(frozen=True)
class Memory:
    """Bytes of one kind of iteration.

    Attributes
    ----------
    base : of the process; box : maps, masks, tables and CTF volumes.
    references : of all halves and classes, as compared; prepared : particles of a unit as read and as transformed;
        blocks : temporary arrays of a unit; result : what a unit writes; accumulators : sums of all halves.
    kept : rotated references of a unit, and results that wait; what a budget decides.
    expectation, maximization : peaks of a process in the two steps.
    """

    base: int
    box: int
    references: int
    prepared: int
    blocks: int
    result: int
    accumulators: int
    kept: int
    expectation: int
    maximization: int

    @property
    def peak(self) -> int:
        """The larger of the two steps' peaks."""
        return max(self.expectation, self.maximization)


def memory(
    data: Data, kind: Kind, sharp: Sharpness, process: Process, units: int, chunk: int, shares: Shares
) -> Memory:
    """Peak of a process in one kind of iteration.

    Parameters
    ----------
    units : of the iteration; chunk : particles that a unit reads and computes at a time.
    """
    models, grid, padded = kind.halves * kind.classes, grid_voxels(kind.grid), half_voxels(_padded_box(data, kind))
    each = accumulator_bytes(kind.classes, data.groups, kind.directions, data.box, kind.grid)
    shapes = kind.classes, kind.halves, data.groups, kind.directions, data.box, kind.grid
    result, summed = (result_bytes(*shapes, precision) for precision in (process.precision_bytes, SUM_BYTES))
    box, held = _box_bytes(data, kind), models * grid * 2 * process.precision_bytes
    prepared, blocks = _prepared_bytes(data, kind, chunk, process), block_bytes(kind, sharp, chunk, process)
    gathered = kind.classes * grid * GATHER_NUMBERS * process.precision_bytes
    kept = kept_references(kind, sharp, shares.references_bytes, process.precision_bytes)
    several_chunks = summed if data.particles > units * chunk else 0
    computing = blocks + kept + each + gathered + summed + several_chunks
    unit = prepared + max(computing, summed + result, COPIES_OF_A_RESULT * result)
    waiting_unit = prepared + (COPIES_OF_A_RESULT + WRITTEN_COPIES_OF_A_RESULT) * result
    waiting_results = min(shares.results_bytes, result * (FAN_IN if units > FAN_IN else min(units, process.threads)))
    merged = summed * (1 if process.under_way == 1 else COPIES_OF_A_RESULT)
    transforms = models * grid * GRID_BYTES + max(PADDED_BOX_BYTES * padded, _accuracy_bytes(data, kind))
    units_at_once = process.threads * unit + (process.under_way - process.threads) * waiting_unit
    common = process.base_bytes + box + GRID_TABLE_BYTES * grid
    at_once = min(kind.halves, shares.reconstructions)
    reconstruction = RECONSTRUCTION_BYTES * grid + PADDED_BOX_BYTES * max(0, padded - grid)
    return Memory(
        base=process.base_bytes,
        box=box,
        references=held,
        prepared=prepared,
        blocks=blocks,
        result=result,
        accumulators=kind.halves * each,
        kept=process.threads * kept + waiting_results,
        expectation=common + max(transforms, held + units_at_once + merged + waiting_results),
        maximization=common + kind.halves * each + max(summed, at_once * reconstruction),
    )


def shares_within(budget: int, least: Iterable[Memory], kinds: Iterable[Kind], process: Process) -> Shares:
    """Deal out what the iterations of a run leave of a budget when nothing is spent on speed.

    Half of what the E-step leaves goes to the units under way, half to the results that wait.

    Parameters
    ----------
    least : of the kinds of iterations with `LEAST`; none of the peaks exceeds the budget.
    """
    found, kinds = list(least), list(kinds)
    spare = (budget - max(each.expectation for each in found)) // 2
    models = max(kind.classes for kind in kinds)
    fits = all(
        each.maximization + RECONSTRUCTION_BYTES * grid_voxels(kind.grid) <= budget
        for each, kind in zip(found, kinds, strict=True)
    )
    return Shares(
        references_bytes=min(spare // (process.threads * models), WITHOUT_BUDGET.references_bytes),
        results_bytes=min(spare, WITHOUT_BUDGET.results_bytes),
        reconstructions=WITHOUT_BUDGET.reconstructions if fits else 1,
    )


def block_bytes(kind: Kind, sharp: Sharpness, chunk: int, process: Process) -> int:
    """Temporary arrays of one unit: blocks of fixed shape, scores of all points, and points of the second pass."""
    real, points = process.precision_bytes, kind.classes * kind.orientations * kind.translations
    compared = 1 if kind.local else max(1, chunk // kind.halves)
    batch = min(compared, PARTICLES_PER_BATCH, max(1, SCORES_PER_BATCH // points))
    length = 2 * min(kind.coarse_coefficients, COEFFICIENTS_PER_BLOCK)
    images = 2 * batch * kind.translations * length  # as translated, and side by side
    rows = min(kind.orientations, COARSE_ROWS_PER_BLOCK)
    first = real * (2 * batch * points + rows * (length + batch * kind.translations))
    children: int = 8**kind.oversampling
    fine_points = min(points, sharp.orientations * sharp.translations) * children**2
    moved = kind.translations if kind.local else min(kind.translations, 2 * sharp.translations)
    tables = 2 * ROWS_PER_BLOCK * children * moved
    phases = 2 * COEFFICIENTS_PER_BLOCK * (ROWS_PER_BLOCK + children * moved)
    posterior = real * batch * points + COARSE_POINT_BYTES * points
    second = real * (batch * points + tables + phases) + FINE_POINT_BYTES * fine_points
    return real * images + max(first, posterior, second)


def kept_references(kind: Kind, sharp: Sharpness, most: int, precision_bytes: int = REAL) -> int:
    """Bytes of a particle's rotated references that are kept from the second pass to the sums; 0: sampled again.

    ``most`` is what those of a class may take; the significant orientations are taken to be spread over the classes.
    """
    orientations = -(-sharp.orientations // kind.classes)
    needed: int = precision_bytes * 2 * orientations * 8**kind.oversampling * kind.fine_coefficients
    return kind.classes * needed if kind.oversampling > 0 and needed <= most else 0


def _padded_box(data: Data, kind: Kind) -> int:
    return round((kind.grid - 3) / kind.current_size * data.box)


def _box_bytes(data: Data, kind: Kind) -> int:
    """State and maps of two iterations, tables, the particle table, and CTF volumes."""
    maps = 3 * 8 * kind.halves * kind.classes + TABLE_BYTES_PER_VOXEL
    ctfs = min(CTF_CACHE_BYTES, int(data.particles * data.ctf_bytes) // 2)
    return maps * data.box**3 + ctfs + PARTICLE_BYTES * data.particles


def _accuracy_bytes(data: Data, kind: Kind) -> int:
    """CTF volumes of the particles on which accuracies are estimated."""
    return int(min(ACCURACY_PARTICLES, data.particles // kind.halves + 1) * data.ctf_bytes) // 2


def _prepared_bytes(data: Data, kind: Kind, chunk: int, process: Process) -> int:
    """A chunk that is computed, the next one as it is stored and as it is read, and transforms of the particles of one
    half.
    """
    reals = 2 * process.precision_bytes * 2 + process.precision_bytes * (data.ctf_bytes > 0)
    volumes = 3 * chunk * REAL * data.box**3
    transforms = -(-chunk // kind.halves) * half_voxels(kind.current_size) * reals
    return volumes + transforms + PREPARATION_BYTES_PER_VOXEL * data.box**3
