"""The floors of a machine: what is counted, and that the best repetition counts."""

from __future__ import annotations

import pytest

from kernels import floors as floors_module
from kernels.backend import cpu_backend
from kernels.floors import COLUMNS, INNER, ROWS, STREAM_VALUES, measure_floors


def test_the_shortest_repetition_counts(monkeypatch: pytest.MonkeyPatch):
    hands = iter([5, 9, 20, 22, 30, 33] * 2)  # repetitions of 4, 2 and 3 s
    monkeypatch.setattr(floors_module.time, "thread_time", lambda: next(hands))
    found = measure_floors(cpu_backend(), seconds=0.0)
    assert found.product_flops == 2 * ROWS * INNER * COLUMNS / 2.0
    assert found.bandwidth_bytes == 3 * 4 * STREAM_VALUES / 2.0


def test_double_precision_moves_twice_the_bytes(monkeypatch: pytest.MonkeyPatch):
    hands = iter(range(100))
    monkeypatch.setattr(floors_module.time, "thread_time", lambda: next(hands))
    assert measure_floors(cpu_backend("float64"), seconds=0.0).bandwidth_bytes == 3 * 8 * STREAM_VALUES
