"""Records as JSON lines: on a stream as they come, and in one object beside the results of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TextIO

from runner.report.events import Event, IterationFinished, IterationStarted, RunFailed, RunFinished, UnitFinished
from runner.store.layout import RunLayout
from runner.store.objects import exists, read_bytes, write_bytes


class JsonStream:
    """Writes each record at once as one JSON line to a text stream, for logs that programs read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        """Write and flush one line; of a failure the command line tells itself, also when it comes before any event."""
        if isinstance(event, RunFailed):
            return
        self._stream.write(json_line(event))
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream open: it belongs to the caller."""


class JsonLog:
    """Keeps all records but `UnitFinished` and hands the whole log over when an iteration or the run ends.

    A run that fails before its first iteration leaves no log, as it leaves no other file. From then on the last line
    says how the run ended, unless its process was killed.

    Parameters
    ----------
    save : called with the bytes of the log so far, e.g. to write ``PREFIX_events.jsonl`` as one object.
    earlier : the log of the drivers before this one, which goes on.
    """

    def __init__(self, save: Callable[[bytes], None], earlier: bytes = b"") -> None:
        self._save = save
        self._log = bytearray(earlier)
        self._has_begun = bool(earlier)
        self._saved = len(earlier)

    def write(self, event: Event) -> None:
        """Keep one record; save after the end of an iteration or of the run."""
        if isinstance(event, UnitFinished):
            return
        self._log += json_line(event).encode()
        self._has_begun |= isinstance(event, IterationStarted | RunFinished)
        if isinstance(event, IterationFinished | RunFinished | RunFailed):
            self.close()

    def close(self) -> None:
        """Save what was not saved yet of a run that has begun; what fails to be saved is so with the next record."""
        if self._has_begun and self._saved < len(self._log):
            data = bytes(self._log)
            self._saved = len(data)
            self._save(data)


def open_log(prefix: str, save: Callable[[bytes], None] | None = None, *, resumed: bool = False) -> JsonLog:
    """Return the log that is kept as one object beside the results, by ``save``; that of a resumed run goes on."""
    url = RunLayout(prefix).events
    earlier = read_bytes(url) if resumed and exists(url) else b""
    return JsonLog(save or partial(write_bytes, url), earlier)


def json_line(event: Event) -> str:
    """Return a record as one JSON line with the present time (UTC, ISO 8601), newline included."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **event.as_dict()}, ensure_ascii=False, allow_nan=False) + "\n"
