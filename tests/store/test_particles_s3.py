"""Particles in a bucket of a real S3 server: ingested, read by Zarr, through failing requests, one request a chunk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runner import cli
from runner.execute.images import StoreSource
from runner.formats.particles import read_particles
from runner.store import objects
from runner.store.cache import ChunkCache
from runner.store.counts import request_counts, reset_request_counts
from runner.store.particles import ParticleStore
from tests.conftest import Bucket
from tests.faults.proxy import TRANSIENT
from tests.parity.dataset import BOX, MICROGRAPHS, Flavour, build

COUNT = len(MICROGRAPHS)
OTHER_PROGRAM = """
import sys, numpy, zarr
particles = zarr.open_group(sys.argv[1], mode="r")["particles"]
sys.stdout.buffer.write(numpy.array(particles.shape, dtype="<i8").tobytes() + particles[:10].tobytes())
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen particles whose STAR file names them relative to its folder."""
    folder = tmp_path_factory.mktemp("set") / "data"
    build(folder, Flavour("plain"))
    star = folder / "particles.star"
    star.write_text(star.read_text().replace("data/", ""))
    return folder


def upload(data: Path, url: str) -> None:
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        objects.write_bytes(f"{url}/{path.relative_to(data)}", path.read_bytes())


def contents(url: str) -> dict[str, bytes]:
    """The objects of a store that do not depend on where and when its particles were written."""
    found = {each.url.removeprefix(url): each.url for each in objects.list_objects(url)}
    return {name: objects.read_bytes(each) for name, each in found.items() if name.startswith(("/particles", "/ctf"))}


def test_a_bucket_gives_the_map_of_local_files(s3: Bucket, data: Path, tmp_path: Path) -> None:
    upload(data, f"{s3.url}/set")
    store = f"{s3.url}/job/particles.zarr"
    assert cli.run(["ingest", "--i", f"{s3.url}/set/particles.star", "--o", store]) == 0
    assert cli.run(["ingest", "--i", f"{data}/particles.star", "--o", f"{tmp_path}/p.zarr"]) == 0
    assert contents(store) == contents(f"{tmp_path}/p.zarr")
    for source, target in ((store, f"{s3.url}/rec.mrc"), (f"{data}/particles.star", f"{tmp_path}/rec.mrc")):
        assert cli.run(["reconstruct", "--i", source, "--o", target, "--ctf"]) == 0
    assert objects.read_bytes(f"{s3.url}/rec.mrc") == (tmp_path / "rec.mrc").read_bytes()
    seen = subprocess.run([sys.executable, "-c", OTHER_PROGRAM, store], capture_output=True, check=True)
    chunk = ParticleStore.open(store).read_chunk(0)
    assert seen.stdout == np.array([COUNT, BOX, BOX, BOX], dtype="<i8").tobytes() + chunk.tobytes()


def test_an_iteration_reads_each_chunk_once_and_nothing_with_a_cache(s3: Bucket, data: Path, tmp_path: Path) -> None:
    upload(data, f"{s3.url}/set")
    url = f"{s3.url}/particles.zarr"
    assert cli.run(["ingest", "--i", f"{s3.url}/set/particles.star", "--o", url]) == 0
    for cache, expected in ((None, [4, 2, 2]), (ChunkCache(str(tmp_path / "cache"), 10**8), [4, 0, 0])):
        source = StoreSource(ParticleStore.open(url, cache))
        counts = []
        for _ in range(3):  # iterations; the CTF volumes fit into memory
            reset_request_counts()
            assert len(list(source.read(range(COUNT)))) == COUNT
            assert all(source.read_ctf(row).any() for row in range(COUNT))
            found = request_counts()
            counts.append(found["GET"])
            assert found["HEAD"] == found["LIST"] == found["PUT"] == 0
        assert counts == expected


@pytest.mark.usefixtures("quick_retries")
def test_failing_requests_change_nothing(faulty_s3: Bucket, data: Path, tmp_path: Path) -> None:
    assert faulty_s3.proxy is not None
    faulty_s3.proxy.kinds = TRANSIENT
    faulty_s3.proxy.rate = 0.15
    copy = Path(shutil.copytree(data, tmp_path / "data"))
    store = f"{faulty_s3.url}/particles.zarr"
    assert cli.run(["ingest", "--i", f"{copy}/particles.star", "--o", store]) == 0
    assert cli.run(["ingest", "--i", f"{copy}/particles.star", "--o", f"{tmp_path}/p.zarr"]) == 0
    assert contents(store) == contents(f"{tmp_path}/p.zarr")
    table = read_particles(store)
    assert table.columns == read_particles(f"{tmp_path}/p.zarr").columns
    assert sum(faulty_s3.proxy.counts.values()) > 0
