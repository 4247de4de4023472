"""`tomoburst plan`: what a refinement will compute, read, write, hold and cost, before it runs.

The command takes the flags of `tomoburst refine`. It reads the beginning of the particle table and the header of one
volume, follows the schedule under stated assumptions, counts operations and bytes, and times a small made-up unit of
each kind of iteration on this machine.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass

from threadpoolctl import threadpool_limits

from kernels.backend import Backend, cpu_backend, cuda_backend
from kernels.floors import Floors, measure_floors
from runner.formats.particle_head import ParticleHead, read_particle_head
from runner.plan.cost import (
    BLURRED,
    EXPECTED,
    FLATTEST,
    SHARPEST,
    Data,
    Kind,
    Operations,
    Rates,
    Sharpness,
    expected_sharpness,
    operations,
    stage_seconds,
)
from runner.plan.expected import Assumptions
from runner.plan.memory import Memory, Shares, flattest
from runner.plan.plan_config import PlanConfig
from runner.plan.units import batch_size, chunk_rows, reduction_levels, unit_rows
from runner.planning.budget import FINEST, Account, data_of, peak_bytes, process_of
from runner.planning.kinds import expected_kinds
from runner.planning.rates import Timing, load_kernels
from runner.report.cost_table import print_plan
from runner.report.events import Events

VOXELS_RESOLVED = 3.0


@dataclass(frozen=True)
class PlannedKind:
    """One kind of iteration: what it is, its operations and memory, and the seconds of one of its iterations.

    Attributes
    ----------
    stages : seconds by stage, which add up to ``seconds``; ``fastest`` and ``slowest`` are those of sharper and flatter
        posteriors, ``flattest_bytes`` the peak of memory where every coarse orientation is significant.
    """

    kind: Kind
    operations: Operations
    memory: Memory
    flattest_bytes: int
    stages: dict[str, float]
    seconds: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Plan:
    """A run before it has begun.

    Attributes
    ----------
    units, chunk, levels : work units of an iteration, particles of a chunk, levels of the tree that merges sums.
    begin_seconds : before the first iteration: imports, kernels loaded, noise spectra.
    seconds : expected, with ``fastest`` and ``slowest`` for sharper and flatter posteriors and half and twice the
        iterations at one sampling; costs : of these three, in the currency of the price, None without one.
    read_bytes, written_bytes, written_objects : of the whole run; peak_bytes : of the process, and if they are flat.
    floors : of one device; rate_flops : of its products, as measured or as given.
    """

    data: Data
    units: int
    chunk: int
    levels: int
    devices: int
    kinds: list[PlannedKind]
    iterations: int
    begin_seconds: float
    seconds: float
    fastest: float
    slowest: float
    costs: tuple[float, float, float] | None
    read_bytes: int
    written_bytes: int
    written_objects: int
    peak_bytes: tuple[int, int]
    floors: Floors
    rate_flops: float
    assumptions: list[str]


def run_plan(config: PlanConfig, events: Events) -> None:
    """Print the plan of a run: a table, or JSON with ``--json``.

    Raises
    ------
    UsageError, InputError, StorageError
        The run cannot start: flags, table or first volume do not allow it.
    """
    plan = asdict(make_plan(config, events))
    if config.json:
        json.dump(plan, sys.stdout, indent=1)
        print()
    else:
        print_plan(plan)


def make_plan(config: PlanConfig, events: Events) -> Plan:
    """Plan a run; raises what `run_plan` raises."""
    head = read_particle_head(config.i)
    data = data_of(config, head)
    assumed = Assumptions(
        resolution_angst=config.resolution if config.resolution > 0 else VOXELS_RESOLVED * data.voxel_size_angst,
        iterations_per_order=config.iterations_per_order,
    )
    finest = Assumptions(FINEST * data.voxel_size_angst, 1)
    with threadpool_limits(1):
        backend = _backend(config, events)
        expected = list(expected_kinds(config, data, assumed))
        load_kernels(config, *expected[-1], backend)
        start_seconds = time.process_time()
        account = Account(data, process_of(config, peak_bytes()))  # before anything of the data's size is there
        shares = account.shares(config.memory, [kind for kind, _ in expected_kinds(config, data, finest)])
        floors = measure_floors(backend)
        rate = config.rate * 1e9 if config.rate > 0 else floors.product_flops
        timing = Timing(config, data, backend, floors.product_flops / rate)
        work = _Work(config, account, shares)
        kinds = [work.planned(kind, timing.rates(kind, search)) for kind, search in expected]
    return _summed(config, work, kinds, start_seconds, floors, rate, _stated(config, head, assumed))


class _Work:
    """How the particles are dealt out to the devices."""

    def __init__(self, config: PlanConfig, account: Account, shares: Shares) -> None:
        self.data = data = account.data
        self.units = len(unit_rows(data.particles))
        self.chunks = len(chunk_rows(data.particles))
        self.chunk = batch_size(data.particles)
        self.devices = config.devices if config.devices > 0 else config.workers or config.j
        self._account, self._shares = account, shares

    def planned(self, kind: Kind, rates: Rates) -> PlannedKind:
        """Operations, memory and seconds of one kind of iteration."""

        def seconds(sharp: Sharpness) -> dict[str, float]:
            found = operations(self.data, kind, sharp, self.units, self.chunks)
            return stage_seconds(found, kind, rates, self.devices, self.units)

        expected = expected_sharpness(kind)
        stages = seconds(expected)
        return PlannedKind(
            kind=kind,
            operations=operations(self.data, kind, expected, self.units, self.chunks),
            memory=self._memory(kind, flattest(kind) if expected == BLURRED[True] else expected),
            flattest_bytes=self._memory(kind, flattest(kind)).peak,
            stages=stages,
            seconds=sum(stages.values()),
            fastest=sum(seconds(SHARPEST).values()),
            slowest=sum(seconds(FLATTEST[kind.local]).values()),
        )

    def _memory(self, kind: Kind, sharp: Sharpness) -> Memory:
        return self._account.memory(kind, sharp, self._shares)


def _backend(config: PlanConfig, events: Events) -> Backend:
    precision = "float64" if config.relion_parity else "float32"
    if config.gpu is not None:
        try:
            return cuda_backend(precision, reserved_bytes=int(config.free_gpu_memory * 2**20), units=config.j)
        except RuntimeError as error:
            events.warn(f"--gpu: {error}; times are those of the CPU of this machine")
    return cpu_backend(precision)


def _summed(
    config: PlanConfig,
    work: _Work,
    kinds: list[PlannedKind],
    start_seconds: float,
    floors: Floors,
    rate_flops: float,
    assumptions: list[str],
) -> Plan:
    """The plan of all iterations together."""
    begin = start_seconds + kinds[0].stages["prepare"]  # for the first noise spectra particles are prepared too
    times = [each.kind.iterations for each in kinds]
    repeated = [config.auto_refine and count > 1 for count in times]
    fewest = [max(1, count // 2) if again else count for count, again in zip(times, repeated, strict=True)]
    most = [2 * count if again else count for count, again in zip(times, repeated, strict=True)]
    seconds, fastest, slowest = (
        begin + sum(count * getattr(each, name) for count, each in zip(counts, kinds, strict=True))
        for counts, name in ((times, "seconds"), (fewest, "fastest"), (most, "slowest"))
    )
    price = config.price_per_hour * work.devices / 3600
    totals = {
        name: sum(count * getattr(each.operations, name) for count, each in zip(times, kinds, strict=True))
        for name in ("read_bytes", "written_bytes", "written_objects")
    }
    return Plan(
        data=work.data,
        units=work.units,
        chunk=work.chunk,
        levels=len(reduction_levels(work.units)),
        devices=work.devices,
        kinds=kinds,
        iterations=sum(times),
        begin_seconds=begin,
        seconds=seconds,
        fastest=fastest,
        slowest=slowest,
        costs=(price * seconds, price * fastest, price * slowest) if price > 0 else None,
        **totals,
        peak_bytes=(max(each.memory.peak for each in kinds), max(each.flattest_bytes for each in kinds)),
        floors=floors,
        rate_flops=rate_flops,
        assumptions=assumptions,
    )


def _stated(config: PlanConfig, head: ParticleHead, assumed: Assumptions) -> list[str]:
    """What the plan takes for granted, one line each."""
    lines = [f"the run reaches {assumed.resolution_angst:.3g} A (--resolution)"]
    if config.auto_refine:
        lines.append(
            f"{assumed.iterations_per_order} iterations at each angular sampling (--iterations_per_order); the range "
            "is for half and twice as many"
        )
    for where, local in (("global", False), ("local", True)):
        usual, flat = EXPECTED[local], FLATTEST[local]
        lines.append(
            f"{where} searches: {usual.orientations} significant coarse orientations a particle and {usual.retained} "
            f"back-projected fine ones; the range is for {SHARPEST.orientations} and {SHARPEST.retained} to "
            f"{flat.orientations} and {flat.retained}"
        )
    if not config.firstiter_cc:
        first = BLURRED[True]
        lines.append(
            f"a local first iteration from a blurred reference: {first.orientations} and {first.retained} of them"
        )
    if config.ctf and head.looked_at < head.particles:
        lines.append(f"CTF volumes are shared as among the first {head.looked_at} particles")
    if config.rate > 0:
        lines.append("every stage is as much faster than here as products of matrices are (--rate)")
    return lines
