"""The files of an iteration, with RELION's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np

from kernels.orientations import angular_step_deg
from runner.formats.bild import angular_distribution
from runner.formats.mrc import write_mrc
from runner.formats.particles import data_blocks
from runner.formats.relion_run import RunNames, run_texts
from runner.formats.star import StarBlock, format_star
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.plan.flags import changed_flags
from runner.refinement.maximization import HalfMaps
from runner.refinement.run import Run, coarse_grid
from runner.store.objects import write_bytes
from runner.store.together import all_done


def iteration_names(run: Run, state: RunState) -> RunNames:
    """Names of the files of iteration ``state.iteration``."""
    final = run.config.split_random_halves and len(state.halves) == 1
    return RunNames(run.prefix, state.iteration, halves=len(state.halves) > 1, final=final)


def write_iteration(run: Run, state: RunState, unfiltered: HalfMaps | None = None) -> None:
    """Write the files of one iteration; the optimiser file, which names the others, comes last.

    ``unfiltered`` are the unregularised half maps, of iterations that have them.
    """
    names = iteration_names(run, state)
    texts = _texts(run, state, names)
    optimiser = texts.pop(names.optimiser)
    writes: list[Callable[[], object]] = [
        partial(write_mrc, names.reference(number, k), reference, run.voxel_size_angst)
        for number, half in enumerate(state.halves)
        for k, reference in enumerate(half.references)
    ]
    if unfiltered is not None:
        halves = enumerate((unfiltered.one, unfiltered.two))
        writes += [partial(write_mrc, names.unfiltered(half), map_, run.voxel_size_angst) for half, map_ in halves]
    writes += [partial(write_bytes, name, text.encode()) for name, text in texts.items()]
    all_done(run.prefix, writes)
    write_bytes(names.optimiser, optimiser.encode())


def _texts(run: Run, state: RunState, names: RunNames) -> dict[str, str]:
    """The files of an iteration that are no maps, by name."""
    grid, sampling = coarse_grid(run, state.sampling), state.sampling
    texts = {names.data: _poses(run, state)}
    if not run.fixed_orientation:
        for number, half in enumerate(state.halves):
            for k, pdf_direction in enumerate(half.pdf_direction):
                texts[names.angular_distribution(number, k)] = angular_distribution(
                    pdf_direction,
                    grid.directions_deg,
                    run.box * run.voxel_size_angst / 2,
                    angular_step_deg(sampling.healpix_order),
                )
    if state.set_aside:
        texts[run.layout.bad_particles] = _set_aside(run, state)
    return texts | run_texts(
        state,
        settings_in_use(run),
        names,
        pixel_size_angst=run.voxel_size_angst,
        group_names=run.table.group_names,
        directions_deg=np.asarray(grid.directions_deg),
        command=_command(run.config),
    )


def write_data(run: Run, state: RunState) -> str:
    """Write the poses alone and return the file's name; RELION's, that of an automated refinement has no iteration."""
    names = RunNames(run.prefix, state.iteration, final=run.config.auto_refine)
    write_bytes(names.data, _poses(run, state).encode())
    return names.data


def _poses(run: Run, state: RunState) -> str:
    return format_star(data_blocks(run.table, state.poses, scored=state.iteration > 0))


def _set_aside(run: Run, state: RunState) -> str:
    """The particles that were set aside as a STAR file of their own: their rows as read, and the reasons."""
    rows = sorted(state.set_aside)
    reasons = [" ".join(state.set_aside[row].split()).replace('"', "'") for row in rows]
    table = run.table.select(rows)
    optics, particles = data_blocks(table, table.poses(), scored=False)
    particles = StarBlock(particles.name, particles.columns | {"tomoburstReason": reasons})
    return format_star([optics, particles])


def _command(config: RefineConfig) -> str:
    """The command line, of flags on which the results depend."""
    return "tomoburst refine " + " ".join(changed_flags(config, results_only=True))


def settings_in_use(run: Run) -> dict[str, object]:
    """RELION's flags with the values that were settled on: the seed drawn, the diameter derived."""
    return asdict(run.config) | {
        "o": run.prefix,
        "K": run.classes,
        "random_seed": run.seed,
        "particle_diameter": run.diameter_angst,
        "oversampling": run.policy.oversampling,
    }
