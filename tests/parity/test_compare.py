"""The comparator itself: it accepts print rounding and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity.compare import compare_file, compare_values, printed_unit, read_map, read_star, relative_l2
from tests.parity.dataset import write_mrc

STAR = "\n# version 30001\n\ndata_model_class_1\n\nloop_ \n_rlnSpectralIndex #1 \n_rlnReferenceTau2 #2 \n"


@pytest.mark.parametrize(
    ("text", "unit"), [("0.123456", 1e-6), ("1.234567e-07", 1e-13), ("12", 1.0), ("-12.00000", 1e-5)]
)
def test_printed_unit(text: str, unit: float) -> None:
    assert printed_unit(text) == pytest.approx(unit)


@pytest.mark.parametrize(
    ("ours", "theirs", "agree"),
    [
        ("0.001001", "0.001002", True),  # both may be the print of 0.0010015
        ("0.001001", "0.001003", False),
        ("1000.099", "1000.000", True),
        ("1000.102", "1000.000", False),
        ("3", "4", False),
        ("C1", "C2", False),
        ("nan", "1.000000", False),
    ],
)
def test_values(ours: str, theirs: str, agree: bool) -> None:
    assert (compare_values("", ours, theirs) is None) is agree


def test_first_difference_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(STAR + "0 1.000000e-04\n1 2.000000e-04\n")
    (tmp_path / "b.star").write_text(STAR + "0 1.000000e-04\n1 2.001000e-04\n")
    (difference,) = compare_file(tmp_path / "a.star", tmp_path / "b.star")
    assert "rlnReferenceTau2 row 1" in str(difference)
    assert compare_file(tmp_path / "a.star", tmp_path / "a.star") == []


def test_missing_columns_and_files_are_differences(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text(STAR.replace("Tau2", "Sigma2") + "0 1.0\n")
    (tmp_path / "b.star").write_text(STAR + "0 1.0\n")
    (difference,) = compare_file(tmp_path / "a.star", tmp_path / "b.star")
    assert "missing ['rlnReferenceTau2']" in str(difference)
    assert compare_file(tmp_path / "none.star", tmp_path / "b.star")


def test_angles_are_compared_as_rotations(tmp_path: Path) -> None:
    header = "data_particles\nloop_\n_rlnAngleRot #1\n_rlnAngleTilt #2\n_rlnAnglePsi #3\n"
    (tmp_path / "a.star").write_text(header + "10.0 0.0 20.0\n190.0 -30.0 200.0\n")
    (tmp_path / "b.star").write_text(header + "30.0 0.0 0.0\n10.0 30.0 20.0\n")
    assert compare_file(tmp_path / "a.star", tmp_path / "b.star") == []
    (tmp_path / "c.star").write_text(header + "30.0 0.0 0.1\n10.0 30.0 20.0\n")
    assert len(compare_file(tmp_path / "a.star", tmp_path / "c.star")) == 1


def test_maps_keep_their_order_through_the_file(tmp_path: Path) -> None:
    volume = np.arange(24.0).reshape(2, 3, 4)
    write_mrc(tmp_path / "a.mrc", volume)
    assert relative_l2(read_map(tmp_path / "a.mrc"), volume) == 0.0
    write_mrc(tmp_path / "b.mrc", volume * 1.0001)
    assert len(compare_file(tmp_path / "b.mrc", tmp_path / "a.mrc")) == 1


def test_list_blocks_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text('data_general\n\n_rlnA   1.5\n_rlnB "two words"\n')
    block = read_star(tmp_path / "a.star")["general"]
    assert not block.loop
    assert block.columns == {"rlnA": ["1.5"], "rlnB": ["two words"]}
