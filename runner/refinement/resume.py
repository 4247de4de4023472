"""Going on with a run of RELION or of this program from one of its optimiser STAR files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from runner.errors import InputError, UsageError
from runner.execute.protocol import Executor
from runner.formats.mrc import read_mrc
from runner.formats.particles import read_poses
from runner.formats.relion_run import ResumedRun, read_run
from runner.model.manifest import RunManifest
from runner.model.state import HalfModel, PoseState, RunState, SamplingState
from runner.plan.config import RefineConfig
from runner.plan.flags import flags_of, given_fields
from runner.plan.glibc_random import initial_perturbation
from runner.plan.schedule import angular_step_deg
from runner.plan.validation import check_settings
from runner.refinement.beginning import files_of_flags
from runner.refinement.initial import half_members
from runner.refinement.run import Run, coarse_grid, open_run
from runner.report.events import Events
from runner.store.layout import RunLayout
from runner.store.objects import exists, read_bytes
from runner.store.particles import is_particle_store, read_contents

# RELION's rules: what the files of a run keep unless it is given again, the same in a classification only, and what
# they never keep.
_KEPT_UNLESS_GIVEN = """
    pad iter tau2_fudge tau particle_diameter scale strict_highres_exp flatten_solvent solvent_mask solvent_mask2
    solvent_correct_fsc oversampling perturb offset sigma_ang sigma_rot sigma_tilt sigma_psi auto_local_healpix_order
    skip_align skip_rotate
"""
_SEARCH = "healpix_order psi_step offset_range offset_step"
_NEVER_KEPT = """
    continue_ force_converge auto_iter_max auto_ignore_angles auto_resol_angles allow_coarser_sampling
    minimum_angular_sampling maximum_angular_sampling always_cc lowpass_mask lowpass maxsig skip_gridding gridding_iter
    minres_map skip_maximize j gpu tf32 free_gpu_memory memory parity overwrite on_bad_particle store
"""
_SIGMAS = ("sigma_rot", "sigma_tilt", "sigma_psi")


@dataclass(frozen=True)
class ContinuedRun:
    """A run that begins with an iteration of an earlier one, see `runner.refinement.beginning.Beginning`.

    Attributes
    ----------
    config : what the earlier run was asked to do, changed by the flags that were given now.
    resumed : the earlier run; given : fields of the flags that were given now.
    """

    config: RefineConfig
    resumed: ResumedRun
    given: frozenset[str]

    @property
    def iteration(self) -> int:
        """Number of that iteration."""
        return self.resumed.iteration

    @property
    def files(self) -> dict[str, str]:
        """URL -> flag of the files of the earlier run that decide, and of those that flags name."""
        maps = [url for urls in self.resumed.reference_urls for url in urls]
        earlier = dict.fromkeys([self.config.continue_, self.resumed.data_url, *maps], "--continue")
        return {**earlier, **files_of_flags(self.config)}

    def open_run(self, config: RefineConfig, events: Events, executor: Executor) -> Run:
        """The constant part of the run."""
        run = open_run(config, events, executor, config.K)
        _check_particles(run, self.resumed)
        return replace(run, continued_from=self.iteration)

    def state(self, run: Run) -> RunState:
        """The state after that iteration."""
        return _state(run, self.resumed, self.given)


def continued_run(config: RefineConfig, events: Events) -> ContinuedRun:
    """The run that goes on with the one whose optimiser STAR file is ``config.continue_``.

    Raises
    ------
    InputError, UsageError
        A file of the earlier run is missing, or the files do not belong together; or nothing is left to do.
    """
    resumed = read_run(config.continue_)
    if resumed.iteration == 0:
        raise UsageError(f"{config.continue_}: iteration 0 is the start, there is nothing to go on with; run it anew")
    effective = _effective(config, resumed, events)
    check_settings(effective)
    done, last = resumed.iteration, effective.auto_iter_max if effective.auto_refine else effective.iter
    if done >= last and not effective.force_converge:
        flag = "--auto_iter_max" if effective.auto_refine else "--iter"
        raise UsageError(
            f"{config.continue_}: all {done} iterations up to {flag} {last} are done; give a larger {flag}"
        )
    return ContinuedRun(effective, resumed, given_fields(config))


def _effective(config: RefineConfig, resumed: ResumedRun, events: Events) -> RefineConfig:
    """What the run was started with, changed by the flags that are given."""
    if resumed.settings.get("NN"):
        raise InputError(f"{config.continue_}: a run with --NN; references are interpolated linearly here, use RELION")
    flags = {flag.field: flag.name for flag in flags_of(RefineConfig)}
    given = given_fields(config)
    without_effect = {flag.field for flag in flags_of(RefineConfig) if not flag.results}
    allowed, never_kept = set(_KEPT_UNLESS_GIVEN.split()), set(_NEVER_KEPT.split()) | without_effect
    if not resumed.settings.get("auto_refine"):
        allowed |= set(_SEARCH.split())
    if "," in config.sym:  # the files keep the point group of the first class only
        allowed |= {"sym"}
    ignored = [name for field, name in flags.items() if field in given - allowed - never_kept - {"o"}]
    if ignored:
        events.note(f"--continue keeps the run's own settings; ignored: {', '.join(ignored)}")
    values = {name: value for name, value in resumed.settings.items() if name in flags}
    values |= {name: getattr(config, name) for name in never_kept | (given & allowed)}
    root = str(resumed.settings["o"])
    values["o"] = config.o if config.o and config.o != root else f"{root}_ct{resumed.iteration}"
    values |= {"i": resumed.data_url, "store": config.store or _store_of(resumed.data_url)}
    return RefineConfig(**values)  # type: ignore[arg-type]


def _store_of(data_url: str) -> str:
    """The particle store from which the run that wrote ``data_url`` read its volumes; empty where it read files."""
    layout = RunLayout(re.sub(r"(_it\d+)?_data\.star$", "", data_url))
    if exists(layout.manifest):
        settings = RunManifest.from_bytes(read_bytes(layout.manifest), layout.manifest).settings
        for name in ("--store", "--i"):
            if is_particle_store(settings.get(name, "")):
                return str(settings[name])
    return layout.particles if read_contents(layout.particles) is not None else ""


def _check_particles(run: Run, resumed: ResumedRun) -> None:
    """Refuse particles that are not those of the model."""
    model, source = resumed.models[0], run.table.source
    if model.box_size != run.box or abs(model.pixel_size_angst - run.voxel_size_angst) > 1e-3:
        raise InputError(
            f"{source}: boxes of {run.box} voxels of {run.voxel_size_angst:g} A, but {run.config.continue_} had "
            f"{model.box_size} of {model.pixel_size_angst:g} A; go on with the particles that it started with"
        )
    for found, expected in zip(run.table.group_names, model.group_names, strict=False):
        if found != expected:
            raise InputError(
                f"{source}: group '{found}' is '{expected}' in the model of {run.config.continue_}; "
                "take both from the same iteration"
            )
    if len(run.table.group_names) != len(model.group_names):
        raise InputError(
            f"{source}: {len(run.table.group_names)} groups, but {len(model.group_names)} in the model of "
            f"{run.config.continue_}; take both from the same iteration"
        )


def _state(run: Run, resumed: ResumedRun, given: frozenset[str]) -> RunState:
    poses = read_poses(run.table)
    _check_halves(run, poses)
    sampling = _sampling(run, resumed.sampling, given)
    halves = [
        _model(
            run,
            # counted again: the file may leave out particles that were set aside, which will be found once more
            replace(
                model.half,
                references=_references(run, urls),
                group_particles=np.bincount(run.table.group_index[rows], minlength=len(run.table.group_names)),
                orientability=None,
            ),
            sampling,
            given,
        )
        for model, urls, rows in zip(resumed.models, resumed.reference_urls, half_members(run, poses), strict=True)
    ]
    return RunState(
        iteration=resumed.iteration,
        halves=halves,
        poses=poses,
        sampling=sampling,
        schedule=resumed.schedule,
        references_are_ctf_corrected=resumed.references_are_ctf_corrected,
    )


def _check_halves(run: Run, poses: PoseState) -> None:
    for half, rows in enumerate(half_members(run, poses), start=1):
        if not len(rows):
            raise InputError(
                f"{run.table.source}: half {half} has no particles (rlnRandomSubset); "
                "take the data STAR file that the run wrote"
            )


def _references(run: Run, urls: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The maps (K, N, N, N) of one half."""
    maps = []
    for url in urls:
        maps.append(read_mrc(url).data.astype(np.float64))
        if maps[-1].shape != (run.box,) * 3:
            raise InputError(
                f"{url}: {maps[-1].shape[::-1]} voxels, the particles {run.box}; take the map that the run wrote"
            )
    return np.stack(maps)


def _sampling(run: Run, sampling: SamplingState, given: frozenset[str]) -> SamplingState:
    """The sampling, in a classification with what is given of it; as in RELION it counts as the first of the run."""
    config = run.config
    if not config.auto_refine:
        if "healpix_order" in given:
            step = angular_step_deg(config.healpix_order)
            sampling = replace(sampling, healpix_order=config.healpix_order, psi_step_deg=step)
        if "psi_step" in given and config.psi_step > 0:
            sampling = replace(sampling, psi_step_deg=360.0 / float(np.ceil(360.0 / config.psi_step)))
        if "offset_range" in given:
            sampling = replace(sampling, offset_range_angst=config.offset_range * run.voxel_size_angst)
        if "offset_step" in given:
            sampling = replace(sampling, offset_step_angst=config.offset_step * run.voxel_size_angst)
    return replace(
        sampling,
        perturbation=initial_perturbation(config.perturb),
        perturbation_factor=config.perturb,
        healpix_order_original=sampling.healpix_order,
        psi_step_original_deg=sampling.psi_step_deg,
        offset_range_original_angst=sampling.offset_range_angst,
        offset_step_original_angst=sampling.offset_step_angst,
    )


def _model(run: Run, half: HalfModel, sampling: SamplingState, given: frozenset[str]) -> HalfModel:
    """A model with the priors that are given; directions of another sampling start from equal odds."""
    config = run.config
    try:
        count = len(coarse_grid(run, sampling).directions_deg)
    except ValueError as error:
        raise UsageError(f"--healpix_order {sampling.healpix_order}: {error}") from error
    if half.pdf_direction.shape[1] != count:
        half = replace(half, pdf_direction=np.full((run.classes, count), 1.0 / (run.classes * count)))
    if "offset" in given:
        half = replace(half, sigma2_offset_angst2=config.offset**2)
    if given.isdisjoint({"sigma_ang", *_SIGMAS}):
        return half
    sigmas = [config.sigma_ang if config.sigma_ang > 0 else getattr(config, name) for name in _SIGMAS]
    rot, tilt, psi = (max(0.0, sigma) ** 2 for sigma in sigmas)
    return replace(half, orientational_prior_mode=1, sigma2_rot_deg2=rot, sigma2_tilt_deg2=tilt, sigma2_psi_deg2=psi)
