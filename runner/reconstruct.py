"""``tomoburst reconstruct``: one map of subtomograms with known poses, as ``relion_reconstruct --3d_rot`` makes it."""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kernels import maximization, spectra
from kernels.fourier import forward, shift
from kernels.geometry import half_frequencies, squared_radius
from kernels.orientations import euler_to_matrix
from kernels.projection import insert
from kernels.symmetry import operators
from runner.errors import InputError, UsageError
from runner.execute.images import ParticleSource, open_source
from runner.formats.mrc import write_mrc
from runner.formats.particles import read_particles
from runner.formats.star import read_star
from runner.report.events import ParticleSetAside, RunFinished, RunStarted, StageStarted, UnitFinished
from runner.store.objects import check_writable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.model.particles import ParticleTable
    from runner.plan.config import ReconstructConfig
    from runner.report.events import Events

PARTICLES_PER_BATCH = 16

FloatArray = npt.NDArray[np.float64]
Accumulator = tuple[npt.NDArray[np.complex128], FloatArray]


@dataclass(frozen=True)
class Target:
    """The map to make: box in voxels, voxel size, padding, and largest radius in Fourier voxels."""

    box: int
    voxel_size_angst: float
    pad: int
    r_max: int


def run_reconstruct(config: ReconstructConfig, events: Events) -> None:
    """Read the particles, insert each into Fourier space, apply the point group, and write the reconstructed map.

    Raises
    ------
    UsageError, InputError, StorageError
        In one line, before anything is written.
    """
    config.validate()
    check_writable(config.o)
    symmetry = _operators(config.sym)
    table = select_particles(read_particles(config.i, store_url=config.store), config.subset, config.class_)
    target = plan_target(table, config)
    fsc = read_fsc(config.fsc, target.box) if config.fsc else None
    source = open_source(table, config.ctf)

    for note in table.notes:
        events.note(note)
    if "rlnAngleRot" not in table.columns:
        events.warn(
            f"{table.source}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); particles are averaged as they are"
        )
    events.emit(RunStarted("reconstruct", config.o, len(table), {"box": target.box, "symmetry": config.sym}))
    for row, reason in source.bad.items():
        events.emit(ParticleSetAside(table.image_names[row], int(table.row_number[row]), reason))
    data, weight = accumulate(table, source, config.ctf, target, config.j, events)
    events.emit(StageStarted("reconstructing"))
    maximization.enforce_hermitian(data, weight)
    data, weight = maximization.symmetrise(data, weight, symmetry, target.r_max, target.pad)
    tau2 = None if fsc is None else _tau2(fsc, weight, target)
    volume = maximization.reconstruct(
        data,
        weight,
        target.box,
        target.pad,
        target.r_max,
        tau2=tau2,
        minres_map=0,
        gridding=not config.skip_gridding,
        iterations=config.iter,
    )
    write_mrc(config.o, volume, target.voxel_size_angst)
    events.emit(RunFinished("reconstruct", files=(config.o,)))


def select_particles(table: ParticleTable, subset: int, class_number: int) -> ParticleTable:
    """Particles of one half set and of one class; -1 stands for all.

    Raises
    ------
    InputError
        When no particle is left.
    """
    kept = np.ones(len(table), dtype=bool)
    for value, numbers, label in (
        (subset, table.random_subset, "rlnRandomSubset"),
        (class_number, table.class_number, "rlnClassNumber"),
    ):
        if value == -1:
            continue
        if label not in table.columns:
            raise InputError(f"{table.source}: column {label} is missing, but only {label} {value} was asked for")
        kept &= numbers == value
    if not kept.any():
        raise InputError(f"{table.source}: none of {len(table)} particles has the half set and class asked for")
    return table.select(kept)


def plan_target(table: ParticleTable, config: ReconstructConfig) -> Target:
    """Box and voxel size of the map: those of the first optics group, unless ``--angpix`` gives another voxel size."""
    first = table.optics[0]
    voxel_size = config.angpix if config.angpix > 0 else first.pixel_size_angst
    r_max = first.image_size // 2
    width = first.image_size * voxel_size
    if config.maxres > width:
        raise UsageError(f"--maxres {config.maxres:g}: no shell of the box is coarser than {width:g} A; give less")
    if config.maxres > 0:
        r_max = min(r_max, int(np.ceil(width / config.maxres)))
    return Target(first.image_size, voxel_size, config.pad, r_max)


def read_fsc(url: str, box: int) -> FloatArray:
    """FSC curve of the first table with rlnSpectralIndex and rlnGoldStandardFsc, e.g. of a model STAR; (box//2 + 1,).

    Raises
    ------
    InputError
        When there is no such table or a value is not a number.
    """
    for block in read_star(url).blocks.values():
        if "rlnSpectralIndex" in block.columns and "rlnGoldStandardFsc" in block.columns:
            break
    else:
        raise InputError(f"{url}: no table with rlnSpectralIndex and rlnGoldStandardFsc; give --fsc a model STAR file")
    fsc = np.zeros(box // 2 + 1)
    rows = zip(block.columns["rlnSpectralIndex"], block.columns["rlnGoldStandardFsc"], strict=True)
    for row, (index, value) in enumerate(rows, start=1):
        try:
            shell, correlation = int(index), float(value)
        except ValueError as error:
            raise InputError(f"{url} data_{block.name} row {row}: '{index}' and '{value}' are not numbers") from error
        if not (np.isfinite(correlation) and shell >= 0):
            raise InputError(f"{url} data_{block.name} row {row}: shell {index} has the FSC {value}")
        if shell < len(fsc):
            fsc[shell] = correlation
    return fsc


def accumulate(
    table: ParticleTable, source: ParticleSource, ctf: bool, target: Target, threads: int, events: Events
) -> Accumulator:
    """Sum of all particles in Fourier space, and of their weights; not yet Hermitian.

    Batches of a fixed size are summed on their own and added up in order, so that the bytes do not depend on the number
    of threads. At most one accumulator per thread exists beside the total.
    """
    count = len(table)
    events.emit(StageStarted("inserting", count))
    total = maximization.empty_accumulator(target.r_max, target.pad)
    done = 0
    for batch in _batch_sums(table, source, ctf, target, threads):
        np.add(total[0], batch[0], out=total[0])
        np.add(total[1], batch[1], out=total[1])
        done = min(done + PARTICLES_PER_BATCH, count)
        events.emit(UnitFinished(done, count))
    return total


def _batch_sums(
    table: ParticleTable, source: ParticleSource, ctf: bool, target: Target, threads: int
) -> Iterator[Accumulator]:
    """Accumulators of the batches in order, ``threads`` of them in flight."""

    def sum_batch(first: int) -> Accumulator:
        sums = maximization.empty_accumulator(target.r_max, target.pad)
        rows = [row for row in range(first, min(first + PARTICLES_PER_BATCH, len(table))) if row not in source.bad]
        for row, volume in zip(rows, source.read(rows), strict=True):
            if isinstance(volume, InputError):
                raise volume
            insert_particle(sums, table, row, volume, source.read_ctf(row) if ctf else None, target)
        return sums

    starts = iter(range(0, len(table), PARTICLES_PER_BATCH))
    with ThreadPoolExecutor(threads) as pool:
        flying: deque[Future[Accumulator]] = deque(
            pool.submit(sum_batch, first) for first in itertools.islice(starts, threads)
        )
        try:
            while flying:
                yield flying.popleft().result()
                flying.extend(pool.submit(sum_batch, first) for first in itertools.islice(starts, 1))
        finally:
            for future in flying:
                future.cancel()


def insert_particle(
    sums: Accumulator,
    table: ParticleTable,
    particle: int,
    volume: npt.NDArray[np.float32],
    ctf_rft: npt.NDArray[np.float32] | None,
    target: Target,
) -> None:
    """Add one particle, centred by its full offset and multiplied by its CTF, to the sums; its mean is left out."""
    optics = table.optics[table.optics_index[particle]]
    rft = shift(forward(volume.astype(np.float64)), table.origins_angst[particle] / optics.pixel_size_angst)
    rft[0, 0, 0] = 0.0
    weights = np.ones(rft.shape)
    if ctf_rft is not None:
        ctf = ctf_rft.astype(np.float64)
        weights = ctf**2
        if not optics.ctf_premultiplied:
            rft = rft * ctf
    size = optics.image_size
    magnification = (target.box * target.voxel_size_angst) / (size * optics.pixel_size_angst)
    kz, ky, kx = np.broadcast_arrays(*half_frequencies(size))
    radius2 = squared_radius(size)
    counted = (radius2 <= (size // 2) ** 2) & (radius2 * magnification**2 <= target.r_max**2)
    counted &= (kx > 0) | (kz >= 0)  # the plane kx = 0 holds every coefficient twice
    matrix = euler_to_matrix(table.angles_deg[particle]) * magnification
    values = np.stack([rft.real[counted], rft.imag[counted]])
    points = np.stack([kx[counted], ky[counted], kz[counted]])
    insert(*sums, matrix[None], points, values[None], weights[counted][None], target.pad)


def _operators(group: str) -> FloatArray:
    try:
        return operators(group)
    except ValueError as error:
        raise UsageError(f"--sym: {error}") from error


def _tau2(fsc: FloatArray, weight: FloatArray, target: Target) -> FloatArray:
    sigma2 = spectra.sigma2_ref(weight, target.box, target.pad, target.r_max)
    return spectra.gold_standard_ssnr_tau2(fsc, sigma2, joined=True)[1]
