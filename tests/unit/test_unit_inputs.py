"""What units are given: it comes back exactly, equal ones have equal digests, and a worker without its GPU says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels.likelihood import Mask, Model, Rules, Search
from kernels.orientations import angular_grid
from kernels.projection import reference_rft
from runner.errors import UsageError
from runner.execute.local import LocalExecutor
from runner.formats.checkpoint import pack, unpack
from runner.formats.particles import read_particles
from runner.ingest import IngestSettings, ensure_ingested
from runner.plan.simulate_config import SimulateConfig
from runner.refinement import inputs
from runner.refinement.inputs import (
    Computing,
    Device,
    ExpectationInput,
    ParticleRows,
    find_input,
    find_particles,
    particles_of,
    write_input,
)
from runner.refinement.memory import Recent
from runner.report.events import Events
from runner.simulate import run_simulate

BOX, N = 16, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    run_simulate(SimulateConfig(o=str(folder), n=N, box=BOX, angpix=10.0, snr=1.0))
    return folder


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that knows nothing yet."""
    monkeypatch.setattr(inputs, "_opened", Recent(2))
    monkeypatch.setattr(inputs, "_particles", Recent(2))


def given(folder: Path, lowest_shell: int = -1, gpu: bool = False) -> ExpectationInput:
    draw = np.random.default_rng(1)
    grid = angular_grid(0)
    model = Model(
        box=BOX, voxel_size_angst=10.0, pad=2, current_size=12, coarse_size=8, fine_size=12, references_rft=None,
        sigma2_noise=draw.random((2, 9)), group_scale=np.ones(2), ssnr=draw.random((1, 9)), pdf_class=np.ones(1),
        pdf_direction=draw.random((1, len(grid.directions_deg))), sigma2_offset_angst2=draw.random(), use_ctf=True,
        ctf_in_reference=True, use_scale=False,
    )  # fmt: skip
    rows = ParticleRows(
        *(draw.normal(size=(N, 3)) for _ in range(4)), *(np.arange(N) % 2 for _ in range(3)), np.zeros(N, dtype=bool)
    )
    return ExpectationInput(
        where=particles_of(read_particles(f"{folder}/particles.star"), True).where,
        rows=rows,
        models=[model, replace(model, sigma2_offset_angst2=3.0)],
        references=[draw.normal(size=(1, BOX, BOX, BOX)) for _ in range(2)],
        lowest_shell=lowest_shell,
        searches=[Search(grid, draw.normal(size=(5, 3)), 1.0, 0.25, 1, sigma_rot_deg=sigma) for sigma in (3.0, 4.0)],
        mask=Mask(5.0, 2.0, True, 7),
        rules=Rules.relion(),
        computing=Computing("float32", gpu, 0),
        skip_bad=True,
    )


def written(url: str, what: ExpectationInput) -> str:
    """Digest of an input that is written."""
    digest, end = write_input(url, what)
    end.result()
    return digest


def test_an_input_comes_back_with_the_transforms_of_its_references(folder: Path, tmp_path: Path) -> None:
    first = given(folder)
    digest = written(f"{tmp_path}/input.npz", first)
    opened = find_input(f"{tmp_path}/input.npz", digest, Device())
    assert pack(opened.given) == pack(first)
    for model, references in zip(opened.models, first.references, strict=True):
        expected = reference_rft(references[0], 2, 6).astype(np.complex64)
        np.testing.assert_array_equal(model.references_rft[0], expected)
    assert find_input(f"{tmp_path}/input.npz", digest, Device()) is opened
    assert written(f"{tmp_path}/again.npz", given(folder)) == digest
    assert written(f"{tmp_path}/other.npz", given(folder, lowest_shell=2)) != digest


def test_low_shells_are_left_out_of_the_comparison(folder: Path, tmp_path: Path) -> None:
    digest = written(f"{tmp_path}/input.npz", given(folder, lowest_shell=2))
    transform = find_input(f"{tmp_path}/input.npz", digest, Device()).models[0].references_rft[0]
    centre = transform.shape[0] // 2
    assert not transform[centre, centre, : 2 * 2 + 1].any()
    assert transform[centre, centre, 2 * 2 + 1 : 2 * 6].any()


def test_a_worker_without_a_gpu_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(*_: object, **__: object) -> None:
        raise RuntimeError("GPU 0 cannot compute")

    monkeypatch.setattr(inputs, "cuda_backend", no_gpu)
    digest = written(f"{tmp_path}/input.npz", given(folder, gpu=True))
    with pytest.raises(UsageError, match=r"--gpu: GPU 0 cannot compute on .*; give every worker a GPU"):
        find_input(f"{tmp_path}/input.npz", digest, Device())


def test_another_process_finds_the_same_particles_under_the_same_names(folder: Path, tmp_path: Path) -> None:
    star = f"{folder}/particles.star"
    ensure_ingested(read_particles(star), f"{tmp_path}/p.zarr", LocalExecutor(1), Events(), IngestSettings())
    tables = [read_particles(star), read_particles(star, store_url=f"{tmp_path}/p.zarr")]
    tables.append(tables[1].select([7, 2, 11]))
    for table in tables:
        here = particles_of(table, True)
        inputs._particles.pop(inputs._key(here.where))
        there = find_particles(unpack(inputs.Where, pack(here.where), "where"))
        rows = range(len(table))
        assert [there.describe(row) for row in rows] == [table.describe(row) for row in rows]
        for one, other in zip(here.source.read(rows), there.source.read(rows), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(here.source.read_ctf(1), there.source.read_ctf(1))
    assert len({particles_of(table, True).where.digest for table in tables}) == 2
