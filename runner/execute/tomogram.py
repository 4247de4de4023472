"""Boxes out of a tomogram: only the rows of voxels that they need are read, in few ranges of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from runner.errors import InputError
from runner.execute.local import ordered_map
from runner.formats.mrc import read_layout
from runner.store import objects

if TYPE_CHECKING:
    from collections.abc import Sequence

READERS = 8
GAP_BYTES = 2**20  # a store sends this much in the time that it takes to answer one more request
RANGE_BYTES = 2**23

Point = tuple[int, int, int]


@dataclass(frozen=True)
class Tomogram:
    """A tomogram in an MRC file: ``shape`` (z, y, x), type of its voxels, and the byte at which they start."""

    url: str
    shape: Point
    dtype: str
    data_offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of voxels along x."""
        return self.shape[2] * np.dtype(self.dtype).itemsize


def open_tomogram(url: str) -> tuple[Tomogram, float]:
    """The tomogram at ``url`` and its voxel size in Angstrom (0 where its header gives none), from two small reads.

    Raises
    ------
    InputError
        When the file is missing, not MRC, truncated or a single image.
    """
    header = read_layout(url)
    size_z, size_y, size_x = header.shape
    if size_z == 1:
        raise InputError(f"{url}: a two-dimensional image of {size_x} x {size_y} pixels; a tomogram was expected")
    tomogram = Tomogram(url, header.shape, header.dtype.str, header.data_offset)
    end = header.data_offset + size_z * size_y * tomogram.row_bytes
    if not objects.read_bytes(url, end - 1, end):
        raise InputError(f"{url}: truncated, its header promises {end} bytes; copy it again")
    return tomogram, header.voxel_size_angst


@dataclass(frozen=True)
class _Rows:
    """Rows ``y`` of plane ``z`` that box number ``box`` needs."""

    box: int
    z: int
    y: range


@dataclass
class _Range:
    """Rows that are read at once, counted through all planes, and what they are for."""

    start: int
    stop: int
    rows: list[_Rows] = field(default_factory=list)


def read_boxes(tomogram: Tomogram, starts: Sequence[Point], size: int) -> npt.NDArray[np.float32]:
    """Cubes of ``size`` voxels of a tomogram.

    Parameters
    ----------
    starts : z, y, x of the first voxel of each cube; a cube may reach beyond the tomogram, not lie outside.

    Returns
    -------
    (n, size, size, size) float32, z y x; voxels outside of the tomogram are those at its border.

    Raises
    ------
    InputError
        When the file has become shorter.
    """
    boxes = np.zeros((len(starts), size, size, size), dtype=np.float32)
    ranges = _ranges(tomogram, starts, size)
    for each, voxels in zip(ranges, ordered_map(partial(_read, tomogram), ranges, READERS), strict=True):
        for rows in each.rows:
            first = rows.z * tomogram.shape[1] + rows.y.start - each.start
            start_z, start_y, start_x = starts[rows.box]
            inside = _inside(start_x, size, tomogram.shape[2])
            place = boxes[rows.box, rows.z - start_z, rows.y.start - start_y : rows.y.stop - start_y]
            place[:, inside.start - start_x : inside.stop - start_x] = voxels[
                first : first + len(rows.y), inside.start : inside.stop
            ]
    for box, start in zip(boxes, starts, strict=True):
        _fill_outside(box, start, tomogram.shape)
    return boxes


def reaches_beyond(tomogram: Tomogram, start: Point, size: int) -> bool:
    """Whether a cube of ``size`` voxels that starts at ``start`` (z, y, x) is not wholly inside the tomogram."""
    return any(len(_inside(first, size, whole)) < size for first, whole in zip(start, tomogram.shape, strict=True))


def _inside(start: int, size: int, whole: int) -> range:
    return range(max(start, 0), min(start + size, whole))


def _ranges(tomogram: Tomogram, starts: Sequence[Point], size: int) -> list[_Range]:
    planes, height, _ = tomogram.shape
    wanted = [
        _Rows(box, z, _inside(y, size, height))
        for box, (start_z, y, _) in enumerate(starts)
        for z in _inside(start_z, size, planes)
    ]
    ranges: list[_Range] = []
    for rows in sorted(wanted, key=lambda each: (each.z, each.y.start, each.box)):
        start, stop = rows.z * height + rows.y.start, rows.z * height + rows.y.stop
        last = ranges[-1] if ranges else None
        if (
            last is None
            or (start - last.stop) * tomogram.row_bytes > GAP_BYTES
            or (stop - last.start) * tomogram.row_bytes > RANGE_BYTES
        ):
            last = _Range(start, stop)
            ranges.append(last)
        last.stop = max(last.stop, stop)
        last.rows.append(rows)
    return ranges


def _read(tomogram: Tomogram, rows: _Range) -> npt.NDArray[np.generic]:
    start = tomogram.data_offset + rows.start * tomogram.row_bytes
    stop = tomogram.data_offset + rows.stop * tomogram.row_bytes
    content = objects.read_bytes(tomogram.url, start, stop)
    if len(content) < stop - start:
        raise InputError(f"{tomogram.url}: truncated, bytes {start} to {stop} were expected; copy it again")
    return np.frombuffer(content, tomogram.dtype).reshape(-1, tomogram.shape[2])


def _fill_outside(box: npt.NDArray[np.float32], start: Point, shape: Point) -> None:
    """Repeat the voxels at the border of the tomogram, as RELION does."""
    beyond = [(max(-first, 0), max(first + len(box) - whole, 0)) for first, whole in zip(start, shape, strict=True)]
    if any(map(any, beyond)):
        inside = tuple(slice(before, len(box) - after) for before, after in beyond)
        box[...] = np.pad(box[inside], beyond, mode="edge")
