"""Going on with a run: the same result as without a break, flags that change it, and mistakes named in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runner import cli
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import read_particles
from runner.formats.relion_run import read_run
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate

USAGE, INPUT = 2, 3
FLAGS = (
    "--i particles.star --ref truth.mrc --o out/run --ctf --healpix_order 0 --offset_range 1 --offset_step 1 "
    "--particle_diameter 120 --random_seed 1 --perturb 0 --flatten_solvent --zero_mask"
)
HALVES = "--auto_refine --split_random_halves --auto_iter_max 2"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two iterations of a classification, out/run, and of an automated refinement, out/auto."""
    folder = tmp_path_factory.mktemp("runs")
    run_simulate(SimulateConfig(o=str(folder), n=8, box=16, angpix=10.0, snr=1.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["refine", *FLAGS.split(), "--iter", "2", "--tau2_fudge", "2"]) == 0
        assert cli.run(["refine", *FLAGS.split(), *HALVES.split(), "--o", "out/auto"]) == 0
    return folder


@pytest.fixture
def folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, which is the working directory too."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def go_on(flags: str, iteration: int = 1, run: str = "run") -> int:
    """Go on with a run of the fixture; returns the exit code."""
    return cli.run(["refine", "--continue", f"out/{run}_it{iteration:03d}_optimiser.star", *flags.split()])


def assert_same(ours: str, expected: str, maps: list[str]) -> None:
    """Poses agree to their printed digits, maps to those of the spectra in the STAR files: six decimals."""
    for each in maps:
        ours_map, expected_map = (read_mrc(f"{prefix}_{each}").data for prefix in (ours, expected))
        assert np.linalg.norm(ours_map - expected_map) < 1e-3 * np.linalg.norm(expected_map)
    tables = [read_particles(f"{prefix}_data.star") for prefix in (ours, expected)]
    np.testing.assert_allclose(tables[0].origins_angst, tables[1].origins_angst, atol=1e-3)
    np.testing.assert_array_equal(tables[0].random_subset, tables[1].random_subset)


def test_a_classification_gives_what_it_gives_without_a_break(folder: Path) -> None:
    assert go_on("") == 0
    assert_same("out/run_ct1_it002", "out/run_it002", ["class001.mrc"])
    assert read_run("out/run_ct1_it002_optimiser.star").iteration == 2


def test_half_sets_give_what_they_give_without_a_break(folder: Path) -> None:
    assert go_on("--o again/auto --auto_iter_max 2", run="auto") == 0
    assert_same("again/auto_it002", "out/auto_it002", ["half1_class001.mrc", "half2_class001.mrc"])


def test_a_run_is_made_to_converge(folder: Path) -> None:
    assert go_on("--force_converge", 2, "auto") == 0
    assert {"auto_ct2_class001.mrc", "auto_ct2_half1_class001_unfil.mrc"} <= {
        path.name for path in (folder / "out").iterdir()
    }


def test_flags_given_change_the_run_even_to_their_defaults(folder: Path) -> None:
    assert go_on("--o out/changed --tau2_fudge 1 --healpix_order 1 --offset_range 2") == 0
    changed = read_run("out/changed_it002_optimiser.star")
    assert changed.settings["tau2_fudge"] == 1
    assert (changed.sampling.healpix_order, changed.sampling.offset_range_angst) == (1, 20.0)
    kept = read_run("out/run_it002_optimiser.star")
    assert kept.settings["tau2_fudge"] == 2
    assert changed.settings["particle_diameter"] == kept.settings["particle_diameter"]


def test_flags_that_a_run_keeps_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go_on("--o again/run --sym C3 --ref truth.mrc --ini_high 40") == 0
    assert "ignored: --ref, --ini_high, --sym" in capsys.readouterr().err
    assert read_run("again/run_it002_optimiser.star").sampling.symmetry.upper() == "C1"


def drop(name: str) -> Callable[[], None]:
    """Remove a file."""
    return lambda: Path(name).unlink()


def replaced(name: str, old: str, new: str) -> Callable[[], None]:
    """Change a text."""

    def spoil() -> None:
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new))

    return spoil


DATA, MAP = "out/run_it001_data.star", "out/run_it001_class001.mrc"
MISTAKES = [
    ("no optimiser", 7, "run", "", lambda: None, INPUT, ["run_it007_optimiser.star", "no such file"]),
    ("no model", 1, "run", "", drop("out/run_it001_model.star"), INPUT, ["cannot find 'out/run_it001_model.star'"]),
    ("no data", 1, "run", "", drop(DATA), INPUT, [f"cannot find '{DATA}'"]),
    ("no map", 1, "run", "", drop(MAP), INPUT, [f"cannot find '{MAP}'"]),
    ("no sampling", 1, "run", "", drop("out/run_it001_sampling.star"), INPUT, ["run_it001_sampling.star"]),
    ("other box", 1, "run", "", lambda: write_mrc(MAP, np.ones((8, 8, 8), np.float32), 10.0), INPUT,
     [MAP, "(8, 8, 8) voxels", "16"]),
    ("model of another box", 1, "run", "",
     replaced("out/run_it001_model.star", "_rlnPixelSize                              10.000000", "_rlnPixelSize 12.0"),
     INPUT, [DATA, "16 voxels of 10 A", "12 A"]),
    ("other particles", 1, "run", "", replaced(DATA, " tomogram_001 ", " another "), INPUT, [DATA, "'another'"]),
    ("one half only", 1, "auto", "", drop("out/auto_it001_half2_model.star"), INPUT, ["half2_model.star"]),
    ("nothing left to do", 2, "run", "", lambda: None, USAGE, ["all 2 iterations", "--iter 2", "larger --iter"]),
    ("limit reached", 2, "auto", "--auto_iter_max 2", lambda: None, USAGE, ["larger --auto_iter_max"]),
    ("the start", 0, "run", "--iter 2", lambda: None, USAGE, ["iteration 0"]),
    ("a flag out of range", 1, "run", "--tau2_fudge 0", lambda: None, USAGE, ["--tau2_fudge 0"]),
    ("missing mask", 1, "run", "--solvent_mask nosuch.mrc", lambda: None, INPUT, ["--solvent_mask", "nosuch.mrc"]),
    ("halves without a mask", 1, "auto", "--solvent_correct_fsc", lambda: None, USAGE, ["--solvent_mask mask.mrc"]),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_a_mistake_is_named_in_one_line(
    mistake: tuple[str, int, str, str, Callable[[], None], int, list[str]],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, iteration, run, flags, spoil, code, says = mistake
    spoil()
    before = sorted(folder.rglob("*"))
    assert go_on(flags, iteration, run) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('{"time"')]
    assert len(lines) == 1, lines
    assert [words for words in says if words not in lines[0]] == [], lines[0]
    assert sorted(folder.rglob("*")) == before


def test_a_finished_refinement_cannot_go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go_on("--force_converge", 2, "auto") == 0
    capsys.readouterr()
    assert cli.run(["refine", "--continue", "out/auto_ct2_optimiser.star"]) == INPUT
    assert "take the optimiser of an iteration before the last" in capsys.readouterr().err
