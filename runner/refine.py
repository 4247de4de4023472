"""`tomoburst refine`: automated refinement of two half sets, or 3D classification, of subtomograms.

The steps are those of the RELION page: read the particles and the reference, estimate the noise, then iterate: assign
poses, reconstruct, update the resolution and the sampling; an automated refinement ends by joining the halves.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from threadpoolctl import threadpool_limits

from runner.cancel import Cancellation
from runner.execute.protocol import Executor
from runner.execution import open_executor
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.plan.memory import Shares
from runner.plan.schedule import has_converged
from runner.planning.budget import settle_shares
from runner.refinement.beginning import Beginning, NewRun
from runner.refinement.iteration import assign_poses, iterate, with_initial_resolution
from runner.refinement.output import iteration_names, write_data, write_iteration
from runner.refinement.record import RunRecord
from runner.refinement.resume import continued_run
from runner.refinement.run import Run, announce
from runner.report.events import Events, RunFinished
from runner.report.pulse import Pulse
from runner.store.cache import use_cache
from runner.store.layout import RunLayout
from runner.store.objects import check_writable, is_local


def run_refine(config: RefineConfig, events: Events) -> None:
    """Refine or classify as ``config`` says, from a reference, from where an earlier run was, or from its own commits.

    Raises
    ------
    UsageError, InputError, StorageError, Preempted
        Flags, data or storage do not allow it, or another driver does it; nothing is left half-written.
    """
    use_cache(config.cache, int(config.cache_size * 1e9))
    beginning: Beginning = continued_run(config, events) if config.continue_ else NewRun(config)
    check_writable(f"{beginning.config.o}_optimiser.star")
    record = RunRecord(beginning.config, beginning.files, int(time.time()), beginning.iteration, events)
    if record.result is not None:
        record.tidy()
        events.note(f"{beginning.config.o}: this run is finished, nothing is left to do; --overwrite starts it afresh")
        events.emit(record.result)
        return
    shares = settle_shares(record.config)
    pulse = Pulse()
    events.add(pulse)
    cancellation = Cancellation(RunLayout(record.config.o), pulse.state)
    is_remote = not is_local(record.config.o)
    with (
        record.driving(cancellation.beat),
        open_executor(config, events, overlap=is_remote) as executor,
        threadpool_limits(1),
    ):
        if record.result is None:
            cancellation.begin(events)
            _drive(beginning, record, executor, events, shares)


def _drive(beginning: Beginning, record: RunRecord, executor: Executor, events: Events, shares: Shares) -> None:
    """Compute what is not done yet."""
    run = beginning.open_run(record.config, events, executor)
    run = replace(run, device=replace(run.device, shares=shares))
    record.begin(len(run.table))
    state = record.last_state()
    announce(run, record.write_log, None if state is None else state.iteration)
    record.warn_of_store()
    if state is None:
        state = beginning.state(run)
        state = record.commit(with_initial_resolution(run, state), partial(write_iteration, run, state))
    if run.config.skip_maximize:
        result = _assign_only(run, state)
    elif run.config.auto_refine:
        result = _auto_refine(run, record, state)
    else:
        result = _classify(run, record, state)
    record.settle()
    events.emit(result)
    record.finish(result)


def _auto_refine(run: Run, record: RunRecord, state: RunState) -> RunFinished:
    """Iterate until neither resolution nor poses improve at the finest useful sampling, then join the halves."""
    while state.iteration < run.config.auto_iter_max and not _is_joined(state):
        final = run.config.force_converge or has_converged(run.policy, state.schedule)
        state, maps = iterate(run, state, final)
        state = record.commit(state, partial(write_iteration, run, state, maps))
    names = iteration_names(run, state)
    if _is_joined(state):
        files = [names.reference(), names.unfiltered(0), names.unfiltered(1), names.data, names.model()]
        return _finished(state, files)
    run.events.warn(
        f"no convergence after --auto_iter_max {run.config.auto_iter_max} iterations: the last half maps are not joined"
    )
    return _finished(state, [names.reference(half) for half in (0, 1)])


def _is_joined(state: RunState) -> bool:
    """Whether the half sets of an automated refinement have become one."""
    return len(state.halves) == 1


def _classify(run: Run, record: RunRecord, state: RunState) -> RunFinished:
    """Iterate as often as asked."""
    while state.iteration < run.config.iter:
        state, _ = iterate(run, state)
        state = record.commit(state, partial(write_iteration, run, state))
    return _finished(state, [iteration_names(run, state).reference(0, k) for k in range(run.classes)])


def _assign_only(run: Run, state: RunState) -> RunFinished:
    """Assign poses once; the model stays as it is."""
    state = assign_poses(run, state)
    return _finished(state, [write_data(run, state)])


def _finished(state: RunState, files: list[str]) -> RunFinished:
    return RunFinished(
        "refine",
        iterations=state.iteration,
        resolution_angst=1.0 / max(state.schedule.current_resolution, 1e-6),
        files=tuple(files),
    )
