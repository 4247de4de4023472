"""Spherical masks, background filling, solvent flattening."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import masks


def test_soft_sphere_is_one_inside_zero_outside_and_half_in_the_middle_of_the_edge():
    sphere = masks.soft_sphere(32, 8.0, 4.0)
    assert sphere[16, 16, 16 + 7] == 1.0
    assert sphere[16, 16, 16 + 8] == pytest.approx(1.0)
    assert sphere[16, 16 - 10, 16] == pytest.approx(0.5)
    assert sphere[16 + 12, 16, 16] == pytest.approx(0.0)
    assert sphere[16 + 13, 16, 16] == 0.0


def test_soft_sphere_without_an_edge_is_binary():
    sphere = masks.soft_sphere(16, 5.0, 0.0)
    assert set(np.unique(sphere)) == {0.0, 1.0}
    assert sphere[8, 8, 13] == 1.0


def test_filling_puts_the_weighted_mean_of_the_outside_there():
    volume = np.random.default_rng(1).normal(3.0, 1.0, (16, 16, 16))
    sphere = masks.soft_sphere(16, 4.0, 3.0)
    filled = masks.fill_background(volume, sphere)
    background = np.average(volume, weights=1.0 - sphere)
    assert np.array_equal(filled[sphere == 1.0], volume[sphere == 1.0])
    assert filled[sphere == 0.0] == pytest.approx(background)
    edge = (sphere > 0.0) & (sphere < 1.0)
    assert filled[edge] == pytest.approx((sphere * volume + (1.0 - sphere) * background)[edge])


def test_filling_with_another_volume_takes_its_voxels():
    rng = np.random.default_rng(2)
    volume, noise = rng.normal(size=(2, 16, 16, 16))
    sphere = masks.soft_sphere(16, 4.0, 3.0)
    filled = masks.fill_background(volume, sphere, noise)
    assert np.array_equal(filled[sphere == 0.0], noise[sphere == 0.0])
    assert np.array_equal(filled[sphere == 1.0], volume[sphere == 1.0])


def test_a_sphere_larger_than_the_box_leaves_no_background():
    with pytest.raises(ValueError, match="no background"):
        masks.fill_background(np.ones((8, 8, 8)), masks.soft_sphere(8, 20.0, 3.0))


def test_flattening_multiplies_and_the_second_mask_replaces_by_a_mean():
    volume = np.random.default_rng(3).normal(2.0, 1.0, (8, 8, 8))
    mask = masks.soft_sphere(8, 3.0, 1.0)
    assert np.array_equal(masks.flatten_solvent(volume, mask), volume * mask)
    inner = np.zeros((8, 8, 8))
    inner[3:5, 3:5, 3:5] = 1.0
    flattened = masks.flatten_solvent(volume, mask, inner)
    assert flattened[3:5, 3:5, 3:5] == pytest.approx(volume[3:5, 3:5, 3:5].mean())
    assert np.array_equal(flattened[inner == 0.0], (volume * mask)[inner == 0.0])
    assert np.array_equal(masks.flatten_solvent(volume, mask, np.zeros((8, 8, 8))), volume * mask)
