"""What happens during a run, as small records, and where they go.

A use case emits records to an `Events` object and knows nothing of terminals and files; sinks turn them into bars,
JSON lines or whatever else. Times come from the sinks, never from the records, so that records of equal runs are equal.
"""

from __future__ import annotations

import dataclasses
import math
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Event:
    """Base of all records."""

    @property
    def name(self) -> str:
        """The record's name in JSON lines: ``iteration_started`` for `IterationStarted`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def as_dict(self) -> dict[str, Any]:
        """Return name and fields as JSON values; numbers that are not finite become None."""
        return {"event": self.name, **{key: _json_value(value) for key, value in dataclasses.asdict(self).items()}}


@dataclass(frozen=True)
class RunStarted(Event):
    """A command starts to work: its name, output prefix, number of particles and whatever else is worth a line."""

    command: str
    output: str = ""
    particles: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStarted(Event):
    """A named part of a run with ``total`` pieces of work starts; `UnitFinished` counts them."""

    stage: str
    total: int = 0


@dataclass(frozen=True)
class IterationStarted(Event):
    """An iteration starts; ``resolution_angst`` is the resolution so far, ``local`` whether searches are local."""

    iteration: int
    particles: int
    resolution_angst: float
    current_size_px: int
    healpix_order: int
    angular_step_deg: float
    offset_range_angst: float
    offset_step_angst: float
    local: bool = False


@dataclass(frozen=True)
class UnitFinished(Event):
    """``done`` of ``total`` particles (or other pieces) of the iteration or stage are finished.

    ``unit`` is the unit of work that ended last, ``seconds`` what it took ``worker``; a unit that was found finished by
    an earlier driver has no worker.
    """

    done: int
    total: int
    unit: str = ""
    worker: str = ""
    seconds: float = math.nan

    @property
    def was_found(self) -> bool:
        """Whether it was finished before."""
        return self.unit != "" and self.worker == ""


@dataclass(frozen=True)
class IterationFinished(Event):
    """An iteration is finished: what it reached, what it changed, and what was asked of the store for it.

    ``store`` counts requests by method and bytes by direction since the iteration before was finished, of the driver
    and of its workers: ``{"GET": 12, "PUT": 3, "bytes_read": 1024, …}``.
    ``stages`` are the seconds of the stages of the E-step and ``operations`` their operations, summed over the units
    that were computed by this driver's workers; ``driver`` its own seconds: references transformed, accuracies
    estimated, units waited for and merged (expectation), maximization.
    """

    iteration: int
    resolution_angst: float
    changes_angles_deg: float = math.nan
    changes_offsets_angst: float = math.nan
    changes_classes: float = math.nan
    accuracy_rotation_deg: float = math.nan
    accuracy_translation_angst: float = math.nan
    average_pmax: float = math.nan
    store: dict[str, int] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    driver: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFinished(Event):
    """The command is finished; ``files`` are the results a user looks for first."""

    command: str
    iterations: int = 0
    resolution_angst: float = math.nan
    converged: bool = True
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunResumed(Event):
    """The same command goes on after ``iteration``, the last committed one."""

    command: str
    output: str = ""
    iteration: int = 0


@dataclass(frozen=True)
class RunFailed(Event):
    """The command ends without its results; ``message`` says why, ``exit_code`` is that of the process."""

    message: str
    exit_code: int = 1


@dataclass(frozen=True)
class UnitRetried(Event):
    """A unit of work failed, or was lost with its worker, and is tried again, now for the ``attempt``-th time."""

    unit: str
    attempt: int
    reason: str = ""
    worker: str = ""


@dataclass(frozen=True)
class WorkerJoined(Event):
    """A worker came; ``workers`` are there now (0: not counted)."""

    worker: str
    workers: int = 0


@dataclass(frozen=True)
class WorkerLost(Event):
    """A worker left or died while it computed ``units``: they are the work that is lost with it."""

    worker: str
    units: tuple[str, ...] = ()
    workers: int = 0
    reason: str = ""


@dataclass(frozen=True)
class StragglerDuplicated(Event):
    """A unit that takes much longer than others was given to a second worker; the first result counts."""

    unit: str
    worker: str = ""
    seconds: float = math.nan


@dataclass(frozen=True)
class SchedulerLost(Event):
    """The scheduler does not answer; ``reason`` says what is done."""

    reason: str = ""


@dataclass(frozen=True)
class SchedulerBack(Event):
    """The scheduler answers again."""


@dataclass(frozen=True)
class ParticleSetAside(Event):
    """A particle takes no part in the run any more; ``particle`` is its image name, ``row`` its row from 1 up."""

    particle: str
    row: int
    reason: str


@dataclass(frozen=True)
class StoreRetried(Event):
    """A request to the store failed and is made again, now for the ``attempt``-th time.

    ``worker`` made it, who tells of it at the end of a unit; empty for the driver.
    """

    url: str
    attempt: int
    reason: str = ""
    worker: str = ""


@dataclass(frozen=True)
class Noted(Event):
    """Something worth knowing that needs no action, in one line."""

    message: str


@dataclass(frozen=True)
class Warned(Event):
    """Something that may need action, in one line."""

    message: str


class Sink(Protocol):
    """Where records go. `Events` calls a sink by one thread at a time."""

    def write(self, event: Event) -> None:
        """Take one record."""

    def close(self) -> None:
        """Finish the output; no record follows."""


class Events:
    """Hands every record to every sink, in order, from whatever thread it comes.

    Examples
    --------
    >>> import sys
    >>> with Events(JsonStream(sys.stderr)) as events:
    ...     events.emit(Noted("nothing to do"))
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = list(sinks)
        self._waiting: deque[Event] = deque()
        self._lock = threading.RLock()

    def add(self, sink: Sink) -> None:
        """Hand the following records to ``sink`` too."""
        with self._lock:
            self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Hand one record to all sinks, after those that wait."""
        with self._lock:
            self._waiting.append(event)
            while self._waiting:
                first = self._waiting.popleft()
                for sink in self._sinks:
                    sink.write(first)

    def emit_later(self, event: Event) -> None:
        """Hand one record to all sinks with the next one, for threads that must not wait while sinks write."""
        self._waiting.append(event)

    def note(self, message: str) -> None:
        """Emit `Noted`."""
        self.emit(Noted(message))

    def warn(self, message: str) -> None:
        """Emit `Warned`."""
        self.emit(Warned(message))

    def close(self) -> None:
        """Close all sinks; the object can be closed again, and takes no further records."""
        with self._lock:
            sinks, self._sinks = self._sinks, []
            for sink in sinks:
                sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if hasattr(value, "item"):  # a number of NumPy
        return _json_value(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
