"""The particle store and its cache: what Zarr reads in it, one request a chunk, and what becomes of damaged objects."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr

from runner.errors import InputError, UsageError
from runner.execute.images import MrcSource, StoreSource, open_source
from runner.execute.local import LocalExecutor
from runner.formats.particles import read_particles
from runner.ingest import IngestSettings, ensure_ingested
from runner.report.events import Events
from runner.store import objects
from runner.store.cache import ChunkCache
from runner.store.counts import request_counts, reset_request_counts
from runner.store.particles import ParticleStore, chunk_url
from tests.parity.dataset import BOX, MICROGRAPHS, Flavour, build

COUNT, CHUNK = len(MICROGRAPHS), 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen particles, each with a CTF of its own: two chunks."""
    folder = tmp_path_factory.mktemp("set") / "data"
    build(folder, Flavour("plain"))
    star = folder / "particles.star"
    star.write_text(star.read_text().replace("data/", ""))
    return folder


@pytest.fixture
def place() -> Iterator[str]:
    """URL of a place in memory where no store is yet."""
    memory = fsspec.filesystem("memory")
    folder = f"memory://{uuid.uuid4().hex}"
    yield f"{folder}/particles.zarr"
    memory.rm(folder, recursive=True)


def ingest(data: Path, url: str, cache: ChunkCache | None = None, **settings: Any) -> ParticleStore:
    with Events() as events, LocalExecutor() as executor:
        table = read_particles(f"{data}/particles.star")
        return ensure_ingested(table, url, executor, events, IngestSettings(**settings), cache)


def gets(action: Callable[[], Any]) -> int:
    """How many objects ``action`` reads; it makes no other requests."""
    reset_request_counts()
    action()
    counts = request_counts()
    assert counts["PUT"] == counts["LIST"] == counts["HEAD"] == counts["DELETE"] == 0
    return counts["GET"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_zarr_reads_what_was_ingested(data: Path, place: str, dtype: str) -> None:
    store = ingest(data, place, dtype=dtype)
    table = read_particles(f"{data}/particles.star")
    files = MrcSource(table, ctf=True)
    group = zarr.open_group(place, mode="r")
    volumes = np.stack([volume for volume in files.read(range(COUNT)) if not isinstance(volume, InputError)])
    assert np.array_equal(group["particles"][:], volumes.astype(dtype))
    assert group["particles"].dtype == dtype
    assert group["particles"].chunks == (CHUNK, BOX, BOX, BOX)
    assert np.array_equal(group["ctf"][:], np.stack([files.read_ctf(row) for row in range(COUNT)]))
    assert group["ctf_index"][:].tolist() == list(range(COUNT))
    assert bytes(group["star"][:]) == (data / "particles.star").read_bytes() == store.star()
    assert sorted(dict(group.members())) == [
        *("ctf", "ctf_index", "ctf_sha256", "particles", "particles_sha256", "sources", "star")
    ]


def test_the_table_is_the_same_from_file_and_store(data: Path, place: str) -> None:
    ingest(data, place)
    table, stored = read_particles(f"{data}/particles.star"), read_particles(place)
    assert stored.columns == table.columns
    assert stored.optics == table.optics
    assert stored.image_urls == table.image_urls
    assert stored.ctf_urls == table.ctf_urls
    assert np.array_equal(stored.row_number, table.row_number)
    assert stored.source == place


def test_volumes_are_the_same_from_files_and_store(data: Path, place: str) -> None:
    ingest(data, place)
    rows = [3, 4, 0, 15, 11, 10]
    kept = np.array([2, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 4, 6])
    sources = [open_source(read_particles(url).select(kept), ctf=True) for url in (f"{data}/particles.star", place)]
    assert isinstance(sources[1], StoreSource)
    for one, other in zip(*(source.read(rows) for source in sources), strict=True):
        assert not isinstance(one, InputError)
        assert np.array_equal(one, other)
    for row in rows:
        assert np.array_equal(*(source.read_ctf(row) for source in sources))


@pytest.mark.parametrize("layout", ["half", "asymmetric", "squared"])
def test_ctfs_of_every_layout_are_the_same_from_files_and_store(tmp_path: Path, place: str, layout: str) -> None:
    squared = layout == "squared"  # RELION 4 on: files of premultiplied particles hold the squared CTF
    build(tmp_path / "data", Flavour(layout, ctf="cube" if squared else layout, premultiplied=squared))
    star = tmp_path / "data" / "particles.star"
    text = star.read_text().replace("data/", "")
    star.write_text(text.replace("# version 30001", "# version 40001") if squared else text)
    ingest(tmp_path / "data", place)
    tables = [read_particles(url) for url in (str(star), place)]
    assert [table.optics[0].ctf_squared for table in tables] == [squared] * 2
    files, source = (open_source(table, ctf=True) for table in tables)
    assert all(np.array_equal(files.read_ctf(row), source.read_ctf(row)) for row in range(COUNT))


def _with_new_poses(data: Path, change: str = "", to: str = "") -> str:
    """A STAR file of some of the particles in another order, as a refinement or a selection leaves it."""
    lines = (data / "particles.star").read_text().splitlines()
    rows = [line for line in lines if "subtomo/" in line]
    text = "\n".join([*[line for line in lines if "subtomo/" not in line], rows[12], *rows[3:9], ""])
    objects.write_bytes(
        "memory://elsewhere/run_data.star", text.replace(change, to).encode() if change else text.encode()
    )
    return "memory://elsewhere/run_data.star"


def test_another_table_of_the_same_particles_reads_from_the_store(data: Path, place: str) -> None:
    ingest(data, place)
    table = read_particles(_with_new_poses(data), store_url=place)
    assert len(table) == 7
    whole = read_particles(f"{data}/particles.star")
    rows = [whole.image_names.index(name) for name in table.image_names]
    source, files = open_source(table, ctf=True), MrcSource(whole, ctf=True)
    for row, (one, other) in enumerate(zip(source.read(range(7)), files.read(rows), strict=True)):
        assert np.array_equal(one, other)  # type: ignore[arg-type]
        assert np.array_equal(source.read_ctf(row), files.read_ctf(rows[row]))


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        ("subtomo/013.mrc", "subtomo/099.mrc", "row 1: rlnImageName subtomo/099.mrc is not in the particle store"),
        ("ctf/013.mrc", "ctf/099.mrc", "row 1: rlnCtfImage ctf/099.mrc is not in the particle store"),
        ("ctf/013.mrc", "ctf/002.mrc", r"row 1 .subtomo/013.mrc.: rlnCtfImage is ctf/002.mrc, but ctf/013.mrc"),
    ],
)
def test_particles_that_the_store_does_not_hold(data: Path, place: str, change: str, to: str, message: str) -> None:
    ingest(data, place)
    with pytest.raises(InputError, match=message):
        read_particles(_with_new_poses(data, change, to), store_url=place)


def test_a_chunk_is_one_request(data: Path, place: str) -> None:
    store = ingest(data, place)
    assert gets(lambda: store.read_chunk(1)) == 1
    assert store.read_chunk(1).shape == (COUNT - CHUNK, BOX, BOX, BOX)
    source = StoreSource(store)
    assert gets(lambda: list(source.read(range(COUNT)))) == 2
    assert gets(lambda: [source.read_ctf(row) for row in range(COUNT)]) == 2
    assert gets(lambda: ParticleStore.open(place)) == 4  # metadata, two lists of digests, the index of the CTFs


def test_a_shared_wedge_is_stored_once(data: Path, place: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "subtomo").symlink_to(data / "subtomo")
    (shared / "ctf").symlink_to(data / "ctf")
    text = (data / "particles.star").read_text()
    for number in range(3, COUNT + 1):
        text = text.replace(f"ctf/{number:03d}.mrc", f"ctf/00{1 + number % 2}.mrc")
    (shared / "particles.star").write_text(text)
    store = ingest(shared, place)
    assert store.layout.ctfs == 2
    assert zarr.open_array(f"{place}/ctf", mode="r").chunks == (1, BOX, BOX, BOX // 2 + 1)
    source, files = StoreSource(store), MrcSource(read_particles(f"{shared}/particles.star"), ctf=True)
    assert gets(lambda: [source.read_ctf(row) for row in range(COUNT)]) == 2
    for row in range(COUNT):
        assert np.array_equal(source.read_ctf(row), files.read_ctf(row))


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_chunk_is_named_with_its_particles(data: Path, place: str, damage: str) -> None:
    store = ingest(data, place)
    url = chunk_url(place, "particles", 1)
    whole = objects.read_bytes(url)
    if damage == "missing":
        objects.delete([url])
    else:
        objects.write_bytes(url, whole[:-7] if damage == "truncated" else whole[:99] + b"~" + whole[100:])
    names = read_particles(place).image_names[CHUNK:]
    with pytest.raises(InputError) as caught:
        store.read_chunk(1)
    message = str(caught.value)
    assert f"{place} particles chunk 1 (particles {names[0]}, {names[1]}, {names[2]} and 3 more)" in message
    assert "--overwrite" in message
    assert np.array_equal(store.read_chunk(0), zarr.open_array(f"{place}/particles", mode="r")[:CHUNK])


def test_a_damaged_ctf_chunk_names_the_particles_that_use_it(data: Path, place: str) -> None:
    store = ingest(data, place)
    objects.write_bytes(chunk_url(place, "ctf", 1), b"short")
    names = read_particles(place).image_names[CHUNK:]
    with pytest.raises(InputError, match=f"ctf chunk 1 .particles {names[0]}, .* and 3 more.*5 bytes"):
        store.read_ctf(12)


def test_a_wrong_answer_gets_a_second_chance(data: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ingest(data, place)
    expected = store.read_chunk(0).copy()
    read, answers = objects.read_bytes, [b"cut off"]
    monkeypatch.setattr(objects, "read_bytes", lambda url: answers.pop() if answers else read(url))
    assert np.array_equal(store.read_chunk(0), expected)
    assert answers == []


@pytest.mark.parametrize("url", ["nothing.zarr", "group.zarr"])
def test_what_is_no_store_is_not_opened(tmp_path: Path, url: str) -> None:
    zarr.open_group(str(tmp_path / "group.zarr"), mode="w")
    with pytest.raises(InputError, match=r"no (finished )?particle store.*tomoburst ingest"):
        read_particles(str(tmp_path / url))


def test_a_store_of_another_version_is_not_opened(data: Path, tmp_path: Path) -> None:
    ingest(data, str(tmp_path / "p.zarr"))
    path = tmp_path / "p.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(InputError, match="another version"):
        ParticleStore.open(str(tmp_path / "p.zarr"))


def test_with_a_cache_nothing_is_requested_again(data: Path, place: str, tmp_path: Path) -> None:
    ingest(data, place)
    store = ParticleStore.open(place, ChunkCache(str(tmp_path / "cache"), 10**8))
    chunks = range(2)
    first = [store.read_chunk(chunk).copy() for chunk in chunks]
    ctfs = [store.read_ctf(index).copy() for index in range(COUNT)]
    assert gets(lambda: [store.read_chunk(chunk) for chunk in chunks]) == 0
    assert gets(lambda: [store.read_ctf(index) for index in range(COUNT)]) == 0
    later = ParticleStore.open(place, ChunkCache(str(tmp_path / "cache"), 10**8))
    assert gets(lambda: [later.read_chunk(chunk) for chunk in chunks]) == 0
    assert all(np.array_equal(later.read_chunk(chunk), first[chunk]) for chunk in chunks)
    assert all(np.array_equal(later.read_ctf(index), ctfs[index]) for index in range(COUNT))


def test_a_damaged_file_of_the_cache_is_read_from_the_store(data: Path, place: str, tmp_path: Path) -> None:
    ingest(data, place)
    store = ParticleStore.open(place, ChunkCache(str(tmp_path), 10**8))
    expected = store.read_chunk(0).copy()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    assert gets(lambda: store.read_chunk(0)) == 1
    assert gets(lambda: store.read_chunk(0)) == 0
    assert np.array_equal(store.read_chunk(0), expected)


def piece(number: int, size: int = 1000) -> tuple[str, bytes]:
    """Digest and bytes of a made-up chunk."""
    data = bytes([number % 256]) * size
    return hashlib.sha256(data).hexdigest(), data


def fill(folder: Path, first: int, last: int, limit: int) -> None:
    """Put pieces into a cache; run in several processes at once."""
    cache = ChunkCache(str(folder), limit)
    for number in range(first, last):
        cache.put(*piece(number))
        for other in range(first, number + 1):
            data = cache.get(piece(other)[0])
            assert data is None or data == piece(other)[1]


def test_a_full_cache_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    earlier = ChunkCache(str(tmp_path), 3500)
    for number in range(3):
        earlier.put(*piece(number))
    for number, age in enumerate((30, 10, 20)):
        path = tmp_path / f"{piece(number)[0]}.chunk"
        os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    cache = ChunkCache(str(tmp_path), 3500)
    assert cache.get(piece(0)[0]) is not None  # the oldest has been used now
    cache.put(*piece(3))
    assert [cache.get(piece(number)[0]) is not None for number in range(4)] == [True, True, False, True]


def test_a_cache_smaller_than_an_iteration_keeps_what_it_has(tmp_path: Path) -> None:
    cache = ChunkCache(str(tmp_path), 3500)
    hits = 0
    for _ in range(3):  # iterations that read the same six pieces in the same order
        for number in range(6):
            found = cache.get(piece(number)[0])
            hits += found is not None
            if found is None:
                cache.put(*piece(number))
    assert hits == 2 * 3
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3500


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = ChunkCache(str(tmp_path), 500)
    cache.put(*piece(1))
    assert cache.get(piece(1)[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_processes_share_a_cache(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        for each in [pool.submit(fill, tmp_path, start, start + 20, 10_000) for start in (0, 10, 20)]:
            each.result()
    assert all(path.suffix == ".chunk" for path in tmp_path.iterdir())
    assert 5_000 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12_000  # each counts the others' seldom


def test_a_cache_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--cache"):
        ChunkCache(str(tmp_path / "file" / "cache"), 1000)
