"""Iteration 0: references, half sets, noise spectra, and the first guess of the signal.

Source: Scheres, J. Mol. Biol. 415, 406 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.fourier import forward, inverse
from kernels.orientations import angular_step_deg
from kernels.spectra import (
    initial_sigma2_noise,
    initial_ssnr,
    initial_tau2,
    low_pass_weights,
    power_spectrum,
    resolution_and_completeness,
)
from runner.errors import InputError, UsageError
from runner.formats.star import read_star
from runner.formats.volumes import read_map_of_flag
from runner.model.state import HalfModel, PoseState, RunState, SamplingState, ScheduleState
from runner.plan.config import RefineConfig
from runner.plan.glibc_random import initial_perturbation, random_subsets
from runner.plan.schedule import local_prior_sigma_deg
from runner.refinement.inputs import NoiseInput, remember, write_input
from runner.refinement.reduction import INPUT, Work, reduce_units
from runner.refinement.run import Run, coarse_grid, half_of_particles, progress, report_set_aside
from runner.report.events import StageStarted
from runner.store.objects import resolve

FloatArray = npt.NDArray[np.float64]

NOISE_UNIT = "runner.refinement.unit:run_noise_unit"
UNRESOLVED_ANGST = 999.0
SMALLEST_POWER_RATIO, LARGEST_POWER_RATIO = 1e-8, 1e4


def read_references(config: RefineConfig) -> tuple[npt.NDArray[np.float32], float]:
    """The initial maps ``(n, N, N, N)`` and their voxel size: one map, or one for each row of a STAR file."""
    names = [name for name in reference_names(config) if not name.endswith(".star")]
    volumes = [read_map_of_flag("--ref", name) for name in names]
    for name, volume in zip(names, volumes, strict=True):
        least = float(volume.data.min())
        if least == float(volume.data.max()):
            raise InputError(f"--ref {name}: every voxel of the map is {least:g}; give a map with a particle in it")
        if volume.data.shape != volumes[0].data.shape:
            raise InputError(
                f"--ref {name}: {volume.data.shape[::-1]} voxels, but {names[0]} has {volumes[0].data.shape[::-1]}"
            )
    voxel_size = config.ref_angpix if config.ref_angpix > 0 else volumes[0].voxel_size_angst
    return np.stack([volume.data for volume in volumes]), voxel_size


def reference_names(config: RefineConfig) -> list[str]:
    """The files of the initial maps: one map, or a STAR file and the maps that it lists."""
    if not config.ref.endswith(".star"):
        return [config.ref]
    return [config.ref, *(resolve(name, config.ref) for name in _listed_references(config.ref))]


def _listed_references(url: str) -> list[str]:
    """Names of the maps in the first table with rlnReferenceImage."""
    for block in read_star(url).blocks.values():
        if "rlnReferenceImage" in block.columns:
            if not len(block):
                raise InputError(f"--ref {url}: data_{block.name} lists no maps; write one a row, or give a map")
            return block.columns["rlnReferenceImage"]
    raise InputError(f"--ref {url}: no column rlnReferenceImage; list one map a row, or give a map")


def check_references(run: Run, references: npt.NDArray[np.float32], voxel_size_angst: float) -> None:
    """Refuse references whose box or voxel size is not that of the particles."""
    if references.shape[1:] != (run.box,) * 3:
        raise InputError(
            f"--ref {run.config.ref}: the map has {references.shape[:0:-1]} voxels, the particles {run.box}; "
            "bring it to their box, for instance with `tomoburst reconstruct`"
        )
    if abs(voxel_size_angst - run.voxel_size_angst) > 1e-3:
        raise InputError(
            f"--ref {run.config.ref}: pixel size {voxel_size_angst:g} A in the header, {run.voxel_size_angst:g} A in "
            f"the optics table of {run.config.i}; if the header is wrong, give --ref_angpix {run.voxel_size_angst:g}"
        )


def initial_state(run: Run, references: npt.NDArray[np.float32]) -> RunState:
    """The state before iteration 1; its files are those of iteration 0."""
    config = run.config
    poses = run.table.poses()
    if config.split_random_halves and not poses.random_subset.any():
        poses.random_subset = random_subsets(len(run.table), run.seed)
    if config.split_random_halves:
        _check_halves(run, poses)
    maps = np.stack([_low_passed(run, reference) for reference in references])
    if len(maps) < run.classes:
        maps = np.repeat(maps, run.classes, axis=0)
    sampling = initial_sampling(config, run.voxel_size_angst)
    _check_directions(run, sampling)
    statistics, set_aside = noise_statistics(run, poses)
    _check_grey_scale(run, maps, statistics)
    halves = [_initial_model(run, maps, sampling, half) for half in statistics]
    schedule = ScheduleState(incr_size=config.incr_size, best_resolution=1.0 / UNRESOLVED_ANGST)
    return RunState(
        iteration=0,
        halves=halves,
        poses=poses,
        sampling=sampling,
        schedule=schedule,
        references_are_ctf_corrected=config.ctf_corrected_ref,
        set_aside=set_aside,
    )


def half_members(run: Run, poses: PoseState) -> list[npt.NDArray[np.int64]]:
    """Rows of the particles of each half model."""
    if not run.config.split_random_halves:
        return [np.arange(len(run.table))]
    return [np.flatnonzero(poses.random_subset == half) for half in (1, 2)]


def _check_halves(run: Run, poses: PoseState) -> None:
    count, drawn = len(run.table), not run.table.random_subset.any()
    for half in (1, 2):
        if (poses.random_subset == half).any():
            continue
        if count < 2:
            raise InputError(f"{run.table.source}: {count} particle, but two half sets need 2 or more; add particles")
        way_out = f"give another --random_seed than {run.seed}" if drawn else "drop the column to have them drawn"
        raise InputError(f"{run.table.source}: half {half} has no particles (rlnRandomSubset) of {count}; {way_out}")


def _check_grey_scale(run: Run, maps: FloatArray, statistics: list[NoiseStatistics]) -> None:
    """Refuse a reference so far from the particles' scale that its scale alone would decide about poses."""
    if run.config.firstiter_cc or run.config.always_cc:
        return
    count = sum(half.count.sum() for half in statistics)
    particles = sum(half.power[:, 1:].sum() for half in statistics) / count
    for reference in maps:
        ratio = power_spectrum(forward(reference.astype(np.float64)))[1:].sum() / particles
        if not SMALLEST_POWER_RATIO < ratio < LARGEST_POWER_RATIO:
            raise InputError(
                f"--ref {run.config.ref}: its power is {ratio:.1e} times that of the particles, which is another grey "
                "scale; give --firstiter_cc, or a map made of these particles (`tomoburst reconstruct`)"
            )


def _check_directions(run: Run, sampling: SamplingState) -> None:
    try:
        coarse_grid(run, sampling)
    except ValueError as error:
        raise UsageError(f"--healpix_order, --sym, --limit_tilt: {error}") from error


def _low_passed(run: Run, reference: npt.NDArray[np.float32]) -> FloatArray:
    if run.config.ini_high <= 0:
        return reference.astype(np.float64)
    weights = low_pass_weights(run.box, run.voxel_size_angst, run.config.ini_high)
    filtered: FloatArray = inverse(forward(reference.astype(np.float64)) * weights)
    return filtered


def initial_sampling(config: RefineConfig, voxel_size_angst: float) -> SamplingState:
    """The coarse sampling of the first iteration, as the flags give it."""
    step = angular_step_deg(config.healpix_order)
    psi_step = step
    if config.psi_step > 0:
        psi_step = 360.0 / np.ceil(360.0 / config.psi_step)
    offset_range, offset_step = config.offset_range * voxel_size_angst, config.offset_step * voxel_size_angst
    return SamplingState(
        healpix_order=config.healpix_order,
        psi_step_deg=psi_step,
        offset_range_angst=offset_range,
        offset_step_angst=offset_step,
        symmetry=config.sym.split(",")[0],
        limit_tilt_deg=config.limit_tilt,
        perturbation=initial_perturbation(config.perturb),
        perturbation_factor=config.perturb,
        healpix_order_original=config.healpix_order,
        psi_step_original_deg=psi_step,
        offset_range_original_angst=offset_range,
        offset_step_original_angst=offset_step,
    )


@dataclass
class NoiseStatistics:
    """Sums over the particles of one half: their power spectra by group (G, S), counts (G,), and the spectrum (S,) of
    the average particle.
    """

    power: FloatArray
    count: npt.NDArray[np.int64]
    average_power: FloatArray


def noise_statistics(run: Run, poses: PoseState) -> tuple[list[NoiseStatistics], dict[int, str]]:
    """Power spectra of the masked particles of each half, and the particles that were set aside with the reasons.

    As in RELION, the average particle that is subtracted for a half is the sum over all particles, divided by the
    number of halves and by the half's own number.

    Raises
    ------
    InputError
        A particle cannot be used and is not to be skipped, or a half has no particle left.
    """
    run.events.emit(StageStarted("noise spectra", len(run.table)))
    halves = 2 if run.config.split_random_halves else 1
    given = NoiseInput(
        where=run.particles.where,
        half=half_of_particles(run, poses, known_bad(run)),
        group=run.table.group_index,
        halves=halves,
        groups=len(run.table.group_names),
        box=run.box,
        mask=run.mask,
        skip_bad=run.skip_bad,
    )
    folder = run.folder(0)
    digest, written = write_input(f"{folder}/{INPUT}", given)
    if run.in_process:
        remember(f"{folder}/{INPUT}", digest, given)
    else:
        written.result()
    work = Work(NOISE_UNIT, folder, digest, len(run.table), run.device, given.skip_bad, not run.in_process)
    found = reduce_units(run.executor, work, progress(run)).result
    written.result()
    set_aside = known_bad(run) | found.bad
    report_set_aside(run, set_aside)
    statistics = []
    for half in range(halves):
        count = found.sums["count"][half]
        if not count.any():
            raise InputError(f"{run.table.source}: half {half + 1} has no particle that can be used; add particles")
        average = found.sums["volume"] / (halves * count.sum())
        statistics.append(NoiseStatistics(found.sums["power"][half], count, power_spectrum(forward(average))))
    return statistics, set_aside


def known_bad(run: Run) -> dict[int, str]:
    """Particles that were set aside when they were ingested; without ``--on_bad_particle skip`` they end the run."""
    return run.particles.source.bad if run.skip_bad else {}


def _initial_model(run: Run, maps: FloatArray, sampling: SamplingState, statistics: NoiseStatistics) -> HalfModel:
    config, classes, shells = run.config, run.classes, run.shells
    sigma2_noise = initial_sigma2_noise(statistics.power, statistics.count, statistics.average_power)
    tau2 = run.fixed_tau2
    if tau2 is None:
        tau2 = np.stack(
            [initial_tau2(power_spectrum(forward(map_.astype(np.float64))), config.tau2_fudge) for map_ in maps]
        )
    ssnr = np.stack([initial_ssnr(spectrum, sigma2_noise, statistics.count, 1.0 / classes) for spectrum in tau2])
    directions = len(coarse_grid(run, sampling).directions_deg)
    model = HalfModel(
        references=maps.copy(),
        tau2=tau2.copy(),
        sigma2_ref=np.zeros((classes, shells)),
        ssnr=ssnr,
        fsc=np.zeros((classes, shells)),
        fourier_coverage=np.zeros((classes, shells)),
        sigma2_noise=sigma2_noise,
        group_scale=np.ones(len(run.table.group_names)),
        group_particles=statistics.count,
        pdf_class=np.full(classes, 1.0 / classes),
        pdf_direction=np.full((classes, directions), 1.0 / (classes * directions)),
        sigma2_offset_angst2=config.offset**2,
        accuracy_rotation_deg=np.zeros(classes),
        accuracy_translation_angst=np.zeros(classes),
        estimated_resolution_angst=np.array(
            [resolution_and_completeness(each, np.zeros(shells), run.voxel_size_angst)[0] for each in ssnr]
        ),
        fourier_completeness=np.zeros(classes),
    )
    _set_angular_priors(run, model)
    return model


def _set_angular_priors(run: Run, model: HalfModel) -> None:
    """Priors on the angles from the flags, or because an automated refinement starts with local searches."""
    config = run.config
    sigmas = [config.sigma_rot, config.sigma_tilt, config.sigma_psi]
    if config.sigma_ang > 0:
        sigmas = [config.sigma_ang] * 3
    if config.auto_refine:
        local = local_prior_sigma_deg(run.policy, config.healpix_order)
        sigmas = [local] * 3 if local is not None else sigmas
    if any(sigma > 0 for sigma in sigmas):
        model.orientational_prior_mode = 1
        model.sigma2_rot_deg2, model.sigma2_tilt_deg2, model.sigma2_psi_deg2 = (max(0.0, s) ** 2 for s in sigmas)
