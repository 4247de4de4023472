"""The clock of a work unit: every moment counts for one stage; timings change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.backend import cpu_backend
from kernels.clock import STAGES, Clock
from kernels.expectation import expectation
from kernels.likelihood import Rules
from tests.unit.test_expectation import MASK, problem, tiny_particles


def test_an_inner_stage_stops_the_outer_one_and_the_rest_counts_for_none():
    seconds = [100.0]
    clock = Clock(lambda: seconds[0])
    with clock.stage("outer"):
        seconds[0] += 1.0
        with clock.stage("inner"):
            seconds[0] += 20.0
        seconds[0] += 4.0
    seconds[0] += 300.0
    with clock.stage("inner"):
        seconds[0] += 50.0
    assert clock.seconds == {"outer": 5.0, "inner": 70.0}


def test_a_stage_that_fails_is_counted_and_closed():
    seconds = [100.0]
    clock = Clock(lambda: seconds[0])

    def fail() -> None:
        with clock.stage("failing"):
            seconds[0] += 2.0
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    seconds[0] += 2.0
    with clock.stage("next"):
        seconds[0] += 1.0
    assert clock.seconds == {"failing": 2.0, "next": 1.0}


def test_operations_add_up():
    clock = Clock()
    clock.count("samples", 3)
    clock.count("samples", 4)
    assert clock.counts == {"samples": 7}


@pytest.mark.parametrize("case", ["global", "local"])
def test_an_e_step_fills_every_stage_and_comes_out_the_same(case: str):
    model, search = problem(case)
    clock, backend = Clock(), cpu_backend("float64")
    timed, _ = expectation(tiny_particles(), model, search, MASK, Rules(), backend, clock)
    again, _ = expectation(tiny_particles(), model, search, MASK, Rules(), backend)
    assert set(clock.seconds) == set(STAGES)
    assert clock.counts["particles"] == 3
    assert min(clock.counts.values()) > 0
    assert backend.clock.seconds == {}
    np.testing.assert_array_equal(timed.data_rft, again.data_rft)
