"""A store that ignores ``If-None-Match``: the run says so once, and one driver at a time gets the right bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store import objects
from tests.conftest import REPOSITORY, Bucket

pytestmark = pytest.mark.e2e

FLAGS = "--s3_anon --ctf --healpix_order 1 --particle_diameter 110 --ini_high 60 --skip_align --K 2 --iter 3"
MAIN = "from runner.cli import main; main()"


@pytest.fixture
def public_s3(faulty_s3: Bucket) -> Bucket:
    """A bucket that asks for no signature, which would not fit a request without one of its headers."""
    assert faulty_s3.proxy is not None
    faulty_s3.proxy.rate = 0.0
    bucket = faulty_s3.url.removeprefix("s3://")
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    rights = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    faulty_s3.server.client.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    return faulty_s3


def written(place: str) -> dict[str, bytes]:
    """Every object of the run but the log, which holds times; nothing of it is left."""
    names = [each.url for each in objects.list_objects(f"{place}/out")]
    files = {name: objects.read_bytes(name) for name in names if not name.endswith("_events.jsonl")}
    objects.delete(names)
    return files


def test_a_single_driver_gets_the_bytes_of_a_store_with_conditional_create(
    public_s3: Bucket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place, proxy = public_s3.url, public_s3.proxy
    assert proxy is not None
    run_simulate(SimulateConfig(o=str(tmp_path), n=24, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0))
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        objects.write_bytes(f"{place}/{path.relative_to(tmp_path)}", path.read_bytes())
    names = ["--i", f"{place}/particles.star", "--ref", f"{place}/truth.mrc", "--o", f"{place}/out/run"]
    command = ["refine", *names, *FLAGS.split(), "--random_seed", "3"]
    assert cli.run(command) == 0
    assert "If-None-Match" not in capfd.readouterr().err
    expected = written(place)

    proxy.unknown = {"if-none-match"}
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    driver = subprocess.Popen([sys.executable, "-c", MAIN, *command], env=environment)
    while not objects.exists(f"{place}/out/run_work/it001/commit.json") and driver.poll() is None:
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert announcements(capfd) == 1
    assert subprocess.run([sys.executable, "-c", MAIN, *command], env=environment).returncode == 0
    assert announcements(capfd) == 1
    log = objects.read_bytes(f"{place}/out/run_events.jsonl").decode()
    assert log.count("ignores If-None-Match") == 2
    files = written(place)
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


def announcements(capfd: pytest.CaptureFixture[str]) -> int:
    """How many warnings say that the store ignores the condition."""
    records = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    return sum(record["event"] == "warned" and "ignores If-None-Match" in record["message"] for record in records)
