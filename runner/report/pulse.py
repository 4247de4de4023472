"""How far a run is, in a few numbers that stand in the heartbeat of its driver for any onlooker."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

from runner.report.events import (
    Event,
    IterationFinished,
    IterationStarted,
    RunFailed,
    RunStarted,
    StageStarted,
    UnitFinished,
    UnitRetried,
    Warned,
    WorkerJoined,
    WorkerLost,
)

WINDOW = 64


class Pulse:
    """A sink of events that knows what a run does now: see `state`.

    Parameters
    ----------
    workers : how many workers there are at the start; `WorkerJoined` and `WorkerLost` change it.
    """

    def __init__(self, workers: int = 0) -> None:
        self._lock = threading.Lock()
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._state: dict[str, Any] = {
            "command": "",
            "iteration": 0,
            "stage": "",
            "done": 0,
            "total": 0,
            "resolution_angst": None,
            "workers": workers,
            "last_error": "",
        }

    def state(self) -> dict[str, Any]:
        """Return the present state as a JSON object; any thread may ask.

        ``done`` of ``total`` particles of ``iteration`` (or pieces of ``stage``) are finished, ``per_second`` of them
        lately, and the rest takes ``eta_seconds``; both are None as long as nothing is known.
        """
        with self._lock:
            rate = self._rate()
            left = self._state["total"] - self._state["done"]
            return {**self._state, "per_second": rate, "eta_seconds": left / rate if rate else None}

    def write(self, event: Event) -> None:
        """Take one record."""
        with self._lock:
            self._take(event)

    def close(self) -> None:
        """Nothing to finish: the last state stays."""

    def _take(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._state["command"] = event.command
            case StageStarted():
                self._begin(stage=event.stage, done=0, total=event.total)
            case IterationStarted():
                self._begin(stage="", done=0, total=event.particles, iteration=event.iteration)
                self._set_resolution(event.resolution_angst)
            case UnitFinished():
                self._state.update(done=event.done, total=event.total)
                if event.was_found:
                    self._arrivals.clear()
                self._arrivals.append((time.monotonic(), event.done))
            case IterationFinished():
                self._set_resolution(event.resolution_angst)
            case WorkerJoined():
                self._state["workers"] = event.workers or self._state["workers"] + 1
            case WorkerLost():
                self._state["workers"] = max(event.workers or self._state["workers"] - 1, 0)
                self._state["last_error"] = f"worker {event.worker} is gone {event.reason}".strip()
            case UnitRetried():
                self._state["last_error"] = f"unit {event.unit}: {event.reason}"
            case Warned() | RunFailed():
                self._state["last_error"] = event.message

    def _begin(self, **values: Any) -> None:
        self._state.update(values)
        self._arrivals.clear()
        self._arrivals.append((time.monotonic(), 0))

    def _set_resolution(self, angst: float) -> None:
        self._state["resolution_angst"] = angst if math.isfinite(angst) and 0 < angst < 999 else None

    def _rate(self) -> float | None:
        """Pieces per second between the first and the last arrival that are remembered."""
        if len(self._arrivals) < 2:
            return None
        (first, before), (last, after) = self._arrivals[0], self._arrivals[-1]
        return (after - before) / (last - first) if last > first and after > before else None
