"""The FSC within the solvent mask: what is determined agrees with RELION, what is random with its distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kernels.solvent_fsc import SolventFsc, solvent_corrected_fsc
from tests.parity.cases import Case
from tests.parity.compare import MAP_RELATIVE_L2, Block, compare_file, read_map, read_star, relative_l2, report
from tests.parity.programs import execute, prepare, relion_refine, tomoburst

pytestmark = pytest.mark.relion

FLAGS: dict[str, str | None] = {"--solvent_mask": "data/mask.mrc", "--solvent_correct_fsc": "", "--healpix_order": "1"}
CASE = Case("auto-solvent-correct", FLAGS | {"--auto_iter_max": "1"}, halves=True)
HALVES = ("run_it001_half1_class001_unfil.mrc", "run_it001_half2_class001_unfil.mrc")
SEEDS = range(200)
PRINTED = 6e-6  # negative values have five decimals


@pytest.fixture(scope="module")
def theirs() -> Path:
    """RELION's run: one iteration from the same start."""
    return relion_refine(CASE.arguments(), CASE.flavour, CASE.halves)


@pytest.fixture(scope="module")
def curves(theirs: Path) -> list[SolventFsc]:
    """Our curves for RELION's half maps, with many seeds."""
    one, two = (read_map(theirs / "out" / name) for name in HALVES)
    mask = read_map(theirs / "data" / "mask.mrc")
    return [solvent_corrected_fsc(one, two, mask, seed) for seed in SEEDS]


def _column(block: Block, label: str) -> npt.NDArray[np.float64]:
    return np.array([float(value) for value in block.columns[label]])


def _is_drawn_from(value: npt.NDArray[np.float64], samples: npt.NDArray[np.float64]) -> bool:
    """Whether each value lies within four standard deviations of the mean of its samples, 1 in 16,000 if normal."""
    limit = 4.0 * samples.std(axis=0) + PRINTED
    return bool((np.abs(value - samples.mean(axis=0)) <= limit).all())


def test_everything_before_the_random_phases_agrees(theirs: Path, tmp_path: Path) -> None:
    ours = tomoburst(
        ["refine", "--o", "out/run", *CASE.arguments(), "--parity", "relion-3.1"], CASE.flavour, tmp_path / "r"
    )
    for name in HALVES:
        assert relative_l2(read_map(ours / "out" / name), read_map(theirs / "out" / name)) < MAP_RELATIVE_L2
    differences = compare_file(ours / "out/run_it001_data.star", theirs / "out/run_it001_data.star", CASE.ignored)
    assert not differences, report(differences)


def test_fsc_of_a_refinement(theirs: Path, curves: list[SolventFsc]) -> None:
    model = read_star(theirs / "out/run_it001_half1_model.star")
    fsc = _column(model["model_class_1"], "rlnGoldStandardFsc")
    start = curves[0].randomise_from
    assert start == 3
    np.testing.assert_allclose(curves[0].corrected[: start + 2], fsc[: start + 2], atol=PRINTED)
    limit = int(model["model_general"].columns["rlnCurrentImageSize"][0]) // 2
    tail = slice(start + 2, limit + 1)
    assert _is_drawn_from(fsc[tail], np.stack([curve.corrected[tail] for curve in curves]))
    assert not fsc[limit + 1 :].any()


def test_curves_of_postprocess(theirs: Path, curves: list[SolventFsc], tmp_path: Path) -> None:
    folder = prepare(tmp_path / "post", CASE.flavour)
    one, two = (str(theirs / "out" / name) for name in HALVES)
    execute(["relion_postprocess", "--i", one, "--i2", two, "--o", "out/post", "--mask", "data/mask.mrc"], folder)
    table = read_star(folder / "out/post.star")["fsc"]
    label = "rlnFourierShellCorrelation"
    np.testing.assert_allclose(curves[0].unmasked, _column(table, f"{label}UnmaskedMaps"), atol=PRINTED)
    np.testing.assert_allclose(curves[0].masked, _column(table, f"{label}MaskedMaps"), atol=PRINTED)
    theirs_random = _column(table, "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps")
    assert _is_drawn_from(theirs_random, np.stack([curve.random_masked for curve in curves]))
    corrected = _column(table, f"{label}Corrected")
    assert _is_drawn_from(corrected, np.stack([curve.corrected for curve in curves]))
