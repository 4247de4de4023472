"""Laws of orientations that hold for any angles."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.orientations import angular_distance, angular_grid, euler_to_matrix, matrix_to_euler, wrap_deg
from kernels.priors import local_prior
from kernels.symmetry import operators
from kernels.translations import children_translations, translation_grid

ANGLE = st.floats(-400.0, 400.0)
EULER = st.tuples(ANGLE, ANGLE, ANGLE)
POSE = st.tuples(st.floats(-180.0, 180.0), st.floats(0.0, 180.0), st.floats(-180.0, 180.0))
GROUP = st.sampled_from(["C1", "C2", "C3", "D2", "D7", "T", "O", "I1", "I2", "I3", "I4"])


@given(EULER)
def test_matrices_are_rotations_and_survive_the_way_back(angles):
    matrix = euler_to_matrix(angles)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(matrix) > 0
    back = matrix_to_euler(matrix)
    # angles closer to a pole than 16 float32 epsilons are moved onto it
    np.testing.assert_allclose(euler_to_matrix(back), matrix, atol=4e-6)
    assert np.abs(back[[0, 2]]).max() <= 180
    assert 0 <= back[1] <= 180


@given(st.floats(-180, 180), st.floats(0.01, 179.99), st.floats(-180, 180))
def test_angles_away_from_the_poles_survive_the_way_back(rot, tilt, psi):
    back = matrix_to_euler(euler_to_matrix((rot, tilt, psi)))
    assert np.abs(wrap_deg(back - [rot, tilt, psi])).max() % 360 < 1e-9


@given(EULER, EULER)
def test_the_inverse_of_a_pose_swaps_rot_and_psi(first, second):
    rot, tilt, psi = first
    np.testing.assert_allclose(euler_to_matrix((-psi, -tilt, -rot)), euler_to_matrix(first).T, atol=1e-14)
    both = euler_to_matrix(first) @ euler_to_matrix(second)
    np.testing.assert_allclose(euler_to_matrix(matrix_to_euler(both)), both, atol=4e-6)


@given(POSE, POSE, GROUP, st.integers(0, 59))
def test_distance_is_symmetric_and_blind_to_the_choice_of_copy(a, b, name, chosen):
    group = operators(name)
    distance = float(angular_distance(a, b, group))
    assert 0 <= distance <= 180
    np.testing.assert_allclose(angular_distance(b, a, group), distance, atol=1e-6)
    copy = matrix_to_euler(euler_to_matrix(a) @ group[chosen % len(group)])
    np.testing.assert_allclose(angular_distance(copy, b, group), distance, atol=1e-3)
    assert angular_distance(a, copy, group) < 1e-3


@given(st.integers(0, 10**6), st.booleans(), GROUP, st.integers(0, 59))
def test_the_corrected_prior_is_blind_to_the_choice_of_copy(seed, polar, name, chosen):
    grid = angular_grid(2, name)
    group = operators(name)
    # generic poses: at exact ties between copies or at the cut-off, rounding may choose
    prior = np.random.default_rng(seed).uniform((-180, 0, -180), (180, 5 if polar else 180, 180))
    copy = matrix_to_euler(euler_to_matrix(prior) @ group[chosen % len(group)])
    tables = np.zeros((2, len(grid.directions_deg), len(grid.psi_deg)))
    for table, angles in zip(tables, (prior, copy), strict=True):
        found = local_prior(grid, angles, 11.0, 11.0, 13.0, polar_safe=True)
        table[found.direction_index, found.psi_index] = found.weight
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)


@given(POSE, GROUP, st.floats(0.5, 20.0), st.booleans())
def test_priors_are_distributions_over_distinct_pairs_in_order(prior, name, sigma, polar_safe):
    grid = angular_grid(2, name)
    found = local_prior(grid, prior, sigma, sigma, sigma, polar_safe=polar_safe)
    np.testing.assert_allclose(found.weight.sum(), 1.0, atol=1e-12)
    assert (found.weight > 0).all()
    assert (np.diff(found.direction_index * len(grid.psi_deg) + found.psi_index) > 0).all()


@given(st.floats(0.1, 30.0), st.floats(0.0, 4.0), st.integers(0, 1))
def test_translations_and_their_children_are_symmetric_about_the_origin(step, steps, oversampling):
    grid = translation_grid(steps * step, step)
    children = children_translations(grid, step, oversampling).reshape(-1, 3)
    tolerance = 1e-9 * step
    np.testing.assert_allclose(
        children[np.lexsort(np.round(children.T / step, 6))].sum(axis=0), 0, atol=1e3 * tolerance
    )
    np.testing.assert_allclose(grid, -grid[::-1], atol=tolerance)
    assert len(children) == 8**oversampling * len(grid)
