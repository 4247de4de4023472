"""The E-step written out point by point in float64: what the fast one has to equal.

Every class, orientation and translation is a Python loop; every comparison runs over the full half arrays; every
retained point is inserted on its own. Only the preparation of a particle, single transforms and grids of poses are
shared with the kernels (they have tests of their own).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kernels.accumulators import Accumulators
from kernels.backend import cpu_backend
from kernels.candidates import particle_candidates
from kernels.fourier import crop, shift
from kernels.geometry import likelihood_shells, squared_radius
from kernels.likelihood import Mask, Model, Particle, Rules, Search
from kernels.orientations import (
    angular_step_deg,
    children_directions,
    children_psi,
    euler_to_matrix,
    matrix_to_euler,
    perturb,
)
from kernels.preparation import PreparedParticle, prepare
from kernels.sphere import sphere
from kernels.translations import children_translations
from tests.unit.projection_twins import insert_arrays, sample_arrays

DOUBLE = cpu_backend("float64")


@dataclass
class Point:
    """One tried pose: class, coarse direction, rotation matrix, shift in voxels, prior, squared difference."""

    class_index: int
    direction: int
    psi: int
    translation: int
    matrix: np.ndarray
    shift_px: np.ndarray
    prior: float
    difference: float = np.nan
    weight: float = 0.0


@dataclass
class Result:
    """Assignments as tuples ``(angles, origin, class, log likelihood, pmax, significant)`` and the sums."""

    sums: Accumulators
    assignments: list[tuple] = field(default_factory=list)
    significant: list[int] = field(default_factory=list)
    retained: list[int] = field(default_factory=list)


def brute_force(particles: list[Particle], model: Model, search: Search, mask: Mask, rules: Rules) -> Result:
    """The E-step of some particles."""
    sums = Accumulators.zeros(
        len(model.pdf_class), len(model.sigma2_noise), model.pdf_direction.shape[1], model.box, model.r_max, model.pad
    )
    result = Result(sums)
    for particle in particles:
        prepared = prepare(particle, model, mask, rules, search.fixed_offset, DOUBLE)
        coarse = coarse_points(prepared, model, search, rules)
        significant, count = select(coarse, prepared, model, search, model.coarse_size, search.max_significant)
        points = coarse
        if search.oversampling:
            points = [child for point in significant for child in children(point, prepared, model, search)]
            significant, _ = select(points, prepared, model, search, model.fine_size, -1)
        result.significant.append(count)
        result.retained.append(len(significant))
        add_sums(sums, significant, prepared, model, search)
        result.assignments.append(assignment(points, prepared, model, search, count))
        sums.log_likelihood += result.assignments[-1][3]
        sums.pmax += result.assignments[-1][4]
    return result


def coarse_points(prepared: PreparedParticle, model: Model, search: Search, rules: Rules) -> list[Point]:
    """All coarse poses with their priors, each kind of prior divided by its mean."""
    source, voxel = prepared.source, model.voxel_size_angst
    orientations = []  # class, direction, psi, prior
    if search.local or search.fixed_orientation:
        found = particle_candidates(prepared, model, search, rules)  # priors.local_prior has tests of its own
        for k in range(len(model.pdf_class)):
            for direction, psi, prior in zip(found.direction, found.psi, found.prior[k], strict=True):
                orientations.append([k, direction, psi, prior])
    else:
        for k in range(len(model.pdf_class)):
            for direction, prior in enumerate(model.pdf_direction[k]):
                orientations.extend([k, direction, psi, prior] for psi in range(len(search.grid.psi_deg)))
    if source.only_class >= 0:
        orientations = [orientation for orientation in orientations if orientation[0] == source.only_class]
    mean = np.mean([orientation[3] for orientation in orientations])

    translations = [np.zeros(3)] if search.fixed_offset else list(search.translations_angst)
    offsets = []
    for translation in translations:
        if rules.offset_prior_in_angst:
            distance2 = ((voxel * prepared.centre_px + translation - source.prior_origin_angst) ** 2).sum()
        else:
            distance2 = voxel**2 * ((prepared.centre_px + translation - source.prior_origin_angst / voxel) ** 2).sum()
        offsets.append(np.exp(-distance2 / (2 * model.sigma2_offset_angst2)))
    offsets = np.ones(1) if search.fixed_offset else np.array(offsets) / np.mean(offsets)

    points = []
    for k, direction, psi, prior in orientations:
        if prior == 0:
            continue
        matrix = fine_matrices(source, search, direction, psi, 0)[0]
        for t, translation in enumerate(translations):
            moved = translation if search.fixed_offset else translation + search.perturbation * search.offset_step_angst
            points.append(Point(k, direction, psi, t, matrix, moved / voxel, prior / mean * offsets[t]))
    return points


def fine_matrices(source: Particle, search: Search, direction: int, psi: int, oversampling: int) -> list[np.ndarray]:
    """Rotation matrices of the children of a coarse orientation."""
    if search.fixed_orientation:
        return [euler_to_matrix(source.angles_deg)] * 8**oversampling
    step = angular_step_deg(search.grid.healpix_order)
    return [
        perturb(euler_to_matrix([rot, tilt, turn]), search.perturbation, step)
        for rot, tilt in children_directions(search.grid, direction, oversampling)
        for turn in children_psi(search.grid, psi, oversampling)
    ]


def children(point: Point, prepared: PreparedParticle, model: Model, search: Search) -> list[Point]:
    """The fine poses inside a coarse one, which share its prior."""
    matrices = fine_matrices(prepared.source, search, point.direction, point.psi, search.oversampling)
    if search.fixed_offset:
        shifts = np.zeros((8**search.oversampling, 3))
    else:
        coarse = search.translations_angst[point.translation]
        shifts = children_translations(coarse, search.offset_step_angst, search.oversampling)
        shifts = (shifts + search.perturbation * search.offset_step_angst) / model.voxel_size_angst
    return [
        Point(point.class_index, point.direction, point.psi, point.translation, matrix, move, point.prior)
        for matrix in matrices
        for move in shifts
    ]


def predicted(point: Point, prepared: PreparedParticle, model: Model, size: int) -> np.ndarray:
    """The particle that a pose predicts, as a half array of ``size``."""
    points = sphere(size)
    rotations = point.matrix.T[None] * model.pad
    frequencies = points.frequencies_xyz.astype(float)
    real, imaginary = sample_arrays(model.references_rft[point.class_index], rotations, frequencies)[0]
    rft = np.zeros(size * size * (size // 2 + 1), dtype=np.complex128)
    rft[points.flat] = real + 1j * imaginary
    rft = rft.reshape(size, size, size // 2 + 1) * prepared.scale
    if not model.ctf_in_reference:
        return rft
    ctf = crop(prepared.ctf_rft, size)
    return rft * ctf**2 if prepared.source.ctf_premultiplied else rft * ctf


def inverse_noise(prepared: PreparedParticle, model: Model, size: int, with_dc: bool) -> np.ndarray:
    """``1 / sigma2`` of the counted coefficients of a half array."""
    shell = likelihood_shells(size)
    sigma2 = model.sigma2_noise[prepared.source.group][shell]
    return np.where(shell >= (0 if with_dc else 1), 1.0 / sigma2, 0.0)


def select(
    points: list[Point], prepared: PreparedParticle, model: Model, search: Search, size: int, most: int
) -> tuple[list[Point], int]:
    """Weigh the points in place and return the significant ones and how many were accumulated."""
    masked = crop(prepared.masked_rft, size)
    minv = inverse_noise(prepared, model, size, with_dc=False)
    beyond = prepared.power[model.current_size // 2 + 1 :].sum()
    for point in points:
        reference, moved = predicted(point, prepared, model, size), shift(masked, point.shift_px, model.box)
        if search.cross_correlation:
            product = (reference.real * moved.real + reference.imag * moved.imag).sum()
            point.difference = -product / np.sqrt((np.abs(reference) ** 2).sum() * (np.abs(masked) ** 2).sum())
        else:
            point.difference = 0.5 * (minv * np.abs(reference - moved) ** 2).sum() + 0.5 * beyond
    least = min(point.difference for point in points)
    if search.cross_correlation:
        best = next(point for point in points if point.difference == least)
        best.weight = 1.0
        return [best], 1
    for point in points:
        point.weight = point.prior * np.exp(-(point.difference - least))
    total = sum(point.weight for point in points)
    accumulated, count, threshold = 0.0, 0, 0.0
    for weight in sorted((point.weight for point in points if point.weight > 0), reverse=True):
        accumulated, count, threshold = accumulated + weight, count + 1, weight
        if accumulated > search.adaptive_fraction * total or count == most:
            break
    kept = [point for point in points if point.weight >= threshold]
    for point in points:
        point.weight /= total
    return kept, count


def add_sums(sums: Accumulators, kept: list[Point], prepared: PreparedParticle, model: Model, search: Search) -> None:
    """Add every retained point to the sums."""
    size, group, source = model.current_size, prepared.source.group, prepared.source
    shell, radius = likelihood_shells(size), squared_radius(size)
    minv = inverse_noise(prepared, model, size, with_dc=True)
    ctf = prepared.scale * (np.ones_like(minv) if prepared.ctf_rft is None else prepared.ctf_rft)
    if not model.weight_by_noise:
        minv = np.ones_like(minv)
    points = sphere(size)
    frequencies = points.frequencies_xyz.astype(float)
    inserted = points.inserted  # kx == 0 and kz < 0 are left out
    assert (radius.ravel()[points.flat] <= (size // 2) ** 2).all()
    for point in kept:
        w, k = point.weight, point.class_index
        reference = predicted(point, prepared, model, size)
        masked = shift(prepared.masked_rft, point.shift_px, model.box)
        image = shift(prepared.image_rft, point.shift_px, model.box)
        if not search.cross_correlation:
            residual = np.abs(reference - masked) ** 2
            for s in range(size // 2 + 1):
                sums.sigma2_noise[group, s] += w * residual[shell == s].sum()
                if model.use_scale and model.ssnr[k, s] > 3:
                    signal = (reference * masked.conj()).real[shell == s].sum()
                    sums.scale_signal[group] += w * signal / prepared.scale
                    sums.scale_power[group] += w * (np.abs(reference[shell == s]) ** 2).sum() / prepared.scale**2
        distance = source.prior_origin_angst / model.voxel_size_angst - prepared.centre_px - point.shift_px
        sums.sigma2_offset_angst2 += w * model.voxel_size_angst**2 * (distance**2).sum()
        sums.pdf_class[k] += w
        if not search.fixed_orientation:
            sums.pdf_direction[k, point.direction] += w
        sums.weight += w
        sums.group_weight[group] += w
        value = (image * minv * (1.0 if source.ctf_premultiplied else ctf)).ravel()[points.flat] * inserted
        weight = (minv * ctf**2).ravel()[points.flat] * inserted
        insert_arrays(
            sums.data_rft[k],
            sums.weight_rft[k],
            point.matrix.T[None] * model.pad,
            frequencies,
            w * np.stack([value.real, value.imag])[None],
            w * weight[None],
        )
    if not search.cross_correlation:
        sums.sigma2_noise[group, size // 2 + 1 :] += prepared.power[size // 2 + 1 :]


def assignment(
    points: list[Point], prepared: PreparedParticle, model: Model, search: Search, count: int
) -> tuple[np.ndarray, np.ndarray, int, float, float, int]:
    """The heaviest point, the particle's log-likelihood, and how many coarse points were significant."""
    best = max(points, key=lambda point: point.weight)
    angles, origin = prepared.source.angles_deg, prepared.source.origin_angst
    if not search.fixed_orientation:
        angles = matrix_to_euler(best.matrix)
    if not search.fixed_offset:
        origin = model.voxel_size_angst * (prepared.centre_px + best.shift_px)
    if search.cross_correlation:
        return angles, origin, best.class_index, -best.difference, 1.0, count
    least = min(point.difference for point in points)
    total = sum(point.prior * np.exp(-(point.difference - least)) for point in points)
    shell = likelihood_shells(model.current_size)
    sigma2 = model.sigma2_noise[prepared.source.group][shell[shell > 0]]
    log_likelihood = np.log(total) - least - np.log(2 * np.pi * sigma2).sum()
    return angles, origin, best.class_index, float(log_likelihood), best.weight, count
