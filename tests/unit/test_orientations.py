"""Euler angles, HEALPix directions, their children and the perturbation."""

from __future__ import annotations

import healpix
import numpy as np
import pytest

from kernels.healpix_nest import largest_pixel_radius_deg, pixel_centres
from kernels.orientations import (
    angular_distance,
    angular_grid,
    angular_step_deg,
    children_directions,
    children_psi,
    euler_to_matrix,
    matrix_to_euler,
    perturb,
    wrap_deg,
)
from kernels.symmetry import direction_vectors, operators, rotation_about


def test_a_matrix_is_the_product_of_three_rotations():
    rot, tilt, psi = 25.0, 70.0, -140.0
    expected = rotation_about((0, 0, 1), -psi) @ rotation_about((0, 1, 0), -tilt) @ rotation_about((0, 0, 1), -rot)
    np.testing.assert_allclose(euler_to_matrix((rot, tilt, psi)), expected, atol=1e-15)


def test_the_third_row_is_the_viewing_direction():
    matrix = euler_to_matrix((30.0, 60.0, 45.0))
    np.testing.assert_allclose(matrix[2], direction_vectors(30.0, 60.0), atol=1e-15)
    np.testing.assert_allclose(matrix[2], [0.75, np.sqrt(3) / 4, 0.5], atol=1e-15)


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ((20.0, 0.0, 30.0), (0.0, 0.0, 50.0)),
        ((20.0, 180.0, 30.0), (0.0, 180.0, 10.0)),
        ((20.0, 1e-5, 30.0), (0.0, 0.0, 50.0)),
        ((20.0, 179.99999, 30.0), (0.0, 180.0, 10.0)),
        ((20.0, 1e-3, 30.0), (20.0, 1e-3, 30.0)),
        ((0.0, 0.0, 180.0), (0.0, 0.0, 180.0)),
        ((180.0, 90.0, 180.0), (180.0, 90.0, 180.0)),
        ((10.0, -40.0, 20.0), (-170.0, 40.0, -160.0)),
        ((370.0, 40.0, 380.0), (10.0, 40.0, 20.0)),
    ],
)
def test_angles_of_a_matrix_near_and_at_the_poles(angles, expected):
    np.testing.assert_allclose(matrix_to_euler(euler_to_matrix(angles)), expected, atol=1e-9)


def test_wrapping_keeps_180_and_moves_minus_180():
    np.testing.assert_array_equal(wrap_deg([180.0, -180.0, 190.0, 540.0, -190.0, 0.0]), [180, 180, -170, 180, 170, 0])


@pytest.mark.parametrize("order", range(8))
def test_pixel_centres_are_those_of_the_healpix_package(order):
    count = 12 * 4**order
    pixels = np.arange(count) if order < 6 else np.random.default_rng(order).integers(0, count, 5000)
    theta, phi = healpix.pix2ang(2**order, pixels, nest=True)
    rot, tilt = pixel_centres(order, pixels).T
    np.testing.assert_allclose(tilt, np.rad2deg(theta), atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * np.deg2rad(rot)), np.exp(1j * phi), atol=1e-12)
    assert rot.min() > -180
    assert rot.max() <= 180


def test_the_largest_pixel_radius_bounds_every_child():
    for order in range(4):
        grid = angular_grid(order)
        children = children_directions(grid, np.arange(len(grid.pixel_index)), 4)
        cosine = np.einsum("dci,di->dc", direction_vectors(children[..., 0], children[..., 1]), grid.vectors)
        farthest = np.rad2deg(np.arccos(cosine.min()))
        assert 0.8 * largest_pixel_radius_deg(order) < farthest < largest_pixel_radius_deg(order)


@pytest.mark.parametrize(
    ("symmetry", "orientations"),
    [
        ("C1", (576, 4608, 36864)), ("C2", (288, 2304, 18432)), ("C3", (168, 1440, 11904)), ("C4", (144, 1152, 9216)),
        ("C7", (60, 576, 5088)), ("D2", (144, 1152, 9216)), ("D3", (96, 792, 6192)), ("D4", (72, 576, 4608)),
        ("D7", (36, 312, 2544)), ("T", (36, 336, 2832)), ("O", (12, 168, 1536)), ("I1", (12, 72, 576)),
        ("I2", (0, 48, 528)), ("I3", (0, 96, 576)), ("I4", (12, 48, 528)),
    ],
)  # fmt: skip
def test_numbers_of_orientations_are_those_of_relion(symmetry, orientations):
    for order, count in enumerate(orientations, start=1):
        if count == 0:
            with pytest.raises(ValueError, match=f"no direction of HEALPix order {order}.*use a higher order"):
                angular_grid(order, symmetry)
        else:
            grid = angular_grid(order, symmetry)
            assert len(grid.directions_deg) * len(grid.psi_deg) == count


def test_the_grid_describes_itself():
    grid = angular_grid(2, "i")
    assert grid.symmetry == "I2"
    np.testing.assert_array_equal(grid.directions_deg, pixel_centres(2, grid.pixel_index))
    np.testing.assert_array_equal(grid.psi_deg, np.arange(24) * 15.0)
    assert grid.psi_step_deg == angular_step_deg(2) == angular_step_deg(1, 1) == 15.0
    np.testing.assert_allclose(np.linalg.norm(grid.vectors, axis=1), 1.0)


def test_a_psi_step_becomes_a_divisor_of_the_circle():
    grid = angular_grid(1, psi_step_deg=7.0)
    assert len(grid.psi_deg) == 52
    assert grid.psi_step_deg == pytest.approx(360 / 52)


@pytest.mark.parametrize("limit", [30.0, -40.0])
def test_a_tilt_limit_keeps_side_or_top_views(limit):
    folded = 90 - np.abs(angular_grid(3, limit_tilt_deg=limit).directions_deg[:, 1] - 90)
    everything = 90 - np.abs(angular_grid(3).directions_deg[:, 1] - 90)
    kept = everything >= 30 if limit > 0 else everything <= 40
    np.testing.assert_array_equal(folded, everything[kept])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"healpix_order": -1}, "healpix order must be 0 or more"),
        ({"healpix_order": 2, "psi_step_deg": 0.0}, "psi step must be positive"),
        ({"healpix_order": 2, "symmetry": "I7"}, "unknown symmetry group 'I7'"),
        ({"healpix_order": 0, "limit_tilt_deg": 91.0}, "wider tilt limit"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        angular_grid(**arguments)


@pytest.mark.parametrize("oversampling", [0, 1, 2, 3])
def test_children_are_the_fine_pixels_of_a_pixel_with_rows_outer(oversampling):
    grid = angular_grid(2, "C3")
    chosen = np.array([[5, 0], [17, 33]])
    children = children_directions(grid, chosen, oversampling)
    count = 2**oversampling
    assert children.shape == (2, 2, count**2, 2)
    rot, tilt = np.deg2rad(children[..., 0]), np.deg2rad(children[..., 1])
    found = healpix.ang2pix(4 * count, tilt, rot % (2 * np.pi), nest=True)
    morton = [
        sum((x >> b & 1) << 2 * b | (y >> b & 1) << 2 * b + 1 for b in range(4))
        for y in range(count)
        for x in range(count)
    ]
    np.testing.assert_array_equal(found, grid.pixel_index[chosen][..., None] * count**2 + np.array(morton))


def test_children_of_psi_are_centred_on_it():
    grid = angular_grid(2)
    np.testing.assert_allclose(children_psi(grid, [0, 3], 1), [[-3.75, 3.75], [41.25, 48.75]])
    np.testing.assert_allclose(children_psi(grid, 2, 2), 30 + np.array([-5.625, -1.875, 1.875, 5.625]))
    np.testing.assert_array_equal(children_psi(grid, [0, 3], 0), [[0.0], [45.0]])


def test_the_perturbation_turns_the_reference():
    matrices = euler_to_matrix(np.random.default_rng(0).uniform(-180, 180, (4, 5, 3)))
    turned = perturb(matrices, 0.25, 15.0)
    np.testing.assert_allclose(turned, matrices @ euler_to_matrix((3.75, 3.75, 3.75)), atol=1e-15)
    np.testing.assert_array_equal(perturb(matrices, 0.0, 15.0), matrices)


def test_distance_is_the_mean_angle_between_axes():
    # a turn about z by 30 degrees moves the x and y axes by 30 and z not at all
    assert angular_distance((0, 0, 0), (30, 0, 0), operators("C1")) == pytest.approx(20.0)
    assert angular_distance((10, 50, 20), (10, 50, 20), operators("C1")) == pytest.approx(0.0, abs=1e-5)
    assert angular_distance((0, 0, 0), (110, 0, 0), operators("C3")) == pytest.approx(20 / 3)


def test_distances_of_many_particles_at_once():
    angles = np.random.default_rng(1).uniform(-180, 180, (2, 7, 3))
    group = operators("O")
    together = angular_distance(angles[0], angles[1], group)
    assert together.shape == (7,)
    np.testing.assert_array_equal(together, [angular_distance(a, b, group) for a, b in zip(*angles, strict=True)])
