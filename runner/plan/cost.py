"""Operations and bytes of a run, counted from its settings before anything is read.

Counts of kernels' clocks and of this model have the same names and meanings, so that predictions can be held against
runs. What only the data decide, how sharp the posteriors are, is an assumption with a range: `Sharpness`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REAL = 4
"""Bytes of a number of the E-step in single precision."""

GRID_BYTES = 16 + 8
"""Complex sum and weight of one voxel of an accumulator."""


@dataclass(frozen=True)
class Data:
    """The particles of a run.

    Attributes
    ----------
    particles, groups : their number, and that of the groups of equal noise.
    box : N in voxels; voxel_size_angst.
    volume_bytes : of one particle volume where it is read from; ctf_bytes : of the CTF volumes, per particle, when one
        that many particles share is read once.
    """

    particles: int
    groups: int
    box: int
    voxel_size_angst: float
    volume_bytes: int
    ctf_bytes: float = 0.0


@dataclass(frozen=True)
class Kind:
    """One kind of iteration, and how many of it are expected.

    Attributes
    ----------
    orientations : coarse ones tried for each particle and class; directions : of the whole grid.
    translations : coarse ones; oversampling : each coarse point has ``8**oversampling`` children in either.
    coarse_size, current_size : images of the first and of the second pass, voxels; coarse_coefficients,
        fine_coefficients : how many numbers of a half transform these compare.
    grid : edge P of the padded references and sums at ``current_size``.
    first : the first iteration of a run, which compares with the given reference.
    local : each particle has orientations of its own; otherwise rotated references serve all particles of a unit.
    """

    name: str
    iterations: int
    healpix_order: int
    angular_step_deg: float
    local: bool
    final: bool
    cross_correlation: bool
    orientations: int
    directions: int
    translations: int
    oversampling: int
    coarse_size: int
    current_size: int
    coarse_coefficients: int
    fine_coefficients: int
    grid: int
    classes: int = 1
    halves: int = 1
    first: bool = False


@dataclass(frozen=True)
class Sharpness:
    """How many poses of a particle carry its weight: a property of the data that no header tells.

    Attributes
    ----------
    orientations, translations : coarse ones among the significant points of the first pass.
    retained : fine orientations that are left after the second pass and are back-projected.
    """

    orientations: int
    translations: int
    retained: int


EXPECTED = {False: Sharpness(2, 1, 4), True: Sharpness(5, 2, 20)}
"""By whether searches are local; medians of refinements of `docs/plan.md`, and the extremes seen there below."""
BLURRED = {False: Sharpness(2, 1, 4), True: Sharpness(50, 3, 150)}
"""The same for a first iteration by likelihood, from a reference that was low-pass filtered."""
SHARPEST = Sharpness(1, 1, 1)
FLATTEST = {False: Sharpness(20, 4, 60), True: Sharpness(100, 6, 300)}


def expected_sharpness(kind: Kind) -> Sharpness:
    """What is expected of the posteriors in one kind of iteration."""
    if kind.cross_correlation:
        return SHARPEST
    return (BLURRED if kind.first else EXPECTED)[kind.local]


@dataclass(frozen=True)
class Operations:
    """What one iteration computes, reads and writes; names as those of `kernels.clock.Clock`.

    Attributes
    ----------
    comparisons : pairs of an orientation and a translation in the first pass.
    gemm_flops, fine_flops : of the products of the first and second pass.
    samples, insertions : coefficients of rotated references, and of back-projected particles.
    shifts : coefficients of translated particles in the first pass.
    poses : orientations that are listed.
    read_bytes, written_bytes, written_objects, read_objects : particles read; sums, assignments and maps written.
    """

    particles: int
    poses: int
    samples: int
    shifts: int
    gemm_flops: int
    comparisons: int
    fine_flops: int
    insertions: int
    read_bytes: int
    read_objects: int
    written_bytes: int
    written_objects: int


def accumulator_bytes(classes: int, groups: int, directions: int, box: int, grid: int) -> int:
    """Bytes of the sums of one half (`kernels.accumulators.Accumulators`)."""
    shells = box // 2 + 1
    numbers = groups * (shells + 3) + 4 + classes * (1 + directions)
    return classes * grid_voxels(grid) * GRID_BYTES + 8 * numbers


def grid_voxels(grid: int) -> int:
    """Voxels of a padded half grid of edge P."""
    return grid * grid * (grid // 2 + 1)


def ball_voxels(grid: int) -> int:
    """Voxels of a padded half grid that insertion can reach: what of it a unit writes."""
    centred = np.arange(grid) - grid // 2
    left = (grid // 2 + 1) ** 2 - centred[:, None] ** 2 - centred[None, :] ** 2
    lengths = np.floor(np.sqrt(np.maximum(left - 1, 0))).astype(np.int64) + 1
    return int(np.minimum(lengths, grid // 2 + 1)[left > 0].sum())


def result_bytes(
    classes: int, halves: int, groups: int, directions: int, box: int, grid: int, precision_bytes: int = REAL
) -> int:
    """Bytes of the sums of all halves: as a unit writes them, or with 8 bytes a number, in which they are added."""
    written = ball_voxels(grid) * GRID_BYTES * precision_bytes // 8
    left_out = classes * (grid_voxels(grid) * GRID_BYTES - written)
    return halves * (accumulator_bytes(classes, groups, directions, box, grid) - left_out)


def half_voxels(size: int) -> int:
    """Coefficients of the half transform of a box."""
    return size * size * (size // 2 + 1)


def operations(data: Data, kind: Kind, sharp: Sharpness, units: int, chunks: int) -> Operations:
    """Count one iteration.

    Parameters
    ----------
    units, chunks : into which the particles are cut for computing and for reading.
    """
    children: int = 8**kind.oversampling
    n, k, coarse, fine = data.particles, kind.classes, kind.coarse_coefficients, kind.fine_coefficients
    tried = n * k * kind.orientations
    listed = tried if kind.local else units * kind.halves * k * kind.orientations
    turned, moved = sharp.orientations * children, sharp.translations * children
    if kind.oversampling == 0:
        turned = moved = 0
    retained = 1 if kind.cross_correlation else sharp.retained
    sums = result_bytes(k, kind.halves, data.groups, kind.directions, data.box, kind.grid)
    maps = kind.halves * k * (4 * data.box**3 + 1024)
    return Operations(
        particles=n,
        poses=listed // (1 if kind.local else k),
        samples=listed * coarse + n * (turned or retained) * fine,
        shifts=n * kind.translations * coarse,
        gemm_flops=tried * kind.translations * 4 * coarse,
        comparisons=tried * kind.translations,
        fine_flops=n * turned * moved * 4 * fine,
        insertions=n * retained * fine,
        read_bytes=int(n * (data.volume_bytes + data.ctf_bytes)),
        read_objects=chunks,
        written_bytes=units * sums + maps,
        written_objects=units + kind.halves * k + RUN_FILES,
    )


RUN_FILES = 8
"""Objects of an iteration beside those of units and maps: tables, input, state and commit."""


@dataclass(frozen=True)
class Rates:
    """Seconds of one operation of each stage on one device, as measured for one kind of iteration.

    Attributes
    ----------
    stages : seconds for each particle (``prepare``), orientation (``poses``), coefficient (``sample``, ``shift``,
        ``sums``, ``insert``), operation (``first_pass``, ``second_pass``) and comparison (``scores``, ``posterior``).
    maximization : seconds of one reconstruction with a grid of edge 1, growing as ``P^3``; accuracy : of one particle's
        estimate of accuracies; reading : bytes per second.
    """

    stages: dict[str, float]
    maximization: float
    accuracy: float
    reading: float


STAGE_OF = {
    "prepare": "particles",
    "poses": "poses",
    "sample": "samples",
    "shift": "shifts",
    "first_pass": "gemm_flops",
    "second_pass": "fine_flops",
    "scores": "comparisons",
    "posterior": "comparisons",
    "sums": "insertions",
    "insert": "insertions",
}
"""For each stage of the E-step the count that its time is taken to be proportional to."""

ACCURACY_PARTICLES = 100
RECONSTRUCTIONS_AT_THE_END = 3


def stage_seconds(found: Operations, kind: Kind, rates: Rates, devices: int, units: int) -> dict[str, float]:
    """Predicted wall-clock seconds of the stages of one iteration on ``devices`` at once.

    Units are dealt out whole, so the last round may leave devices idle; the M-step uses one device for each half.
    """
    rounds = math.ceil(units / devices) / units
    seconds = {stage: rate * getattr(found, STAGE_OF[stage]) * rounds for stage, rate in rates.stages.items()}
    seconds["read"] = found.read_bytes / rates.reading * rounds
    estimated = min(ACCURACY_PARTICLES, found.particles // kind.halves)
    seconds["accuracy"] = 0.0 if kind.cross_correlation else rates.accuracy * estimated * kind.classes
    maps = RECONSTRUCTIONS_AT_THE_END if kind.final else kind.classes * math.ceil(kind.halves / devices)
    seconds["maximization"] = rates.maximization * kind.grid**3 * maps
    return seconds
