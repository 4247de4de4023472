"""Units of work in this process: threads over units."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar

from runner.execute.protocol import (
    Attempts,
    Outcome,
    Report,
    Task,
    describe,
    no_report,
    perform,
    retried,
)
from runner.store.together import Behind

Item = TypeVar("Item")
Result = TypeVar("Result")

OVERLAP = 4  # each holds up to two chunks of particles and a result


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``.

    At most ``threads`` items are computed at a time, and at most one more has been taken from ``items`` than these.

    With one thread nothing is started; the results are the same for any number of threads.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Here(threading.local):
    """What a thread of an executor knows of it."""

    slots: AbstractContextManager[Any] = nullcontext()
    behind: Behind = Behind(at_once=True)


_here = _Here()


def computing() -> AbstractContextManager[Any]:
    """To be held by a task while it computes, and not while it waits for a store: see `LocalExecutor`."""
    return _here.slots


def write_behind(call: Callable[[], object]) -> Future[None]:
    """Make a call of a task that writes its result, if the store takes its time while the thread does other tasks.

    Its failure ends a later task or the run of the executor; who reads the result waits for the end that is returned.
    """
    return _here.behind.do(call)


class LocalExecutor:
    """Does tasks in this process with up to ``threads`` of them at a time; with one thread none is started.

    Parameters
    ----------
    report : told of every task that is tried again.
    overlap : some tasks more are under way, which wait for the store while others compute; no more than ``threads`` of
        them hold `computing`. As many results are written while others are computed, see `write_behind`.
    """

    def __init__(self, threads: int = 1, report: Report = no_report, *, overlap: bool = False) -> None:
        self._threads = max(threads, 1)
        waiting = min(self._threads, OVERLAP)
        self._under_way = self._threads + (waiting if overlap else 0)
        self._behind = Behind(at_once=not overlap, threads=waiting, most=waiting)
        self._report = report

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield the outcome of every task once, in the order in which they end."""
        if self._under_way == 1:
            yield from map(self._outcome, tasks)
            return
        waiting = iter(tasks)
        slots = threading.Semaphore(self._threads)
        pool = ThreadPoolExecutor(self._under_way, initializer=self._enter, initargs=(slots,))
        try:
            running = {pool.submit(self._outcome, task) for task in islice(waiting, self._under_way)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(self._outcome, task) for task in islice(waiting, len(done))}
                for future in done:
                    yield future.result()
        finally:  # a run that is stopped does not wait for what is under way: nobody will read it
            pool.shutdown(wait=False, cancel_futures=True)

    def _enter(self, slots: threading.Semaphore) -> None:
        _here.slots, _here.behind = slots, self._behind

    def _outcome(self, task: Task) -> Outcome:
        attempts = Attempts(task)
        worker = socket.gethostname()
        while True:
            try:
                result = perform(task.kind, task.spec)
            except Exception as error:  # noqa: BLE001 - whatever a unit raises becomes its outcome
                final = attempts.failure(error)
                if final is not None:
                    return Outcome(task, None, final, attempts.count, worker)
                self._report(retried(attempts, worker, describe(error)))
            else:
                return Outcome(task, result, None, attempts.count + 1, worker)

    def workers(self) -> int:
        """Return how many tasks are computed at a time."""
        return self._threads

    def close(self) -> None:
        """Return when all results are written; threads end with their run."""
        self._behind.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._behind.__exit__(kind, error, trace)
