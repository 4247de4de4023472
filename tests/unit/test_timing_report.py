"""`tomoburst report --timing`: from a recorded log to seconds, shares and the distance to the floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner import cli
from runner.report.timing import iteration_rows, read_timings, stage_rows, stage_totals

FACTS: dict[str, Any] = {
    "particles": 10, "resolution_angst": 64.0, "current_size_px": 30, "healpix_order": 2, "angular_step_deg": 7.5,
    "offset_range_angst": 50.0, "offset_step_angst": 20.0, "local": False,
}  # fmt: skip
STAGES = {"first_pass": 3.0, "sample": 0.75, "poses": 0.25}
OPERATIONS = {"particles": 10, "gemm_flops": 150_000_000_000, "samples": 500_000_000}
DRIVER = {"references": 0.5, "accuracy": 0.5, "expectation": 5.0, "maximization": 2.0}


def started(iteration: int, second: int, **changes: Any) -> str:
    """The line of an iteration that starts at ``second``."""
    return line("iteration_started", second, iteration=iteration, **{**FACTS, **changes})


def finished(iteration: int, second: int, **changes: Any) -> str:
    """The line of an iteration that ends at ``second``."""
    given = {"stages": STAGES, "operations": OPERATIONS, "driver": DRIVER, **changes}
    return line("iteration_finished", second, iteration=iteration, resolution_angst=50.0, **given)


def line(name: str, second: int, **values: Any) -> str:
    """One line of a log."""
    return json.dumps({"time": f"2026-11-22T20:09:{second:02d}.000Z", "event": name, **values})


LOG = [
    line("run_started", 0, command="refine"),
    started(1, 1),
    finished(1, 9),
    started(2, 10, local=True, angular_step_deg=1.875),
]


def test_the_drivers_seconds_count_and_an_iteration_that_is_not_finished_does_not():
    (timing,) = read_timings(LOG)
    assert timing.seconds == 8.0
    assert (timing.iteration, timing.particles, timing.local, timing.current_size_px) == (1, 10, False, 30)
    assert timing.stages == STAGES


def test_a_log_without_the_drivers_seconds_tells_the_time_between_its_lines():
    (timing,) = read_timings([started(1, 1), finished(1, 12, driver={}, stages={}, operations={})])
    assert timing.seconds == 11.0


def test_of_an_iteration_that_was_repeated_after_a_break_the_last_time_counts():
    again = [started(1, 20), finished(1, 25, driver={"expectation": 4.0})]
    (timing,) = read_timings([*LOG[:3], *again])
    assert timing.seconds == 4.0


def test_stages_are_held_against_the_floors():
    timings = read_timings([*LOG, finished(2, 18)])
    first_pass, sample, poses = stage_totals(timings, product_flops=100e9, bandwidth_bytes=10e9)
    assert [each.stage for each in (first_pass, sample, poses)] == ["first_pass", "sample", "poses"]
    assert first_pass.seconds == 6.0
    assert first_pass.share == pytest.approx(0.75)
    assert first_pass.floor_seconds == pytest.approx(3.0)
    assert first_pass.of_floor == pytest.approx(0.5)
    assert sample.floor_seconds == pytest.approx(2 * 500e6 * 8 / 10e9)
    assert poses.floor_seconds is None
    assert poses.of_floor is None


def test_rows_of_the_tables():
    timings = read_timings([*LOG, finished(2, 18)])
    rows = iteration_rows(timings)
    assert rows[0][:5] == ["1", "global 7.5 deg", "30", "8", "800"]
    assert rows[1][1] == "local 1.88 deg"
    assert rows[0][5] == "first_pass 75, sample 19, poses 6"
    totals = stage_rows(stage_totals(timings, 100e9, 10e9))
    assert totals[0] == ["first_pass", "6", "75.0 %", "3e+11 gemm_flops", "3", "50 %"]
    assert totals[2][3:] == ["", "", ""]


def test_the_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "run_events.jsonl").write_text("\n".join(LOG) + "\n")
    assert cli.run(["report", "--timing", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["iterations"][0]["seconds"] == 8.0
    assert report["stages"][0]["stage"] == "first_pass"
    assert report["floors_of_this_machine_now"]["product_flops"] > 0


def test_the_report_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "run_events.jsonl").write_text("\n".join([*LOG, finished(2, 18)]) + "\n")
    assert cli.run(["report", "--timing", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "first_pass" in printed
    assert "16 s in 2 iterations" in printed


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (None, 3, "run_events.jsonl"),
        ("\n".join(LOG[:2]), 3, "no iteration is finished yet"),
        ("not json", 3, "no events of a refinement"),
    ],
)
def test_logs_that_tell_nothing(
    tmp_path: Path, content: str | None, code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    if content is not None:
        (tmp_path / "run_events.jsonl").write_text(content)
    assert cli.run(["report", "--timing", str(tmp_path / "run")]) == code
    assert message in capsys.readouterr().err


def test_the_prefix_is_needed(capsys: pytest.CaptureFixture[str]):
    assert cli.run(["report"]) == 2
    assert "--timing is missing" in capsys.readouterr().err
