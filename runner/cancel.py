"""`tomoburst cancel`: ask the driver of a run to stop, through the store alone; and how the driver hears of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from runner.errors import InputError, Preempted, StorageError
from runner.report.events import Event, Events, UnitFinished
from runner.store.layout import RunLayout
from runner.store.objects import create_bytes, delete, exists, list_objects


def cancel_run(prefix: str) -> str:
    """Ask the run with the output prefix ``prefix`` to stop and return what comes of it in one line.

    Raises
    ------
    InputError
        When there is no such run.
    """
    layout = RunLayout(prefix)
    if not exists(layout.manifest) and not list_objects(layout.drivers):
        raise InputError(f"{prefix}: no run has this output prefix (no {layout.manifest}); give the --o of the run")
    if exists(layout.finished):
        return f"{prefix}: the run is finished, nothing is left to cancel"
    asked = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds")}).encode() + b"\n"
    if not create_bytes(layout.cancel, asked):
        return f"{prefix}: the run was asked to stop before; the same command goes on with it"
    return f"{prefix}: its driver stops after the unit under way (exit code 75); the same command goes on with it"


class Cancellation:
    """Stops the driver of a run when somebody wants it to; a sink of events.

    The store is asked by `beat`, from the thread of the heartbeat. The run ends where the next unit arrives: `write`
    raises then, so it has to be the last sink.
    """

    def __init__(self, layout: RunLayout, state: Callable[[], dict[str, Any]] = dict) -> None:
        self._layout, self._state = layout, state
        self._is_heard = self._is_wanted = False

    def begin(self, events: Events) -> None:
        """Listen from now on; what was wanted before is over: whoever gives the command again wants it to go on."""
        if exists(self._layout.cancel):
            delete([self._layout.cancel])
            events.note(f"{self._layout.prefix}: the run was cancelled before; it goes on")
        self._is_heard = True
        events.add(self)

    def beat(self) -> dict[str, Any]:
        """Ask the store, and return the state of the run for the heartbeat."""
        with suppress(StorageError):  # the next beat asks again; the run itself learns of the store's troubles anyway
            self._is_wanted = self._is_wanted or (self._is_heard and exists(self._layout.cancel))
        return self._state()

    def write(self, event: Event) -> None:
        """Raise `Preempted` at the end of a unit when the run is to stop."""
        if self._is_wanted and isinstance(event, UnitFinished):
            raise Preempted(
                f"{self._layout.prefix}: stopped by tomoburst cancel; what is finished is kept, "
                "the same command goes on with the run"
            )

    def close(self) -> None:
        """Nothing to finish."""
