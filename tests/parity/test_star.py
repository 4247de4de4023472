"""STAR files against RELION's own tools: what it converts, and what it reads of ours."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from runner.formats.mrc import write_mrc
from runner.formats.particles import data_blocks, read_particles
from runner.formats.star import StarBlock, format_star, read_star

pytestmark = pytest.mark.relion

OLD_TABLE = """
data_

loop_
_rlnMicrographName #1
_rlnImageName #2
_rlnMagnification #3
_rlnDetectorPixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnOriginX #8
_rlnOriginY #9
_rlnOriginZ #10
_rlnAngleRot #11
_rlnAngleTilt #12
_rlnAnglePsi #13
_rlnOriginXPrior #14
b.mrc sub/1.mrc 10000 13.34 300 2.7 0.07 1 2 -3 10 20 30 0
a.mrc sub/2.mrc 10000 13.34 300 2.7 0.07 1.5 2 -3 10 20 30 1
a.mrc sub/3.mrc 20000 26.68 200 2.7 0.07 0.00001 2 -3 10 20 30 1
"""


def run(folder, *command):
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)


def test_a_single_table_is_converted_as_relion_does(requires, tmp_path):
    for number in (1, 2, 3):
        noise = np.random.default_rng(number).normal(size=(16, 16, 16))
        write_mrc(f"{tmp_path}/sub/{number}.mrc", noise.astype(np.float32), 13.34)
    (tmp_path / "old.star").write_text(OLD_TABLE)
    run(tmp_path, requires("relion_convert_star"), "--i", "old.star", "--o", "new.star")
    expected = read_star(str(tmp_path / "new.star")).blocks
    table = read_particles(str(tmp_path / "old.star"))
    optics, particles = data_blocks(table, table.poses(), scored=False)
    assert list(optics.columns) == list(expected["optics"].columns)
    for label, values in expected["optics"].columns.items():
        if label == "rlnOpticsGroupName":
            assert optics.columns[label] == values
        else:
            assert [float(value) for value in optics.columns[label]] == [float(value) for value in values]
    assert list(particles.columns)[: len(expected["particles"].columns)] == list(expected["particles"].columns)
    for label, values in expected["particles"].columns.items():
        assert [particles.columns[label][row] for row in np.argsort(table.row_number)] == values


def test_relion_reads_every_kind_of_value_that_is_written(requires, tmp_path):
    optics = StarBlock(
        "optics",
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["two words"],
            "rlnImagePixelSize": ["1.000000"],
            "rlnVoltage": ["300.000000"],
            "rlnSphericalAberration": ["2.700000"],
        },
    )
    particles = StarBlock(
        "particles",
        {
            "rlnImageName": ["a b.mrc", "it's.mrc", ""],
            "rlnMicrographName": ["#1", 'q"q', "0045"],
            "rlnAngleRot": ["1.000000", "-2.50000", "4.500000e-09"],
            "rlnOpticsGroup": ["1", "1", "1"],
        },
    )
    (tmp_path / "in.star").write_text(format_star([optics, particles]))
    handler = requires("relion_star_handler")
    select = ("--select", "rlnAngleRot", "--minval", "-9", "--maxval", "9")
    run(tmp_path, handler, "--i", "in.star", "--o", "out.star", *select)
    star = read_star(str(tmp_path / "out.star"))
    assert star.blocks["particles"].columns == particles.columns
    assert star.blocks["optics"].columns == optics.columns
