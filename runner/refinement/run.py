"""What stays the same during a refinement: its configuration, particles, masks and rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kernels.likelihood import Mask, Rules
from kernels.masks import soft_sphere
from kernels.orientations import AngularGrid, angular_grid
from kernels.symmetry import operators
from runner.errors import InputError, UsageError
from runner.execute.local import LocalExecutor
from runner.execute.protocol import Executor
from runner.execution import workers_of_a_gpu
from runner.formats.particles import read_particles
from runner.formats.star import read_star
from runner.formats.volumes import read_map_of_flag
from runner.ingest import IngestSettings, ensure_ingested
from runner.model.particles import ParticleTable
from runner.model.state import PoseState, SamplingState
from runner.plan.config import RefineConfig
from runner.plan.flags import flags_of, given_fields
from runner.plan.schedule import SchedulePolicy
from runner.refinement.inputs import SET_ASIDE, Computing, Device, Particles, open_backend, particles_of
from runner.refinement.reduction import UnitDone
from runner.report.events import Events, ParticleSetAside, RunResumed, RunStarted, UnitFinished
from runner.report.logs import open_log
from runner.store.layout import RunLayout
from runner.store.objects import RequestMeter, absolute, is_local

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """The constant part of a refinement.

    Attributes
    ----------
    prefix : what the names of all output files start with.
    executor : computes the units; ``computing`` and ``device`` say how this process does it.
    box, voxel_size_angst : of the model, in voxels and Angstrom; diameter_angst : of the spherical mask.
    symmetry : point-group operators (g, 3, 3) of each class.
    solvent, solvent_mean, solvent_lowpass : (N, N, N) masks of the references, or None: where they are kept, where they
        are set to their mean, and what is kept at low resolution.
    seed : the random seed in force.
    grows_classes : several classes start from one reference; fixed_tau2 : (K, S) signal spectra to keep, or None.
    meter : counts the requests of this process from iteration to iteration.
    continued_from : the iteration whose files the run went on with, 0 for a new one.
    """

    config: RefineConfig
    prefix: str
    executor: Executor
    table: ParticleTable
    particles: Particles
    box: int
    voxel_size_angst: float
    diameter_angst: float
    policy: SchedulePolicy
    rules: Rules
    computing: Computing
    device: Device
    symmetry: list[FloatArray]
    mask: Mask
    solvent: FloatArray | None
    solvent_mean: FloatArray | None
    solvent_lowpass: FloatArray | None
    seed: int
    grows_classes: bool
    fixed_tau2: FloatArray | None
    events: Events
    meter: RequestMeter
    continued_from: int = 0

    @property
    def layout(self) -> RunLayout:
        """Names of the objects beside RELION's files."""
        return RunLayout(self.prefix)

    def folder(self, iteration: int) -> str:
        """The folder of the units of an iteration, as whoever computes them understands it."""
        folder = self.layout.iteration(iteration)
        return folder if self.in_process else absolute(folder)

    @property
    def in_process(self) -> bool:
        """Whether the units are computed by this process."""
        return isinstance(self.executor, LocalExecutor)

    @property
    def skip_bad(self) -> bool:
        """Whether particles that cannot be used are set aside."""
        return self.config.on_bad_particle == "skip"

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.symmetry)

    @property
    def shells(self) -> int:
        """Number of shells ``N/2 + 1``."""
        return self.box // 2 + 1

    @property
    def fixed_orientation(self) -> bool:
        """Whether the input angles are kept."""
        return self.config.skip_align or self.config.skip_rotate

    @property
    def use_scale(self) -> bool:
        """Whether group scales are estimated: they need more than one group."""
        return self.config.scale and len(self.table.group_names) > 1


def open_run(config: RefineConfig, events: Events, executor: Executor, references: int) -> Run:
    """Read the particle table and the masks and settle what the flags leave open; the random seed is given.

    Parameters
    ----------
    references : number of initial maps; with one map and ``--K`` above 1 all classes grow from it.

    Raises
    ------
    InputError, UsageError
        The inputs contradict each other or the flags.
    """
    if references > 1 and config.K not in (1, references):
        raise UsageError(f"--K {config.K}: --ref {config.ref} lists {references} maps; give as many classes as maps")
    classes = max(config.K, references)
    table = _table(config, events, executor)
    for note in table.notes:
        events.note(note)
    for message in _without_effect(config):
        events.warn(message)
    box, voxel_size = _common_sampling(table)
    diameter = config.particle_diameter if config.particle_diameter > 0 else (box - config.maskedge) * voxel_size
    if diameter > box * voxel_size:
        raise UsageError(
            f"--particle_diameter {diameter:g}: the box is only {box * voxel_size:g} A wide; "
            f"give at most {(box - 2 * config.maskedge) * voxel_size:g} so that background is left around the particle"
        )
    for flag, limit in (("--ini_high", config.ini_high), ("--strict_highres_exp", config.strict_highres_exp)):
        if limit > box * voxel_size:
            raise UsageError(f"{flag} {limit:g}: no shell of the box is coarser than {box * voxel_size:g} A; give less")
    computing, device = _computing(config, events, isinstance(executor, LocalExecutor))
    return Run(
        config=config,
        prefix=config.o,
        executor=executor,
        table=table,
        particles=particles_of(table, config.ctf),
        box=box,
        voxel_size_angst=voxel_size,
        diameter_angst=diameter,
        policy=schedule_policy(config, box, voxel_size, diameter),
        rules=Rules.relion() if config.relion_parity else Rules(),
        computing=computing,
        device=device,
        symmetry=_symmetry(config.sym, classes),
        mask=Mask(diameter / (2 * voxel_size), config.maskedge, config.zero_mask, config.random_seed),
        solvent=_solvent(config, box, voxel_size, diameter),
        solvent_mean=_read_mask(config.solvent_mask2, box, "--solvent_mask2") if config.solvent_mask2 else None,
        solvent_lowpass=_read_mask(config.lowpass_mask, box, "--lowpass_mask") if config.lowpass_mask else None,
        seed=config.random_seed,
        grows_classes=references == 1 and classes > 1,
        fixed_tau2=_fixed_tau2(config, classes, box // 2 + 1) if config.tau else None,
        events=events,
        meter=RequestMeter(),
    )


def _table(config: RefineConfig, events: Events, executor: Executor) -> ParticleTable:
    """The particles, from local files in this process; otherwise ingested first: a chunk is read with one request."""
    table = read_particles(config.i, store_url=config.store)
    if table.store or (isinstance(executor, LocalExecutor) and all(map(is_local, [config.i, *table.image_urls]))):
        return table
    store_url = RunLayout(config.o).particles
    settings = IngestSettings(on_bad_particle=config.on_bad_particle, overwrite=config.overwrite)
    ensure_ingested(table, store_url, executor, events, settings)
    return read_particles(config.i, store_url=store_url)


def announce(run: Run, write_log: Callable[[bytes], None], resumed_from: int | None = None) -> None:
    """Tell that the run starts and what was settled for it, or that it is resumed after an iteration.

    ``write_log`` is given the log whenever there is more of it.
    """
    run.events.add(open_log(run.prefix, write_log, resumed=resumed_from is not None))
    if resumed_from is not None:
        run.events.emit(RunResumed("refine", run.prefix, resumed_from))
        return
    settled = {"random_seed": run.seed, "classes": run.classes}
    run.events.emit(RunStarted("refine", run.prefix, len(run.table), settled))


def half_of_particles(run: Run, poses: PoseState, set_aside: dict[int, str]) -> IntArray:
    """(n,) position of the half model of each particle, -1 for those that were set aside."""
    half = poses.random_subset - 1 if run.config.split_random_halves else np.zeros(len(run.table), dtype=np.int64)
    half[list(set_aside)] = SET_ASIDE
    return half


def progress(run: Run) -> Callable[[UnitDone], None]:
    """Tells of every finished unit how many particles are done."""
    particles = 0

    def tell(unit: UnitDone) -> None:
        nonlocal particles
        particles += unit.particles
        run.events.emit(UnitFinished(particles, len(run.table), unit.name, unit.worker, unit.seconds))

    return tell


def report_set_aside(run: Run, bad: dict[int, str]) -> None:
    """Tell of particles that were set aside, each by name."""
    for row, reason in sorted(bad.items()):
        run.events.emit(ParticleSetAside(run.table.image_names[row], int(run.table.row_number[row]), reason))


def coarse_grid(run: Run, sampling: SamplingState) -> AngularGrid:
    """The coarse orientations; a single nominal one where orientations are not searched."""
    if run.fixed_orientation:
        nominal = np.zeros((1, 2))
        return AngularGrid(
            sampling.healpix_order,
            sampling.symmetry,
            nominal,
            np.zeros(1, dtype=np.int64),
            np.zeros(1),
            sampling.psi_step_deg,
        )
    return angular_grid(sampling.healpix_order, sampling.symmetry, sampling.psi_step_deg, sampling.limit_tilt_deg)


def _common_sampling(table: ParticleTable) -> tuple[int, float]:
    """Box and voxel size, which all optics groups in use must share."""
    used = [table.optics[index] for index in sorted(set(table.optics_index.tolist()))]
    first = used[0]
    for optics in used[1:]:
        if optics.image_size != first.image_size or abs(optics.pixel_size_angst - first.pixel_size_angst) > 1e-3:
            raise InputError(
                f"{table.source}: optics group {optics.name} has {optics.image_size} voxels of "
                f"{optics.pixel_size_angst:g} A, {first.name} has {first.image_size} of {first.pixel_size_angst:g} A; "
                "extract all particles alike"
            )
    if first.image_size % 2:
        raise InputError(
            f"{table.source}: boxes of {first.image_size} voxels are odd; extract the particles with an even box"
        )
    return first.image_size, first.pixel_size_angst


def schedule_policy(config: RefineConfig, box: int, voxel_size: float, diameter: float) -> SchedulePolicy:
    """What the decisions of the schedule depend on: flags, and sizes of the particles in voxels and Angstrom."""
    return SchedulePolicy(
        box_size=box,
        pixel_size_angst=voxel_size,
        particle_diameter_angst=diameter,
        split_halves=config.split_random_halves,
        ini_high_angst=-1.0 if config.no_map else config.ini_high,
        firstiter_cc=config.firstiter_cc,
        oversampling=0 if config.skip_align else config.oversampling,
        auto_local_healpix_order=config.auto_local_healpix_order,
        strict_highres_exp_angst=config.strict_highres_exp,
        coarse_size=config.coarse_size,
        auto_ignore_angles=config.auto_ignore_angles,
        auto_resol_angles=config.auto_resol_angles,
        allow_coarser_sampling=config.allow_coarser_sampling,
        minimum_angular_sampling_deg=config.minimum_angular_sampling,
        maximum_angular_sampling_deg=config.maximum_angular_sampling,
        # Without regularisation no spectrum limits the resolution: RELION then compares everything from the start.
        minimum_resolution_shell=box // 2 if config.no_map else config.minres_map,
        changes_against_first_sampling=config.relion_parity,
    )


def _computing(config: RefineConfig, events: Events, in_process: bool) -> tuple[Computing, Device]:
    """RELION's CPU code computes in double precision, so parity does; otherwise single precision is enough.

    Without its own GPU this process computes with the CPU; workers are taken to have what they are asked for.
    """
    computing = Computing(
        precision="float64" if config.relion_parity else "float32",
        gpu=config.gpu is not None,
        reserved_bytes=int(config.free_gpu_memory * 2**20),
        tf32=config.tf32,
    )
    if config.gpu is None:
        return computing, Device()
    if not in_process:
        return computing, Device(units=workers_of_a_gpu(config))
    device = Device(_gpu_number(config.gpu, events), config.j)
    try:
        open_backend(computing, device)
    except RuntimeError as error:
        events.warn(f"--gpu: {error}; going on with the CPU")
        return replace(computing, gpu=False), Device()
    return computing, device


def _gpu_number(numbers: str, events: Events) -> int:
    """The first of the GPUs of ``--gpu 0:1``; RELION gives one to each of its processes, and here is one process."""
    given = list(dict.fromkeys(int(number) for number in numbers.replace(",", ":").split(":") if number))
    if len(given) > 1:
        events.note(f"--gpu {numbers}: one GPU is used, number {given[0]}")
    return given[0] if given else 0


def _symmetry(names: str, classes: int) -> list[FloatArray]:
    """Operators per class from ``C1`` or ``C1,D2``."""
    given = [name.strip() for name in names.split(",")]
    if len(given) not in (1, classes):
        raise UsageError(f"--sym {names}: {len(given)} point groups for {classes} classes; give one, or one a class")
    try:
        groups = [operators(name) for name in given]
    except ValueError as error:
        raise UsageError(f"--sym {names}: {error}") from error
    return groups * (classes // len(groups)) if len(groups) == 1 else groups


def _without_effect(config: RefineConfig) -> list[str]:
    """One line for each flag that RELION accepts in silence although the others leave it nothing to do."""
    masks = set() if config.flatten_solvent else {"solvent_mask", "solvent_mask2", "lowpass_mask"}
    if config.solvent_correct_fsc:
        masks -= {"solvent_mask"}
    automatic = {"auto_local_healpix_order", "auto_iter_max", "auto_ignore_angles", "auto_resol_angles"}
    automatic |= {"minimum_angular_sampling", "maximum_angular_sampling"}
    reasons = dict.fromkeys(masks, "without --flatten_solvent")
    if config.auto_refine:
        reasons |= dict.fromkeys(("iter", "tau", "allow_coarser_sampling"), "with --auto_refine")
    else:
        reasons |= dict.fromkeys(automatic, "without --auto_refine")
    given = given_fields(config)
    return [
        f"{flag.name} has no effect {reasons[flag.field]}, in RELION neither"
        for flag in flags_of(RefineConfig)
        if flag.field in given and flag.field in reasons
    ]


def _solvent(config: RefineConfig, box: int, voxel_size: float, diameter: float) -> FloatArray | None:
    if config.solvent_mask:
        return _read_mask(config.solvent_mask, box, "--solvent_mask")
    if not config.flatten_solvent:
        return None
    return soft_sphere(box, diameter / (2 * voxel_size), config.maskedge)


def _fixed_tau2(config: RefineConfig, classes: int, shells: int) -> FloatArray:
    """The spectrum of ``--tau`` times ``--tau2_fudge`` for every class; shells that the file does not list are zero."""
    for block in read_star(config.tau).blocks.values():
        if {"rlnSpectralIndex", "rlnReferenceTau2"} <= block.columns.keys():
            tau2 = np.zeros(shells)
            rows = zip(block.columns["rlnSpectralIndex"], block.columns["rlnReferenceTau2"], strict=True)
            for row, (index, value) in enumerate(rows, start=1):
                if not (index.isdecimal() and _is_not_negative(value)):
                    raise InputError(
                        f"--tau {config.tau} data_{block.name} row {row}: shell '{index}' with tau2 '{value}'; "
                        "a whole number and a number of 0 or more were expected"
                    )
                if int(index) < shells:
                    tau2[int(index)] = float(value)
            return np.repeat(config.tau2_fudge * tau2[None], classes, axis=0)
    raise InputError(f"--tau {config.tau}: no table with rlnSpectralIndex and rlnReferenceTau2; give a model STAR file")


def _is_not_negative(text: str) -> bool:
    """Whether a text is a finite number of 0 or more."""
    try:
        return 0 <= float(text) < np.inf
    except ValueError:
        return False


def _read_mask(url: str, box: int, flag: str) -> FloatArray:
    mask = read_map_of_flag(flag, url).data.astype(np.float64)
    if mask.shape != (box,) * 3:
        raise InputError(
            f"{flag} {url}: the mask has {mask.shape[::-1]} voxels, the particles {box}; make it in their box"
        )
    if not (mask.min() >= 0 and mask.max() <= 1):
        raise InputError(
            f"{flag} {url}: values run from {mask.min():g} to {mask.max():g}; a mask must lie between 0 and 1"
        )
    if not mask.any():
        raise InputError(f"{flag} {url}: the mask is zero everywhere and leaves nothing; make it again")
    return mask
