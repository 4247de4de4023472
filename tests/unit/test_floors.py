"""The floors of a machine: what is counted, and that the best repetition counts."""

from __future__ import annotations

import pytest

from kernels import floors as floors_module
from kernels.backend import cpu_backend
from kernels.floors import COLUMNS, INNER, ROWS, STREAM_VALUES, measure_floors


def test_the_shortest_repetition_counts(monkeypatch: pytest.MonkeyPatch):
    # start, check, repetitions that last 4 s, 2 s and 3 s with checks between them; the same for the second floor
    once = [0, 1, 5, 6, 7, 9, 9.5, 10, 13, 99]
    hands = iter([*once, *once])
    monkeypatch.setattr(floors_module.time, "perf_counter", lambda: next(hands))
    found = measure_floors(cpu_backend(), seconds=20.0)
    assert found.product_flops == 2 * ROWS * INNER * COLUMNS / 2.0
    assert found.bandwidth_bytes == 3 * 4 * STREAM_VALUES / 2.0


def test_double_precision_moves_twice_the_bytes(monkeypatch: pytest.MonkeyPatch):
    hands = iter([0, 1, 2, 99] * 2)
    monkeypatch.setattr(floors_module.time, "perf_counter", lambda: next(hands))
    assert measure_floors(cpu_backend("float64"), seconds=5.0).bandwidth_bytes == 3 * 8 * STREAM_VALUES
