"""Where the time of a run went, from its events: seconds by iteration and stage, and how far they are from the floors.

A floor is the time that an operation needs at the least on a machine: floating-point operations at its rate of matrix
products, or the bytes that have to pass through its memory once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class IterationTiming:
    """One finished iteration.

    Attributes
    ----------
    seconds : of the driver's clock, or between its events where it tells nothing.
    stages : seconds of the E-step by stage and ``operations`` by kind, summed over units; driver : seconds by step.
    """

    iteration: int
    particles: int
    local: bool
    angular_step_deg: float
    current_size_px: int
    seconds: float
    stages: dict[str, float]
    operations: dict[str, int]
    driver: dict[str, float]


@dataclass(frozen=True)
class Work:
    """What a stage of the E-step does: ``flops`` a count of products is made of, or ``bytes`` that each item moves."""

    count: str
    flops: float = 0.0
    bytes: float = 0.0


WORK = {
    "sample": Work("samples", bytes=8),
    "first_pass": Work("gemm_flops", flops=1),
    "second_pass": Work("fine_flops", flops=1),
    "insert": Work("insertions", bytes=12),
}
"""A rotated coefficient is written, an inserted one and its weight are read; grids and matrices stay in caches."""


@dataclass(frozen=True)
class StageTotal:
    """A stage over all iterations: its ``share`` of the E-step, and its seconds at the floor, None without one."""

    stage: str
    seconds: float
    share: float
    operations: int | None
    floor_seconds: float | None

    @property
    def of_floor(self) -> float | None:
        """Share of the floor that is reached: 1 is as fast as the machine can be."""
        if self.floor_seconds is None or self.seconds <= 0:
            return None
        return self.floor_seconds / self.seconds


@dataclass
class _Open:
    """What the start of an iteration told."""

    time: datetime
    facts: dict[str, Any] = field(default_factory=dict)


def read_timings(lines: Iterable[str]) -> list[IterationTiming]:
    """Finished iterations from the lines of an events file, in order; of one that was repeated the last time counts."""
    started: dict[int, _Open] = {}
    found: dict[int, IterationTiming] = {}
    for line in lines:
        event = json.loads(line)
        if event["event"] == "iteration_started":
            started[event["iteration"]] = _Open(datetime.fromisoformat(event["time"]), event)
        elif event["event"] == "iteration_finished" and event["iteration"] in started:
            found[event["iteration"]] = _timing(started[event["iteration"]], event)
    return [found[number] for number in sorted(found)]


def _timing(start: _Open, end: dict[str, Any]) -> IterationTiming:
    driver = end.get("driver", {})
    between = (datetime.fromisoformat(end["time"]) - start.time).total_seconds()
    return IterationTiming(
        iteration=end["iteration"],
        particles=start.facts["particles"],
        local=start.facts["local"],
        angular_step_deg=start.facts["angular_step_deg"],
        current_size_px=start.facts["current_size_px"],
        seconds=sum(driver.values()) or between,
        stages=end.get("stages", {}),
        operations=end.get("operations", {}),
        driver=driver,
    )


def stage_totals(timings: Iterable[IterationTiming], product_flops: float, bandwidth_bytes: float) -> list[StageTotal]:
    """Stages of the E-step over all iterations, the longest first.

    Parameters
    ----------
    product_flops, bandwidth_bytes : rates of one device, see `kernels.floors.Floors`.
    """
    seconds: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for timing in timings:
        seconds.update(timing.stages)
        operations.update(timing.operations)
    whole = sum(seconds.values()) or 1.0
    totals = []
    for stage, spent in seconds.most_common():
        count = floor = None
        if stage in WORK:
            work = WORK[stage]
            count = operations[work.count]
            floor = count * (work.flops / product_flops + work.bytes / bandwidth_bytes)
        totals.append(StageTotal(stage, spent, spent / whole, count, floor))
    return totals


ITERATION_COLUMNS = ("iteration", "search", "image", "s", "ms a particle", "E-step by stage, %", "driver, s")
STAGE_COLUMNS = ("stage", "s", "share", "operations", "s at the floor", "of the floor")


def iteration_rows(timings: Iterable[IterationTiming]) -> list[list[str]]:
    """Rows of a table with a line for each iteration."""
    return [
        [
            str(timing.iteration),
            f"{'local' if timing.local else 'global'} {timing.angular_step_deg:.3g} deg",
            str(timing.current_size_px),
            f"{timing.seconds:.3g}",
            f"{1000 * timing.seconds / max(1, timing.particles):.3g}",
            _shares(timing.stages),
            ", ".join(f"{step} {spent:.2g}" for step, spent in timing.driver.items()),
        ]
        for timing in timings
    ]


def _shares(stages: dict[str, float]) -> str:
    whole = sum(stages.values()) or 1.0
    longest = sorted(stages.items(), key=lambda item: -item[1])
    return ", ".join(f"{stage} {100 * spent / whole:.0f}" for stage, spent in longest if spent >= 0.005 * whole)


def stage_rows(totals: Iterable[StageTotal]) -> list[list[str]]:
    """Rows of a table with a line for each stage of the E-step."""
    return [
        [
            total.stage,
            f"{total.seconds:.3g}",
            f"{100 * total.share:.1f} %",
            "" if total.operations is None else f"{total.operations:.3g} {WORK[total.stage].count}",
            "" if total.floor_seconds is None else f"{total.floor_seconds:.3g}",
            "" if total.of_floor is None else f"{100 * total.of_floor:.0f} %",
        ]
        for total in totals
    ]
