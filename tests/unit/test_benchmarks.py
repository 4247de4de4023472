from __future__ import annotations

import pytest

from tests.benchmarks.paired import Case, Measured, rows
from tests.benchmarks.processes import Timing, leader_cpu_s, timed


def test_a_process_over_its_limit_is_stopped(tmp_path):
    assert timed(["sh", "-c", "sleep 600 & wait"], tmp_path, limit_s=0.2).stopped
    assert not timed(["true"], tmp_path).stopped


def test_a_failing_process_shows_the_end_of_its_output(tmp_path):
    with pytest.raises(RuntimeError, match="no such particle"):
        timed(["sh", "-c", "echo no such particle; exit 3"], tmp_path)


def test_the_leader_is_told_from_the_workers(tmp_path):
    (tmp_path / "times.txt").write_text("0m0.00s 0m0.01s\n1m12.50s 0m2.49s\n")
    assert leader_cpu_s(tmp_path / "times.txt") == pytest.approx(75.0)
    assert leader_cpu_s(tmp_path / "none.txt") == 0.0


def test_rows_compare_medians_and_say_what_is_a_bound():
    ours = [Timing(2.0, 3.0), Timing(2.0, 3.0), Timing(4.0, 3.0)]
    finished = [Timing(80.0, 165.0, 15.0), Timing(60.0, 165.0, 15.0), Timing(90.0, 165.0, 15.0)]
    measured = Measured(
        Timing(20.0, 20.0), ours, {"3.1.3": finished, "5": [Timing(200.0, 0.1, stopped=True)] * 3}, [0.25]
    )
    whole, bound = rows("global, order 2, box 64", Case("", 24, box=64), measured)
    compared = ["2.0 / 80.0", "40.0 (22.5–40.0)", "3.0 / 150.0", "50.0 (50.0–50.0)", "15.0", "20.0", "2.5e-01"]
    assert whole == f"| {' | '.join(['global, order 2', '64', '24', 'RELION 3.1.3', *compared])} |"
    assert bound.endswith("| RELION 5 | 2.0 / > 200.0 | > 100.0 (50.0–100.0) | 3.0 / – | – | – | 20.0 | – |")
