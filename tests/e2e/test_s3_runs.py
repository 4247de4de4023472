"""Whole commands with all they read and write in a bucket leave the same bytes as on the local disk.

Some files name others. The local folder gets a name as long as that of the bucket, so that these files too have to be
the same, byte by byte, once the one name is put in place of the other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner import cli, demo
from runner.formats.mrc import write_mrc
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store.objects import list_objects, read_bytes, write_bytes
from tests.conftest import Bucket

pytestmark = pytest.mark.e2e

NAMES_FILES = ("_optimiser.star", "_model.star", "_manifest.json", "_work/finished.json")
INGESTED = "_particles.zarr/"  # made in the bucket only: MRC files of a local disk are read as they are

COMMON = "--ctf --zero_mask --flatten_solvent --particle_diameter 110 --ini_high 50 --offset_range 2 --offset_step 2"
AUTO = "--auto_refine --split_random_halves --healpix_order 2 --auto_local_healpix_order 2 --auto_iter_max"
RUNS = {
    "auto-refine": f"{COMMON} {AUTO} 4 --firstiter_cc --scale --low_resol_join_halves 40 --random_seed 5 --j 2",
    "auto-refine, FSC under a mask": f"{COMMON} {AUTO} 2 --solvent_correct_fsc --random_seed 5",
    "Class3D": f"{COMMON} --K 2 --iter 2 --healpix_order 1 --random_seed 5",
    "Class3D without a search": f"{COMMON} --K 1 --iter 1 --skip_align --random_seed 5 --j 2",
}


@pytest.fixture
def disk(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local folder beside the working directory, with a name as long as that of the bucket."""
    monkeypatch.chdir(tmp_path)
    name = "disk".ljust(len(s3.url), "_")
    Path(name).mkdir()
    return name


def files(place: str) -> dict[str, bytes]:
    """Content of every file by name but for the log, which holds times; names that it holds begin with the place."""
    every = {each.url.removeprefix(f"{place}/"): read_bytes(each.url) for each in list_objects(place)}
    return {name: data for name, data in every.items() if not name.endswith("_events.jsonl")}


def check_same(disk: str, bucket: str) -> None:
    """Hold the files in the bucket against those on the disk."""
    ours = files(disk)
    theirs = {name: data for name, data in files(bucket).items() if INGESTED not in name}
    assert theirs.keys() == ours.keys()
    for name, data in ours.items():
        names_files = name.endswith(NAMES_FILES)
        assert (disk.encode() in data) == names_files, name
        expected = data.replace(disk.encode(), bucket.encode()) if names_files else data
        assert theirs[name] == expected, name


@pytest.mark.parametrize("flags", RUNS.values(), ids=RUNS.keys())
def test_refine(flags: str, disk: str, s3: Bucket) -> None:
    run_simulate(SimulateConfig(o=disk, n=20, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, n_micrographs=2))
    distance = np.linalg.norm(np.indices((16, 16, 16)) - 8, axis=0)
    write_mrc(f"{disk}/mask.mrc", np.clip(7 - distance, 0, 1).astype(np.float32), 10.0)
    for name, data in files(disk).items():
        write_bytes(f"{s3.url}/{name}", data)
    for place in (disk, s3.url):
        inputs = f"--i {place}/particles.star --ref {place}/truth.mrc --solvent_mask {place}/mask.mrc"
        assert cli.run(f"refine {inputs} --o {place}/out/run {flags}".split()) == 0
    check_same(disk, s3.url)
    maps = [name for name in files(s3.url) if name.startswith("out/run") and name.endswith(".mrc")]
    assert len(maps) > 1


def test_demo(disk: str, s3: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "PARTICLES", 12)
    monkeypatch.setattr(demo, "BOX_PX", 20)
    tables = []
    for place in (disk, s3.url):
        assert cli.run(["demo", "--o", place, "--j", "2"]) == 0
        tables.append(capsys.readouterr().out)
    check_same(disk, s3.url)
    assert tables[0].replace(disk, s3.url) == tables[1]
    assert f"{s3.url}/refine/run_class001.mrc" in tables[1]
