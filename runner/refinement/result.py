"""What a unit of work leaves: sums that are added up, values by particle, and the particles that were set aside."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.geometry import padded_size, padded_squared_radius
from runner.execute.local import write_behind
from runner.formats.checkpoint import pack, unpack
from runner.plan.memory import WITHOUT_BUDGET
from runner.refinement.memory import Recent
from runner.store.objects import read_bytes, write_bytes

Array = npt.NDArray[Any]

GRIDS = ("data_rft", "weight_rft")
NARROW = {np.dtype(np.complex128): np.dtype(np.complex64), np.dtype(np.float64): np.dtype(np.float32)}
WIDE = {narrow: wide for wide, narrow in NARROW.items()}


@dataclass
class UnitResult:
    """Sums and assignments of the particles of a unit, or of several units merged.

    Attributes
    ----------
    sums : arrays that are added up, in double precision; one that is missing counts as zeros.
    rows : arrays (n, ...) with a value for each particle, in the order of the units; ``row`` are the particles.
    bad : rows of the particles that were set aside, with the reasons; they are in none of the sums.
    """

    sums: dict[str, Array] = field(default_factory=dict)
    rows: dict[str, Array] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    def merge(self, other: UnitResult) -> UnitResult:
        """Add ``other``, whose particles come later, to this one in place and return it."""
        for name, values in other.sums.items():
            if name in self.sums:
                self.sums[name] += values
            else:
                self.sums[name] = values.astype(WIDE.get(values.dtype, values.dtype), copy=False)
        for name, values in other.rows.items():
            self.rows[name] = np.concatenate([self.rows[name], values]) if name in self.rows else values
        self.bad |= other.bad
        return self

    def round_grids(self) -> None:
        """Bring the grids to single precision: half the bytes for results of particles compared in it.

        On the CPU that is exact for a unit of one chunk, whose insertions are gathered in single precision. Otherwise a
        grid point moves by at most 6e-8 of what the unit adds to it.
        """
        for name, values in self.sums.items():
            if name.endswith(GRIDS):
                self.sums[name] = values.astype(NARROW[values.dtype])


_kept: Recent[UnitResult] = Recent(WITHOUT_BUDGET.results_bytes)
_being_written: dict[str, Future[None]] = {}


def write_result(url: str, result: UnitResult, remembered_bytes: int = WITHOUT_BUDGET.results_bytes) -> int:
    """Write a result, perhaps while the caller goes on (`write_behind`), and return the number of bytes.

    It is remembered for a reduction in this process, with others of this size in all.
    """
    data = pack(result)
    written = write_behind(partial(write_bytes, url, data))
    if not written.done():
        _being_written[url] = written
        written.add_done_callback(lambda _: _being_written.pop(url, None))
    _kept.put(url, result, len(data), remembered_bytes)
    return len(data)


def take_result(url: str) -> UnitResult:
    """The result at ``url``, which the caller may change; it is remembered no longer."""
    kept = _kept.pop(url)
    if kept is not None:
        return kept
    written = _being_written.get(url)
    if written is not None:
        written.result()
    return unpack(UnitResult, read_bytes(url), url)


def packed_sums(half: int, sums: Accumulators) -> dict[str, Array]:
    """Sums of one half model by name; of the padded grids only the ball that insertion can reach, half of them."""
    packed = {}
    for each in fields(sums):
        values = getattr(sums, each.name)
        if each.name in GRIDS:
            values = values.reshape(len(values), -1)[:, _ball(values.shape[1])]
        packed[f"half{half}.{each.name}"] = values
    return packed


def unpacked_sums(half: int, sums: dict[str, Array], r_max: int, pad: float) -> Accumulators:
    """What `packed_sums` made; ``sums`` loses its grids, so that each is in memory once."""
    size = padded_size(r_max, pad)
    arrays = {}
    for each in fields(Accumulators):
        values = sums.pop(f"half{half}.{each.name}")
        if each.name in GRIDS:
            grid = np.zeros((len(values), size * size * (size // 2 + 1)), dtype=values.dtype)
            grid[:, _ball(size)] = values
            values = grid.reshape(len(values), size, size, size // 2 + 1)
        arrays[each.name] = values
    return Accumulators(**arrays)


@lru_cache(maxsize=2)
def _ball(size: int) -> npt.NDArray[np.int64]:
    """Positions on a flat padded half grid (P, P, P//2 + 1) that trilinear insertion can reach.

    Points lie within ``R = P//2 - 1`` and spread over the corners of their cells, less than 2 away: ``sqrt(3)``.
    """
    return np.flatnonzero(padded_squared_radius(size) < (size // 2 + 1) ** 2)
