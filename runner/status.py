"""`tomoburst status`: what a run does, told from its store alone.

Nothing is asked of the driver. Whether it lives is judged by its heartbeat: an object that it overwrites every few
seconds, looked at until it changes. Clocks of other hosts decide nothing.
"""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runner.errors import InputError
from runner.model.manifest import RunManifest
from runner.plan.units import unit_rows
from runner.report.table import print_table
from runner.store.backend import ObjectInfo
from runner.store.layout import RunLayout
from runner.store.lease import POLL_SECONDS, TTL_SECONDS, Driver
from runner.store.objects import basename, list_objects, read_bytes

NOT_STARTED, RUNNING, STOPPED = "not started", "running", "stopped"
FINISHED, FAILED, CANCELLED = "finished", "failed", "cancelled"
PREEMPTED_CODES = (75, 130)
REFRESH_SECONDS = 5.0

_UNIT = re.compile(r"unit_(\d+)_")


@dataclass(frozen=True)
class RunStatus:
    """What an onlooker can know of a run.

    Attributes
    ----------
    state : not started, running, stopped, finished, failed or cancelled.
    iteration : the last committed one (0: none); units_done, units_total : of the one after it.
    stage, done, total, per_second, eta_seconds : particles of the iteration (or pieces of the stage) under way and the
        time that the rest takes, as a running driver tells.
    driver : host and process; silent_seconds : age of its last sign of life by the clocks of store and onlooker.
    results : files of a finished run.
    """

    prefix: str
    state: str
    iteration: int = 0
    units_done: int = 0
    units_total: int | None = None
    stage: str = ""
    done: int | None = None
    total: int | None = None
    per_second: float | None = None
    eta_seconds: float | None = None
    resolution_angst: float | None = None
    workers: int | None = None
    driver: str = ""
    silent_seconds: float | None = None
    last_error: str = ""
    results: list[str] = field(default_factory=list)


def show_status(prefix: str, as_json: bool = False, watch: bool = False) -> None:
    """Print the state of a run; with ``watch`` again and again until it does not run any more.

    Raises
    ------
    InputError
        When there is no run with this output prefix.
    """
    while True:
        status = run_status(prefix)
        if as_json:
            print(json.dumps(asdict(status), ensure_ascii=False), flush=True)
        else:
            _print(status, clear=watch and sys.stdout.isatty())
        if not watch or status.state != RUNNING:
            return
        time.sleep(REFRESH_SECONDS)


def run_status(prefix: str, *, patience: float = TTL_SECONDS, poll: float = POLL_SECONDS) -> RunStatus:
    """Return the state of the run with the output prefix ``prefix``.

    Parameters
    ----------
    patience : seconds to wait for a sign of life before a driver is taken for dead; poll : seconds between looks.

    Raises
    ------
    InputError
        When there is no such run.
    StorageError
        When the store does not answer.
    """
    layout = RunLayout(prefix)
    objects = list_objects(layout.work)
    manifest = _manifest(layout)
    if not objects and manifest is None:
        raise InputError(f"{prefix}: no run has this output prefix (no {layout.manifest}); give the --o of the run")
    log, driver = _read_log(layout), _last_driver(layout, objects)
    committed = _last_commit(layout, objects)
    told = driver.last_words()
    status = RunStatus(
        prefix,
        NOT_STARTED,
        iteration=committed,
        units_done=_units_done(layout, objects, committed + 1),
        units_total=_units_total(manifest),
        resolution_angst=log.resolution_angst,
        driver=str(driver.holder or ""),
        last_error=log.failure or told.get("last_error", ""),
    )
    names = {each.url for each in objects}
    if layout.finished in names:
        end = json.loads(read_bytes(layout.finished))
        return replace(
            status,
            state=FINISHED,
            iteration=end["iterations"],
            resolution_angst=end["resolution_angst"],
            results=end["files"],
        )
    if driver.is_alive(patience, poll):
        told = driver.last_words()
        live: dict[str, Any] = {name: told[name] for name in _FROM_HEARTBEAT if told.get(name) is not None}
        return replace(status, state=RUNNING, silent_seconds=driver.silent_seconds, **live)
    status = replace(status, silent_seconds=driver.silent_seconds)
    if layout.cancel in names:
        return replace(status, state=CANCELLED)
    if log.failure and log.exit_code not in PREEMPTED_CODES:
        return replace(status, state=FAILED)
    return replace(status, state=STOPPED if driver.number else NOT_STARTED)


_FROM_HEARTBEAT = (
    "stage", "done", "total", "per_second", "eta_seconds", "resolution_angst", "workers", "last_error",
)  # fmt: skip


@dataclass
class _LastDriver:
    """The driver with the highest number, and its last sign of life; number 0: there is none."""

    layout: RunLayout
    number: int = 0
    released: bool = False
    holder: Driver | None = None
    heard: float | None = None

    @property
    def silent_seconds(self) -> float | None:
        """Seconds since the last heartbeat, by the clocks of the store and of this process."""
        return None if self.heard is None else max(time.time() - self.heard, 0.0)

    def is_alive(self, patience: float, poll: float) -> bool:
        """Whether the heartbeat changes before ``patience`` seconds are over."""
        if self.holder is None or self.released or self.holder.is_gone:
            return False
        first, end = self._heartbeat(), time.monotonic() + patience
        while time.monotonic() < end:
            time.sleep(poll)
            if self._heartbeat() not in (first, b""):
                self.heard = time.time()
                return True
        return False

    def last_words(self) -> dict[str, Any]:
        """What the last heartbeat tells."""
        text = self._heartbeat() if self.number else b""
        words: dict[str, Any] = json.loads(text) if text else {}
        return words

    def _heartbeat(self) -> bytes:
        return _read(f"{self.layout.drivers}/{self.number:06d}.alive")


def _last_driver(layout: RunLayout, objects: list[ObjectInfo]) -> _LastDriver:
    found = _LastDriver(layout)
    for each in objects:
        match = re.fullmatch(r"(\d{6})\.(json|alive|released)", basename(each.url))
        if match is None or not each.url.startswith(layout.drivers) or int(match[1]) < found.number:
            continue
        if int(match[1]) > found.number:
            found = _LastDriver(layout, int(match[1]))
        if match[2] == "alive":
            found.heard = each.modified
        found.released |= match[2] == "released"
    claim = _read(f"{layout.drivers}/{found.number:06d}.json") if found.number else b""
    if claim:
        found.holder = Driver(**json.loads(claim))
    return found


@dataclass
class _Log:
    """What the log of the run tells: the resolution after the last iteration, and why the last driver failed."""

    resolution_angst: float | None = None
    failure: str = ""
    exit_code: int = 0


def _read_log(layout: RunLayout) -> _Log:
    log = _Log()
    for line in _read(layout.events).splitlines():
        event = json.loads(line)
        match event["event"]:
            case "iteration_finished":
                log.resolution_angst = event["resolution_angst"]
            case "run_started" | "run_resumed":
                log.failure, log.exit_code = "", 0
            case "run_failed":
                log.failure, log.exit_code = event["message"], event["exit_code"]
    return log


def _manifest(layout: RunLayout) -> RunManifest | None:
    data = _read(layout.manifest)
    return RunManifest.from_bytes(data, layout.manifest) if data else None


def _last_commit(layout: RunLayout, objects: list[ObjectInfo]) -> int:
    commits = [layout.iteration_of(each.url) or 0 for each in objects if basename(each.url) == "commit.json"]
    return max(commits, default=0)


def _units_done(layout: RunLayout, objects: list[ObjectInfo], iteration: int) -> int:
    """Number of the units of an iteration that have an object; several of one unit, of other inputs, count once."""
    names = [_UNIT.match(basename(each.url)) for each in objects if layout.iteration_of(each.url) == iteration]
    return len({name[1] for name in names if name})


def _units_total(manifest: RunManifest | None) -> int | None:
    particles = manifest.units.get("particles") if manifest else None
    return len(unit_rows(particles)) if particles else None


def _read(url: str) -> bytes:
    """An object, or nothing where there is none (any more)."""
    try:
        return read_bytes(url)
    except InputError:
        return b""


def _print(status: RunStatus, clear: bool) -> None:
    rows = [(name, value) for name, value in _lines(status) if value]
    if clear:
        sys.stdout.write("\x1b[2J\x1b[H")
    print_table(status.prefix, ("", status.state), rows)
    sys.stdout.flush()


def _lines(status: RunStatus) -> list[tuple[str, str]]:
    """Names and texts of the table; rows without text are left out."""
    alive = status.state == RUNNING
    units = f"{status.units_done} of {status.units_total}" if status.units_total else str(status.units_done or "")
    return [
        ("iterations finished", str(status.iteration)),
        ("resolution", f"{status.resolution_angst:.1f} A" if status.resolution_angst else ""),
        ("units of the next iteration", "" if status.state == FINISHED else units),
        ("stage", status.stage),
        ("particles", f"{status.done} of {status.total}" if status.total else ""),
        ("particles per second", f"{status.per_second:.3g}" if status.per_second else ""),
        ("time left in the iteration", _duration(status.eta_seconds)),
        ("workers", str(status.workers or "")),
        ("driver", status.driver),
        ("no sign of life for", "" if alive else _duration(status.silent_seconds)),
        ("last error", status.last_error),
        ("to go on", _ADVICE.get(status.state, "")),
        *(("result", name) for name in status.results),
    ]


_ADVICE = {
    STOPPED: "run the same command again",
    CANCELLED: "run the same command again",
    FAILED: "correct what the last error names, then run the same command again",
    NOT_STARTED: "run the same command again",
}


def _duration(seconds: float | None) -> str:
    """A time for people: ``2 h 05 min``, ``3 min 20 s``, ``12 s``."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
