"""The grid of translations: which points, in which order, and their children."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.translations import children_translations, perturb_translations, translation_grid


@pytest.mark.parametrize(
    ("range_px", "step_px", "count"),
    [(5, 2, 81), (6, 2, 123), (3, 1, 123), (4, 1, 257), (5, 1, 515), (6, 1, 925), (2, 1, 33), (1.5, 1, 19), (0, 1, 1)],
)
@pytest.mark.parametrize("voxel_size", [1.0, 2.5, 8.0])
def test_numbers_of_translations(range_px, step_px, count, voxel_size):
    assert translation_grid(range_px * voxel_size, step_px * voxel_size).shape == (count, 3)


def test_points_on_the_sphere_follow_the_rounding_of_doubles():
    # the squares of 3 * 0.1 and of 0.2, 0.2, 0.1 sum to a little more than 0.3 * 0.3; steps of 0.5 are exact
    assert len(translation_grid(0.3, 0.1)) == 123 - 6 - 24
    assert len(translation_grid(1.5, 0.5)) == 123


def test_x_is_the_slowest_axis_and_z_the_fastest():
    grid = translation_grid(6.0, 2.0)
    order = np.lexsort((grid[:, 2], grid[:, 1], grid[:, 0]))
    assert np.array_equal(order, np.arange(len(grid)))
    assert np.array_equal(grid[len(grid) // 2], [0, 0, 0])
    assert np.array_equal(grid[0], [-6, 0, 0])


@pytest.mark.parametrize(
    ("range_angst", "step_angst"), [(5.0, 0.0), (5.0, -1.0), (-1.0, 1.0), (np.nan, 1.0), (5.0, np.nan)]
)
def test_impossible_grids_are_refused(range_angst, step_angst):
    with pytest.raises(ValueError, match="offset step must be positive"):
        translation_grid(range_angst, step_angst)


def test_children_lie_at_the_centres_of_the_parts_of_a_cell():
    parents = np.array([[10.0, 20.0, 30.0], [0.0, -4.0, 4.0]])
    children = children_translations(parents, 4.0, 1)
    assert children.shape == (2, 8, 3)
    offsets = [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    np.testing.assert_allclose(children - parents[:, None], np.broadcast_to(offsets, (2, 8, 3)))
    finest = children_translations(parents, 4.0, 2)[0] - parents[0]
    np.testing.assert_allclose(np.unique(finest), [-1.5, -0.5, 0.5, 1.5])


def test_without_oversampling_a_translation_is_its_own_child():
    parents = translation_grid(7.3, 2.1)
    assert np.array_equal(children_translations(parents, 2.1, 0)[:, 0], parents)


def test_the_perturbation_moves_every_axis_alike():
    np.testing.assert_allclose(perturb_translations([[1.0, 2.0, 3.0]], -0.25, 4.0), [[0.0, 1.0, 2.0]])
