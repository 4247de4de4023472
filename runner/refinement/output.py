"""The files of an iteration, with RELION's names."""

from __future__ import annotations

from runner.formats.mrc import write_mrc
from runner.formats.particles import data_blocks
from runner.formats.star import format_star
from runner.model.state import RunState
from runner.refinement.maximization import HalfMaps
from runner.refinement.run import Run
from runner.store.objects import write_bytes


def write_iteration(run: Run, state: RunState) -> None:
    """Write the files of iteration ``state.iteration``; the optimiser file, which names the others, comes last."""
    _write(run, state, f"{run.config.o}_it{state.iteration:03d}")


def write_final(run: Run, state: RunState, maps: HalfMaps) -> list[str]:
    """Write the files of a converged refinement and return the names of the main results."""
    prefix = run.config.o
    halves = [f"{prefix}_half{half}_class001_unfil.mrc" for half in (1, 2)]
    for name, volume in zip(halves, (maps.one, maps.two), strict=True):
        write_mrc(name, volume, run.voxel_size_angst)
    _write(run, state, prefix)
    return [f"{prefix}_class001.mrc", *halves, f"{prefix}_data.star", f"{prefix}_model.star"]


def _write(run: Run, state: RunState, prefix: str) -> None:
    tags = [""] if len(state.halves) == 1 else ["_half1", "_half2"]
    for tag, half in zip(tags, state.halves, strict=True):
        for k, reference in enumerate(half.references):
            write_mrc(f"{prefix}{tag}_class{k + 1:03d}.mrc", reference, run.voxel_size_angst)
    blocks = data_blocks(run.table, state.poses, scored=state.iteration > 0)
    write_bytes(f"{prefix}_data.star", format_star(blocks).encode())
