"""RELION's random numbers: the C library's generator, and the values RELION 3.1.3 drew with ``--random_seed 7``."""

from __future__ import annotations

import ctypes
import ctypes.util

import numpy as np
import pytest

from runner.plan.glibc_random import (
    RAND_MAX,
    GlibcRandom,
    initial_perturbation,
    next_perturbation,
    processing_order,
    random_classes,
    random_subsets,
)

# rlnSamplingPerturbInstance of iterations 0 to 9 of an auto-refinement with --random_seed 7
RELION_PERTURBATIONS = [
    0.460047,
    -0.20176,
    0.099979,
    0.491431,
    -0.02698,
    0.419418,
    -0.17242,
    0.327453,
    -0.33380,
    -0.02994,
]
# rlnRandomSubset of the same run, 40 particles
RELION_SUBSETS = "2222221212222121111112112121212111122121"


def test_the_first_numbers_of_seed_one_are_the_known_ones() -> None:
    generator = GlibcRandom(1)
    assert [generator.rand() for _ in range(3)] == [1804289383, 846930886, 1681692777]


@pytest.mark.parametrize("seed", [0, 1, 7, -1, 42, 2**31 - 1, 2**31, 2**32 - 5, 2**40 + 3])
def test_numbers_are_those_of_the_c_library(seed: int) -> None:
    name = ctypes.util.find_library("c")
    if name is None or not name.startswith("libc.so.6"):
        pytest.skip("the C library here is not glibc")
    libc = ctypes.CDLL(name)
    libc.srand(ctypes.c_uint(seed & 0xFFFFFFFF))
    generator = GlibcRandom(seed)
    assert [generator.rand() for _ in range(500)] == [libc.rand() for _ in range(500)]


def test_uniform_stays_in_its_range() -> None:
    generator = GlibcRandom(3)
    values = np.array([generator.uniform(2.0, 5.0) for _ in range(500)])
    assert values.min() >= 2.0
    assert values.max() <= 5.0
    assert values.mean() == pytest.approx(3.5, abs=0.2)
    assert RAND_MAX == 2**31 - 1


def test_subsets_are_relions() -> None:
    assert "".join(map(str, random_subsets(40, 7))) == RELION_SUBSETS


def test_perturbations_are_relions() -> None:
    value = initial_perturbation(0.5)
    drawn = [value]
    for iteration in range(1, 10):
        value = next_perturbation(value, 0.5, 7, iteration)
        drawn.append(value)
    assert drawn == pytest.approx(RELION_PERTURBATIONS, abs=6e-6)


def test_no_perturbation_without_a_factor() -> None:
    assert initial_perturbation(0.0) == 0.0
    assert next_perturbation(0.3, 0.0, 7, 4) == 0.0


@pytest.mark.parametrize(
    ("seed", "classes", "relion"),
    [(1, 3, "221222121313"), (3, 2, "112112222222"), (100, 3, "231311331312"), (7, 2, "112222112122")],
)
def test_first_classes_are_relions(seed: int, classes: int, relion: str) -> None:
    # rlnClassNumber after the first iteration of relion_refine --K, one reference, 12 particles
    order = processing_order(np.arange(12), seed, 1)
    assert "".join(map(str, random_classes(order, classes, seed))) == relion


@pytest.mark.parametrize(("classes", "relion"), [(2, "222121122212"), (3, "211221323212")])
def test_order_is_shuffled_again_in_every_iteration(classes: int, relion: str) -> None:
    # with --firstiter_cc the classes are drawn in iteration 2
    order = processing_order(processing_order(np.arange(12), 3, 1), 3, 2)
    assert "".join(map(str, random_classes(order, classes, 3))) == relion


def test_processing_order_keeps_halves_and_optics_groups_together() -> None:
    subsets, optics = np.array([2, 1, 1, 2, 1, 2, 2]), np.array([0, 1, 0, 0, 1, 1, 0])
    order = processing_order(np.arange(7), 5, 1, subsets)
    assert sorted(order) == list(range(7))
    assert subsets[order].tolist() == [1, 1, 1, 2, 2, 2, 2]
    grouped = processing_order(np.arange(7), 5, 1, subsets, optics)
    assert subsets[grouped].tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert optics[grouped].tolist() == [0, 1, 1, 0, 0, 0, 1]
