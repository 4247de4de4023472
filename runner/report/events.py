"""What happens during a run, as small records, and where they go.

A use case emits records to an `Events` object and knows nothing of terminals and files; sinks turn them into bars,
JSON lines or whatever else. Times come from the sinks, never from the records, so that records of equal runs are equal.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self, TextIO


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
    """``done`` of ``total`` particles (or other pieces) of the iteration or stage are finished."""

    done: int
    total: int


@dataclass(frozen=True)
class IterationFinished(Event):
    """An iteration is finished: what it reached and what it changed."""

    iteration: int
    resolution_angst: float
    changes_angles_deg: float = math.nan
    changes_offsets_angst: float = math.nan
    changes_classes: float = math.nan
    accuracy_rotation_deg: float = math.nan
    accuracy_translation_angst: float = math.nan
    average_pmax: float = math.nan


@dataclass(frozen=True)
class RunFinished(Event):
    """The command is finished; ``files`` are the results a user looks for first."""

    command: str
    iterations: int = 0
    resolution_angst: float = math.nan
    converged: bool = True
    files: tuple[str, ...] = ()


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
        self._lock = threading.RLock()

    def add(self, sink: Sink) -> None:
        """Hand the following records to ``sink`` too."""
        with self._lock:
            self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Hand one record to all sinks."""
        with self._lock:
            for sink in self._sinks:
                sink.write(event)

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


class JsonStream:
    """Writes each record at once as one JSON line to a text stream, for logs that programs read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        """Write and flush one line."""
        self._stream.write(json_line(event))
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


class JsonLog:
    """Keeps all records but `UnitFinished` and hands the whole log over when an iteration or the run ends.

    A run that fails before its first iteration is over leaves no log.

    Parameters
    ----------
    save : called with the bytes of the log so far, e.g. to write ``PREFIX_events.jsonl`` as one object.
    """

    def __init__(self, save: Callable[[bytes], None]) -> None:
        self._save = save
        self._lines: list[str] = []
        self._saved = 0

    def write(self, event: Event) -> None:
        """Keep one record; save after the end of an iteration or of the run."""
        if isinstance(event, UnitFinished):
            return
        self._lines.append(json_line(event))
        if isinstance(event, IterationFinished | RunFinished):
            self._flush()

    def close(self) -> None:
        """Save what was not saved yet of a log that has been saved before."""
        if 0 < self._saved < len(self._lines):
            self._flush()

    def _flush(self) -> None:
        self._save("".join(self._lines).encode())
        self._saved = len(self._lines)


def json_line(event: Event) -> str:
    """Return a record as one JSON line with the present time (UTC, ISO 8601), newline included."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **event.as_dict()}, ensure_ascii=False, allow_nan=False) + "\n"


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
