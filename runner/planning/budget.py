"""The budget of ``--memory``: what a run needs at the least, whether it fits, and what the rest is spent on."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass, replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from kernels.backend import cpu_backend
from kernels.geometry import padded_size
from kernels.sphere import sphere
from runner.errors import UsageError
from runner.execute.local import OVERLAP
from runner.formats.particle_head import ParticleHead, read_particle_head
from runner.plan.config import RefineConfig
from runner.plan.cost import Data, Kind, Sharpness
from runner.plan.expected import Assumptions
from runner.plan.memory import LEAST, WITHOUT_BUDGET, Memory, Process, Shares, flattest, memory, shares_within
from runner.plan.units import batch_size, unit_rows
from runner.planning.kinds import expected_kinds
from runner.planning.rates import load_kernels
from runner.store.objects import is_local

FINEST = 2.0
"""Resolution in voxels that no run exceeds."""

CLUSTER_BYTES = 100 * 2**20
"""Libraries of a process that talks to a scheduler."""

SLACK = 1.1
"""What is allocated beyond what is counted, by the allocator and in small arrays."""


@dataclass(frozen=True)
class Account:
    """The memory of a run's processes, iteration by iteration."""

    data: Data
    process: Process

    def memory(self, kind: Kind, sharp: Sharpness, shares: Shares) -> Memory:
        """Peak of a process in one kind of iteration."""
        units, chunk = len(unit_rows(self.data.particles)), batch_size(self.data.particles)
        return memory(self.data, kind, sharp, self.process, units, chunk, shares)

    def shares(self, budget_gb: float, kinds: list[Kind]) -> Shares:
        """What a budget leaves for speed when images have their full size in every iteration.

        Raises
        ------
        UsageError
            The budget does not hold what a run needs.
        """
        if budget_gb <= 0:
            return WITHOUT_BUDGET
        budget = int(budget_gb * 2**30 / SLACK)
        full = [self._at_full_size(kind) for kind in kinds]
        least = [self.memory(kind, flattest(kind), LEAST) for kind in full]
        kind, largest = max(zip(full, least, strict=True), key=lambda each: each[1].peak)
        if largest.peak > budget:
            raise UsageError(self._too_small(budget_gb, kind, largest))
        return shares_within(budget, least, full, self.process)

    def _at_full_size(self, kind: Kind) -> Kind:
        box = self.data.box
        pad = (kind.grid - 3) / kind.current_size
        return replace(kind, current_size=box, fine_coefficients=len(sphere(box)), grid=padded_size(box // 2, pad))

    def _too_small(self, budget_gb: float, kind: Kind, needed: Memory) -> str:
        units = self.process.threads * (needed.prepared + needed.blocks + needed.result)
        parts = {
            "program": needed.base,
            "maps, tables and CTFs": needed.box + needed.references,
            f"--j {self.process.threads}": units,
            "reconstruction": max(needed.maximization - needed.base - needed.box, 0),
        }
        enough = math.ceil(_gb(needed.peak) * SLACK * 100 + 1) / 100
        told = ", ".join(f"{name} {_gb(count):.2g}" for name, count in parts.items())
        fewer = [flag for flag, helps in (("--j", self.process.threads > 1), ("--K", kind.classes > 1)) if helps]
        helps = f"; less is needed with a smaller {' or '.join([*fewer, '--pad'])}, or smaller boxes"
        return (
            f"--memory {budget_gb:g}: a process of this run may need {enough:g} GB ({told}) when it compares "
            f"boxes of {self.data.box} voxels in full; give --memory {enough:g}{helps}"
        )


def settle_shares(config: RefineConfig) -> Shares:
    """What the processes of a run may spend on speed; with a budget, the kernels are loaded to see what they take.

    Raises
    ------
    UsageError, InputError
        The budget does not hold what the run needs, or the particles cannot be found.
    """
    if config.memory <= 0:
        return WITHOUT_BUDGET
    data = data_of(config, read_particle_head(config.store or config.i))
    expected = list(expected_kinds(config, data, Assumptions(FINEST * data.voxel_size_angst, 1)))
    with threadpool_limits(1):
        load_kernels(config, *expected[-1], cpu_backend("float64" if config.relion_parity else "float32"))
    return Account(data, process_of(config, peak_bytes())).shares(config.memory, [kind for kind, _ in expected])


def data_of(config: RefineConfig, head: ParticleHead) -> Data:
    """The particles of a run."""
    return Data(
        particles=head.particles,
        groups=head.groups,
        box=head.box,
        voxel_size_angst=head.voxel_size_angst,
        volume_bytes=head.volume_bytes,
        ctf_bytes=head.ctf_bytes if config.ctf else 0.0,
    )


def process_of(config: RefineConfig, base_bytes: int) -> Process:
    """The process that computes units: this one, or a worker with one thread, whose driver makes the maps."""
    remote = bool(config.workers or config.scheduler)
    threads = 1 if remote else config.j
    return Process(
        base_bytes=base_bytes + CLUSTER_BYTES * remote,
        threads=threads,
        under_way=threads + (0 if remote or is_local(config.o) else min(threads, OVERLAP)),
        precision_bytes=8 if config.relion_parity else 4,
    )


def peak_bytes() -> int:
    """Largest resident memory of this process so far; of the process alone where the system tells it."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of the program that started it, too


def _gb(count: float) -> float:
    return count / 2**30
