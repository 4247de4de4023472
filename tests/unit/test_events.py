"""Events: records reach every sink in order, as JSON lines or as bars."""

from __future__ import annotations

import io
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from runner.report.events import (
    Event,
    Events,
    IterationFinished,
    IterationStarted,
    Noted,
    ParticleSetAside,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SchedulerBack,
    SchedulerLost,
    StageStarted,
    StoreRetried,
    StragglerDuplicated,
    UnitFinished,
    UnitRetried,
    Warned,
    WorkerJoined,
    WorkerLost,
)
from runner.report.logs import JsonLog, JsonStream, json_line, open_log
from runner.report.progress import open_events, progress_sink
from runner.report.table import print_table
from runner.report.terminal import TerminalProgress
from runner.store import retry

STARTED = IterationStarted(
    iteration=3,
    particles=40,
    resolution_angst=24.6,
    current_size_px=26,
    healpix_order=2,
    angular_step_deg=7.5,
    offset_range_angst=50.0,
    offset_step_angst=20.0,
)
FINISHED = IterationFinished(iteration=3, resolution_angst=22.9, changes_angles_deg=1.5, accuracy_rotation_deg=999.0)
RUN: list[Event] = [
    RunStarted("refine", "OUT/run", 40, {"threads": 2}),
    Warned("no GPU found: using the CPU"),
    STARTED,
    UnitFinished(20, 40),
    UnitFinished(40, 40),
    FINISHED,
    StageStarted("writing", 3),
    RunFinished("refine", 3, 22.9, files=("OUT/run_class001.mrc",)),
]


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0

    def write(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_all_sinks_get_all_records_and_are_closed_once() -> None:
    first, second = Kept(), Kept()
    with Events(first) as events:
        events.add(second)
        for event in RUN:
            events.emit(event)
        events.note("a note")
        events.warn("a warning")
    events.close()
    assert first.events == second.events == [*RUN, Noted("a note"), Warned("a warning")]
    assert (first.closed, second.closed) == (1, 1)


def test_sinks_are_closed_after_an_error() -> None:
    kept = Kept()
    with pytest.raises(ValueError, match="broken"), Events(kept):
        raise ValueError("broken")
    assert kept.closed == 1


def test_records_from_many_threads_stay_whole() -> None:
    stream = io.StringIO()
    events = Events(JsonStream(stream))

    def emit() -> None:
        for done in range(100):
            events.emit(UnitFinished(done, 100))

    threads = [threading.Thread(target=emit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parsed(stream.getvalue())) == 800


def test_records_that_wait_come_before_the_next_one() -> None:
    kept = Kept()
    events = Events(kept)
    events.emit_later(Noted("first"))
    assert kept.events == []
    events.emit(Noted("second"))
    assert kept.events == [Noted("first"), Noted("second")]


def test_requests_that_are_made_again_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(retry, "pause", lambda attempt: 0.0)
    answers = iter([TimeoutError("slow"), TimeoutError("slow"), "answer"])

    def request() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with open_events(stream) as events:
        assert retry.retrying(request, lambda _: False, "s3://b/k") == "answer"
        events.note("done")
    lines = parsed(stream.getvalue())
    assert [(line["event"], line.get("attempt")) for line in lines] == [
        ("store_retried", 2), ("store_retried", 3), ("noted", None),
    ]  # fmt: skip
    assert (lines[0]["url"], lines[0]["reason"]) == ("s3://b/k", "slow")


def test_record_of_trouble_while_the_log_is_saved_is_saved_next_time() -> None:
    saved: list[bytes] = []

    def save(data: bytes) -> None:
        if not saved:
            events.emit(StoreRetried("s3://b/k", 2))
        saved.append(data)

    with Events(JsonLog(save)) as events:
        events.emit(STARTED)
        events.emit(FINISHED)
    names = [[line["event"] for line in parsed(data.decode())] for data in saved]
    assert names == [["iteration_started", "iteration_finished"], [*names[0], "store_retried"]]


def test_json_line_has_a_name_a_time_and_the_fields() -> None:
    line = parsed(json_line(STARTED))[0]
    assert line["event"] == "iteration_started"
    assert line["time"].endswith("Z")
    assert (line["iteration"], line["resolution_angst"], line["local"]) == (3, 24.6, False)


def test_json_numbers_are_valid_json() -> None:
    details = {"size": np.int64(3), "rate": np.float32(0.5), "worst": math.inf, "names": ("a", "b"), "path": Kept}
    line = parsed(json_line(RunStarted("refine", details=details)))[0]
    assert line["details"] == {"size": 3, "rate": 0.5, "worst": None, "names": ["a", "b"], "path": str(Kept)}
    assert parsed(json_line(IterationFinished(1, math.nan)))[0]["resolution_angst"] is None


def test_json_log_is_saved_at_the_end_of_an_iteration_and_of_the_run() -> None:
    saved: list[bytes] = []
    events = Events(JsonLog(saved.append))
    names = []
    for event in RUN:
        events.emit(event)
        names.append(len(saved))
    assert names == [0, 0, 0, 0, 0, 1, 1, 2]
    last = parsed(saved[-1].decode())
    assert [line["event"] for line in last] == [event.name for event in RUN if not isinstance(event, UnitFinished)]
    assert saved[-1].startswith(saved[0])
    events.warn("after the end")
    events.close()
    assert len(saved) == 3


def test_log_of_a_resumed_run_goes_on_and_tells_why_it_failed(tmp_path: Path) -> None:
    prefix = str(tmp_path / "run")
    with Events(open_log(prefix)) as events:
        for event in (RUN[0], STARTED, FINISHED, WorkerLost("tcp://1", ("it004/unit_00001",))):
            events.emit(event)
    with Events(open_log(prefix, resumed=True)) as events:
        events.emit(RunResumed("refine", prefix, iteration=3))
        events.emit(UnitRetried("it004/unit_00001", 2, "its worker is gone"))
        events.emit(RunFailed("s3://b: no answer", 4))
    lines = parsed((tmp_path / "run_events.jsonl").read_text())
    assert [line["event"] for line in lines] == [
        "run_started", "iteration_started", "iteration_finished", "worker_lost", "run_resumed", "unit_retried",
        "run_failed",
    ]  # fmt: skip
    assert lines[3]["units"] == ["it004/unit_00001"]
    assert (lines[-1]["message"], lines[-1]["exit_code"]) == ("s3://b: no answer", 4)


def test_log_of_a_run_that_starts_afresh_forgets_the_one_before(tmp_path: Path) -> None:
    for _ in range(2):
        with Events(open_log(str(tmp_path / "run"))) as events:
            events.emit(STARTED)
    assert len(parsed((tmp_path / "run_events.jsonl").read_text())) == 1


def test_run_that_fails_before_its_first_iteration_leaves_no_log() -> None:
    saved: list[bytes] = []
    with Events(JsonLog(saved.append)) as events:
        events.emit(RUN[0])
        events.emit(RunFailed("particle 7: NaN", 3))
    assert saved == []


def test_stream_that_is_no_terminal_gets_json_lines() -> None:
    stream = io.StringIO()
    with open_events(stream) as events:
        for event in RUN:
            events.emit(event)
    assert [line["event"] for line in parsed(stream.getvalue())] == [event.name for event in RUN]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_bars_and_one_line_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress_sink(Terminal()), TerminalProgress)
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with Events(TerminalProgress(Console(file=stream, force_terminal=True, width=200, color_system=None))) as events:
        for event in RUN:
            events.emit(event)
    shown = stream.getvalue()
    assert "refine · 40 particles · threads 2 · -> OUT/run" in shown
    assert "warning: no GPU found" in shown
    assert "iteration 3 · 24.6 A · global 7.5 deg · box 26" in shown
    assert "iteration   3 · resolution 22.9 A · angles changed 1.5 deg\n" in shown
    assert "refine finished · 3 iterations · resolution 22.9 A" in shown
    assert "  OUT/run_class001.mrc" in shown


def test_terminal_says_when_a_run_did_not_converge() -> None:
    stream = Terminal()
    with Events(TerminalProgress(Console(file=stream, force_terminal=True, width=200, color_system=None))) as events:
        events.emit(RunFinished("refine", 5, math.inf, converged=False))
    assert "refine finished · 5 iterations, not converged\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (RunResumed("refine", iteration=3), "going on after iteration 3"),
        (ParticleSetAside("7@stack.mrcs", 7, "NaN"), "particle 7 (7@stack.mrcs) is set aside: NaN"),
        (UnitRetried("unit_00001", 2, "its worker is gone"), "unit_00001 is tried again (attempt 2): its worker"),
        (StragglerDuplicated("unit_00001", "tcp://1", 60.0), "unit_00001 takes long on tcp://1"),
        (WorkerJoined("tcp://1", 2), "worker tcp://1 joined"),
        (WorkerLost("tcp://1", ("unit_00001",)), "worker tcp://1 is gone, with 1 units under way"),
        (StoreRetried("s3://b/k", 2, "503"), "s3://b/k is tried again (attempt 2): 503"),
        (SchedulerLost("waiting 60 s"), "the scheduler does not answer: waiting 60 s"),
        (SchedulerBack(), "the scheduler answers again"),
    ],
)
def test_terminal_tells_of_incidents(event: Event, words: str) -> None:
    stream = Terminal()
    with Events(TerminalProgress(Console(file=stream, force_terminal=True, width=200, color_system=None))) as events:
        events.emit(event)
    assert words in stream.getvalue()


def test_table_holds_all_rows_and_its_lines_are_not_wrapped() -> None:
    stream = io.StringIO()
    print_table("title", ("what", "before"), [("error", "1.5")], ["map: " + 200 * "x", "[kept]"], stream)
    shown = stream.getvalue()
    assert all(word in shown for word in ("title", "what", "before", "error", "1.5"))
    assert "map: " + 200 * "x" + "\n[kept]\n" in shown
