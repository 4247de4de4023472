"""Progress of a run for people: bars on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

from runner.report.events import Events, Sink, StoreRetried
from runner.report.logs import JsonStream
from runner.store.retry import listen


def open_events(stream: TextIO | None = None) -> Events:
    """Return the events of a command: bars when ``stream`` (default: standard error) is a terminal, else JSON lines.

    Requests to stores that are made again are among them.
    """
    events = Events(progress_sink(stream or sys.stderr))
    listen(lambda url, attempt, reason: events.emit_later(StoreRetried(url, attempt, reason)))
    return events


def progress_sink(stream: TextIO) -> Sink:
    """Return the sink that suits a stream."""
    if stream.isatty():
        from rich.console import Console  # of no use to the many runs whose log is a file, and slow to import

        from runner.report.terminal import TerminalProgress

        return TerminalProgress(Console(file=stream))
    return JsonStream(stream)
