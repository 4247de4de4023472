"""The files of an iteration, with RELION's names."""

from __future__ import annotations

from dataclasses import asdict

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


def iteration_names(run: Run, state: RunState) -> RunNames:
    """Names of the files of iteration ``state.iteration``."""
    final = run.config.split_random_halves and len(state.halves) == 1
    return RunNames(run.prefix, state.iteration, halves=len(state.halves) > 1, final=final)


def write_iteration(run: Run, state: RunState) -> RunNames:
    """Write the files of one iteration; the optimiser file, which names the others, comes last."""
    names = iteration_names(run, state)
    sampling = state.sampling
    grid = coarse_grid(run, sampling)
    for number, half in enumerate(state.halves):
        for k, reference in enumerate(half.references):
            write_mrc(names.reference(number, k), reference, run.voxel_size_angst)
            if not run.fixed_orientation:
                text = angular_distribution(
                    half.pdf_direction[k],
                    grid.directions_deg,
                    run.box * run.voxel_size_angst / 2,
                    angular_step_deg(sampling.healpix_order),
                )
                write_bytes(names.angular_distribution(number, k), text.encode())
    _write_poses(run, state, names)
    if state.set_aside:
        _write_set_aside(run, state)
    texts = run_texts(
        state,
        settings_in_use(run),
        names,
        pixel_size_angst=run.voxel_size_angst,
        group_names=run.table.group_names,
        directions_deg=np.asarray(grid.directions_deg),
        command=_command(run.config),
    )
    for name, text in texts.items():
        write_bytes(name, text.encode())
    return names


def write_data(run: Run, state: RunState) -> str:
    """Write the poses alone and return the file's name; RELION's, that of an automated refinement has no iteration."""
    names = RunNames(run.prefix, state.iteration, final=run.config.auto_refine)
    _write_poses(run, state, names)
    return names.data


def _write_poses(run: Run, state: RunState, names: RunNames) -> None:
    blocks = data_blocks(run.table, state.poses, scored=state.iteration > 0)
    write_bytes(names.data, format_star(blocks).encode())


def _write_set_aside(run: Run, state: RunState) -> None:
    """Write the particles that were set aside as a STAR file of their own: their rows as read, and the reasons."""
    rows = sorted(state.set_aside)
    reasons = [" ".join(state.set_aside[row].split()).replace('"', "'") for row in rows]
    table = run.table.select(rows)
    optics, particles = data_blocks(table, table.poses(), scored=False)
    particles = StarBlock(particles.name, particles.columns | {"tomoburstReason": reasons})
    write_bytes(run.layout.bad_particles, format_star([optics, particles]).encode())


def _command(config: RefineConfig) -> str:
    """The command line, of flags on which the results depend."""
    return "tomoburst refine " + " ".join(changed_flags(config, results_only=True))


def write_unfiltered(run: Run, names: RunNames, maps: HalfMaps) -> list[str]:
    """Write the unregularised half maps and return their names."""
    files = [names.unfiltered(half) for half in (0, 1)]
    for name, volume in zip(files, (maps.one, maps.two), strict=True):
        write_mrc(name, volume, run.voxel_size_angst)
    return files


def settings_in_use(run: Run) -> dict[str, object]:
    """RELION's flags with the values that were settled on: the seed drawn, the diameter derived."""
    return asdict(run.config) | {
        "o": run.prefix,
        "K": run.classes,
        "random_seed": run.seed,
        "particle_diameter": run.diameter_angst,
        "oversampling": run.policy.oversampling,
    }
