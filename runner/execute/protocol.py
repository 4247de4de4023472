"""What a piece of work is, what comes back of it, and who carries it out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol, Self

from runner.errors import BadUnit, StorageError, TomoburstError

MAX_ATTEMPTS = 3
MAX_DEATHS = 6


@dataclass(frozen=True)
class Task:
    """A piece of work that any process can do, and do again with the same outcome.

    Attributes
    ----------
    id : names the task among those of one `Executor.run`.
    kind : ``module:function`` of a function that takes the spec and returns a small JSON object. It reads its inputs
        from the store and writes one object; doing it twice leaves the same bytes.
    spec : JSON object.
    priority : tasks of a higher priority are started first.
    locality : key of what the task reads. Tasks of the same key go to the same worker where possible.
    """

    id: str
    kind: str
    spec: dict[str, Any]
    priority: int = 0
    locality: str = ""

    def as_json(self) -> str:
        """Kind and spec in one line, from which the task can be done again by hand."""
        return json.dumps({"id": self.id, "kind": self.kind, "spec": self.spec}, sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """The end of a task: its result, or the error that ended it after ``attempts`` attempts."""

    task: Task
    result: dict[str, Any] | None
    error: TomoburstError | None
    attempts: int
    worker: str


@dataclass(frozen=True)
class Happening:
    """Something that happened to workers or tasks while a run was computed.

    ``what`` names it like the record of `runner.report.events` that it becomes: worker_joined, worker_lost,
    unit_retried, straggler_duplicated, store_retried, scheduler_lost, scheduler_back, noted; ``details`` are the
    fields of the record.
    """

    what: str
    details: dict[str, Any]


Report = Callable[[Happening], None]


def no_report(happening: Happening) -> None:
    """Tell nobody."""


class Executor(Protocol):
    """Carries out tasks; a context manager that lets its workers go at the end."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield the outcome of every task once, in the order in which they end.

        Tasks are taken from ``tasks`` as workers become free. An iteration that is left early drops what is under way.
        """

    def workers(self) -> int:
        """Return how many tasks are computed at a time now."""

    def close(self) -> None:
        """Let the workers go; the executor can be closed again."""

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


def perform(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Do a task: call the function that ``kind`` names with ``spec`` and return its result.

    Both go through JSON here too, so that a task gets and gives the same whichever executor carries it.
    """
    module, _, function = kind.partition(":")
    result: dict[str, Any] = json.loads(
        json.dumps(getattr(import_module(module), function)(json.loads(json.dumps(spec))))
    )
    return result


@dataclass
class Attempts:
    """Counts the attempts of one task that led to nothing and says what follows from them."""

    task: Task
    failed: int = 0
    killed: int = 0
    left: int = 0

    @property
    def count(self) -> int:
        """Attempts that led to nothing so far."""
        return self.failed + self.killed + self.left

    def failure(self, error: Exception) -> TomoburstError | None:
        """Count one failed attempt; return the error that ends the task, or None when it is to be tried again.

        Bad input fails in the same way wherever it is read, so it ends a task at once. A store that did not answer, or
        anything unexpected, may do better elsewhere: up to `MAX_ATTEMPTS` attempts are made.
        """
        self.failed += 1
        if isinstance(error, TomoburstError) and not isinstance(error, StorageError):
            return error
        if self.failed < MAX_ATTEMPTS:
            return None
        if isinstance(error, StorageError):
            return error
        return self._bad_unit(f"failed {self.failed} times, the last time with {describe(error)}")

    def death(self, worker: str) -> TomoburstError | None:
        """Count one worker that died while it computed the task; otherwise as `failure`.

        Workers die of many things that are no fault of the task, so it takes more of them, `MAX_DEATHS`.
        """
        self.killed += 1
        if self.killed < MAX_DEATHS:
            return None
        return self._bad_unit(f"{self.killed} workers died while they computed it, the last one was {worker}")

    def leave(self) -> None:
        """Count one worker that was told to stop while it computed the task; that is nobody's fault."""
        self.left += 1

    def _bad_unit(self, what: str) -> BadUnit:
        return BadUnit(f"unit {self.task.id}: {what}; its task is {self.task.as_json()}")


def retried(attempts: Attempts, worker: str, reason: str) -> Happening:
    """Say that a task is tried again after it led to nothing on ``worker``."""
    details = {"unit": attempts.task.id, "attempt": attempts.count + 1, "worker": worker, "reason": reason}
    return Happening("unit_retried", details)


class RemoteFailure(Exception):
    """An unexpected error of another process, as `describe` spelt it there."""


def describe(error: BaseException) -> str:
    """Class and text of an unexpected error in one line."""
    if isinstance(error, RemoteFailure):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
