"""The M-step: from the sums of the E-step to new maps, spectra and distributions.

Source: Scheres and Chen, Nat. Methods 9, 853 (2012) for the gold standard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.fourier import forward, inverse
from kernels.geometry import shell_counts
from kernels.masks import flatten_solvent
from kernels.maximization import enforce_hermitian, join_low_resolution, reconstruct, symmetrise
from kernels.solvent_fsc import solvent_corrected_fsc
from kernels.spectra import (
    class3d_ssnr,
    fourier_coverage,
    fsc_of_accumulators,
    gold_standard_ssnr_tau2,
    low_pass_shell_weights,
    low_pass_weights,
    resolution_and_completeness,
    sigma2_ref,
)
from runner.execute.local import ordered_map
from runner.model.state import HalfModel, ScheduleState
from runner.plan.schedule import round_half_away, with_fsc
from runner.refinement.run import Run

FloatArray = npt.NDArray[np.float64]

SMALLEST_NOISE = 1e-14


@dataclass
class HalfMaps:
    """Unregularised maps (N, N, N) of the two halves."""

    one: npt.NDArray[np.float32]
    two: npt.NDArray[np.float32]


def maximize_halves(
    run: Run,
    halves: list[HalfModel],
    sums: list[Accumulators],
    schedule: ScheduleState,
    cross_correlation: bool,
    final: bool,
) -> tuple[list[HalfModel], ScheduleState, HalfMaps | None]:
    """Gold-standard M-step: two half models in, two out; in the final iteration one joined model and the halves' maps.

    The unregularised maps come in every iteration where the FSC is corrected for the solvent mask.
    """
    for total in sums:
        _symmetrise(run, total, schedule)
    unregularised = _unregularised(run, sums, schedule) if final else None
    _join(run, sums, schedule)
    fsc = fsc_of_accumulators(
        sums[0].data_rft[0],
        sums[0].weight_rft[0],
        sums[1].data_rft[0],
        sums[1].weight_rft[0],
        run.box,
        run.config.pad,
        schedule.current_size // 2,
    )
    if run.config.solvent_correct_fsc and run.solvent is not None:
        joined = _unregularised(run, sums, schedule)
        fsc = solvent_corrected_fsc(joined.one, joined.two, run.solvent, run.seed).corrected
        fsc[schedule.current_size // 2 + 1 :] = 0.0
        unregularised = unregularised or joined
    schedule = with_fsc(schedule, fsc)
    if final:
        particles = halves[0].group_particles + halves[1].group_particles
        if run.config.relion_parity:
            particles = halves[0].group_particles  # RELION keeps the numbers of its first half
        halves, sums = [replace(halves[0], group_particles=particles)], [sums[0].merge(sums[1])]

    def maximize(half_and_sums: tuple[HalfModel, Accumulators]) -> HalfModel:
        half, total = half_and_sums
        noise_left = sigma2_ref(total.weight_rft[0], run.box, run.config.pad, schedule.current_size // 2)
        ssnr, tau2 = gold_standard_ssnr_tau2(fsc, noise_left, run.config.tau2_fudge, joined=final)
        spectra = replace(half, fsc=fsc[None], sigma2_ref=noise_left[None], ssnr=ssnr[None], tau2=tau2[None])
        return _new_model(run, spectra, total, schedule, cross_correlation, final)

    updated = list(ordered_map(maximize, zip(halves, sums, strict=True), _at_once(run)))
    for half in updated[1:]:
        half.ssnr, half.average_pmax = updated[0].ssnr.copy(), updated[0].average_pmax
    return updated, schedule, unregularised


def maximize_classes(
    run: Run, model: HalfModel, sums: Accumulators, schedule: ScheduleState, tau2: FloatArray, cross_correlation: bool
) -> HalfModel:
    """M-step of a 3D classification; ``tau2`` (K, S) is the signal of the references that the E-step used."""
    _symmetrise(run, sums, schedule)
    config, r_max = run.config, schedule.current_size // 2
    model = replace(model, tau2=tau2, sigma2_ref=model.sigma2_ref.copy(), ssnr=model.ssnr.copy())
    for k in range(run.classes):
        if sums.pdf_class[k] > 0:
            weight = sums.weight_rft[k]
            model.sigma2_ref[k] = sigma2_ref(weight, run.box, config.pad, r_max)
            model.ssnr[k] = class3d_ssnr(weight, tau2[k], run.box, config.pad, r_max, config.tau2_fudge)
    return _new_model(run, model, sums, schedule, cross_correlation, final=False)


def _symmetrise(run: Run, sums: Accumulators, schedule: ScheduleState) -> None:
    for k, operators in enumerate(run.symmetry):
        enforce_hermitian(sums.data_rft[k], sums.weight_rft[k])
        data, weight = symmetrise(
            sums.data_rft[k], sums.weight_rft[k], operators, schedule.current_size // 2, run.config.pad
        )
        sums.data_rft[k], sums.weight_rft[k] = data, weight


def _join(run: Run, sums: list[Accumulators], schedule: ScheduleState) -> None:
    """Average the halves up to the resolution given, or the current one where that is worse."""
    if run.config.low_resol_join_halves <= 0:
        return
    r_max = schedule.current_size // 2
    resolution = max(run.config.low_resol_join_halves, 1.0 / max(schedule.current_resolution, 1e-6))
    shell = min(math.ceil(run.policy.box_angst / resolution), r_max)
    one, two = ((half.data_rft[0], half.weight_rft[0]) for half in sums)
    join_low_resolution(one, two, shell, run.config.pad, r_max)


def _unregularised(run: Run, sums: list[Accumulators], schedule: ScheduleState) -> HalfMaps:
    return HalfMaps(*ordered_map(lambda half: _plain_map(run, half, schedule), sums, _at_once(run)))


def _at_once(run: Run) -> int:
    """Halves that are reconstructed at a time."""
    return min(run.config.j, run.device.shares.reconstructions)


def _plain_map(run: Run, sums: Accumulators, schedule: ScheduleState) -> npt.NDArray[np.float32]:
    volume = reconstruct(
        sums.data_rft[0],
        sums.weight_rft[0],
        run.box,
        run.config.pad,
        schedule.current_size // 2,
        gridding=not run.config.skip_gridding,
        iterations=run.config.gridding_iter,
    )
    return volume.astype(np.float32)


def _new_model(
    run: Run, model: HalfModel, sums: Accumulators, schedule: ScheduleState, cross_correlation: bool, final: bool
) -> HalfModel:
    """New maps and parameters, given that the spectra of ``model`` are those of this iteration already."""
    maps, coverage = model.references.copy(), np.zeros_like(model.tau2)
    config, r_max = run.config, schedule.current_size // 2
    for k in range(run.classes):
        if not sums.pdf_class[k] > 0:
            maps[k] = 0.0
            continue
        coverage[k] = fourier_coverage(sums.weight_rft[k], model.tau2[k], run.box, config.pad, r_max, config.tau2_fudge)
        maps[k] = reconstruct(
            sums.data_rft[k],
            sums.weight_rft[k],
            run.box,
            config.pad,
            r_max,
            tau2=None if config.no_map else model.tau2[k],
            tau2_fudge=config.tau2_fudge,
            normalise=float(sums.pdf_class[k]),
            minres_map=config.minres_map,
            gridding=not config.skip_gridding,
            iterations=config.gridding_iter,
        )
    updated = replace(model, references=maps, fourier_coverage=coverage)
    _update_parameters(run, updated, sums, cross_correlation)
    if cross_correlation and config.firstiter_cc and config.ini_high > 0:
        _low_pass(run, updated)
    if not final and config.flatten_solvent:
        _flatten_solvent(run, updated.references)
    pairs = [
        resolution_and_completeness(ssnr, covered, run.voxel_size_angst)
        for ssnr, covered in zip(updated.ssnr, updated.fourier_coverage, strict=True)
    ]
    updated.estimated_resolution_angst, updated.fourier_completeness = (
        np.array(values) for values in zip(*pairs, strict=True)
    )
    return updated


def _flatten_solvent(run: Run, maps: FloatArray) -> None:
    """Mask the maps (K, N, N, N) in place; a region to be kept at low resolution is filtered and added again."""
    if run.solvent is None:
        return
    for k, volume in enumerate(maps):
        kept = None
        if run.solvent_lowpass is not None:
            shell = round_half_away(run.policy.box_angst / run.config.lowpass)
            weights = low_pass_weights(run.box, run.voxel_size_angst, run.policy.box_angst / shell)
            kept = inverse(forward(volume * run.solvent_lowpass) * weights)
        maps[k] = flatten_solvent(volume, run.solvent, run.solvent_mean, kept)


def _low_pass(run: Run, model: HalfModel) -> None:
    """After an iteration by cross-correlation the maps are filtered again, and their spectra with them."""
    weights = low_pass_weights(run.box, run.voxel_size_angst, run.config.ini_high)
    shell_weights = low_pass_shell_weights(run.box, run.voxel_size_angst, run.config.ini_high) ** 2
    for k in range(run.classes):
        model.references[k] = inverse(forward(model.references[k].astype(np.float64)) * weights)
    model.tau2, model.ssnr = model.tau2 * shell_weights, model.ssnr * shell_weights


def _update_parameters(run: Run, model: HalfModel, sums: Accumulators, cross_correlation: bool) -> None:
    """Noise spectra, group scales, offset variance and distributions, in place."""
    total = float(sums.weight[0])
    if not cross_correlation:
        if run.use_scale:
            model.group_scale = _group_scales(sums, model)
        if not run.config.fix_sigma_noise:
            model.sigma2_noise = _noise(sums, model, run.box)
    if not run.config.fix_sigma_offset:
        model.sigma2_offset_angst2 = float(sums.sigma2_offset_angst2[0]) / (3.0 * total)
    model.pdf_class = sums.pdf_class / total
    if not run.fixed_orientation:
        model.pdf_direction = sums.pdf_direction / total
    model.average_pmax = float(sums.pmax[0]) / total
    model.log_likelihood = float(sums.log_likelihood[0]) / (total if cross_correlation else 1.0)


def _group_scales(sums: Accumulators, model: HalfModel) -> FloatArray:
    """Scales within a factor five of their median, with a particle-weighted mean of one."""
    scale = np.ones_like(sums.scale_power)
    np.divide(sums.scale_signal, sums.scale_power, out=scale, where=sums.scale_power > 0)
    median = np.sort(scale)[len(scale) // 2]
    scale = np.clip(scale, median / 5.0, median * 5.0)
    particles = model.group_particles
    mean = float((scale * particles).sum() / particles.sum())
    normalised: FloatArray = scale / mean
    return normalised


def _noise(sums: Accumulators, model: HalfModel, box: int) -> FloatArray:
    """Variance of the real or imaginary part of the residuals; groups without particles keep theirs."""
    counts = shell_counts(box)
    updated = model.sigma2_noise.copy()
    for group in np.flatnonzero(sums.group_weight > 0):
        sigma2 = sums.sigma2_noise[group] / (2.0 * sums.group_weight[group] * counts)
        for shell in range(1, len(sigma2)):
            if sigma2[shell] < SMALLEST_NOISE:
                sigma2[shell] = sigma2[shell - 1]
        updated[group] = sigma2
    return updated
