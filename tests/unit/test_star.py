"""STAR text: what is understood, what is refused, and RELION's layout when it is written."""

from __future__ import annotations

import pytest

from runner.errors import InputError
from runner.formats.star import (
    StarBlock,
    format_float,
    format_int,
    format_star,
    format_text,
    parse_star,
    read_star,
)

TABLE = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
1 10.000000

# Created by hand

data_particles

loop_
_rlnTomoName #1
_rlnImageName #2
_rlnReferenceSigma2 #3
0045 "sub tomo/1.mrc" 4.5e-9
0046 'it''s.mrc' -0.0
"""


def test_values_stay_the_strings_they_were():
    star = parse_star(TABLE)
    particles = star.blocks["particles"]
    assert list(star.blocks) == ["optics", "particles"]
    assert list(particles.columns) == ["rlnTomoName", "rlnImageName", "rlnReferenceSigma2"]
    assert particles.columns["rlnTomoName"] == ["0045", "0046"]
    assert particles.columns["rlnImageName"] == ["sub tomo/1.mrc", "it''s.mrc"]
    assert particles.columns["rlnReferenceSigma2"] == ["4.5e-9", "-0.0"]
    assert len(particles) == 2


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_do_not_matter(line_end):
    assert parse_star(TABLE.replace("\n", line_end)) == parse_star(TABLE)


def test_version_and_comments_are_kept():
    star = parse_star("# version 30001\ndata_a\n_x 1 # of two\n#  version 50001 \ndata_b\n_y 2\n")
    assert star.version == 50001
    assert star.comments == ["version 30001", "version 50001"]
    assert star.blocks["a"].columns == {"x": ["1"]}
    assert parse_star("data_\n_x 1\n").version is None


def test_list_with_an_empty_and_a_quoted_value():
    block = parse_star("data_list\n_rlnA\n_rlnB \"\"\n_rlnC 'two words'\n").blocks["list"]
    assert block.columns == {"rlnA": [""], "rlnB": [""], "rlnC": ["two words"]}
    assert not block.loop


def test_a_hash_inside_a_value_is_no_comment():
    block = parse_star("data_\nloop_\n_rlnImageName\nTS#1.mrc\n").blocks[""]
    assert block.columns["rlnImageName"] == ["TS#1.mrc"]
    block = parse_star("data_\nloop_\n_a\n_b #2\n1 #1 # one\n2 '#2' # two\n# three\n").blocks[""]
    assert block.columns == {"a": ["1", "2"], "b": ["#1", "#2"]}


def test_blank_lines_and_tabs_between_rows():
    block = parse_star("data_\n\nloop_\n\n_a #1\n_b #2\n\n1\t2\n\n 3   4 \n").blocks[""]
    assert block.columns == {"a": ["1", "3"], "b": ["2", "4"]}


def test_empty_loop():
    block = parse_star("data_particles\nloop_\n_rlnImageName\n").blocks["particles"]
    assert len(block) == 0
    assert block.columns == {"rlnImageName": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no 'data_' block"),
        ("hello world\n", "line 1: 'hello' comes before any 'data_' block"),
        ("data_\nloop_\n_a\n_b\n1 2\n3\n", "line 6: 1 values, but 'data_' has 2 columns"),
        ("data_\nloop_\n_a\n_a\n", "line 4: label '_a' occurs twice"),
        ("data_x\n_a 1\ndata_x\n", "line 3: block 'data_x' occurs twice"),
        ("data_\nloop_\n_a\n1\nloop_\n_b\n", "line 5: a second table"),
        ("data_\nloop_\n_a\n1\n_b\n", "line 5: label '_b' after the rows"),
        ("data_\nloop_\n_a 5\n", "line 3: a value behind"),
        ("data_\n_a 1 2\n", "line 2: 2 values for '_a'"),
        ("data_\n5\n", "line 2: value '5' outside a table"),
        ("data_\n_a\n;text\n;\n", "line 3: a text field of several lines"),
    ],
)
def test_malformed_text_is_named_by_line(text, message):
    with pytest.raises(InputError) as caught:
        parse_star(text, "x.star")
    assert str(caught.value).startswith("x.star")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_no_star(tmp_path):
    path = tmp_path / "map.mrc"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not a text file"):
        read_star(str(path))


def test_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "windows.star"
    path.write_bytes(b"\xef\xbb\xbfdata_\r\n_x 1\r\n")
    assert read_star(str(path)).blocks[""].columns == {"x": ["1"]}


# What RELION 3.1.3 printed for these numbers.
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000000"),
        (607.0, "607.000000"),
        (-136.768215, "-136.76821"),
        (8.345206e-08, "8.345206e-08"),
        (0.008781, "0.008781"),
        (-2.5e-4, "-2.50000e-04"),
        (100000.0, "100000.000000"),
        (123456.0, "1.234560e+05"),
        (0.001, "0.001000"),
    ],
)
def test_floats_as_relion_prints_them(value, text):
    assert format_float(value) == text


def test_integers_and_booleans():
    assert [format_int(value) for value in (3, True, False, -1)] == ["3", "1", "0", "-1"]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("a.mrc", "a.mrc"),
        ("", '""'),
        ("a b", '"a b"'),
        ('a" b', "'a\" b'"),
        ("_x", '"_x"'),
        ("#x", '"#x"'),
        ("data_1", '"data_1"'),
    ],
)
def test_text_is_quoted_where_it_has_to_be(value, token):
    assert format_text(value) == token


@pytest.mark.parametrize("value", ["two\nlines", 'both "\'" kinds\' of quotes" here'])
def test_text_that_star_cannot_hold(value):
    with pytest.raises(ValueError, match="STAR value"):
        format_text(value)


def test_layout_of_a_table_and_a_list():
    blocks = [
        StarBlock(
            "optics", {"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["og"], "rlnImagePixelSize": ["10.000000"]}
        ),
        StarBlock("general", {"rlnSymmetryGroup": ["C1"], "rlnIs3DTranslationalSampling": ["1"]}, loop=False),
    ]
    assert format_star(blocks, ["RELION optimiser; version 3.1.3"]) == (
        "# RELION optimiser; version 3.1.3\n"
        "\n# version 30001\n\ndata_optics\n\nloop_ \n"
        "_rlnOpticsGroup #1 \n_rlnOpticsGroupName #2 \n_rlnImagePixelSize #3 \n"
        "           1         og    10.000000 \n \n"
        "\n# version 30001\n\ndata_general\n\n"
        "_rlnSymmetryGroup                        C1\n"
        "_rlnIs3DTranslationalSampling                       1\n \n"
    )
