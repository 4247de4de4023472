"""Runs whose files are all in an fsspec store, and runs of which only the files written matter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from runner.formats.mrc import read_mrc
from runner.plan.config import ReconstructConfig, RefineConfig
from runner.reconstruct import run_reconstruct
from runner.refine import run_refine
from runner.report.events import Events
from tests.parity.dataset import BOX, Flavour, build

FLAGS = {
    "ctf": True,
    "healpix_order": 0,
    "offset_range": 2.0,
    "particle_diameter": 110.0,
    "maskedge": 3,
    "ini_high": 60.0,
    "incr_size": 3,
    "flatten_solvent": True,
    "random_seed": 1,
}


@pytest.fixture
def particles(tmp_path: Path) -> Path:
    """A folder whose particles.star names its volumes relative to the folder."""
    build(tmp_path / "data", Flavour("plain"))
    star = tmp_path / "data" / "particles.star"
    star.write_text(star.read_text().replace("data/", ""))
    return tmp_path / "data"


@pytest.fixture
def store(particles: Path) -> Iterator[str]:
    """The same folder in memory."""
    memory = fsspec.filesystem("memory")
    memory.put(str(particles), "/stored", recursive=True)
    yield "memory://stored"
    memory.rm("/stored", recursive=True)


def _run(config: RefineConfig | ReconstructConfig) -> None:
    config.validate()
    with Events() as events:
        if isinstance(config, RefineConfig):
            run_refine(config, events)
        else:
            run_reconstruct(config, events)


def test_reconstruct_refine_and_continue_in_a_store(store: str) -> None:
    _run(ReconstructConfig(i=f"{store}/particles.star", o=f"{store}/first/rec.mrc", ctf=True))
    run = RefineConfig(
        i=f"{store}/particles.star",
        o=f"{store}/run",
        ref=f"{store}/first/rec.mrc",
        solvent_mask=f"{store}/mask.mrc",
        firstiter_cc=True,
        iter=1,
        **FLAGS,  # type: ignore[arg-type]
    )
    _run(run)
    _run(RefineConfig(continue_=f"{store}/run_it001_optimiser.star", o=f"{store}/more", iter=2))
    assert read_mrc(f"{store}/more_it002_class001.mrc").data.shape == (BOX,) * 3
    events = fsspec.filesystem("memory").cat("/stored/run_events.jsonl").decode().splitlines()
    assert '"event": "run_started"' in events[0]
    assert '"event": "run_finished"' in events[-1]


def test_only_poses_are_written_without_the_maximization(
    particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {**FLAGS, "skip_maximize": True}
    _run(RefineConfig(i="data/particles.star", o="out/run", ref="data/ref1.mrc", iter=3, **flags))  # type: ignore[arg-type]
    assert [path.name for path in Path("out").glob("run_it00[1-9]*")] == ["run_it001_data.star"]


def test_each_class_has_its_point_group(particles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (particles / "refs.star").write_text((particles / "refs.star").read_text().replace("data/", ""))
    flags = {**FLAGS, "skip_align": True, "sym": "C1,C2", "K": 2}
    _run(RefineConfig(i="data/particles.star", o="out/run", ref="data/refs.star", iter=1, **flags))  # type: ignore[arg-type]
    differences = []
    for number in (1, 2):
        inside = read_mrc(f"out/run_it001_class00{number}.mrc").data[:, 1:, 1:]  # even boxes have no mate for index 0
        differences.append(abs(inside - inside[:, ::-1, ::-1]).max() / abs(inside).max())
    assert differences[0] > 0.1, differences
    assert differences[1] < 0.02, differences  # the gridding iterations are not exactly symmetric, RELION's neither
