"""Units of work on the workers of a Dask cluster: futures on coarse tasks, and nothing that a lost worker could lose.

Dask places and moves the tasks. What became of them comes as messages (`runner.execute.remote`), from which the driver
counts attempts, finds stragglers and knows what a lost worker was computing.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runner.errors import TomoburstError
from runner.execute.dask_link import Ended, Left, Link, TlsFiles, Told, connect, start_local
from runner.execute.protocol import Attempts, Happening, Outcome, Report, Task, describe, no_report, retried
from runner.execute.remote import FINISHED, STARTED, error_from_json

if TYPE_CHECKING:
    from distributed import Future

IN_FLIGHT_PER_THREAD = 4
POLL_SECONDS = 0.5
STRAGGLER_FACTOR = 3.0
STRAGGLER_LEAST_SECONDS = 1.0
REMEMBERED_DURATIONS = 1000
NOTE_AFTER_SECONDS = 10.0


class DaskExecutor:
    """Does tasks on the workers of a scheduler, which may come and go; see `Executor` for the methods.

    Made by `local` or `attach`.
    """

    def __init__(self, link: Link, report: Report = no_report) -> None:
        self._link = link
        self._report = report
        self._serial = 0

    @classmethod
    def local(cls, workers: int, report: Report = no_report, gpus: tuple[str, ...] = ()) -> Self:
        """Start ``workers`` processes on this machine; each sees one of ``gpus``, in turn, or all of them."""
        return cls(start_local(workers, report, gpus), report)

    @classmethod
    def attach(cls, url: str, tls: TlsFiles | None = None, report: Report = no_report) -> Self:
        """Use the workers of a running scheduler.

        Raises
        ------
        SchedulerLost
            When none answers.
        """
        return cls(connect(url, tls or TlsFiles(), report), report)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield the outcome of every task once, in the order in which they end.

        Raises
        ------
        SchedulerLost
            When the scheduler goes away and does not come back.
        """
        run = _Run(self._link, iter(tasks), self._report, self._serial)
        try:
            yield from run.outcomes()
        finally:
            self._serial = run.serial
            run.drop_all()

    def workers(self) -> int:
        """Return how many tasks are computed at a time now."""
        return self._link.threads()

    def close(self) -> None:
        """Leave the scheduler, or stop it and its workers when they are of this process."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Copy:
    """One attempt of a task that is with the scheduler for one of the workers ``preferred``, or any; ``worker`` and
    ``started`` once it is computed.
    """

    flight: _Flight
    future: Future[None]
    preferred: list[str] | None
    worker: str = ""
    started: float = 0.0


@dataclass
class _Flight:
    """A task that is under way: its attempts so far and its present copies by their serial numbers."""

    task: Task
    attempts: Attempts
    copies: dict[int, _Copy] = field(default_factory=dict)
    was_duplicated: bool = False


class _Run:
    """What one `DaskExecutor.run` has under way."""

    def __init__(self, link: Link, tasks: Iterator[Task], report: Report, serial: int) -> None:
        self.serial = serial
        self._link = link
        self._tasks = tasks
        self._report = report
        self._copies: dict[int, _Copy] = {}
        self._flights: dict[str, _Flight] = {}
        self._grounded: deque[_Flight] = deque()
        self._ending: dict[int, _Copy] = {}
        self._durations: deque[float] = deque(maxlen=REMEMBERED_DURATIONS)
        self._is_exhausted = False
        self._idle_since: float | None = None

    def outcomes(self) -> Iterator[Outcome]:
        """Yield outcomes until every task has one."""
        while True:
            self._fill()
            if not self._flights:
                return
            message = self._link.next_message(POLL_SECONDS)
            if message is not None:
                yield from self._taken(message)
            if not self._link.is_up():
                self._link.wait_until_up()
                self._ground(list(self._copies.items()))
            self._duplicate_stragglers()
            self._note_absence()

    def drop_all(self) -> None:
        """Take back what is under way."""
        for flight in list(self._flights.values()):
            self._land(flight)
        self._ending.clear()

    def _fill(self) -> None:
        limit = IN_FLIGHT_PER_THREAD * max(self._link.threads(), 1)
        while self._grounded:
            self._start(self._grounded.popleft())
        while not self._is_exhausted and len(self._flights) < limit:
            task = next(self._tasks, None)
            if task is None:
                self._is_exhausted = True
                return
            flight = self._flights[task.id] = _Flight(task, Attempts(task))
            self._start(flight)

    def _start(self, flight: _Flight) -> None:
        self._submit(flight, self._link.preferred(flight.task.locality))

    def _submit(self, flight: _Flight, workers: list[str] | None) -> None:
        self.serial += 1
        future = self._link.submit(flight.task, self.serial, workers)
        flight.copies[self.serial] = self._copies[self.serial] = _Copy(flight, future, workers)

    def _taken(self, message: Told | Ended | Left) -> Iterator[Outcome]:
        """Take one message; yield the outcomes that follow from it."""
        if isinstance(message, Left):
            yield from self._without(message)
        elif isinstance(message, Ended) and message.serial in self._ending:
            self._ending.pop(message.serial).future.release()  # at once: it would be done again when its worker dies
        elif message.serial in self._copies:  # messages of copies that were dropped are of no interest
            copy = self._copies[message.serial]
            outcome = self._told(copy, message) if isinstance(message, Told) else self._ended(copy, message)
            if outcome is not None:
                yield outcome

    def _told(self, copy: _Copy, told: Told) -> Outcome | None:
        worker = str(told.message["name"])
        if told.message["what"] == STARTED:
            copy.worker, copy.started = told.message["worker"], time.monotonic()
            return None
        for url, attempt, reason in told.message["retries"]:
            details = {"url": url, "attempt": attempt, "reason": reason, "worker": worker}
            self._report(Happening("store_retried", details))
        self._ending[told.serial] = copy  # its future is kept until Dask is done with it
        if told.message["what"] == FINISHED:
            self._durations.append(time.monotonic() - copy.started)
            self._land(copy.flight)
            result: dict[str, Any] = json.loads(told.message["result"])
            return Outcome(copy.flight.task, result, None, copy.flight.attempts.count + 1, worker)
        return self._failed(told.serial, copy, error_from_json(told.message["error"]), worker)

    def _ended(self, copy: _Copy, ended: Ended) -> Outcome | None:
        """A copy of which Dask knows an end that no worker told."""
        if ended.status == "cancelled":  # with its scheduler
            self._drop(ended.serial, copy)
            return None
        error = ended.error or RuntimeError("the message with the result was lost")
        return self._failed(ended.serial, copy, error, self._link.name(copy.worker))

    def _failed(self, serial: int, copy: _Copy, error: Exception, worker: str) -> Outcome | None:
        flight = copy.flight
        final = flight.attempts.failure(error)
        if final is not None:
            self._land(flight)
            return Outcome(flight.task, None, final, flight.attempts.count, worker)
        self._drop(serial, copy)
        self._report(retried(flight.attempts, worker, describe(error)))
        return None

    def _without(self, left: Left) -> Iterator[Outcome]:
        """Count what a lost worker was computing; Dask gives it to another one by itself."""
        lost = [copy for copy in self._copies.values() if copy.worker == left.worker]
        for serial in [serial for serial, copy in self._ending.items() if copy.worker == left.worker]:
            self._ending.pop(serial).future.release()  # or Dask would do it again
        reason = "took its leave" if left.expected else "died, or was cut off"
        details = {
            "worker": left.name,
            "units": tuple(copy.flight.task.id for copy in lost),
            "workers": self._link.worker_count(),
            "reason": reason,
        }
        self._report(Happening("worker_lost", details))
        for copy in lost:
            copy.worker, copy.started = "", 0.0
            final = self._loss(copy.flight.attempts, left)
            if final is not None:
                self._land(copy.flight)
                yield Outcome(copy.flight.task, None, final, copy.flight.attempts.count, left.name)
            else:
                self._report(retried(copy.flight.attempts, left.name, f"its worker {reason}"))
        if not self._link.worker_count():
            # Dask gives what was preferably for one of them to another worker that is there, but to none that comes.
            self._ground([(serial, copy) for serial, copy in self._copies.items() if copy.preferred])

    def _ground(self, copies: list[tuple[int, _Copy]]) -> None:
        """Start copies anew that nobody may ever compute."""
        for serial, copy in copies:
            self._drop(serial, copy)

    @staticmethod
    def _loss(attempts: Attempts, left: Left) -> TomoburstError | None:
        if left.expected:
            attempts.leave()
            return None
        return attempts.death(left.name)

    def _drop(self, serial: int, copy: _Copy) -> None:
        """Forget one copy; a flight that has no other starts again."""
        del self._copies[serial]
        del copy.flight.copies[serial]
        if serial not in self._ending:
            copy.future.release()
        if not copy.flight.copies:
            self._grounded.append(copy.flight)

    def _land(self, flight: _Flight) -> None:
        """Forget a flight and take back its copies."""
        del self._flights[flight.task.id]
        for serial, copy in flight.copies.items():
            del self._copies[serial]
            if serial not in self._ending:
                copy.future.release()

    def _duplicate_stragglers(self) -> None:
        """At the end of a run, when workers have nothing left to do, give them copies of what takes very long."""
        if not self._is_exhausted or len(self._durations) < max(len(self._flights), 1):
            return
        limit = max(STRAGGLER_FACTOR * statistics.median(self._durations), STRAGGLER_LEAST_SECONDS)
        idle = self._link.threads() - len(self._copies)
        now = time.monotonic()
        for flight in list(self._flights.values()):
            copy = next(iter(flight.copies.values()), None)
            if idle <= 0 or flight.was_duplicated or copy is None or not copy.worker or now - copy.started < limit:
                continue
            elsewhere = self._link.others(copy.worker)
            if not elsewhere:
                return
            flight.was_duplicated = True
            idle -= 1
            self._submit(flight, elsewhere)
            details = {"unit": flight.task.id, "worker": self._link.name(copy.worker), "seconds": now - copy.started}
            self._report(Happening("straggler_duplicated", details))

    def _note_absence(self) -> None:
        """Say once that there is nobody to work."""
        if self._link.worker_count():
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > NOTE_AFTER_SECONDS:
            self._idle_since = float("inf")
            self._report(Happening("noted", {"message": "no worker is there; waiting for the first one to come"}))
