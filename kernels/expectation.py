"""The E-step of one work unit: posteriors of its particles' poses, and the weighted sums over them.

Read :func:`expectation` first; it goes through the steps in order.  Source: Scheres,
J. Mol. Biol. 415, 406 (2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.back_projection import Inserted
from kernels.backend import Backend, Scratch
from kernels.candidates import (
    Candidates,
    coarse_translations_px,
    fine_translations_px,
    global_candidates,
    offset_log_prior,
    orientation_log_prior,
    particle_candidates,
)
from kernels.clock import Clock
from kernels.geometry import likelihood_shells
from kernels.likelihood import Assignment, FloatArray, Mask, Model, Particle, Rules, Search
from kernels.orientations import matrix_to_euler
from kernels.posterior import Significant, significant, significant_poses, winner
from kernels.preparation import PreparedParticle, prepare_all
from kernels.scores import (
    Terms,
    coarse_scores,
    correlation_terms,
    fine_scores,
    likelihood_terms,
    room_for_references,
    slices,
)
from kernels.statistics import ClassPoints, accumulate

IntArray = npt.NDArray[np.int64]

SCORES_PER_BATCH, PARTICLES_PER_BATCH = 1 << 25, 16
"""Particles of a global search are compared in batches of so many scores and particles, whatever the memory."""


class DegenerateParticleError(ValueError):
    """A particle for which no pose has a finite weight; ``index`` is its position in the particle table."""

    def __init__(self, index: int) -> None:
        super().__init__(f"no pose of particle {index} has a weight above zero")
        self.index = index


def expectation(
    particles: list[Particle],
    model: Model,
    search: Search,
    mask: Mask,
    rules: Rules,
    backend: Backend,
    clock: Clock | None = None,
) -> tuple[Accumulators, list[Assignment]]:
    """Run the E-step on the particles of one work unit; ``clock`` is given the seconds and operations by stage.

    Returns
    -------
    The unit's sums, and one assignment per particle in their order.

    Raises
    ------
    DegenerateParticleError
        No pose of a particle has a finite weight (NaN voxels, an empty CTF volume, a reference of another grey scale).
    """
    backend = replace(backend, clock=Clock() if clock is None else clock, scratch=Scratch())
    clock = backend.clock
    clock.count("particles", len(particles))
    sums = Accumulators.zeros(
        len(model.pdf_class), len(model.sigma2_noise), model.pdf_direction.shape[1], model.box, model.r_max, model.pad
    )
    inserted = [Inserted(data, weight, backend) for data, weight in zip(sums.data_rft, sums.weight_rft, strict=True)]
    assignments = []
    with clock.stage("prepare"):
        prepared = prepare_all(particles, model, mask, rules, search.fixed_offset, backend)
    for particle, candidates, scores in _first_pass(prepared, model, search, rules, backend):
        try:
            with clock.stage("posterior"):
                posterior = _posterior(particle, candidates, scores, model, search, rules, backend)
        except FloatingPointError as error:
            raise DegenerateParticleError(particle.source.index) from error
        with clock.stage("sums"):
            accumulate(sums, inserted, particle, posterior.points, model, search, backend)
        sums.log_likelihood += posterior.assignment.log_likelihood
        sums.pmax += posterior.assignment.pmax
        assignments.append(posterior.assignment)
    with clock.stage("insert"):
        for each in inserted:
            each.finish()
    return sums, assignments


def _first_pass(
    particles: list[PreparedParticle], model: Model, search: Search, rules: Rules, backend: Backend
) -> Iterator[tuple[PreparedParticle, Candidates, Any]]:
    """Scores (K, R, T) of all coarse points per particle; in a global search the rotated references serve them all."""
    shifts = coarse_translations_px(search, model)
    with backend.clock.stage("poses"):
        if search.local or search.fixed_orientation:
            groups = [([particle], particle_candidates(particle, model, search, rules)) for particle in particles]
        else:
            groups = [(particles, global_candidates(model, search))]
    for group, candidates in groups:
        everything = np.arange(candidates.prior.shape[1])
        with backend.clock.stage("poses"):
            matrices = candidates.matrices(search, everything, 0)[:, 0]
        batch = int(np.clip(SCORES_PER_BATCH // (candidates.prior.size * len(shifts)), 1, PARTICLES_PER_BATCH))
        for batched in slices(len(group), batch):
            members = group[batched]
            with backend.clock.stage("scores"):
                terms = [_terms(particle, model, search, model.coarse_size, backend) for particle in members]
                scores = coarse_scores(
                    terms, matrices, shifts, model.coarse_size, search.cross_correlation, model, backend
                )
            yield from ((particle, candidates, score) for particle, score in zip(members, scores, strict=True))


def _terms(particle: PreparedParticle, model: Model, search: Search, size: int, backend: Backend) -> Terms:
    compare = correlation_terms if search.cross_correlation else likelihood_terms
    return compare(particle, model, size, backend)


@dataclass(frozen=True)
class _Posterior:
    points: list[ClassPoints]
    assignment: Assignment


def _posterior(
    particle: PreparedParticle,
    candidates: Candidates,
    scores: Any,
    model: Model,
    search: Search,
    rules: Rules,
    backend: Backend,
) -> _Posterior:
    """Select the significant coarse points, refine them, and keep the points that carry the weight."""
    xp = backend.xp
    orientation = orientation_log_prior(candidates, particle.source.only_class)
    offset = offset_log_prior(particle, model, search, rules)
    if search.cross_correlation:
        tried = xp.asarray(np.isfinite(orientation))[:, :, None]
        coarse = winner(xp.where(tried, scores, np.inf).ravel())
    else:
        coarse = significant_poses(
            orientation, offset, scores, search.adaptive_fraction, search.max_significant, backend
        )
    k, r, t = np.unravel_index(coarse.index, scores.shape)
    log_prior = np.zeros(len(k)) if search.cross_correlation else orientation[k, r] + offset[t]
    terms = _terms(particle, model, search, model.fine_size, backend)
    if search.oversampling == 0:
        found = coarse
        points = _coarse_points(candidates, search, model, (k, r, t), coarse)
    else:
        points, found = _second_pass(terms, candidates, search, model, (k, r, t), log_prior, backend)
    return _Posterior(points, _assignment(particle, points, found, coarse.count, terms, model, search))


def _coarse_points(
    candidates: Candidates, search: Search, model: Model, coarse: tuple[Any, Any, Any], found: Significant
) -> list[ClassPoints]:
    """The significant points of a single pass, by class."""
    points = []
    for k in np.unique(coarse[0]):
        mine = coarse[0] == k
        rows, row = np.unique(coarse[1][mine], return_inverse=True)
        columns, column = np.unique(coarse[2][mine], return_inverse=True)
        points.append(
            ClassPoints(
                class_index=int(k),
                matrices=candidates.matrices(search, rows, 0)[:, 0],
                shifts_px=fine_translations_px(search, model, columns, 0)[:, 0],
                direction=candidates.direction[rows],
                row=row,
                column=column,
                weight=found.weight[mine],
                best=int(np.argmax(found.index[mine] == found.best)) if found.best in found.index[mine] else -1,
            )
        )
    return points


def _second_pass(
    terms: Terms,
    candidates: Candidates,
    search: Search,
    model: Model,
    coarse: tuple[Any, Any, Any],
    log_prior: FloatArray,
    backend: Backend,
) -> tuple[list[ClassPoints], Significant]:
    """Evaluate the children of the significant coarse points and keep those that carry the weight."""
    evaluated, log_weights = [], []
    for k in np.unique(coarse[0]):
        mine = coarse[0] == k
        columns, column = np.unique(coarse[2][mine], return_inverse=True)
        rows, row = _by_translation(coarse[1][mine], column)
        with backend.clock.stage("poses"):
            matrices = candidates.matrices(search, rows, search.oversampling)
            shifts = fine_translations_px(search, model, columns, search.oversampling)
        with backend.clock.stage("scores"):
            rotated = room_for_references(f"references of class {k}", matrices, model.fine_size, backend)
            fine = fine_scores(
                terms,
                model.references_rft[int(k)],
                matrices,
                shifts,
                (row, column),
                model.fine_size,
                search.cross_correlation,
                model,
                backend,
                rotated,
            )
        direction = np.repeat(candidates.direction[rows], matrices.shape[1])
        if model.fine_size != model.current_size:
            rotated = None
        evaluated.append((int(k), matrices.reshape(-1, 3, 3), shifts.reshape(-1, 3), direction, fine, rotated))
        log_weights.append(log_prior[mine][fine.parent] - fine.score)
    log_weight = np.concatenate(log_weights)
    found = winner(-log_weight) if search.cross_correlation else significant(log_weight, search.adaptive_fraction, -1)
    points, first = [], 0
    for k, turned, moves, direction, fine, rotated in evaluated:
        last = first + len(fine.score)
        kept = slice(*np.searchsorted(found.index, (first, last)))
        index = found.index[kept] - first
        best = int(np.searchsorted(index, found.best - first)) if first <= found.best < last else -1
        points.append(
            ClassPoints(
                k, turned, moves, direction, fine.row[index], fine.column[index], found.weight[kept], best, rotated
            )
        )
        first = last
    return [part for part in points if len(part.weight)], found


def _by_translation(orientation: IntArray, translation: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct orientations in the order of their first translation, and where each of (m,) is among them."""
    distinct, place = np.unique(orientation, return_inverse=True)
    first = np.full(len(distinct), np.iinfo(np.int64).max)
    np.minimum.at(first, place, translation)
    order = np.argsort(first, kind="stable")
    return distinct[order], np.argsort(order)[place]


def _assignment(
    particle: PreparedParticle,
    points: list[ClassPoints],
    found: Significant,
    significant_samples: int,
    terms: Terms,
    model: Model,
    search: Search,
) -> Assignment:
    """The most probable pose, and the particle's contribution to the log-likelihood."""
    best = next(part for part in points if part.best >= 0)
    source = particle.source
    angles, origin = source.angles_deg, source.origin_angst
    if not search.fixed_orientation:
        angles = matrix_to_euler(best.matrices[best.row[best.best]])
    if not search.fixed_offset:
        origin = model.voxel_size_angst * (particle.centre_px + best.shifts_px[best.column[best.best]])
    log_likelihood = found.log_sum
    if not search.cross_correlation:
        log_likelihood -= terms.constant + _log_normalisation(model, source.group)
    return Assignment(
        index=source.index,
        angles_deg=angles,
        origin_angst=origin,
        class_index=best.class_index,
        log_likelihood=log_likelihood,
        pmax=found.best_weight,
        significant_samples=significant_samples,
    )


def _log_normalisation(model: Model, group: int) -> float:
    """``sum_k ln(2 pi sigma2)`` over the coefficients compared at the current size."""
    shell = likelihood_shells(model.current_size)
    counts = np.bincount(shell[shell > 0], minlength=model.current_size // 2 + 1)
    sigma2 = model.sigma2_noise[group, : len(counts)]
    known = sigma2 > 0
    return float((counts[known] * np.log(2.0 * np.pi * sigma2[known])).sum())
