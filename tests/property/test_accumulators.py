"""The sums of the E-step form a commutative monoid, so units may be computed anywhere and merged in a fixed order."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.accumulators import Accumulators

SHAPE = {"classes": 2, "groups": 3, "directions": 5, "box": 8, "r_max": 2, "pad": 2}
NAMES = [field.name for field in fields(Accumulators)]
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> Accumulators:
    """Sums of widely different size."""
    rng, sums = np.random.default_rng(seed), Accumulators.zeros(**SHAPE)
    for name in NAMES:
        array = getattr(sums, name)
        array += rng.normal(size=array.shape) * 10.0 ** rng.integers(-6, 7, size=array.shape)
        if np.iscomplexobj(array):
            array += 1j * rng.normal(size=array.shape)
    return sums


def equal(one: Accumulators, other: Accumulators) -> bool:
    """Whether all sums are the same to the bit."""
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in NAMES)


@settings(max_examples=20)
@given(seeds)
def test_zeros_are_the_neutral_element_and_merging_is_in_place(seed):
    sums = drawn(seed)
    before = deepcopy(sums)
    assert sums.merge(Accumulators.zeros(**SHAPE)) is sums
    assert equal(sums, before)
    assert equal(Accumulators.zeros(**SHAPE).merge(sums), before)


@settings(max_examples=20)
@given(seeds, seeds)
def test_two_sums_merge_to_the_same_in_either_order_and_the_second_stays(first, second):
    other = drawn(second)
    assert equal(drawn(first).merge(other), drawn(second).merge(drawn(first)))
    assert equal(other, drawn(second))


@settings(max_examples=20)
@given(st.lists(seeds, min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_any_order_and_grouping_agrees_up_to_rounding(numbers, random):
    in_order = Accumulators.zeros(**SHAPE)
    scale = {name: np.zeros(getattr(in_order, name).shape) for name in NAMES}
    for number in numbers:
        in_order.merge(drawn(number))
        for name in NAMES:
            scale[name] += np.abs(getattr(drawn(number), name))
    pool = [drawn(number) for number in numbers]
    while len(pool) > 1:
        random.shuffle(pool)
        pool.append(pool.pop().merge(pool.pop()))
    for name in NAMES:
        assert (np.abs(getattr(pool[0], name) - getattr(in_order, name)) <= 1e-14 * scale[name]).all(), name


def test_shapes_follow_from_the_numbers():
    sums = Accumulators.zeros(**SHAPE)
    assert sums.data_rft.shape == (2, 11, 11, 6)
    assert sums.data_rft.dtype == np.complex128
    assert sums.weight_rft.shape == sums.data_rft.shape
    assert sums.sigma2_noise.shape == (3, 5)
    assert sums.pdf_direction.shape == (2, 5)
    assert all(not getattr(sums, name).any() for name in NAMES)
