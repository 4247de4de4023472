"""Particles that cannot be used: named and fatal, or set aside, with the right counts and the same bytes every time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels import halving
from kernels.expectation import DegenerateParticleError
from runner import cli
from runner.errors import BadUnit
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import read_particles
from runner.formats.star import format_star, read_star
from runner.plan.config import RefineConfig
from runner.plan.simulate_config import SimulateConfig
from runner.plan.units import chunk_rows, unit_rows
from runner.refine import run_refine
from runner.refinement import unit
from runner.report.events import Event, Events, ParticleSetAside
from runner.simulate import run_simulate

pytestmark = pytest.mark.e2e

INPUT = 3
N, BAD = 24, 6
CONFIG = RefineConfig(
    i="particles.star",
    o="out/run",
    ref="truth.mrc",
    ctf=True,
    iter=2,
    sigma_ang=8.0,
    healpix_order=2,
    offset_range=2.0,
    offset_step=2.0,
    particle_diameter=110.0,
    zero_mask=True,
    scale=True,
    random_seed=5,
    on_bad_particle="skip",
)


class Heard:
    """Keeps all records."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        """Keep one record."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(
        SimulateConfig(
            o=str(folder / "set"),
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
    return folder / "set"


@pytest.fixture
def folder(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a copy of the simulated set."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def name_of(row: int) -> str:
    return read_particles("particles.star").image_names[row]


def refine(config: RefineConfig) -> tuple[dict[str, bytes], list[ParticleSetAside]]:
    """The files of a run, without its log, and what it said about bad particles."""
    shutil.rmtree("out", ignore_errors=True)
    heard = Heard()
    run_refine(config, Events(heard))
    files = {str(path): path.read_bytes() for path in sorted(Path("out").rglob("*")) if path.is_file()}
    files.pop("out/run_events.jsonl")
    return files, [event for event in heard.events if isinstance(event, ParticleSetAside)]


def spoil_with_nan(folder: Path) -> None:
    data = read_mrc(f"{name_of(BAD)}").data
    data[3, 4, 5] = np.nan
    write_mrc(f"{name_of(BAD)}", data, 10.0)


def spoil_by_truncation(folder: Path) -> None:
    path = folder / name_of(BAD)
    path.write_bytes(path.read_bytes()[:-100])


def spoil_the_wedge(folder: Path) -> None:
    star = read_star("particles.star")
    names = star.blocks["particles"].columns["rlnCtfImage"]
    write_mrc("empty.mrc", np.zeros_like(read_mrc(f"{names[0]}").data), 10.0)
    names[star.blocks["particles"].columns["rlnImageName"].index(name_of(BAD))] = "empty.mrc"
    Path("particles.star").write_text(format_star(star.blocks.values()))


SPOILT = [
    (spoil_with_nan, "1 of 4096 voxels are NaN"),
    (spoil_by_truncation, "truncated"),
    (spoil_the_wedge, "zero everywhere"),
]


@pytest.mark.parametrize(("spoil", "says"), SPOILT)
def test_a_bad_particle_is_set_aside_by_name_and_counts_nowhere(spoil: Any, says: str, folder: Path) -> None:
    name = name_of(BAD)
    spoil(folder)
    files, told = refine(CONFIG)
    assert [(event.particle, says in event.reason) for event in told] == [(name, True)]
    assert files == refine(replace(CONFIG, j=2))[0]

    listed = read_star("out/run_bad_particles.star").blocks["particles"].columns
    assert listed["rlnImageName"] == [name]
    assert says in listed["tomoburstReason"][0]

    given, found = read_particles("particles.star"), read_particles("out/run_it002_data.star")
    np.testing.assert_allclose(found.angles_deg[BAD], given.angles_deg[BAD], atol=1e-4)
    np.testing.assert_allclose(found.origins_angst[BAD], given.origins_angst[BAD], atol=1e-4)
    groups = read_star("out/run_it002_model.star").blocks["model_groups"].columns
    assert sum(map(int, groups["rlnGroupNrParticles"])) == N - 1
    assert float(found.columns["rlnMaxValueProbDistribution"][BAD]) == 0

    # without its row the particle leaves the same map but for rounding: units are cut elsewhere
    star = read_star("particles.star")
    kept = [row for row, each in enumerate(star.blocks["particles"].columns["rlnImageName"]) if each != name]
    columns = star.blocks["particles"].columns
    star.blocks["particles"].columns = {label: [values[row] for row in kept] for label, values in columns.items()}
    Path("without.star").write_text(format_star(star.blocks.values()))
    refine(replace(CONFIG, i="without.star", iter=1))
    alone = read_mrc("out/run_it001_class001.mrc").data
    refine(replace(CONFIG, iter=1))
    aside = read_mrc("out/run_it001_class001.mrc").data
    assert np.linalg.norm(aside - alone) < 1e-4 * np.linalg.norm(alone)


@pytest.mark.parametrize(("spoil", "says"), SPOILT)
def test_without_the_flag_it_ends_the_run(
    spoil: Any, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = name_of(BAD)
    spoil(folder)
    flags = "--i particles.star --ref truth.mrc --o out/run --ctf --iter 1"
    assert cli.run(["refine", *flags.split()]) == INPUT
    line = capsys.readouterr().err.splitlines()[-1]
    assert name in line
    assert says in line
    assert not (folder / "out").exists()


@pytest.fixture
def degenerate(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows without a pose of finite weight from the second iteration on."""
    rows, original = [BAD, BAD + 1], halving.expectation

    def expectation(particles: Any, model: Any, search: Any, *others: Any) -> Any:
        for particle in particles:
            if particle.index in rows and search.perturbation != first.setdefault("perturbation", search.perturbation):
                raise DegenerateParticleError(particle.index)
        return original(particles, model, search, *others)

    first: dict[str, float] = {}
    monkeypatch.setattr(halving, "expectation", expectation)
    return rows


def test_particles_that_fail_later_keep_the_pose_they_had(folder: Path, degenerate: list[int]) -> None:
    _, told = refine(replace(CONFIG, iter=3))
    assert [event.row for event in told] == [row + 1 for row in degenerate]
    before, after = (read_particles(f"out/run_it{it}_data.star") for it in ("001", "003"))
    np.testing.assert_array_equal(after.angles_deg[degenerate], before.angles_deg[degenerate])
    assert not np.array_equal(after.angles_deg, before.angles_deg)
    counts = [
        sum(map(int, read_star(f"out/run_it{it}_model.star").blocks["model_groups"].columns["rlnGroupNrParticles"]))
        for it in ("001", "002", "003")
    ]
    assert counts == [N, N - 2, N - 2]
    listed = read_star("out/run_bad_particles.star").blocks["particles"].columns
    assert listed["rlnImageName"] == [name_of(row) for row in degenerate]
    assert "no pose has a weight above zero" in listed["tomoburstReason"][0]


def test_a_particle_that_fails_later_ends_the_run_without_the_flag(folder: Path, degenerate: list[int]) -> None:
    with pytest.raises(ValueError, match="no pose has a weight above zero") as raised:
        refine(replace(CONFIG, on_bad_particle="fail"))
    assert name_of(degenerate[0]) in str(raised.value)
    assert Path("out/run_it001_optimiser.star").exists()


def test_no_particle_left_is_an_error(folder: Path) -> None:
    for row in range(N):
        path = folder / name_of(row)
        path.write_bytes(path.read_bytes()[:-100])
    read_particles("particles.star")
    with pytest.raises(ValueError, match="half 1 has no particle that can be used"):
        refine(CONFIG)


def test_worker_processes_set_the_same_particles_aside(folder: Path) -> None:
    spoil_with_nan(folder)
    spoil = folder / name_of(BAD + 3)
    spoil.write_bytes(spoil.read_bytes()[:-100])
    alone, told = refine(CONFIG)
    elsewhere, told_there = refine(replace(CONFIG, workers=2))
    assert [event.row for event in told] == [event.row for event in told_there] == [BAD + 1, BAD + 4]
    assert alone == {name: data for name, data in elsewhere.items() if "run_particles.zarr/" not in name}


def test_a_run_that_is_gone_on_with_sets_them_aside_again(folder: Path) -> None:
    spoil_with_nan(folder)
    refine(replace(CONFIG, iter=1))
    run_refine(RefineConfig(continue_="out/run_it001_optimiser.star", iter=2, on_bad_particle="skip"), Events())
    listed = read_star("out/run_ct1_bad_particles.star").blocks["particles"].columns
    assert listed["rlnImageName"] == [name_of(BAD)]
    groups = read_star("out/run_ct1_it002_model.star").blocks["model_groups"].columns
    assert sum(map(int, groups["rlnGroupNrParticles"])) == N - 1


def test_the_log_names_each_particle_once(folder: Path) -> None:
    spoil_with_nan(folder)
    refine(CONFIG)
    shutil.rmtree("out")
    run_refine(CONFIG, Events())
    lines = [json.loads(line) for line in Path("out/run_events.jsonl").read_text().splitlines()]
    assert [line["particle"] for line in lines if line["event"] == "particle_set_aside"] == [name_of(BAD)]


def test_a_truncated_chunk_loses_its_particles(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ingest", "--i", "particles.star", "--o", "particles.zarr"]) == 0
    chunk, rows = Path("particles.zarr/particles/c/1/0/0/0"), chunk_rows(N)[1]
    chunk.write_bytes(chunk.read_bytes()[:-1])
    files, told = refine(replace(CONFIG, i="particles.zarr"))
    assert [event.particle for event in told] == [name_of(row) for row in rows]
    assert {"chunk 1" in event.reason and "wrong digest" in event.reason for event in told} == {True}
    assert files == refine(replace(CONFIG, i="particles.zarr", j=2))[0]
    capsys.readouterr()
    flags = "--i particles.zarr --ref truth.mrc --o fails/run --ctf --iter 1"
    assert cli.run(["refine", *flags.split()]) == INPUT
    assert "chunk 1" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[range]:
    """The rows of a unit that cannot be computed, from the second iteration on."""
    rows, original = unit_rows(N)[1], unit.run_unit

    def run_unit(spec: dict[str, Any]) -> dict[str, Any]:
        if "it002" in spec["output"] and spec["start"] == rows.start:
            tried.append(spec["output"])
            raise ZeroDivisionError("poison")
        return original(spec)

    tried: list[str] = []
    monkeypatch.setattr(unit, "run_unit", run_unit)
    yield rows
    assert len(tried) == 3


def test_a_poisoned_unit_is_tried_three_times_and_loses_its_particles(folder: Path, poisoned: range) -> None:
    _, told = refine(replace(CONFIG, iter=3))
    assert [event.row for event in told] == [row + 1 for row in poisoned]
    assert "ZeroDivisionError: poison; its task is {" in told[0].reason
    before, after = (read_particles(f"out/run_it{it}_data.star") for it in ("001", "003"))
    np.testing.assert_array_equal(after.angles_deg[poisoned], before.angles_deg[poisoned])
    groups = read_star("out/run_it003_model.star").blocks["model_groups"].columns
    assert sum(map(int, groups["rlnGroupNrParticles"])) == N - len(poisoned)


def test_without_the_flag_it_ends_the_run_with_its_task(folder: Path, poisoned: range) -> None:
    with pytest.raises(BadUnit, match=r'unit_00001.*failed 3 times.*ZeroDivisionError: poison.*"start": 10'):
        refine(replace(CONFIG, on_bad_particle="fail"))
    assert Path("out/run_it001_optimiser.star").exists()
