"""The plan of a run as a table for people."""

from __future__ import annotations

from typing import Any

from runner.report.table import print_table

COLUMNS = (
    "iterations",
    "of them",
    "orientations x offsets",
    "image, 1st / 2nd pass",
    "GFLOP 1st / 2nd",
    "samples / insertions (M)",
    "read / write",
    "memory",
    "s each (range)",
)


def print_plan(plan: dict[str, Any]) -> None:
    """Print the fields of a `runner.plan_run.Plan` on standard output."""
    data = plan["data"]
    title = (
        f"{data['particles']} particles of {data['box']} voxels of {data['voxel_size_angst']:g} A: "
        f"{plan['units']} work units, {plan['chunk']} particles a chunk"
    )
    print_table(title, COLUMNS, [_row(each) for each in plan["kinds"]], [*_totals(plan), *_assumptions(plan)])


def _row(planned: dict[str, Any]) -> list[str]:
    kind, done, held = planned["kind"], planned["operations"], planned["memory"]
    peak = max(held["expectation"], held["maximization"])
    return [
        kind["name"] + " by correlation" * kind["cross_correlation"],
        str(kind["iterations"]),
        f"{kind['orientations']} x {kind['translations']}",
        f"{kind['coarse_size']} / {kind['current_size']}",
        f"{done['gemm_flops'] / 1e9:.3g} / {done['fine_flops'] / 1e9:.3g}",
        f"{done['samples'] / 1e6:.3g} / {done['insertions'] / 1e6:.3g}",
        f"{size(done['read_bytes'])} / {size(done['written_bytes'])} in {done['written_objects']}",
        size(peak),
        f"{planned['seconds']:.3g} ({planned['fastest']:.3g} - {planned['slowest']:.3g})",
    ]


def _totals(plan: dict[str, Any]) -> list[str]:
    floors = plan["floors"]
    seconds, fastest, slowest = (duration(plan[name]) for name in ("seconds", "fastest", "slowest"))
    usual, flat = (size(count) for count in plan["peak_bytes"])
    read, written = size(plan["read_bytes"]), size(plan["written_bytes"])
    products, here = plan["rate_flops"] / 1e9, floors["product_flops"] / 1e9
    lines = [
        f"time     {seconds} ({fastest} to {slowest}) for {plan['iterations']} iterations on {plan['devices']} at once",
        f"memory   {usual} ({flat} where posteriors are flat) in the process",
        f"store    {read} read, {written} written in {plan['written_objects']} objects",
        f"device   {products:.3g} GFLOP/s in products of matrices",
        f"machine  this one, now: {here:.3g} GFLOP/s, {floors['bandwidth_bytes'] / 1e9:.3g} GB/s of memory",
    ]
    if plan["costs"] is not None:
        usual, least, greatest = plan["costs"]
        lines.insert(1, f"cost     {usual:.3g} ({least:.3g} to {greatest:.3g})")
    return lines


def _assumptions(plan: dict[str, Any]) -> list[str]:
    return [f"assumed  {line}" for line in plan["assumptions"]]


def size(count: float) -> str:
    """A number of bytes with a unit: ``1.5 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """A time with a unit: ``2.5 min``."""
    for unit, length in (("s", 120.0), ("min", 120.0)):
        if seconds < length:
            return f"{seconds:.3g} {unit}"
        seconds /= 60.0
    return f"{seconds:.3g} h"
