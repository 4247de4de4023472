"""Checks of configurations that need no data: a run that cannot work is refused before anything is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.plan.execution_config import check_execution

if TYPE_CHECKING:
    from runner.plan.config import ReconstructConfig, RefineConfig

PARITIES = ("", "relion-3.1")
BAD_PARTICLE_POLICIES = ("fail", "skip")
MAX_HEALPIX_ORDER = 8
MAX_OVERSAMPLING = 4


def check_refine(config: RefineConfig) -> None:
    """Raise `UsageError` for flags of `RefineConfig` that are missing, out of range or contradict each other."""
    _check_files(config)
    check_execution(config)
    if not config.continue_:
        check_settings(config)
        return
    _check_search(config)
    _check_numbers(config)


def check_settings(config: RefineConfig) -> None:
    """Raise `UsageError` for settings of a refinement, given now or when it was started, that cannot work."""
    _check_halves(config)
    _check_modes(config)
    _check_search(config)
    _check_numbers(config)


def check_reconstruct(config: ReconstructConfig) -> None:
    """Raise `UsageError` for flags of `ReconstructConfig` that are missing or out of range."""
    _given("--i", config.i, "a STAR file with subtomograms: --i particles.star")
    _given("--o", config.o, "the map to write: --o rec.mrc")
    _check_store(config)
    _one_of("--pad", config.pad, (1, 2, 3))
    _one_of("--subset", config.subset, (-1, 1, 2))
    _require(
        config.class_ == -1 or config.class_ >= 1,
        f"--class {config.class_}: give a class from 1, or -1 for all classes",
    )
    _positive_or_off("--maxres", config.maxres, "A")
    _positive_or_off("--angpix", config.angpix, "A")
    _at_least("--iter", config.iter, 1)
    _at_least("--j", config.j, 1)


def _check_store(config: RefineConfig | ReconstructConfig) -> None:
    _require(
        not config.store or config.store.rstrip("/").endswith(".zarr"),
        f"--store {config.store}: the name of a particle store ends in .zarr; `tomoburst ingest` makes one",
    )
    _require(
        not config.store or not config.i.rstrip("/").endswith(".zarr"),
        f"--store with --i {config.i}: that is a particle store already; leave out one of them",
    )


def _check_files(config: RefineConfig) -> None:
    _check_store(config)
    if not config.continue_:
        _given("--i", config.i, "a STAR file with subtomograms: --i particles.star")
        _given("--o", config.o, "an output prefix: --o OUT/run")
        _given("--ref", config.ref, "an initial map, for instance from `tomoburst reconstruct`: --ref rec.mrc")
    _require(not config.o.endswith("/"), f"--o {config.o}: a prefix is needed, not a folder; write --o {config.o}run")
    _require(
        not config.force_converge or bool(config.continue_),
        "--force_converge ends a run that exists: give it with --continue run_itNNN_optimiser.star",
    )


def _check_halves(config: RefineConfig) -> None:
    _at_least("--K", config.K, 1)
    _require(
        not (config.K > 1 and config.split_random_halves),
        f"--K {config.K} with --split_random_halves: half sets take one reference; classify first, then refine",
    )
    _require(
        not (config.K > 1 and config.auto_refine),
        f"--K {config.K} with --auto_refine: auto-refine takes one reference; leave out --auto_refine to classify",
    )
    _require(
        not config.auto_refine or config.split_random_halves,
        "--auto_refine needs --split_random_halves: without half sets there is no gold-standard FSC to steer it",
    )
    _require(
        config.auto_refine or not config.split_random_halves,
        "--split_random_halves needs --auto_refine: classification uses all particles for each map",
    )
    for name, given in (
        ("--low_resol_join_halves", config.low_resol_join_halves > 0),
        ("--solvent_correct_fsc", config.solvent_correct_fsc),
    ):
        _require(
            config.split_random_halves or not given,
            f"{name} needs two half sets: add --auto_refine --split_random_halves",
        )


def _check_modes(config: RefineConfig) -> None:
    _require(
        not config.tf32 or (config.gpu is not None and not config.relion_parity),
        "--tf32: it is for the single precision of a GPU; add --gpu and leave out --parity, or leave out --tf32",
    )
    _require(
        not (config.skip_align and config.gpu is not None),
        "--skip_align with --gpu: there is no search for a GPU to speed up; leave out --gpu",
    )
    _require(
        not (config.skip_align and config.auto_refine),
        "--skip_align with --auto_refine: nothing would be refined; leave out one (`tomoburst reconstruct` averages)",
    )
    _require(
        not (config.skip_rotate and config.auto_refine),
        "--skip_rotate with --auto_refine: the automatic sampling has no angles to refine; leave out one of them",
    )
    _require(
        not (config.always_cc and config.firstiter_cc),
        "--always_cc with --firstiter_cc: the first is all iterations, the second only iteration 1; leave out one",
    )
    _require(
        not config.solvent_correct_fsc or bool(config.solvent_mask),
        "--solvent_correct_fsc needs a mask of the reference: add --solvent_mask mask.mrc",
    )
    _require(
        not config.solvent_mask2 or bool(config.solvent_mask),
        "--solvent_mask2 needs a first mask: add --solvent_mask mask.mrc",
    )
    _require(
        bool(config.lowpass_mask) == (config.lowpass > 0),
        "--lowpass_mask and --lowpass belong together: give the mask and the resolution in A, or neither",
    )
    _require(
        not (config.no_map and config.auto_refine),
        "--no_map with --auto_refine: refinement of half sets needs the regularisation; leave out --no_map",
    )
    _one_of("--parity", config.parity, PARITIES)


def _check_search(config: RefineConfig) -> None:
    _within("--healpix_order", config.healpix_order, 0, MAX_HEALPIX_ORDER)
    _within("--auto_local_healpix_order", config.auto_local_healpix_order, 0, MAX_HEALPIX_ORDER)
    _within("--oversampling", config.oversampling, 0, MAX_OVERSAMPLING)
    _positive("--offset_step", config.offset_step, "pixels")
    _require(config.offset_range >= 0, f"--offset_range {config.offset_range:g}: give a range in pixels, 0 or more")
    _positive("--offset", config.offset, "A")
    _within("--perturb", config.perturb, 0.0, 1.0)
    _within("--limit_tilt", config.limit_tilt, -91.0, 91.0)
    for name, value in (
        ("--sigma_ang", config.sigma_ang),
        ("--sigma_rot", config.sigma_rot),
        ("--sigma_tilt", config.sigma_tilt),
        ("--sigma_psi", config.sigma_psi),
        ("--psi_step", config.psi_step),
    ):
        _positive_or_off(name, value, "deg")
    _given("--sym", config.sym, "a point group: --sym C1")


def _check_numbers(config: RefineConfig) -> None:
    for name, value in (
        ("--particle_diameter", config.particle_diameter),
        ("--ini_high", config.ini_high),
        ("--low_resol_join_halves", config.low_resol_join_halves),
        ("--ref_angpix", config.ref_angpix),
        ("--strict_highres_exp", config.strict_highres_exp),
        ("--strict_lowres_exp", config.strict_lowres_exp),
    ):
        _positive_or_off(name, value, "A")
    high, low = config.strict_highres_exp, config.strict_lowres_exp
    _require(
        min(high, low) <= 0 or low > high,
        f"--strict_lowres_exp {low:g} is not above --strict_highres_exp {high:g} A: nothing is left to compare",
    )
    for name, value in (("--coarse_size", config.coarse_size), ("--maxsig", config.maxsig)):
        _require(value == -1 or value > 0, f"{name} {value}: give a positive number, or -1 for none")
    _require(
        config.coarse_size == -1 or config.coarse_size % 2 == 0,
        f"--coarse_size {config.coarse_size} is odd: image sizes are even; give {config.coarse_size + 1}",
    )
    for name, value in (
        ("--iter", config.iter),
        ("--auto_iter_max", config.auto_iter_max),
        ("--gridding_iter", config.gridding_iter),
        ("--incr_size", config.incr_size),
        ("--j", config.j),
    ):
        _at_least(name, value, 1)
    for name, value in (
        ("--minres_map", config.minres_map),
        ("--maskedge", config.maskedge),
    ):
        _at_least(name, value, 0)
    for name, amount in (("--free_gpu_memory", config.free_gpu_memory), ("--lowpass", config.lowpass)):
        _require(amount >= 0, f"{name} {amount:g}: give 0 or more")
    for name, angle in (
        ("--minimum_angular_sampling", config.minimum_angular_sampling),
        ("--maximum_angular_sampling", config.maximum_angular_sampling),
    ):
        _require(angle >= 0, f"{name} {angle:g}: give degrees, or 0 for none")
    _require(config.cache_size >= 0, f"--cache_size {config.cache_size:g}: give a number of GB, 0 or more")
    _require(not config.cache_size or bool(config.cache), "--cache_size without --cache: name the folder of the cache")
    _at_least("--random_seed", config.random_seed, -1)
    _one_of("--pad", config.pad, (1, 2, 3))
    _one_of("--on_bad_particle", config.on_bad_particle, BAD_PARTICLE_POLICIES)
    _positive("--tau2_fudge", config.tau2_fudge, "")
    _positive_or_off("--memory", config.memory, "GB")
    _require(
        0 < config.adaptive_fraction <= 1,
        f"--adaptive_fraction {config.adaptive_fraction:g}: give a share above 0, at most 1",
    )
    _require(
        config.gpu is None or all(part.isdigit() for part in config.gpu.replace(",", ":").split(":") if config.gpu),
        f"--gpu {config.gpu}: give nothing, one number or numbers separated by colons: --gpu 0:1",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _given(name: str, value: str, example: str) -> None:
    _require(bool(value), f"{name} is missing: give {example}")


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    listed = ", ".join(str(choice) for choice in allowed if choice != "")
    _require(value in allowed, f"{name} {value}: possible values are {listed}")


def _within(name: str, value: float, low: float, high: float) -> None:
    _require(low <= value <= high, f"{name} {value:g} is out of range: give a value from {low:g} to {high:g}")


def _at_least(name: str, value: int, low: int) -> None:
    _require(value >= low, f"{name} {value} is too small: give {low} or more")


def _positive(name: str, value: float, unit: str) -> None:
    _require(0 < value < float("inf"), f"{name} {value:g}: give a positive number{' of ' * bool(unit)}{unit}")


def _positive_or_off(name: str, value: float, unit: str) -> None:
    _require(
        value == -1 or 0 < value < float("inf"), f"{name} {value:g}: give a positive number of {unit}, or -1 for none"
    )
