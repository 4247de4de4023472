"""`tomoburst ingest`: what is stored, what an interrupted or repeated ingestion does, and what is refused."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from runner import cli
from runner.errors import InputError, StorageError, TomoburstError
from runner.execute.local import LocalExecutor
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import read_particles
from runner.ingest import CLAIM, WORK, IngestSettings, ensure_ingested, run_ingest
from runner.plan.ingest_config import IngestConfig
from runner.report.events import Event, Events, Noted, ParticleSetAside
from runner.store import objects
from runner.store.counts import request_counts, reset_request_counts
from runner.store.particles import ParticleStore
from tests.parity.dataset import BOX, MICROGRAPHS, PIXEL_ANGST, Flavour, build

COUNT = len(MICROGRAPHS)


@pytest.fixture(scope="session")
def whole_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen particles whose STAR file names them relative to its folder."""
    folder = tmp_path_factory.mktemp("set") / "data"
    build(folder, Flavour("plain"))
    star = folder / "particles.star"
    star.write_text(star.read_text().replace("data/", ""))
    return folder


@pytest.fixture
def data(whole_set: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may change."""
    return Path(shutil.copytree(whole_set, tmp_path / "data"))


@pytest.fixture
def place() -> Iterator[str]:
    """URL of a place in memory where no store is yet."""
    memory = fsspec.filesystem("memory")
    folder = f"memory://{uuid.uuid4().hex}"
    yield f"{folder}/particles.zarr"
    if memory.exists(folder):
        memory.rm(folder, recursive=True)


class Records:
    """A sink that keeps every record."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def write(self, event: Event) -> None:
        self.all.append(event)

    def close(self) -> None:
        pass


def ingest(data: Path, url: str, records: Records | None = None, **settings: Any) -> ParticleStore:
    with Events(records or Records()) as events, LocalExecutor() as executor:
        table = read_particles(f"{data}/particles.star")
        return ensure_ingested(table, url, executor, events, IngestSettings(**settings))


def contents(url: str) -> dict[str, bytes]:
    return {each.url.removeprefix(url): objects.read_bytes(each.url) for each in objects.list_objects(url)}


def spoil(data: Path, number: int, value: float = np.nan) -> None:
    """Make one particle useless."""
    path = f"{data}/subtomo/{number:03d}.mrc"
    volume = read_mrc(path).data.copy()
    volume[1, 2, 3] = value
    objects.write_bytes(path, Path(path).read_bytes()[:1024] + volume.tobytes())


def test_the_second_ingestion_finds_the_first(data: Path, place: str) -> None:
    first = ingest(data, place)
    before = contents(place)
    records = Records()
    reset_request_counts()
    second = ingest(data, place, records)
    assert request_counts()["PUT"] == 0
    assert contents(place) == before
    assert second.contents == first.contents
    assert [event.message for event in records.all if isinstance(event, Noted)] == [
        f"{place}: these particles are already there and are used"
    ]


def test_an_ingestion_broken_off_anywhere_is_completed(data: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reset_request_counts()
    ingest(data, place)
    writes, expected = request_counts()["PUT"], contents(place)
    assert [name for name in expected if WORK in name] == [f"/{CLAIM}"]
    probes = 2  # made once for each place, to find out whether it can create an object on condition
    for survived in range(writes - probes):
        monkeypatch.undo()
        memory = fsspec.filesystem("memory")
        memory.rm(objects.parent(place), recursive=True)
        left = [survived]
        for name in ("write_bytes", "create_bytes"):
            monkeypatch.setattr(objects, name, _dying(getattr(objects, name), left))
        with pytest.raises(_Killed):
            ingest(data, place)
        monkeypatch.undo()
        with pytest.raises(InputError, match="no finished particle store"):
            ParticleStore.open(place)
        done = sum("/c/" in name and name.startswith(("/particles/", "/ctf/")) for name in contents(place))
        noted = sum(WORK in name and CLAIM not in name for name in contents(place))
        written: list[str] = []
        monkeypatch.setattr(objects, "write_bytes", _noting(objects.write_bytes, written))
        ingest(data, place)
        again = sum("/c/" in url and ("/particles/c" in url or "/ctf/c" in url) for url in written)
        assert done - 1 <= noted <= done
        assert again == 4 - noted
        assert contents(place) == expected


class _Killed(BaseException):
    """Nothing catches it, as with SIGKILL."""


def _dying(write: Callable[[str, bytes], Any], left: list[int]) -> Callable[[str, bytes], Any]:
    """``write`` as often as ``left`` says, then never again."""

    def wrapped(url: str, data: bytes) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return write(url, data)

    return wrapped


def _noting(write: Callable[[str, bytes], Any], written: list[str]) -> Callable[[str, bytes], Any]:
    def wrapped(url: str, data: bytes) -> Any:
        written.append(url)
        return write(url, data)

    return wrapped


def _another_star(data: Path) -> None:
    star = data / "particles.star"
    star.write_text(star.read_text().replace(".5 20.0", ".5 21.0"))


def _another_volume(data: Path) -> None:
    write_mrc(f"{data}/subtomo/004.mrc", np.random.default_rng(1).normal(size=(BOX,) * 3), PIXEL_ANGST)
    os.utime(data / "subtomo" / "004.mrc", (1, 1))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (_another_star, {}, "another STAR file"),
        (_another_volume, {}, "volumes that have changed"),
        (lambda _: None, {"dtype": "float16"}, "as float32, float16 is asked for"),
    ],
    ids=["star", "volume", "dtype"],
)
def test_other_inputs_are_refused_and_overwritten(
    data: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    settings: dict[str, Any],
    message: str,
    finished: bool,
) -> None:
    if finished:
        ingest(data, place)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(objects, "write_bytes", _dying(objects.write_bytes, [3]))
            with pytest.raises(_Killed):
                ingest(data, place)
    before = contents(place)
    change(data)
    with pytest.raises(InputError, match=f"{message}.*--overwrite") as caught:
        ingest(data, place, **settings)
    assert ("subtomo/004.mrc" in str(caught.value)) == (finished and change is _another_volume)
    assert contents(place) == before
    store = ingest(data, place, overwrite=True, **settings)
    rest = contents(place)
    fsspec.filesystem("memory").rm(objects.parent(place), recursive=True)
    ingest(data, place, **settings)
    assert contents(place) == rest
    assert store.star() == (data / "particles.star").read_bytes()


def test_other_things_are_left_alone(data: Path, tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "tomograms.zarr"), mode="w").create_array("a", shape=(4,), dtype="f4")
    notes = tmp_path / "notes.zarr"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    for url in (str(tmp_path / "tomograms.zarr"), str(notes)):
        before = contents(url)
        for overwrite in (False, True):
            with pytest.raises(InputError, match="no particle store"):
                ingest(data, url, overwrite=overwrite)
        assert contents(url) == before


def test_a_bad_particle_is_named_with_row_and_file(data: Path, place: str) -> None:
    spoil(data, 5)
    with pytest.raises(InputError, match=r"particles.star row 5 \(subtomo/005.mrc\).*1 of 5832 voxels are NaN"):
        ingest(data, place)
    with pytest.raises(InputError, match="no finished particle store"):
        ParticleStore.open(place)


def test_bad_particles_are_set_aside(data: Path, place: str) -> None:
    spoil(data, 5)
    (data / "subtomo" / "011.mrc").write_bytes((data / "subtomo" / "011.mrc").read_bytes()[:5000])
    records = Records()
    store = ingest(data, place, records, on_bad_particle="skip")
    table = read_particles(place)
    rows = [table.image_names.index(f"subtomo/{number:03d}.mrc") for number in (5, 11)]
    assert set(store.bad) == set(rows)
    assert "1 of 5832 voxels are NaN" in store.bad[rows[0]]
    assert "truncated" in store.bad[rows[1]]
    volumes = zarr.open_array(f"{place}/particles", mode="r")[:]
    assert [row for row in range(COUNT) if np.isnan(volumes[row]).any()] == sorted(rows)
    assert np.isnan(volumes[rows]).all()
    config = IngestConfig(i=str(data / "particles.star"), o=place, on_bad_particle="skip")
    run_ingest(config, Events(records))
    set_aside = [event for event in records.all if isinstance(event, ParticleSetAside)]
    assert {(event.particle, event.row) for event in set_aside} == {("subtomo/005.mrc", 5), ("subtomo/011.mrc", 11)}
    with pytest.raises(InputError, match=r"voxels are NaN.*--on_bad_particle skip"):
        ingest(data, place)
    assert ingest(data, place, on_bad_particle="skip").bad == store.bad


def test_a_set_without_a_good_particle_is_refused(data: Path, place: str) -> None:
    for number in range(1, COUNT + 1):
        spoil(data, number)
    with pytest.raises(InputError, match=r"none of 16 particles can be used; the first: .* NaN"):
        ingest(data, place, on_bad_particle="skip")


def test_a_bad_ctf_is_never_set_aside(data: Path, place: str) -> None:
    write_mrc(f"{data}/ctf/003.mrc", np.zeros((BOX,) * 3), PIXEL_ANGST)
    with pytest.raises(InputError, match=r"row 3 \(subtomo/003.mrc\), rlnCtfImage .*ctf/003.mrc: .*zero everywhere"):
        ingest(data, place, on_bad_particle="skip")


def test_values_beyond_float16_are_refused(data: Path, place: str) -> None:
    spoil(data, 7, 70000.0)
    with pytest.raises(InputError, match=r"row 7 .*values up to 7e.04 do not fit into float16"):
        ingest(data, place, dtype="float16")
    assert ingest(data, place, overwrite=True).bad == {}


def test_boxes_of_different_sizes_are_refused(data: Path, place: str) -> None:
    star = data / "particles.star"
    optics = f"1 opticsGroup1 300.0 2.7 {PIXEL_ANGST:.6f} {BOX} 3 0"
    assert optics in star.read_text()
    text = star.read_text().replace(optics, f"{optics}\n2 two 300.0 2.7 {PIXEL_ANGST:.6f} 8 3 0")
    star.write_text(text.replace("subtomo/002.mrc ctf/002.mrc 1 ", "subtomo/002.mrc ctf/002.mrc 2 "))
    for folder, shape in (("subtomo", (8, 8, 8)), ("ctf", (8, 8, 8))):
        write_mrc(f"{data}/{folder}/002.mrc", np.random.default_rng(1).normal(size=shape), PIXEL_ANGST)
    with pytest.raises(InputError, match="one box and voxel size"):
        ingest(data, place)


def test_a_table_without_optics_is_read_from_its_store(data: Path, place: str) -> None:
    """RELION 3.0: the box is told by the volumes only, which are elsewhere by now."""
    lines = (data / "particles.star").read_text().split("data_particles")[1].splitlines()
    labels = [line for line in lines if line.startswith("_rln") and "OpticsGroup" not in line]
    rows = [line.split() for line in lines if "subtomo" in line]
    head = ["data_", "", "loop_", *labels, "_rlnMagnification", "_rlnDetectorPixelSize"]
    in_voxels = [[f"{float(value) / PIXEL_ANGST:.6f}" for value in row[10:13]] for row in rows]
    ends = [[*row[7:10], *origin, row[13]] for row, origin in zip(rows, in_voxels, strict=True)]
    body = [" ".join([*row[:6], *end, "10000.0", f"{PIXEL_ANGST}"]) for row, end in zip(rows, ends, strict=True)]
    (data / "particles.star").write_text("\n".join([*head, *body, ""]).replace("Angst", ""))
    table = read_particles(f"{data}/particles.star")
    ingest(data, place)
    shutil.rmtree(data)
    stored = read_particles(place)
    assert stored.dialect == "3.0"
    assert stored.optics == table.optics
    assert stored.optics[0].image_size == BOX
    assert stored.columns == table.columns


def test_two_ingestions_at_once(data: Path, place: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    _another_star(other)

    def attempt(folder: Path) -> ParticleStore | TomoburstError:
        try:
            return ingest(folder, place)
        except TomoburstError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        same = list(pool.map(attempt, [data] * 4))
    assert all(isinstance(each, ParticleStore) for each in same)
    expected = contents(place)
    assert [name for name in expected if WORK in name] == [f"/{CLAIM}"]
    for _ in range(5):
        fsspec.filesystem("memory").rm(objects.parent(place), recursive=True)
        with ThreadPoolExecutor(4) as pool:
            mixed = list(pool.map(attempt, [data, other, data, other]))
        assert {isinstance(each, ParticleStore) for each in mixed} == {True, False}
        assert all(isinstance(each, ParticleStore | InputError) for each in mixed)
        kinds = [isinstance(each, ParticleStore) for each in mixed]
        assert kinds[0] == kinds[2] != kinds[1] == kinds[3]


def test_a_store_that_fails_leaves_what_was_done(data: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = objects.write_bytes, []

    def refuse(url: str, content: bytes) -> None:
        if "/particles/c/1" in url and not failures:
            failures.append(url)
            raise StorageError(f"{url}: cannot be written (disk full)")
        write(url, content)

    monkeypatch.setattr(objects, "write_bytes", refuse)
    ingest(data, place)  # the executor tries a task again when the store failed
    assert len(failures) == 1


def test_worker_processes_make_the_same_store(data: Path, tmp_path: Path) -> None:
    ingest(data, f"{tmp_path}/threads.zarr")
    flags = ["--i", f"{data}/particles.star", "--o", f"{tmp_path}/workers.zarr", "--workers", "2"]
    assert cli.run(["ingest", *flags]) == 0
    assert contents(f"{tmp_path}/workers.zarr") == contents(f"{tmp_path}/threads.zarr")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_map_from_the_store_is_the_map_from_the_files(data: Path, tmp_path: Path, place: str, dtype: str) -> None:
    star = f"{data}/particles.star"
    assert cli.run(["ingest", "--i", star, "--o", place, *(["--float16"] if dtype == "float16" else [])]) == 0
    for name, source in (("files", star), ("store", place)):
        assert cli.run(["reconstruct", "--i", source, "--o", f"{tmp_path}/{name}.mrc", "--ctf", "--subset", "1"]) == 0
    maps = [read_mrc(f"{tmp_path}/{name}.mrc").data for name in ("files", "store")]
    if dtype == "float32":
        assert (tmp_path / "files.mrc").read_bytes() == (tmp_path / "store.mrc").read_bytes()
    else:
        assert 0 < np.abs(maps[0] - maps[1]).max() < 1e-3 * np.abs(maps[0]).max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--o", "p.zarr"], "--i is missing"),
        (["--i", "p.star"], "--o is missing"),
        (["--i", "p.star", "--o", "p"], "ends in .zarr"),
        (["--i", "p.zarr", "--o", "q.zarr"], "is a particle store already"),
        (["--i", "p.star", "--o", "p.zarr", "--on_bad_particle", "drop"], "known: fail, skip"),
        (["--i", "p.star", "--o", "p.zarr", "--j", "0"], "at least 1"),
    ],
)
def test_flags_that_cannot_work(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["ingest", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


REFINE = [
    *("--ctf", "--firstiter_cc", "--flatten_solvent", "--healpix_order", "0", "--offset_range", "2"),
    *("--particle_diameter", "110", "--maskedge", "3", "--ini_high", "60", "--incr_size", "3", "--random_seed", "1"),
]


def results(prefix: str) -> dict[str, bytes]:
    """Maps and particle tables of a run, by their names after the prefix."""
    found = {each.url.removeprefix(prefix): each.url for each in objects.list_objects(objects.parent(prefix))}
    kept = {
        name: url for name, url in found.items() if name.startswith("_it") and name.endswith((".mrc", "_data.star"))
    }
    return {name: objects.read_bytes(url) for name, url in kept.items()}


def test_a_refinement_gives_the_same_from_files_store_and_bucket(data: Path, tmp_path: Path, place: str) -> None:
    bucket = objects.parent(place)
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        objects.write_bytes(f"{bucket}/set/{path.relative_to(data)}", path.read_bytes())
    star, common = f"{data}/particles.star", ["--ref", f"{data}/ref1.mrc", "--iter", "2", *REFINE]
    assert cli.run(["ingest", "--i", star, "--o", place]) == 0
    runs = {
        f"{tmp_path}/files/run": ["--i", star],
        f"{tmp_path}/store/run": ["--i", place, "--cache", f"{tmp_path}/cache"],
        f"{tmp_path}/given/run": ["--i", star, "--store", place],
        f"{bucket}/job/run": ["--i", f"{bucket}/set/particles.star"],
    }
    found = []
    for prefix, flags in runs.items():
        assert cli.run(["refine", "--o", prefix, *flags, *common]) == 0
        found.append(results(prefix))
    assert len(found[0]) == 6
    assert found[1:] == found[:1] * 3
    assert ParticleStore.open(f"{bucket}/job/run_particles.zarr").star() == (data / "particles.star").read_bytes()
    assert not (tmp_path / "files" / "run_particles.zarr").exists()


def test_a_run_from_a_store_is_continued_without_the_files(data: Path, tmp_path: Path) -> None:
    store = f"{tmp_path}/p.zarr"
    ingest(data, store)
    common = ["--ref", f"{data}/ref1.mrc", *REFINE]
    assert cli.run(["refine", "--i", store, "--o", f"{tmp_path}/first/run", "--iter", "1", *common]) == 0
    shutil.rmtree(data / "subtomo")
    shutil.rmtree(data / "ctf")
    for earlier, iteration in (("first/run", 1), ("second/run", 2)):  # the second run knows the store from the first
        again = f"{tmp_path}/{'second' if iteration == 1 else 'third'}/run"
        optimiser = f"{tmp_path}/{earlier}_it{iteration:03d}_optimiser.star"
        assert cli.run(["refine", "--continue", optimiser, "--o", again, "--iter", str(iteration + 1)]) == 0
        assert f"_it{iteration + 1:03d}_class001.mrc" in results(again)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--i", "p.star", "--store", "particles"], "the name of a particle store ends in .zarr"),
        (["--i", "p.zarr", "--store", "q.zarr"], "leave out one of them"),
        (["--i", "p.star", "--cache_size", "3"], "--cache_size without --cache"),
        (["--i", "p.star", "--cache", "c", "--cache_size", "-3"], "give a number of GB"),
    ],
)
def test_flags_of_a_refinement_that_cannot_work(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["refine", *flags, "--o", "out/run", "--ref", "r.mrc"]) == 2
    assert message in capsys.readouterr().err
