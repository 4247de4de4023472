"""`tomoburst refine`: automated refinement of two half sets, or 3D classification, of subtomograms.

The steps are those of the RELION page: read the particles and the reference, estimate the noise, then iterate: assign
poses, reconstruct, update the resolution and the sampling; an automated refinement ends by joining the halves.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from runner.execute.local import LocalExecutor
from runner.execute.protocol import Executor
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.plan.schedule import has_converged
from runner.refinement.initial import check_references, initial_state, read_references
from runner.refinement.iteration import assign_poses, iterate, with_initial_resolution
from runner.refinement.output import iteration_names, write_data, write_iteration, write_unfiltered
from runner.refinement.reduction import discard
from runner.refinement.resume import resume
from runner.refinement.run import Run, announce, open_run
from runner.report.events import Events, RunFinished
from runner.store.cache import use_cache
from runner.store.objects import check_writable


def run_refine(config: RefineConfig, events: Events) -> None:
    """Refine or classify as ``config`` says, from a reference or from where an earlier run was.

    Raises
    ------
    UsageError, InputError, StorageError
        Flags, data or storage do not allow it; nothing is left half-written.
    """
    use_cache(config.cache, int(config.cache_size * 1e9))
    with threadpool_limits(1), LocalExecutor(config.j) as executor:
        begin = resume if config.continue_ else _start
        run, state = begin(config, events, executor)
        write_iteration(run, state)
        discard(run.layout.iteration(state.iteration))
        state = with_initial_resolution(run, state)
        if run.config.skip_maximize:
            _assign_only(run, state)
        elif run.config.auto_refine:
            _auto_refine(run, state)
        else:
            _classify(run, state)


def _start(config: RefineConfig, events: Events, executor: Executor) -> tuple[Run, RunState]:
    """A new run, before its first iteration."""
    check_writable(f"{config.o}_optimiser.star")
    references, voxel_size = read_references(config)
    run = open_run(config, events, executor, len(references))
    check_references(run, references, voxel_size)
    announce(run)
    return run, initial_state(run, references)


def _auto_refine(run: Run, state: RunState) -> None:
    """Iterate until neither resolution nor poses improve at the finest useful sampling, then join the halves."""
    while state.iteration < run.config.auto_iter_max:
        final = run.config.force_converge or has_converged(run.policy, state.schedule)
        state, maps = iterate(run, state, final)
        unfiltered = write_unfiltered(run, iteration_names(run, state), maps) if maps is not None else []
        names = write_iteration(run, state)
        discard(run.layout.iteration(state.iteration))
        if final:
            _finish(run, state, [names.reference(), *unfiltered, names.data, names.model()])
            return
    run.events.warn(
        f"no convergence after --auto_iter_max {run.config.auto_iter_max} iterations: the last half maps are not joined"
    )
    _finish(run, state, [iteration_names(run, state).reference(half) for half in (0, 1)])


def _classify(run: Run, state: RunState) -> None:
    """Iterate as often as asked."""
    while state.iteration < run.config.iter:
        state, _ = iterate(run, state)
        write_iteration(run, state)
        discard(run.layout.iteration(state.iteration))
    _finish(run, state, [iteration_names(run, state).reference(0, k) for k in range(run.classes)])


def _assign_only(run: Run, state: RunState) -> None:
    """Assign poses once; the model stays as it is."""
    state = assign_poses(run, state)
    files = [write_data(run, state)]
    discard(run.layout.iteration(state.iteration))
    _finish(run, state, files)


def _finish(run: Run, state: RunState, files: list[str]) -> None:
    run.events.emit(
        RunFinished(
            "refine",
            iterations=state.iteration,
            resolution_angst=1.0 / max(state.schedule.current_resolution, 1e-6),
            files=tuple(files),
        )
    )
