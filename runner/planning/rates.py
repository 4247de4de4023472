"""How long operations take on this machine: a small made-up unit of each kind of iteration is computed and timed."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from kernels.backend import Backend
from kernels.calibration import Problem, accuracy_seconds, reconstruction_seconds, run_problem
from kernels.clock import Clock
from runner.plan.config import RefineConfig
from runner.plan.cost import STAGE_OF, Data, Kind, Rates
from runner.planning.kinds import Search
from runner.store.objects import is_local

FLOPS = 2e9
"""Operations of the products of a made-up unit: some tenths of a second."""

SAMPLING_IN_FLOPS = 400
"""A rotated coefficient takes about as long as so many operations of a product."""

SMALL_GRID_SHELLS = 14
LOCAL_BYTES_PER_SECOND, REMOTE_BYTES_PER_SECOND = 1e9, 1e8
WARM_BOX = 16


class Timing:
    """Measures rates; ``slower`` is how many times as long operations take on the device that is planned for."""

    def __init__(self, config: RefineConfig, data: Data, backend: Backend, slower: float, bandwidth: float) -> None:
        self._config, self._data, self._backend, self._slower = config, data, backend, slower
        reading = LOCAL_BYTES_PER_SECOND if is_local(config.i) else REMOTE_BYTES_PER_SECOND
        self._reading = bandwidth * 1e6 if bandwidth > 0 else reading

    def rates(self, kind: Kind, search: Search) -> Rates:
        """Rates of one kind of iteration."""
        problem = self._problem(kind, search, self._data.box, kind.coarse_size, kind.current_size)
        self._compile(kind, search)
        clock, slower = self._run(problem)
        counts: dict[str, Any] = dict(clock.counts)
        counts["poses"] = kind.orientations * problem.particles if kind.local else problem.orientations
        counts["shifts"] = problem.particles * kind.translations * kind.coarse_coefficients
        stages = {
            stage: slower * seconds / max(1, counts.get(STAGE_OF[stage], 0))
            for stage, seconds in clock.seconds.items()
            if stage in STAGE_OF
        }
        accuracy = accuracy_seconds(problem, self._backend)
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
        seconds = [reconstruction_seconds(2 * shells, self._config.pad, shells, iterations) for _ in range(2)]
        return min(seconds)

    def _compile(self, kind: Kind, search: Search) -> None:
        """Let the compiled kernels be loaded, and caches of grids be filled, before anything is timed."""
        run_problem(self._problem(kind, search, WARM_BOX, WARM_BOX, WARM_BOX), self._backend)

    def _problem(self, kind: Kind, search: Search, box: int, coarse_size: int, current_size: int) -> Problem:
        """A unit of this kind: a local search is as it is, of a global one some orientations are taken."""
        particles = 1 if kind.local else max(2, min(4, self._data.particles))
        each = kind.coarse_coefficients * (4 * kind.translations * particles + SAMPLING_IN_FLOPS)
        return Problem(
            box=box,
            pad=self._config.pad,
            coarse_size=coarse_size,
            current_size=current_size,
            grid=search.grid,
            translations_px=search.translations_px,
            offset_step_px=search.offset_step_px,
            oversampling=kind.oversampling,
            local=kind.local,
            sigmas_deg=search.sigmas_deg,
            fixed_orientation=self._config.skip_align or self._config.skip_rotate,
            fixed_offset=self._config.skip_align,
            cross_correlation=kind.cross_correlation,
            use_ctf=self._config.ctf,
            zero_mask=self._config.zero_mask,
            particles=particles,
            orientations=max(16, min(kind.orientations, int(FLOPS / each))),
        )
