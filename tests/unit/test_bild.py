"""Angular distributions: lines that RELION 3.1.3 drew, and the rules of the drawing."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.orientations import angular_grid
from runner.formats.bild import angular_distribution

SEEN = [6, 35, 43, 61, 63, 67, 80, 88, 94, 100, 116, 118, 123, 127, 148, 149, 161, 177, 185]
DIRECTION_116 = ".color 1 0 0\n.cylinder 220.373 14.2468 133.333 238.485 -29.4792 125.333 10.472\n"
# box 32, 10 A, HEALPix order 2, iteration 1: 20 particles, two of them along direction 116
RELION = """.color 0.63024 0 0.36976
.cylinder 226.256 259.159 266.667 236.194 274.032 282.667 10.472
.color 0.63024 0 0.36976
.cylinder 62.0204 62.0204 240 47.3235 47.3235 252 10.472
.color 0.63024 0 0.36976
.cylinder 69.9044 135.859 290 56.3901 132.238 309.5 10.472
.color 0.63024 0 0.36976
.cylinder 219.077 135.53 306.667 227.938 131.859 328.667 10.472
"""


def test_draws_what_relion_draws() -> None:
    pdf = np.zeros(192)
    pdf[SEEN] = 0.05
    pdf[116] = 0.1
    text = angular_distribution(pdf, angular_grid(2).directions_deg, 160.0, 15.0)
    assert text.startswith(RELION)
    assert DIRECTION_116 in text
    assert text.count(".cylinder") == text.count(".color") == len(SEEN)


def test_a_uniform_distribution_is_one_sixth_red() -> None:
    grid = angular_grid(1)
    text = angular_distribution(np.full(48, 1 / 48), grid.directions_deg, 160.0, 30.0)
    assert text.count(".color 0.166667 0 0.833333\n") == 48


def test_directions_without_particles_and_cylinders_without_length_are_left_out() -> None:
    directions = np.array([[0.0, 0.0], [0.0, 90.0], [90.0, 90.0]])
    assert angular_distribution(np.array([0.0, 1.0, 1e-6]), directions, 100.0, 15.0).count(".cylinder") == 1
    assert angular_distribution(np.zeros(3), directions, 100.0, 15.0) == ""


def test_the_most_probable_direction_is_three_tenths_of_the_radius_long() -> None:
    text = angular_distribution(np.array([0.2, 0.8]), np.array([[0.0, 90.0], [0.0, 0.0]]), 100.0, 7.5)
    corners = np.array([line.split()[1:] for line in text.splitlines() if line.startswith(".cylinder")], dtype=float)
    lengths = np.linalg.norm(corners[:, 3:6] - corners[:, :3], axis=1)
    assert lengths == pytest.approx([7.5, 30.0])
