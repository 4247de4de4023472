"""One driver at a time: who may commit to a run.

Every driver of a run claims the next free number by a conditional create of ``driver/000001.json`` and overwrites
``driver/000001.alive`` every few seconds. At its end it writes ``driver/000001.released``. The next driver takes the
next number when the last claim is released, when its process is gone from this host, or when its heartbeat stands
still. Only changes of the heartbeat count, seen by the watcher's own clock: clocks of hosts are never compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import InputError, Preempted, StorageError
from runner.store import objects
from runner.store.layout import RunLayout
from runner.store.together import PATIENCE_SECONDS, begun

BEAT_SECONDS = 3.0
TTL_SECONDS = 15.0
POLL_SECONDS = 0.5

Describe = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Driver:
    """A process that drives a run; ``namespace`` and ``start`` make ``pid`` unique on ``host`` since it was booted."""

    host: str
    boot: str
    namespace: str
    pid: int
    start: int
    claimed: str
    token: str

    @classmethod
    def here(cls) -> Driver:
        """The process that asks."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            boot=_text("/proc/sys/kernel/random/boot_id"),
            namespace=_namespace(),
            pid=pid,
            start=_start_of(pid) or 0,
            claimed=datetime.now(UTC).isoformat(timespec="seconds"),
            token=uuid.uuid4().hex,
        )

    @property
    def is_gone(self) -> bool:
        """Whether the process certainly is no more: it ran on this host and another one or none has its number."""
        same_host = self.boot != "" and (self.boot, self.namespace) == (
            _text("/proc/sys/kernel/random/boot_id"),
            _namespace(),
        )
        return same_host and _start_of(self.pid) != self.start

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}"


class DriverLease:
    """The right to commit to a run, held until `release`; a context manager.

    Attributes
    ----------
    number : of this driver, from 1; driver : who it is.
    """

    def __init__(self, layout: RunLayout, number: int, driver: Driver, describe: Describe, beat: float) -> None:
        self.number, self.driver = number, driver
        self._layout, self._describe, self._beat = layout, describe, beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="tomoburst-heartbeat", daemon=True)
        self._thread.start()

    def is_lost(self) -> bool:
        """Whether another driver has taken the run over, or has even finished it and tidied up."""
        own, later = (_name(self._layout, number, "json") for number in (self.number, self.number + 1))
        return objects.exists(later) or not objects.exists(own)

    def check(self) -> None:
        """Raise `Preempted` when the run `is_lost`.

        To be asked before each commit. What is committed between this answer and the commit by a driver that was cut
        off does no harm: commits are conditional creates of content that follows from the run alone.
        """
        if self.is_lost():
            raise Preempted(
                f"{self._layout.prefix}: another driver has taken this run over from this one ({self.driver}), whose "
                "heartbeat stood still; nothing is lost, this one stops"
            )

    def release(self, *, tidy: bool = False) -> None:
        """Stop the heartbeat and let the next driver begin at once; ``tidy`` removes every trace of all drivers."""
        self._stop.set()
        self._thread.join(BEAT_SECONDS)  # a beat that waits for a store which does not answer is not waited for
        if tidy:
            objects.delete([each.url for each in objects.list_objects(self._layout.drivers)])
        elif objects.exists(_name(self._layout, self.number, "json")):
            objects.write_bytes(_name(self._layout, self.number, "released"), b"{}\n")
        else:  # another driver has finished the run and tidied up
            objects.delete([_name(self._layout, self.number, "alive")])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stop.is_set():
            return
        # A store that does not answer keeps no driver waiting for long: without a heartbeat the claim lapses.
        with contextlib.suppress(StorageError, TimeoutError):
            begun(self._layout.prefix, self.release).result(PATIENCE_SECONDS)

    def _keep_alive(self) -> None:
        beats = 0
        while True:
            beats += 1
            now = datetime.now(UTC).isoformat(timespec="seconds")
            state = {"beat": beats, "time": now, **self._describe()}
            # A beat that is lost is made up by the next one; the run itself learns of the store's troubles anyway.
            with contextlib.suppress(StorageError):
                objects.write_bytes(_name(self._layout, self.number, "alive"), json.dumps(state).encode() + b"\n")
            if self._stop.wait(self._beat):
                return


def claim(
    layout: RunLayout,
    describe: Describe = dict,
    *,
    beat: float = BEAT_SECONDS,
    ttl: float = TTL_SECONDS,
    poll: float = POLL_SECONDS,
) -> DriverLease:
    """Become the driver of a run.

    Parameters
    ----------
    describe : called for each heartbeat; what it returns stands in the ``.alive`` object.
    beat, ttl, poll : seconds between heartbeats, until a heartbeat that stands still is taken for dead, and between
        looks at it.

    Raises
    ------
    Preempted
        When another driver works on the run.
    StorageError
        When the store does not answer.
    """
    driver = Driver.here()
    while True:
        number, holder = _last_claim(layout)
        if holder is not None and _works(layout, number, holder, ttl, poll):
            raise Preempted(
                f"{layout.prefix}: another driver ({holder}) works on this run; wait for it, or stop it with "
                f"`tomoburst cancel {layout.prefix}`"
            )
        if _create(_name(layout, number + 1, "json"), driver):
            return DriverLease(layout, number + 1, driver, describe, beat)


def _last_claim(layout: RunLayout) -> tuple[int, Driver | None]:
    """Number of the last claim (0: none) and its holder; None when it is released or was removed since."""
    numbers, released = _claims(layout)
    last = max(numbers, default=0)
    if last in released or not last:
        return last, None
    try:
        return last, Driver(**json.loads(objects.read_bytes(_name(layout, last, "json"))))
    except InputError:
        return last, None


def _claims(layout: RunLayout) -> tuple[set[int], set[int]]:
    """Numbers of all claims and of the released ones."""
    found: dict[str, set[int]] = {"json": set(), "released": set()}
    for each in objects.list_objects(layout.drivers):
        match = re.fullmatch(r"(\d{6})\.(json|released)", objects.basename(each.url))
        if match:
            found[match[2]].add(int(match[1]))
    return found["json"], found["released"]


def _works(layout: RunLayout, number: int, holder: Driver, ttl: float, poll: float) -> bool:
    """Whether the heartbeat of a claim changes before ``ttl`` seconds are over; False when claim or holder end."""
    first, end = _heartbeat(layout, number), time.monotonic() + ttl
    while time.monotonic() < end and not holder.is_gone:
        time.sleep(poll)
        numbers, released = _claims(layout)
        if max(numbers, default=0) != number or number in released:
            return False
        if _heartbeat(layout, number) not in (first, b""):
            return True
    return False


def _heartbeat(layout: RunLayout, number: int) -> bytes:
    """The heartbeat as it is now; empty when there is none."""
    try:
        return objects.read_bytes(_name(layout, number, "alive"))
    except InputError:
        return b""


def _create(url: str, driver: Driver) -> bool:
    """Whether the claim ``url`` is this driver's, now or by an attempt whose answer was lost."""
    data = (json.dumps(asdict(driver), indent=1, sort_keys=True) + "\n").encode()
    if objects.create_bytes(url, data):
        return True
    try:
        return objects.read_bytes(url) == data
    except InputError:
        return False


def _name(layout: RunLayout, number: int, kind: str) -> str:
    return f"{layout.drivers}/{number:06d}.{kind}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    """The namespace in which process numbers count: containers on one host have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    except OSError:
        return ""


def _start_of(pid: int) -> int | None:
    """When a process of this host was started, in clock ticks since boot; None when there is none or it has ended."""
    words = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not words or words[0] in "ZX":
        return None
    return int(words[19])
