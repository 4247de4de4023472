"""The same bytes wherever a run is computed and wherever its particles and results lie."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from runner.formats.mrc import read_mrc
from runner.formats.particles import read_particles
from runner.plan import units
from runner.plan.config import RefineConfig
from runner.plan.simulate_config import SimulateConfig
from runner.refine import run_refine
from runner.refinement import unit
from runner.refinement.result import packed_sums, unpacked_sums
from runner.report.events import Event, Events, IterationFinished
from runner.simulate import run_simulate
from runner.store.objects import list_objects, read_bytes, write_bytes
from tests.conftest import Bucket

pytestmark = pytest.mark.e2e

N = 40
HALVES = RefineConfig(
    i="particles.star",
    o="out/run",
    ref="truth.mrc",
    ctf=True,
    auto_refine=True,
    split_random_halves=True,
    auto_iter_max=2,
    healpix_order=2,
    auto_local_healpix_order=2,
    offset_range=2.0,
    offset_step=2.0,
    particle_diameter=110.0,
    ini_high=50.0,
    zero_mask=True,
    scale=True,
    random_seed=5,
)
OF_THE_PLACE = ("_events.jsonl", "_manifest.json", "finished.json")
NAMES_THE_PLACE = ("_optimiser.star", "_model.star")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(
        SimulateConfig(
            o=str(folder),
            n=N,
            box=16,
            angpix=10.0,
            particle_diameter=110.0,
            snr=1.0,
            offset_sigma=0.5,
            angle_error=8.0,
            n_micrographs=2,
            random_seed=3,
        )
    )
    return folder


@pytest.fixture
def folder(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of the simulated set."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Requests:
    """What was asked of the store in each iteration."""

    def __init__(self) -> None:
        self.by_iteration: list[dict[str, int]] = []

    def write(self, event: Event) -> None:
        """Keep the requests of an iteration."""
        if isinstance(event, IterationFinished):
            self.by_iteration.append(event.store)

    def close(self) -> None:
        """Nothing to end."""


def refined(config: RefineConfig, requests: Requests | None = None) -> dict[str, bytes]:
    """The files of a run by name, without those that name time or place."""
    if "://" not in config.o:
        shutil.rmtree("out", ignore_errors=True)
    run_refine(config, Events(*([] if requests is None else [requests])))
    root = config.o.removesuffix("run")
    files = {info.url.removeprefix(root): info.url for info in list_objects(root.rstrip("/"))}
    left_out = OF_THE_PLACE + (NAMES_THE_PLACE if "://" in config.o else ())
    return {
        name: read_bytes(url)
        for name, url in files.items()
        if not name.endswith(left_out) and not name.startswith("run_particles.zarr/")
    }


def different(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


@pytest.mark.parametrize("config", [HALVES, replace(HALVES, auto_refine=False, split_random_halves=False, K=2, iter=2)])
def test_threads_worker_processes_and_a_particle_store(config: RefineConfig, folder: Path) -> None:
    alone = refined(config)
    assert len(alone) > 10
    assert different(alone, refined(replace(config, j=2))) == []
    assert different(alone, refined(replace(config, workers=2))) == []
    shutil.move("out/run_particles.zarr", "particles.zarr")
    shutil.rmtree("subtomo")
    stored = refined(replace(config, i="particles.zarr"))
    assert [name for name in different(alone, stored) if not name.endswith("_optimiser.star")] == []  # it names --i


def test_a_bucket(folder: Path, s3: Bucket) -> None:
    alone = {name: data for name, data in refined(HALVES).items() if not name.endswith(NAMES_THE_PLACE)}
    for path in folder.rglob("*"):
        if path.is_file() and "out" not in path.parts:
            write_bytes(f"{s3.url}/set/{path.relative_to(folder)}", path.read_bytes())
    there = replace(HALVES, i=f"{s3.url}/set/particles.star", ref=f"{s3.url}/set/truth.mrc", o=f"{s3.url}/out/run")
    requests = Requests()
    assert different(alone, refined(there, requests)) == []
    chunks = len(units.chunk_rows(N))
    assert requests.by_iteration[1]["GET"] == chunks + 1  # and the commit of the iteration before
    assert requests.by_iteration[1].get("retries", 0) == 0


def test_units_of_several_chunks_differ_by_rounding_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = refined(HALVES)
    volume, angles = read_mrc("out/run_it001_half1_class001.mrc").data, poses()
    monkeypatch.setattr(units, "MOST_UNITS", 2)
    assert units.chunks_per_unit(N) == 2
    grouped = refined(HALVES)
    assert different(grouped, refined(replace(HALVES, j=2))) == []
    np.testing.assert_allclose(read_mrc("out/run_it001_half1_class001.mrc").data, volume, atol=1e-5 * volume.max())
    np.testing.assert_allclose(poses(), angles, atol=1e-4)
    assert alone.keys() == grouped.keys()


def test_nothing_of_the_sums_is_lost_when_they_are_packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def packed(half: int, sums: Accumulators) -> dict[str, Any]:
        before = {name: values.copy() for name, values in vars(sums).items()}
        found = packed_sums(half, sums)
        r_max = (sums.data_rft.shape[1] - 3) // 4  # P = 2 (2 r_max + 1) + 1 at padding 2
        after = unpacked_sums(half, dict(found), r_max, 2)
        seen.append({name: np.array_equal(values, before[name]) for name, values in vars(after).items()})
        return found

    monkeypatch.setattr(unit, "packed_sums", packed)
    refined(HALVES)
    assert len(seen) > len(units.unit_rows(N))
    assert all(all(same.values()) for same in seen)


def poses() -> np.ndarray:
    return read_particles("out/run_it001_data.star", check_files=False).angles_deg
