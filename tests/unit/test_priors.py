"""Local searches: RELION's rule case by case, and what the corrected rule finds that RELION's does not."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.orientations import angular_grid, euler_to_matrix
from kernels.poses import rotation_angle_deg
from kernels.priors import LocalPrior, local_prior
from kernels.symmetry import direction_vectors, operators


def gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    weight = np.where(distance < 3 * sigma, np.exp(-0.5 * (distance / sigma) ** 2), 0.0)
    return weight / weight.sum()


def dense(prior: LocalPrior, grid) -> np.ndarray:
    table = np.zeros((len(grid.directions_deg), len(grid.psi_deg)))
    np.add.at(table, (prior.direction_index, prior.psi_index), prior.weight)
    return table


def distances(grid, angles_deg) -> np.ndarray:
    """Smallest rotation angle (D, P) between every pose of a grid and the copies of one pose."""
    angles = np.empty((len(grid.directions_deg), len(grid.psi_deg), 3))
    angles[..., :2] = grid.directions_deg[:, None]
    angles[..., 2] = grid.psi_deg
    copies = euler_to_matrix(angles_deg) @ operators(grid.symmetry)
    residual = np.einsum("dpij,gkj->gdpik", euler_to_matrix(angles), copies)
    return rotation_angle_deg(residual).min(axis=0)


def test_relions_rule_is_a_product_of_two_normalised_lists():
    grid = angular_grid(3)
    prior = (33.0, 71.0, -48.0)
    found = local_prior(grid, prior, 7.5, 5.0, 6.0, polar_safe=False)
    off_direction = np.rad2deg(np.arccos(np.clip(grid.vectors @ direction_vectors(33.0, 71.0), -1, 1)))
    off_psi = np.abs(grid.psi_deg - 312.0)
    np.testing.assert_allclose(
        dense(found, grid), np.outer(gaussian(off_direction, 7.5), gaussian(off_psi, 6.0)), atol=1e-12
    )
    order = found.direction_index * len(grid.psi_deg) + found.psi_index
    assert (np.diff(order) > 0).all()
    assert found.weight.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("polar_safe", [False, True])
def test_the_usual_neighbourhood_has_its_known_size(polar_safe):
    grid = angular_grid(4)
    sizes = [
        local_prior(grid, prior, 3.75, 3.75, 3.75, polar_safe=polar_safe).weight.size
        for prior in np.random.default_rng(2).uniform((-180, 30, -180), (180, 150, 180), (20, 3))
    ]
    assert min(sizes) > 130
    assert max(sizes) < 200


def test_the_cut_off_itself_is_outside():
    grid = angular_grid(1)
    kept = local_prior(grid, (0.0, 0.0, 60.0), 0.0, 0.0, 10.0, polar_safe=False)
    assert set(kept.psi_index) == {2}
    kept = local_prior(grid, (0.0, 0.0, 60.0), 0.0, 0.0, 10.001, polar_safe=False)
    assert set(kept.psi_index) == {1, 2, 3}


@pytest.mark.parametrize("polar_safe", [False, True])
def test_when_nothing_is_near_the_nearest_pose_is_taken(polar_safe):
    grid = angular_grid(2, "C3")
    prior = (100.0, 95.0, 77.0)
    found = local_prior(grid, prior, 0.01, 0.01, 0.01, polar_safe=polar_safe)
    assert found.weight.tolist() == [1.0]
    copies = direction_vectors(100.0, 95.0) @ operators("C3")
    assert found.direction_index[0] == (grid.vectors @ copies.T).max(axis=1).argmax()


def test_priors_on_single_angles():
    grid = angular_grid(2)
    rot_only = dense(local_prior(grid, (40.0, 60.0, 0.0), 9.0, 0.0, 0.0, polar_safe=False), grid)
    from_meridian = np.abs(np.rad2deg(np.arcsin(grid.vectors @ direction_vectors(130.0, 90.0))))
    np.testing.assert_allclose(rot_only, np.repeat(gaussian(from_meridian, 9.0)[:, None], 24, axis=1), atol=1e-12)
    tilt_only = dense(local_prior(grid, (40.0, 60.0, 0.0), 0.0, 9.0, 0.0, polar_safe=True), grid)
    from_tilt = np.abs(grid.directions_deg[:, 1] - 60.0)
    np.testing.assert_allclose(tilt_only, np.repeat(gaussian(from_tilt, 9.0)[:, None], 24, axis=1), atol=1e-12)
    psi_only = dense(local_prior(grid, (40.0, 60.0, 170.0), 0.0, 0.0, 15.0, polar_safe=True), grid)
    from_psi = np.abs(grid.psi_deg - 170.0)
    np.testing.assert_allclose(psi_only, np.repeat(gaussian(from_psi, 15.0)[None], 192, axis=0), atol=1e-12)


def test_without_any_sigma_every_pose_has_weight_one():
    grid = angular_grid(1, "D2")
    assert np.array_equal(dense(local_prior(grid, (1, 2, 3), 0, 0, 0, polar_safe=True), grid), np.ones((12, 12)))


def test_directions_of_symmetric_groups_count_by_their_nearest_copy():
    grid = angular_grid(3, "O")
    prior = (-77.0, 141.0, 30.0)
    found = dense(local_prior(grid, prior, 7.5, 7.5, 7.5, polar_safe=False), grid).sum(axis=1)
    copies = np.einsum("di,gij->gdj", grid.vectors, operators("O"))
    cosine = (copies @ direction_vectors(-77.0, 141.0)).max(axis=0)
    np.testing.assert_allclose(found, gaussian(np.rad2deg(np.arccos(cosine)), 7.5), atol=1e-12)


def test_both_rules_agree_on_the_equator():
    grid = angular_grid(4)
    sigma = 3.75
    prior = (45.0, 90.0, 33.0)
    relion, corrected = (dense(local_prior(grid, prior, *[sigma] * 3, polar_safe=safe), grid) for safe in (False, True))
    # twists within three sigmas of the equator are below 1 degree
    assert np.abs(relion - corrected).sum() < 0.06


@pytest.mark.parametrize(
    ("symmetry", "tilt"), [("C1", 0.5), ("C1", 179.0), ("C6", 1.0), ("D2", 90.0), ("O", 54.7), ("I2", 3.0)]
)
def test_the_corrected_rule_finds_every_pose_nearby(symmetry, tilt):
    grid = angular_grid(3, symmetry)
    prior = (123.0, tilt, 45.0)
    sigma = 7.5
    distance = distances(grid, prior)
    found = dense(local_prior(grid, prior, sigma, sigma, sigma, polar_safe=True), grid)
    assert found.sum() == pytest.approx(1.0)
    assert (found[distance < 3 * sigma] > 0).all()
    # and nothing farther than the two cut-offs combined
    assert distance[found > 0].max() <= np.rad2deg(2 * np.arccos(np.cos(np.deg2rad(1.5 * sigma)) ** 2))


def test_relions_rule_misses_the_nearest_pose_at_the_pole_and_the_corrected_one_does_not():
    grid = angular_grid(3)
    prior = (170.0, 1.0, 20.0)
    nearest = np.unravel_index(distances(grid, prior).argmin(), (768, 48))
    relion = dense(local_prior(grid, prior, 7.5, 7.5, 7.5, polar_safe=False), grid)
    corrected = dense(local_prior(grid, prior, 7.5, 7.5, 7.5, polar_safe=True), grid)
    assert relion[nearest] == 0
    assert corrected[nearest] > 0.5 * corrected.max()


def test_a_wide_prior_reaches_the_whole_circle_once():
    grid = angular_grid(1)
    found = local_prior(grid, (10.0, 80.0, 20.0), 60.0, 60.0, 60.0, polar_safe=True)
    pairs = found.direction_index * 12 + found.psi_index
    assert np.array_equal(pairs, np.arange(48 * 12))
    assert found.weight.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("prior", [(0.0, 0.0), (0.0, np.nan, 0.0), (np.inf, 0.0, 0.0)])
def test_priors_that_are_not_three_angles_are_refused(prior):
    with pytest.raises(ValueError, match="three finite angles rot, tilt, psi"):
        local_prior(angular_grid(1), prior, 1.0, 1.0, 1.0, polar_safe=True)
