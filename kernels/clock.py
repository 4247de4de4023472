"""Where the time of one work unit goes: seconds by stage and counts of operations, which never influence results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAGES = ("prepare", "poses", "sample", "shift", "first_pass", "second_pass", "scores", "posterior", "sums", "insert")
"""Stages of the E-step: particles prepared; orientations and translations listed; references rotated; particles
translated; matrix products of the first and of the second pass; norms, and scores put together from these; weights and
significance; products for the M-step; insertion.
"""


class Clock:
    """Seconds and counts of one work unit; one clock serves one thread.

    A stage inside another stops the outer one, so that the seconds of all stages add up.

    Parameters
    ----------
    now : what the seconds are read from; ``time.thread_time`` leaves out what other processes took.

    Attributes
    ----------
    seconds : seconds by stage (:data:`STAGES`).
    counts : operations by kind: ``particles``; ``comparisons``, pairs of an orientation and a translation in either
        pass; ``gemm_flops`` of the first pass, ``fine_flops`` of the second; ``samples`` and ``insertions`` in
        coefficients; ``halvings`` of the particles for want of memory.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self._now = now
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent in the context for the stage ``name``."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def count(self, kind: str, amount: int) -> None:
        """Add ``amount`` operations of one kind."""
        self.counts[kind] = self.counts.get(kind, 0) + amount

    def _settle(self) -> None:
        now = self._now()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
