"""A5: RELION's own programs accept what tomoburst writes, and go on from it as they would from their own files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.parity.cases import CASES, Case
from tests.parity.compare import compare_file, read_star, report
from tests.parity.programs import MPI, execute, relion_refine, tomoburst

pytestmark = pytest.mark.relion

CONVERGED = next(case for case in CASES if case.name == "auto-to-the-end")
CLASSES = next(case for case in CASES if case.name == "classes-two-pass")


def _tomoburst(case: Case, folder: Path) -> Path:
    return tomoburst(["refine", "--o", "out/run", *case.arguments(), "--parity", "relion-3.1"], case.flavour, folder)


@pytest.fixture(scope="module")
def converged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converged refinement of tomoburst; RELION's own run of it is beside it in ``relion``."""
    folder = _tomoburst(CONVERGED, tmp_path_factory.mktemp("converged") / "run")
    theirs = relion_refine(CONVERGED.arguments(), CONVERGED.flavour, CONVERGED.halves)
    shutil.copytree(theirs / "out", folder / "relion")
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 3D classification of tomoburst with two classes."""
    return _tomoburst(CLASSES, tmp_path_factory.mktemp("classes") / "run")


def test_postprocess_reads_the_half_maps(converged: Path) -> None:
    for run in ("out", "relion"):
        (converged / f"post_{run}").mkdir()
        halves = ["--i", f"{run}/run_half1_class001_unfil.mrc", "--o", f"post_{run}/post"]
        execute(["relion_postprocess", *halves, "--mask", "data/mask.mrc", "--force_mask"], converged)
    labels = frozenset({"rlnUnfilteredMapHalf1", "rlnUnfilteredMapHalf2"})
    differences = compare_file(converged / "post_out/post.star", converged / "post_relion/post.star", labels)
    assert not differences, report(differences)


@pytest.mark.parametrize("name", ["run_it002_data.star", "run_data.star"])
def test_star_handler_selects_particles(converged: Path, name: str) -> None:
    selection = ["--select", "rlnMaxValueProbDistribution", "--minval", "0.3"]
    execute(["relion_star_handler", "--i", f"out/{name}", "--o", f"picked_{name}", *selection], converged)
    kept = read_star(converged / f"picked_{name}")["particles"].columns["rlnImageName"]
    table = read_star(converged / "out" / name)["particles"].columns
    pairs = zip(table["rlnImageName"], table["rlnMaxValueProbDistribution"], strict=True)
    assert kept == [image for image, value in pairs if float(value) >= 0.3]
    assert 0 < len(kept) < len(table["rlnImageName"])


def test_star_handler_compares_with_relions_own(converged: Path) -> None:
    compared = ["--i", "out/run_data.star", "--compare", "relion/run_data.star", "--label1", "rlnImageName"]
    execute(["relion_star_handler", *compared, "--o", "compared.star"], converged)
    assert len(read_star(converged / "compared_both.star")["particles"].columns["rlnImageName"]) == 16


@pytest.mark.parametrize("table", ["data_model_class_1", "data_model_groups", "data_model_group_1"])
def test_star_printtable_reads_the_model(converged: Path, table: str) -> None:
    label = "_rlnGroupNrParticles" if table == "data_model_groups" else "_rlnResolution"
    execute(["relion_star_printtable", "out/run_it002_half1_model.star", table, label], converged)
    printed = (converged / "log.txt").read_text().split()
    block = read_star(converged / "out/run_it002_half1_model.star")[table.removeprefix("data_")]
    assert printed == block.columns[label[1:]]


def test_relion_continues_a_classification(classes: Path) -> None:
    command = [
        "relion_refine",
        "--continue",
        "out/run_it001_optimiser.star",
        "--o",
        "again/run",
        "--iter",
        "2",
        "--j",
        "1",
    ]
    (classes / "again").mkdir()
    execute(command, classes)
    theirs = relion_refine(CLASSES.arguments(), CLASSES.flavour, CLASSES.halves)
    for name in ("run_it002_class001.mrc", "run_it002_class002.mrc"):
        differences = compare_file(classes / "again" / name, theirs / "out" / name)
        assert not differences, report(differences)


def test_relion_continues_split_halves(converged: Path) -> None:
    (converged / "again").mkdir()
    arguments = ["--continue", "out/run_it001_optimiser.star", "--o", "again/run", "--auto_iter_max", "2", "--j", "1"]
    execute([*MPI, "relion_refine_mpi", *arguments], converged)
    assert (converged / "again/run_it002_half1_model.star").exists()
    assert (converged / "again/run_it002_half2_class001.mrc").exists()


def test_bild_files_are_relions(converged: Path) -> None:
    for name in ("run_it000_half1_class001_angdist.bild", "run_it002_half2_class001_angdist.bild"):
        assert (converged / "out" / name).read_text() == (converged / "relion" / name).read_text()
