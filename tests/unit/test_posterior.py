"""Significant points: the fewest that carry the fraction, ties kept, nothing that was not tried."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kernels.posterior import significant, winner

log_weights = st.lists(st.one_of(st.floats(-80, 80), st.just(-np.inf), st.integers(-3, 3).map(float)), max_size=60)
fractions = st.floats(0.01, 0.9999)


def brute_weights(values: np.ndarray) -> np.ndarray:
    """Normalised weights."""
    weights = np.exp(values - values.max())
    return weights / weights.sum()


@given(log_weights, fractions)
def test_the_kept_points_exceed_the_fraction_and_none_can_be_spared(values, fraction):
    values = np.array(values)
    assume(np.isfinite(values).any())
    found, weights = significant(values, fraction, -1), brute_weights(values)
    assert np.array_equal(found.index, np.unique(found.index))
    assert found.weight == pytest.approx(weights[found.index])
    assert found.weight.sum() >= fraction * (1 - 1e-9)
    heaviest = np.sort(weights)[::-1][: found.count]
    assert heaviest.sum() >= fraction * (1 - 1e-9)
    assert heaviest[:-1].sum() <= fraction * (1 + 1e-9)


@given(log_weights, fractions)
def test_every_point_as_heavy_as_a_kept_one_is_kept_and_none_that_was_not_tried(values, fraction):
    values = np.array(values)
    assume(np.isfinite(values).any())
    found = significant(values, fraction, -1)
    least = values[found.index].min()
    assert np.array_equal(found.index, np.flatnonzero(np.exp(values - values.max()) >= np.exp(least - values.max())))
    assert np.isfinite(values[found.index]).all()
    assert found.count <= len(found.index)


@given(log_weights, fractions, st.integers(1, 5))
def test_a_cap_keeps_the_heaviest_and_their_ties(values, fraction, most):
    values = np.array(values)
    assume(np.isfinite(values).any())
    capped, free = significant(values, fraction, most), significant(values, fraction, -1)
    assert capped.count == min(free.count, most)
    threshold = np.sort(values)[::-1][capped.count - 1]
    assert set(np.flatnonzero(values > threshold)) <= set(capped.index)
    assert set(capped.index) <= set(free.index)
    weights = brute_weights(values)
    assert capped.weight == pytest.approx(weights[capped.index])


@given(log_weights, fractions)
def test_the_best_point_and_the_sum(values, fraction):
    values = np.array(values)
    assume(np.isfinite(values).any())
    found, weights = significant(values, fraction, -1), brute_weights(values)
    assert weights[found.best] == weights.max()
    assert values[found.best] >= values.max() - 1e-15 * max(1.0, abs(values.max()))
    assert found.best in found.index
    assert found.best_weight == pytest.approx(weights.max())
    assert found.log_sum == pytest.approx(np.logaddexp.reduce(values), abs=1e-9)


@given(log_weights, fractions, st.floats(-1e4, 1e4))
def test_a_constant_moves_the_sum_alone(values, fraction, constant):
    values = np.round(np.array(values), 6)
    assume(np.isfinite(values).any())
    constant = round(constant)
    found, moved = significant(values, fraction, -1), significant(values + constant, fraction, -1)
    assert moved.log_sum == pytest.approx(found.log_sum + constant)
    assert moved.best_weight == pytest.approx(found.best_weight)


def test_ties_of_the_last_point_are_kept_but_not_counted():
    found = significant(np.log([1.0, 4.0, 1.0, 1.0, 3.0]), 0.75, -1)
    # 4 + 3 of 10 do not exceed three quarters, one more does, and two weigh the same
    assert found.count == 3
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert found.best == 1
    assert found.weight == pytest.approx([0.1, 0.4, 0.1, 0.1, 0.3])


def test_the_fraction_has_to_be_exceeded_not_reached():
    assert significant(np.zeros(4), 0.5, -1).count == 3
    assert significant(np.array([0.0, -np.inf, 0.0]), 0.49, -1).count == 1


def test_the_first_of_equal_points_is_the_best():
    assert significant(np.array([-np.inf, 2.0, 2.0]), 0.9, -1).best == 1
    assert winner(np.array([3.0, -1.0, -1.0])).best == 1


def test_far_points_do_not_overflow():
    found = significant(np.array([-5000.0, 5000.0, 4999.0]), 0.999, -1)
    assert found.index.tolist() == [1, 2]
    assert found.log_sum == pytest.approx(5000.0 + np.log1p(np.exp(-1.0)))


def test_single_precision_weights_are_summed_in_double_precision():
    found = significant(np.zeros(10**6, dtype=np.float32), 0.5, -1)
    assert found.weight.dtype == np.float64
    assert found.weight.sum() == pytest.approx(1.0, rel=1e-12)
    assert found.count == 500_001


@pytest.mark.parametrize("values", [[-np.inf, -np.inf], [np.nan, 1.0], [np.inf, 0.0]])
def test_no_finite_weight_is_an_error(values: list[float]):
    with pytest.raises(FloatingPointError, match="no orientation"):
        significant(np.array(values), 0.999, -1)


def test_the_winner_takes_all():
    found = winner(np.array([0.5, np.inf, -0.25, 0.0]))
    assert found.index.tolist() == [2]
    assert found.weight.tolist() == [1.0]
    assert (found.count, found.best, found.best_weight, found.log_sum) == (1, 2, 1.0, 0.25)


@pytest.mark.parametrize("values", [[np.nan, 0.0], [np.inf, np.inf]])
def test_no_finite_score_is_an_error(values: list[float]):
    with pytest.raises(FloatingPointError, match="no orientation"):
        winner(np.array(values))
