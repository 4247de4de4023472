"""Whole refinements and classifications of small simulated sets: reproducible to the byte, complete and right."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels.poses import compare_poses
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import read_particles
from runner.formats.star import read_star
from runner.plan.config import RefineConfig
from runner.plan.simulate_config import SimulateConfig
from runner.refine import run_refine
from runner.report.events import Events
from runner.simulate import run_simulate

pytestmark = pytest.mark.e2e

BOX, VOXEL_ANGST, DIAMETER_ANGST = 16, 10.0, 110.0

SET = SimulateConfig(
    o="set",
    n=16,
    box=BOX,
    angpix=VOXEL_ANGST,
    particle_diameter=DIAMETER_ANGST,
    snr=1.0,
    noise_colour=0.5,
    offset_sigma=1.0,
    angle_error=12.0,
    n_micrographs=2,
    random_seed=3,
)

COMMON = RefineConfig(
    i="set/particles.star",
    o="out/run",
    ref="set/truth.mrc",
    ctf=True,
    firstiter_cc=True,
    ini_high=60.0,
    particle_diameter=DIAMETER_ANGST,
    flatten_solvent=True,
    zero_mask=True,
    scale=True,
    norm=True,
    healpix_order=1,
    offset_range=3.0,
    offset_step=1.5,
    random_seed=11,
)

RECORD = {"out/run_manifest.json", "out/run_work/finished.json"}

CLASSES = replace(COMMON, K=2, iter=3, sigma_ang=10.0)

AUTO = replace(
    COMMON,
    auto_refine=True,
    split_random_halves=True,
    healpix_order=2,
    auto_local_healpix_order=2,
    low_resol_join_halves=60.0,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that all names in files are relative and the same in every run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the simulated set."""
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(replace(SET, o=str(folder / "set")))
    return folder


@pytest.fixture
def working(folder: Path, simulated: Path) -> Path:
    """A working folder with the simulated set in it."""
    (folder / "set").symlink_to(simulated / "set")
    return folder


def run(config: RefineConfig) -> dict[str, bytes]:
    """Refine from an empty folder and return every file that was written, but for the log, which holds times."""
    shutil.rmtree("out", ignore_errors=True)
    run_refine(config, Events())
    files = sorted(path for path in Path("out").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in files if path.name != "run_events.jsonl"}


def assert_same_files(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    """The same names and bytes; names of the files that differ are reported."""
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []


def pose_errors(data_star: str, rows: slice = slice(None)) -> tuple[float, float]:
    """Median errors of orientations (degrees) and offsets (Angstrom) of a STAR file against the truth."""
    found, true = read_particles(data_star, check_files=False), read_particles("set/truth.star", check_files=False)
    order = {name: row for row, name in enumerate(true.image_names)}
    index = [order[name] for name in found.image_names]
    errors = compare_poses(
        found.angles_deg[rows], found.origins_angst[rows], true.angles_deg[index][rows], true.origins_angst[index][rows]
    )
    return float(np.median(errors.angle_deg)), float(np.median(errors.shift_angst))


def names_of_iteration(prefix: str, classes: int, halves: bool) -> set[str]:
    """RELION's names of the files of one iteration."""
    parts = [f"{prefix}_half{half}" for half in (1, 2)] if halves else [prefix]
    names = {f"{prefix}_{kind}.star" for kind in ("data", "optimiser", "sampling")}
    for part in parts:
        names.add(f"{part}_model.star")
        for k in range(1, classes + 1):
            names |= {f"{part}_class{k:03d}.mrc", f"{part}_class{k:03d}_angdist.bild"}
    return names


def test_classification_is_complete_and_the_same_with_any_number_of_threads(working: Path):
    first = run(CLASSES)
    expected = set().union(*(names_of_iteration(f"out/run_it{it:03d}", 2, halves=False) for it in range(4)))
    assert set(first) == expected | RECORD
    assert_same_files(first, run(CLASSES))
    assert_same_files(first, run(replace(CLASSES, j=2)))
    once = replace(CLASSES, iter=1)
    assert_same_files(run(once), run(replace(once, memory=4.0, j=2)))
    assert first["out/run_it003_class001.mrc"] != first["out/run_it003_class002.mrc"]
    assert first["out/run_it003_data.star"] != run(replace(CLASSES, random_seed=12))["out/run_it003_data.star"]


def test_auto_refinement_converges_is_complete_and_the_same_with_two_threads(working: Path):
    before = pose_errors("set/particles.star")
    files = run(AUTO)
    iterations = sorted({name[len("out/run_it") :][:3] for name in files if name.startswith("out/run_it")})
    assert iterations == [f"{it:03d}" for it in range(len(iterations))]
    expected = set().union(*(names_of_iteration(f"out/run_it{it}", 1, halves=True) for it in iterations))
    expected |= names_of_iteration("out/run", 1, halves=False)
    expected |= {f"out/run_half{half}_class001_unfil.mrc" for half in (1, 2)}
    assert set(files) == expected | RECORD
    assert_same_files(files, run(replace(AUTO, j=2)))
    after = pose_errors("out/run_data.star")
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.5 * before[1]
    final, truth = read_mrc("out/run_class001.mrc"), read_mrc("set/truth.mrc")
    assert final.voxel_size_angst == pytest.approx(VOXEL_ANGST)
    assert np.corrcoef(final.data.ravel(), truth.data.ravel())[0, 1] > 0.85
    halves = [read_mrc(f"out/run_half{half}_class001_unfil.mrc").data for half in (1, 2)]
    assert np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1] > 0.5
    subsets = read_star("out/run_data.star").blocks["particles"].columns["rlnRandomSubset"]
    assert sorted(set(subsets)) == ["1", "2"]
    general = read_star("out/run_model.star").blocks["model_general"].columns
    assert float(general["rlnCurrentResolution"][0]) < 60.0


def test_relion_parity_is_reproducible_too(working: Path):
    config = replace(CLASSES, parity="relion-3.1", iter=2)
    assert_same_files(run(config), run(replace(config, j=2)))


def test_a_set_with_pure_noise_in_it_still_converges(folder: Path):
    run_simulate(replace(SET, n=20))
    noise = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    write_mrc("set/subtomo/000007.mrc", noise, VOXEL_ANGST)
    before = pose_errors("set/particles.star")
    run_refine(AUTO, Events())
    after = pose_errors("out/run_data.star")
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.5 * before[1]


def test_offsets_and_classes_alone_leave_the_angles_as_they_are(working: Path):
    run_refine(replace(CLASSES, sigma_ang=-1.0, skip_rotate=True, iter=2), Events())
    found, given = (read_particles(url, check_files=False) for url in ("out/run_it002_data.star", "set/particles.star"))
    assert found.angles_deg == pytest.approx(given.angles_deg, abs=1e-5)
    assert pose_errors("out/run_it002_data.star")[1] < pose_errors("set/particles.star")[1]
    run_refine(replace(CLASSES, o="kept/run", sigma_ang=-1.0, skip_align=True, iter=2), Events())
    kept = read_particles("kept/run_it002_data.star", check_files=False)
    assert kept.angles_deg == pytest.approx(given.angles_deg, abs=1e-5)
    assert kept.origins_angst == pytest.approx(given.origins_angst, abs=1e-5)
