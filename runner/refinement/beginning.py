"""What a run begins with: a reference, or the files of an earlier run that it goes on with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.execute.protocol import Executor
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.refinement.initial import check_references, initial_state, read_references, reference_names
from runner.refinement.run import Run, open_run
from runner.report.events import Events
from runner.store.objects import join
from runner.store.particles import GROUP_KEY, is_particle_store


class Beginning(Protocol):
    """The first state of a run, and how to come to it."""

    @property
    def config(self) -> RefineConfig:
        """What the run is asked to do, output prefix included."""

    @property
    def iteration(self) -> int:
        """Number of the iteration whose state is the first one."""

    @property
    def files(self) -> dict[str, str]:
        """URL -> flag of the files that are read, but for the volumes of particles."""

    def open_run(self, config: RefineConfig, events: Events, executor: Executor) -> Run:
        """The constant part of the run; ``config`` has the random seed."""

    def state(self, run: Run) -> RunState:
        """The first state."""


@dataclass(frozen=True)
class NewRun:
    """A run that begins with a reference."""

    config: RefineConfig
    iteration: int = 0

    @property
    def files(self) -> dict[str, str]:
        """See `Beginning`."""
        particles = join(self.config.i, GROUP_KEY) if is_particle_store(self.config.i) else self.config.i
        maps = dict.fromkeys(reference_names(self.config), "--ref")
        return {particles: "--i", **maps, **files_of_flags(self.config)}

    def open_run(self, config: RefineConfig, events: Events, executor: Executor) -> Run:
        """See `Beginning`."""
        references, voxel_size = read_references(config)
        run = open_run(config, events, executor, len(references))
        check_references(run, references, voxel_size)
        return run

    def state(self, run: Run) -> RunState:
        """See `Beginning`."""
        return initial_state(run, read_references(run.config)[0])


def files_of_flags(config: RefineConfig) -> dict[str, str]:
    """URL -> flag of the masks, the spectra and the particle store that flags name."""
    store = {join(config.store, GROUP_KEY): "--store"} if config.store else {}
    fields = ("tau", "solvent_mask", "solvent_mask2", "lowpass_mask")
    return {getattr(config, field): f"--{field}" for field in fields if getattr(config, field)} | store
