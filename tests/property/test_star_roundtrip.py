"""STAR text: what is written is read back, by this parser and by the independent package ``starfile``."""

from __future__ import annotations

import math

import starfile
from hypothesis import given
from hypothesis import strategies as st

from runner.formats.star import StarBlock, format_float, format_star, parse_star

LABELS = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789", min_size=1, max_size=12)
VALUES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), max_size=20).filter(
    lambda value: not ('"' in value and "'" in value)
)
PLAIN_VALUES = st.text("abcXYZ0123456789./@:-+", min_size=1, max_size=20)


@st.composite
def block_lists(draw, values):
    blocks = []
    for name in draw(st.lists(LABELS, min_size=1, max_size=3, unique=True)):
        labels = draw(st.lists(LABELS, min_size=1, max_size=5, unique=True))
        loop = draw(st.booleans())
        rows = draw(st.integers(0, 4)) if loop else 1
        columns = {label: draw(st.lists(values, min_size=rows, max_size=rows)) for label in labels}
        blocks.append(StarBlock(name, columns, loop))
    return blocks


@given(block_lists(VALUES))
def test_blocks_come_back_as_they_were(blocks):
    star = parse_star(format_star(blocks))
    assert list(star.blocks.values()) == blocks
    assert [list(block.columns) for block in star.blocks.values()] == [list(block.columns) for block in blocks]
    assert star.version == 30001


@given(block_lists(VALUES))
def test_windows_line_ends_change_nothing(blocks):
    text = format_star(blocks)
    assert parse_star(text.replace("\n", "\r\n")) == parse_star(text)


@given(columns=st.dictionaries(LABELS, st.lists(PLAIN_VALUES, min_size=2, max_size=2), min_size=1, max_size=4))
def test_another_reader_sees_the_same_table(columns, tmp_path_factory):
    path = tmp_path_factory.mktemp("star") / "table.star"
    path.write_text(format_star([StarBlock("particles", columns)]))
    table = starfile.read(path, parse_as_string=list(columns))
    assert {label: list(table[label]) for label in table.columns} == columns


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_numbers_keep_their_value(value):
    text = format_float(value)
    assert len(text) <= 12 or abs(value) >= 1e4 or abs(value) < 1e-99
    absolute = 5.1e-6 if 0.001 <= abs(value) <= 1e5 else 0.0
    assert math.isclose(float(text), value, rel_tol=5.1e-6, abs_tol=absolute)
