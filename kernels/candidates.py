"""Which orientations and translations are tried, with their prior probabilities, and the children of the promising
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.likelihood import FloatArray, Model, Rules, Search
from kernels.orientations import angular_step_deg, children_directions, children_psi, euler_to_matrix, perturb
from kernels.preparation import PreparedParticle
from kernels.priors import local_prior
from kernels.translations import children_translations, perturb_translations

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Coarse orientations of one search.

    Attributes
    ----------
    direction, psi : (R,) indices into the grid; both -1 where the orientation is fixed.
    prior : (K, R) probability of each orientation and class; where it is 0 the point is not tried.
    count : orientations over which the mean prior is taken, at least R: those left out count with a prior of 0.
    fixed_angles_deg : (3,) the orientation when it is not searched.
    """

    direction: IntArray
    psi: IntArray
    prior: FloatArray
    count: int
    fixed_angles_deg: FloatArray | None = None

    def matrices(self, search: Search, chosen: IntArray, oversampling: int) -> FloatArray:
        """Perturbed rotation matrices of the children of the ``chosen`` orientations, ``(n, 8**q, 3, 3)``."""
        if self.fixed_angles_deg is not None:
            fixed = euler_to_matrix(self.fixed_angles_deg)
            return np.broadcast_to(fixed, (len(chosen), 8**oversampling, 3, 3))
        directions = children_directions(search.grid, self.direction[chosen], oversampling)
        psi = children_psi(search.grid, self.psi[chosen], oversampling)
        angles = np.empty((*directions.shape[:2], psi.shape[1], 3))
        angles[..., :2] = directions[:, :, None, :]
        angles[..., 2] = psi[:, None, :]
        matrices = euler_to_matrix(angles.reshape(len(chosen), -1, 3))
        return perturb(matrices, search.perturbation, angular_step_deg(search.grid.healpix_order))


def global_candidates(model: Model, search: Search) -> Candidates:
    """Every direction with a prior above zero in some class, with every psi."""
    directions = np.flatnonzero((model.pdf_direction > 0).any(axis=0))
    count = len(search.grid.psi_deg)
    return Candidates(
        direction=np.repeat(directions, count),
        psi=np.tile(np.arange(count), len(directions)),
        prior=np.repeat(model.pdf_direction[:, directions], count, axis=1),
        count=model.pdf_direction.shape[1] * count,
    )


def particle_candidates(particle: PreparedParticle, model: Model, search: Search, rules: Rules) -> Candidates:
    """Orientations of one particle: its own angles, or the neighbourhood of its prior."""
    classes = len(model.pdf_class)
    if search.fixed_orientation:
        none = np.full(1, -1)
        return Candidates(none, none, model.pdf_class[:, None].copy(), 1, particle.source.angles_deg)
    found = local_prior(
        search.grid,
        particle.source.prior_angles_deg,
        search.sigma_rot_deg,
        search.sigma_tilt_deg,
        search.sigma_psi_deg,
        polar_safe=rules.polar_safe_prior,
    )
    prior = np.repeat(found.weight[None, :], classes, axis=0)
    if rules.class_prior_in_local_search:
        prior *= model.pdf_class[:, None]
    return Candidates(found.direction_index, found.psi_index, prior, len(found.weight))


def coarse_translations_px(search: Search, model: Model) -> FloatArray:
    """(T, 3) perturbed coarse translations in voxels, relative to the particle's centre."""
    if search.fixed_offset:
        return np.zeros((1, 3))
    moved = perturb_translations(search.translations_angst, search.perturbation, search.offset_step_angst)
    return moved / model.voxel_size_angst


def fine_translations_px(search: Search, model: Model, chosen: IntArray, oversampling: int) -> FloatArray:
    """(n, 8**q, 3) perturbed children of the ``chosen`` coarse translations, in voxels."""
    if search.fixed_offset:
        return np.zeros((len(chosen), 8**oversampling, 3))
    children = children_translations(search.translations_angst[chosen], search.offset_step_angst, oversampling)
    return perturb_translations(children, search.perturbation, search.offset_step_angst) / model.voxel_size_angst


def offset_log_prior(particle: PreparedParticle, model: Model, search: Search, rules: Rules) -> FloatArray:
    """(T,) log prior of the coarse, unperturbed translations, scaled so that the mean probability is 1."""
    if search.fixed_offset:
        return np.zeros(1)
    prior_angst = particle.source.prior_origin_angst
    if rules.offset_prior_in_angst:
        centre = particle.centre_px * model.voxel_size_angst - prior_angst
        squared = ((search.translations_angst + centre) ** 2).sum(axis=1)
    else:
        centre = particle.centre_px - prior_angst / model.voxel_size_angst
        squared = model.voxel_size_angst**2 * ((search.translations_angst + centre) ** 2).sum(axis=1)
    if model.sigma2_offset_angst2 < 1e-4:
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.where(squared == 0, 1.0, 0.0))
    else:
        log_prior = -squared / (2.0 * model.sigma2_offset_angst2)
    return _scaled_to_mean_one(log_prior, len(log_prior))


def orientation_log_prior(candidates: Candidates, only_class: int) -> FloatArray:
    """(K, R) log prior of the orientations, scaled so that the mean probability is 1; ``-inf`` where not tried."""
    prior, classes = candidates.prior, len(candidates.prior)
    if only_class >= 0:
        prior, classes = np.where(np.arange(classes)[:, None] == only_class, prior, 0.0), 1
    with np.errstate(divide="ignore"):
        return _scaled_to_mean_one(np.log(prior), classes * candidates.count)


def _scaled_to_mean_one(log_prior: FloatArray, count: int) -> FloatArray:
    """RELION divides each prior by its mean over the coarse set, which keeps sums of weights in range."""
    largest = float(log_prior.max())
    if not np.isfinite(largest):
        return log_prior
    scaled: FloatArray = log_prior - largest
    normalised: FloatArray = scaled - np.log(np.exp(scaled).sum() / count)
    return normalised
