"""Ways to break a small valid data set, and what the command line has to answer to each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runner.formats.mrc import format_mrc, parse_mrc
from runner.formats.star import StarBlock, format_star, parse_star

BOX = 16
VOXEL_ANGST = 10.0
PARTICLES = 6
STAR = "particles.star"
REFERENCE = "truth.mrc"
WEDGE = "ctf/wedge.mrc"
THIRD = "subtomo/000003.mrc"

Break = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes
    ----------
    flags : words added to those of a command that works.
    spoil : what is done to the folder of the data set, the working directory, before.
    code : the exit code of docs/exit-codes.md; says : what the line on standard error has to hold.
    """

    name: str
    command: str
    code: int
    says: tuple[str, ...]
    flags: str = ""
    spoil: Break = lambda folder: None


def star(change: Callable[[dict[str, StarBlock]], None]) -> Break:
    """Change the blocks of the particle STAR file."""

    def spoil(folder: Path) -> None:
        blocks = parse_star((folder / STAR).read_text()).blocks
        change(blocks)
        (folder / STAR).write_text(format_star(blocks.values()))

    return spoil


def cell(label: str, value: str, row: int = 3, block: str = "particles") -> Break:
    """Put a value into a row (from 1) of a column, which is made with "1" elsewhere when there is none."""

    def change(blocks: dict[str, StarBlock]) -> None:
        columns = blocks[block].columns
        columns.setdefault(label, ["1"] * len(blocks[block]))[row - 1] = value

    return star(change)


def column(label: str, values: str, block: str = "particles") -> Break:
    """Set a whole column."""
    return star(lambda blocks: blocks[block].columns.update({label: values.split()}))


def without(*labels: str, block: str = "particles") -> Break:
    """Remove columns."""

    def change(blocks: dict[str, StarBlock]) -> None:
        for label in labels:
            del blocks[block].columns[label]

    return star(change)


def first_rows(count: int) -> Break:
    """Keep the first particles only."""

    def change(blocks: dict[str, StarBlock]) -> None:
        for values in blocks["particles"].columns.values():
            del values[count:]

    return star(change)


def two_groups(blocks: dict[str, StarBlock]) -> None:
    """Give the optics table a second group."""
    for label, values in blocks["optics"].columns.items():
        values.append("2" if label == "rlnOpticsGroup" else values[0])


def content(name: str, text: str | bytes) -> Break:
    """Replace what a file holds."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)

    return spoil


def volume(name: str, change: Callable[[np.ndarray], np.ndarray], voxel_size_angst: float = VOXEL_ANGST) -> Break:
    """Change the voxels of a map, or the voxel size of its header."""

    def spoil(folder: Path) -> None:
        data = parse_mrc((folder / name).read_bytes(), name).data.copy()
        with np.errstate(invalid="ignore"):  # the statistics in the header of a map with infinite voxels
            (folder / name).write_bytes(format_mrc(change(data), voxel_size_angst))

    return spoil


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """One voxel gets a value."""

    def change(data: np.ndarray) -> np.ndarray:
        data[4, 5, 6] = value
        return data

    return change


def filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """All voxels get a value."""
    return lambda data: np.full_like(data, value)


def cut(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Keep a smaller cube."""
    return lambda data: data[:size, :size, :size]


def truncated(name: str) -> Break:
    """Leave out the end of a file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return spoil


def gone(name: str) -> Break:
    """Remove a file."""
    return lambda folder: (folder / name).unlink()


def copied(source: str, target: str) -> Break:
    """Copy a file."""

    def spoil(folder: Path) -> None:
        shutil.copy(folder / source, folder / target)

    return spoil


def both(*breaks: Break) -> Break:
    """One after the other."""

    def spoil(folder: Path) -> None:
        for each in breaks:
            each(folder)

    return spoil
