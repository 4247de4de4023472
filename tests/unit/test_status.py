"""`tomoburst status` and `tomoburst cancel`: what an onlooker learns from the store alone, in every state of a run."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from runner import cli, status
from runner.cancel import Cancellation, cancel_run
from runner.errors import InputError, Preempted
from runner.model.manifest import RunManifest
from runner.plan.units import node_name, unit_name, unit_rows
from runner.report.events import (
    Events,
    IterationFinished,
    IterationStarted,
    Noted,
    RunFailed,
    RunFinished,
    RunStarted,
    StageStarted,
    UnitFinished,
    UnitRetried,
    WorkerJoined,
    WorkerLost,
)
from runner.report.logs import open_log
from runner.report.pulse import Pulse
from runner.status import RunStatus, run_status
from runner.store.layout import RunLayout
from runner.store.lease import Driver, claim
from runner.store.objects import delete, exists, write_bytes

PARTICLES = 200
UNITS = len(unit_rows(PARTICLES))
BEAT = 0.05
UNIT = UnitFinished(32, PARTICLES, "unit_00000", "gpu-1", 2.0)
STARTED = IterationStarted(4, PARTICLES, 20.0, 26, 2, 7.5, 50.0, 20.0)


@pytest.fixture(params=["local", "memory"])
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunLayout]:
    """A run of which three iterations and two units are done, without any driver."""
    folder = f"/{uuid.uuid4().hex}"
    layout = RunLayout(str(tmp_path / "job" / "run") if request.param == "local" else f"memory:/{folder}/run")
    manifest = RunManifest({}, 1, {}, "0.1.0", {"particles": PARTICLES})
    write_bytes(layout.manifest, manifest.to_bytes())
    for number in (2, 3):
        write_bytes(layout.state(number), b"state")
        write_bytes(layout.commit(number), b"{}")
    for unit, digest in ((0, "aa"), (3, "aa"), (3, "bb")):
        write_bytes(f"{layout.iteration(4)}/{unit_name(unit, digest)}", b"sums")
    write_bytes(f"{layout.iteration(4)}/{node_name(1, 0, 'aa')}", b"sums")
    write_bytes(f"{layout.iteration(4)}/input.npz", b"model")
    yield layout
    if request.param == "memory":
        fsspec.filesystem("memory").rm(folder, recursive=True)


def look(layout: RunLayout, patience: float = 0.3) -> RunStatus:
    return run_status(layout.prefix, patience=patience, poll=0.02)


def driver_of_another_host(layout: RunLayout) -> None:
    """A claim and a heartbeat that stands still."""
    driver = dataclasses.replace(Driver.here(), host="elsewhere", boot="another", pid=7)
    write_bytes(f"{layout.drivers}/000001.json", json.dumps(dataclasses.asdict(driver)).encode())
    words = {"beat": 3, "last_error": "unit 5: no memory", "workers": 4, "per_second": 2.0}
    write_bytes(f"{layout.drivers}/000001.alive", json.dumps(words).encode())


def log_of(layout: RunLayout, *events: Any) -> None:
    with Events(open_log(layout.prefix)) as log:
        for event in (RunStarted("refine"), STARTED, IterationFinished(3, 22.9), *events):
            log.emit(event)


def test_no_run_is_code_3_and_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "cancel"):
        assert cli.run([command, str(tmp_path / "run")]) == 3
        assert capsys.readouterr().err.endswith(f"(no {tmp_path}/run_manifest.json); give the --o of the run\n")


def test_prefix_of_which_another_run_begins_is_no_run(layout: RunLayout) -> None:
    for ask in (run_status, cancel_run):
        with pytest.raises(InputError):
            ask(layout.prefix[:-1])


def test_driver_that_still_reads_its_input_can_be_cancelled(layout: RunLayout) -> None:
    delete([layout.manifest])
    with claim(layout, beat=BEAT):
        assert look(layout, patience=60).state == status.RUNNING
        assert "stops after" in cancel_run(layout.prefix)


def test_run_without_driver_is_not_started(layout: RunLayout) -> None:
    seen = look(layout)
    assert (seen.state, seen.iteration, seen.units_done, seen.units_total) == (status.NOT_STARTED, 3, 2, UNITS)


def test_running_driver_tells_where_it_is(layout: RunLayout) -> None:
    log_of(layout)
    pulse = Pulse(workers=2)
    for event in (STARTED, UnitFinished(32, PARTICLES), UnitFinished(64, PARTICLES)):
        pulse.write(event)
    with claim(layout, pulse.state, beat=BEAT):
        seen = look(layout, patience=60)
    assert seen.state == status.RUNNING
    assert (seen.done, seen.total, seen.workers, seen.resolution_angst) == (64, PARTICLES, 2, 20.0)
    assert seen.per_second is not None
    assert seen.eta_seconds == pytest.approx((PARTICLES - 64) / seen.per_second)
    assert seen.driver == str(Driver.here())


def test_released_driver_has_stopped(layout: RunLayout) -> None:
    log_of(layout, RunFailed("stopped (SIGTERM)", 75))
    claim(layout, Pulse(2).state, beat=BEAT).release()
    seen = look(layout, patience=3600)  # nothing is waited for
    assert (seen.state, seen.resolution_angst, seen.last_error) == (status.STOPPED, 22.9, "stopped (SIGTERM)")
    assert seen.workers is None


def test_driver_that_gives_no_sign_of_life_has_stopped(layout: RunLayout) -> None:
    driver_of_another_host(layout)
    seen = look(layout)
    assert (seen.state, seen.last_error, seen.workers, seen.per_second) == (
        status.STOPPED, "unit 5: no memory", None, None,
    )  # fmt: skip
    assert seen.silent_seconds is not None
    assert seen.silent_seconds >= 0.3


def test_sign_of_life_that_comes_late_counts(layout: RunLayout) -> None:
    driver_of_another_host(layout)
    timer = threading.Timer(0.2, write_bytes, (f"{layout.drivers}/000001.alive", b'{"beat": 4}'))
    timer.start()
    assert look(layout, patience=60).state == status.RUNNING
    timer.join()


def test_failed_run_says_why(layout: RunLayout) -> None:
    log_of(layout, RunFailed("particle 7: NaN", 3))
    claim(layout, beat=BEAT).release()
    seen = look(layout)
    assert (seen.state, seen.last_error, seen.units_done) == (status.FAILED, "particle 7: NaN", 2)


def test_run_that_was_resumed_after_a_failure_is_not_failed(layout: RunLayout) -> None:
    log_of(layout, RunFailed("particle 7: NaN", 3), RunStarted("refine"))
    with claim(layout, beat=BEAT):
        assert look(layout, patience=60).state == status.RUNNING


def test_finished_run_names_its_results(layout: RunLayout) -> None:
    log_of(layout)
    end = RunFinished("refine", 5, 18.5, files=("run_class001.mrc",))
    write_bytes(layout.finished, json.dumps(end.as_dict()).encode())
    seen = look(layout)
    assert (seen.state, seen.iteration, seen.resolution_angst, seen.results) == (
        status.FINISHED, 5, 18.5, ["run_class001.mrc"],
    )  # fmt: skip


def test_cancelled_run_stops_its_driver_and_the_same_command_goes_on(layout: RunLayout) -> None:
    kept: list[Any] = []
    cancellation = Cancellation(layout, lambda: {"iteration": 4})
    with claim(layout, cancellation.beat, beat=BEAT), Events(Kept(kept)) as events:
        cancellation.begin(events)
        events.emit(UNIT)
        assert "stops after the unit under way" in cancel_run(layout.prefix)
        assert "before" in cancel_run(layout.prefix)
        deadline = time.monotonic() + 60
        with pytest.raises(Preempted, match="stopped by tomoburst cancel"):  # noqa: PT012
            while time.monotonic() < deadline:
                events.emit(UNIT)
                time.sleep(BEAT)
        failure = RunFailed("stopped", 75)
        events.emit(failure)  # only units are too much
    assert kept[-2:] == [UNIT, failure]
    assert look(layout).state == status.CANCELLED


def test_driver_that_comes_after_a_cancellation_goes_on(layout: RunLayout) -> None:
    kept: list[Any] = []
    cancel_run(layout.prefix)
    cancellation = Cancellation(layout)
    cancellation.beat()
    with Events(Kept(kept)) as events:
        cancellation.begin(events)
        cancellation.beat()
        events.emit(UNIT)
    assert kept == [Noted(f"{layout.prefix}: the run was cancelled before; it goes on"), UNIT]
    assert not exists(layout.cancel)


class Kept:
    def __init__(self, events: list[Any]) -> None:
        self.write = events.append

    def close(self) -> None:
        """Keep the list."""


def test_finished_run_cannot_be_cancelled(layout: RunLayout) -> None:
    write_bytes(layout.finished, b"{}")
    assert "finished" in cancel_run(layout.prefix)
    assert not exists(layout.cancel)


def test_commands_print_a_table_or_json(layout: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    log_of(layout, RunFailed("particle 7: NaN", 3))
    claim(layout, beat=BEAT).release()
    assert cli.run(["status", layout.prefix]) == 0
    shown = capsys.readouterr().out
    assert all(
        words in shown
        for words in ("failed", "iterations finished", f"2 of {UNITS}", "22.9 A", "particle 7: NaN", "same command")
    )
    assert cli.run(["status", layout.prefix, "--json", "--watch"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["prefix"], told["state"], told["units_done"]) == (layout.prefix, "failed", 2)
    assert cli.run(["cancel", layout.prefix]) == 0
    assert layout.prefix in capsys.readouterr().out


def test_watch_prints_until_the_run_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    states = [RunStatus("run", status.RUNNING, done=1, total=2), RunStatus("run", status.FINISHED)]
    monkeypatch.setattr(status, "run_status", lambda prefix: states.pop(0))
    monkeypatch.setattr(status, "REFRESH_SECONDS", 0.0)
    status.show_status("run", as_json=True, watch=True)
    assert [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()] == ["running", "finished"]


def test_pulse_follows_workers_errors_and_stages() -> None:
    pulse = Pulse(workers=2)
    for event in (WorkerJoined("tcp://3"), WorkerLost("tcp://1", ("unit_00001",), reason="killed")):
        pulse.write(event)
    assert (pulse.state()["workers"], pulse.state()["last_error"]) == (2, "worker tcp://1 is gone killed")
    pulse.write(UnitRetried("unit_00001", 2, "its worker is gone"))
    assert pulse.state()["last_error"] == "unit unit_00001: its worker is gone"
    pulse.write(StageStarted("ingesting", 8))
    assert (pulse.state()["per_second"], pulse.state()["eta_seconds"]) == (None, None)
    time.sleep(0.01)
    pulse.write(UnitFinished(1, 8))
    state = pulse.state()
    assert (state["stage"], state["done"], state["total"]) == ("ingesting", 1, 8)
    assert 0 < state["per_second"] <= 1 / 0.01
    json.dumps(state, allow_nan=False)


def test_rate_counts_only_what_was_done_now() -> None:
    pulse = Pulse()
    pulse.write(STARTED)
    for done in (100, 150):
        pulse.write(UnitFinished(done, PARTICLES, "unit_00000", "", 0.0))  # found finished
    assert pulse.state()["eta_seconds"] is None
    time.sleep(0.02)
    pulse.write(UnitFinished(160, PARTICLES, "unit_00001", "gpu-1", 2.0))
    assert 0 < pulse.state()["per_second"] <= 10 / 0.02


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (200, "3 min 20 s"), (7510, "2 h 05 min"), (None, "")])
def test_times_for_people(seconds: float | None, text: str) -> None:
    assert status._duration(seconds) == text
