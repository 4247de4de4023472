"""--s3_endpoint, --s3_region and --s3_anon: a command finds its bucket without the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import cli
from runner.store import objects
from tests.conftest import Bucket

pytestmark = pytest.mark.e2e

SIMULATE = "simulate --n 2 --box 16 --angpix 10 --particle_diameter 110 --snr 10"


@pytest.fixture
def elsewhere(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket that the environment does not lead to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects.use(objects.StoreOptions())
    return s3


def test_commands_go_where_the_flags_say(elsewhere: Bucket, quick_retries: None) -> None:
    where = f"--s3_endpoint {elsewhere.server.endpoint} --s3_region us-east-1"
    assert cli.run(f"{SIMULATE} --o {elsewhere.url}/set {where}".split()) == 0
    words = f"reconstruct --i {elsewhere.url}/set/particles.star --o {elsewhere.url}/map.mrc --ctf"
    assert cli.run(f"{words} {where}".split()) == 0
    assert elsewhere.server.client.size(f"{elsewhere.url}/map.mrc") == 1024 + 4 * 16**3
    assert cli.run(words.split()) == 4  # flags hold for one command only


def test_public_data_are_read_without_credentials(
    elsewhere: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    where = f"--s3_endpoint {elsewhere.server.endpoint}"
    assert cli.run(f"{SIMULATE} --o {elsewhere.url}/set {where}".split()) == 0
    bucket = elsewhere.url.removeprefix("s3://")
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    rights = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
    elsewhere.server.client.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    objects.use(objects.StoreOptions())
    words = f"reconstruct --i {elsewhere.url}/set/particles.star --o {tmp_path}/map.mrc --ctf {where}"
    assert cli.run(words.split()) == 4
    assert cli.run([*words.split(), "--s3_anon"]) == 0
    assert (tmp_path / "map.mrc").exists()


def test_an_endpoint_is_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "s3://bucket/run", "--s3_endpoint", "127.0.0.1:9000"]) == 2
    assert "give a URL" in capsys.readouterr().err
