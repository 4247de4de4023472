"""How long operations take on this machine: a small made-up unit of each kind of iteration is computed and timed."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property
from typing import Any

from kernels.backend import Backend
from kernels.calibration import Problem, accuracy_seconds, reconstruction_seconds, run_problem
from kernels.clock import Clock
from runner.plan.config import RefineConfig
from runner.plan.cost import STAGE_OF, Data, Kind, Rates
from runner.plan.plan_config import PlanConfig
from runner.planning.kinds import Search
from runner.store.objects import is_local

FLOPS = 2e9
"""Operations of the products of a made-up unit: some tenths of a second."""

SAMPLING_IN_FLOPS = 400
"""A rotated coefficient takes about as long as so many operations of a product."""

REPETITIONS = 2
"""Times that everything is measured; the shortest counts."""

SMALL_GRID_SHELLS = 14
LOCAL_BYTES_PER_SECOND, REMOTE_BYTES_PER_SECOND = 1e9, 1e8
WARM_BOX = 16


class Timing:
    """Measures rates; ``slower`` is how many times as long operations take on the device that is planned for."""

    def __init__(self, config: PlanConfig, data: Data, backend: Backend, slower: float) -> None:
        self._config, self._data, self._backend, self._slower = config, data, backend, slower
        reading = LOCAL_BYTES_PER_SECOND if is_local(config.i) else REMOTE_BYTES_PER_SECOND
        self._reading = config.bandwidth * 1e6 if config.bandwidth > 0 else reading

    def rates(self, kind: Kind, search: Search) -> Rates:
        """Rates of one kind of iteration."""
        problem = _problem(self._config, kind, search, self._data.box)
        runs = [self._run(problem) for _ in range(REPETITIONS)]  # kernels may be compiled in the first one
        counts: dict[str, Any] = dict(runs[0][0].counts)
        counts["poses"] = kind.orientations * problem.particles if kind.local else problem.orientations
        counts["shifts"] = problem.particles * kind.translations * kind.coarse_coefficients
        stages = {
            stage: min(slower * clock.seconds[stage] for clock, slower in runs) / max(1, counts.get(STAGE_OF[stage], 0))
            for stage in runs[0][0].seconds
            if stage in STAGE_OF
        }
        accuracy = min(accuracy_seconds(problem, self._backend) for _ in range(REPETITIONS))
        return Rates(stages, self._slower * self._maximization, self._slower * accuracy, self._reading)

    def _run(self, problem: Problem) -> tuple[Clock, float]:
        """Clock of a made-up unit, and by how much its seconds have to be multiplied.

        On a CPU the time during which others had the processor is taken out: plans are for idle machines.
        """
        wall, computed = time.perf_counter(), time.thread_time()
        clock = run_problem(problem, self._backend)
        wall, computed = time.perf_counter() - wall, time.thread_time() - computed
        return clock, self._slower * (computed / wall if self._backend.is_cpu else 1.0)

    @cached_property
    def _maximization(self) -> float:
        """Seconds of a reconstruction for each voxel of its padded grid, from a small one."""
        shells = min(SMALL_GRID_SHELLS, self._data.box // 2)
        iterations = 0 if self._config.skip_gridding else self._config.gridding_iter
        seconds = [reconstruction_seconds(2 * shells, self._config.pad, shells, iterations) for _ in range(REPETITIONS)]
        return min(seconds)


def load_kernels(config: RefineConfig, kind: Kind, search: Search, backend: Backend) -> None:
    """Let the compiled kernels be loaded, and caches of grids be filled, before anything is measured."""
    small = replace(_problem(config, kind, search, WARM_BOX), coarse_size=WARM_BOX, current_size=WARM_BOX)
    run_problem(small, backend)
    accuracy_seconds(small, backend)


def _problem(config: RefineConfig, kind: Kind, search: Search, box: int) -> Problem:
    """A unit of this kind: a local search is as it is, of a global one some orientations are taken."""
    particles = 1 if kind.local else 4
    each = kind.coarse_coefficients * (4 * kind.translations * particles + SAMPLING_IN_FLOPS)
    return Problem(
        box=box,
        pad=config.pad,
        coarse_size=kind.coarse_size,
        current_size=kind.current_size,
        grid=search.grid,
        translations_px=search.translations_px,
        offset_step_px=search.offset_step_px,
        oversampling=kind.oversampling,
        local=kind.local,
        sigmas_deg=search.sigmas_deg,
        fixed_orientation=config.skip_align or config.skip_rotate,
        fixed_offset=config.skip_align,
        cross_correlation=kind.cross_correlation,
        use_ctf=config.ctf,
        zero_mask=config.zero_mask,
        particles=particles,
        orientations=max(16, min(kind.orientations, int(FLOPS / each))),
    )
