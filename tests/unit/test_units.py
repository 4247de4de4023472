"""The cut into chunks and units, and the tree of the reduction: complete, aligned and bounded for any number."""

from __future__ import annotations

import doctest
import itertools

import pytest

from runner.plan import units

COUNTS = [1, 9, 10, 11, 16, 80, 81, 255, 256, 257, 32768, 32769, 100_001, 1_000_000]


@pytest.mark.parametrize("particles", COUNTS)
def test_units_cover_every_row_once_in_whole_chunks(particles: int) -> None:
    cut = units.unit_rows(particles)
    assert cut[0].start == 0
    assert cut[-1].stop == particles
    assert all(one.stop == other.start for one, other in itertools.pairwise(cut))
    borders = {rows.start for rows in units.chunk_rows(particles)}
    assert {rows.start for rows in cut} <= borders
    assert len(cut) <= units.MOST_UNITS
    assert max(map(len, units.chunk_rows(particles))) <= 32


def test_small_sets_have_several_units_and_each_unit_is_one_chunk() -> None:
    assert [len(units.unit_rows(n)) for n in (16, 100, 300)] == [2, 8, 10]
    assert units.unit_rows(300) == units.chunk_rows(300)


@pytest.mark.parametrize("count", [1, 16, 17, 256, 257, 1024, 5000])
def test_the_tree_merges_every_unit_once_in_order(count: int) -> None:
    merged = [[unit] for unit in range(count)]
    for level in units.reduction_levels(count):
        assert max(map(len, level)) <= units.FAN_IN
        merged = [[unit for member in node for unit in merged[member]] for node in level]
    assert len(merged) <= units.FAN_IN
    assert [unit for node in merged for unit in node] == list(range(count))


def test_examples() -> None:
    assert doctest.testmod(units).failed == 0
