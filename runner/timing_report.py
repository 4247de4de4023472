"""`tomoburst report --timing`: where the time of a run went, beside what this machine could do at best."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from threadpoolctl import threadpool_limits

from kernels.backend import cpu_backend
from kernels.floors import Floors, measure_floors
from runner.errors import InputError
from runner.plan.report_config import ReportConfig
from runner.report.events import Events
from runner.report.table import print_table
from runner.report.timing import (
    ITERATION_COLUMNS,
    STAGE_COLUMNS,
    IterationTiming,
    StageTotal,
    iteration_rows,
    read_timings,
    stage_rows,
    stage_totals,
)
from runner.store.layout import RunLayout
from runner.store.objects import read_bytes


def run_report(config: ReportConfig, events: Events) -> None:
    """Print the report of a run, finished or not.

    Raises
    ------
    InputError
        There are no events under the prefix, or no iteration is finished.
    """
    url = RunLayout(config.timing).events
    timings = _timings(url)
    if not any(timing.stages for timing in timings):
        events.warn(f"{url}: written by an older version, which did not time the stages of the E-step")
    with threadpool_limits(1):
        floors = measure_floors(cpu_backend())
    totals = stage_totals(timings, floors.product_flops, floors.bandwidth_bytes)
    if config.json:
        report = {
            "prefix": config.timing,
            "floors_of_this_machine_now": asdict(floors),
            "iterations": [asdict(timing) for timing in timings],
            "stages": [{**asdict(total), "of_floor": total.of_floor} for total in totals],
        }
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        _print(config.timing, timings, totals, floors)


def _timings(url: str) -> list[IterationTiming]:
    lines = read_bytes(url).decode().splitlines()
    try:
        timings = read_timings(lines)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: no events of a refinement ({type(error).__name__}: {error})") from error
    if not timings:
        raise InputError(f"{url}: no iteration is finished yet; ask again later")
    return timings


def _print(prefix: str, timings: list[IterationTiming], totals: list[StageTotal], floors: Floors) -> None:
    products, memory = floors.product_flops / 1e9, floors.bandwidth_bytes / 1e9
    lines = [
        f"floors   one thread here and now: {products:.3g} GFLOP/s in single precision, {memory:.3g} GB/s of memory",
        f"run      {sum(timing.seconds for timing in timings):.3g} s in {len(timings)} iterations",
    ]
    title = "E-step of all iterations, seconds summed over units"
    print_table(f"{prefix}: {timings[-1].particles} particles", ITERATION_COLUMNS, iteration_rows(timings))
    print_table(title, STAGE_COLUMNS, stage_rows(totals), lines)
