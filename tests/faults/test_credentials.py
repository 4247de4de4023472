"""Credentials that are wrong, missing, without permission, or replaced in the middle of the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner.errors import StorageError
from runner.store import objects
from tests.conftest import REPOSITORY, Bucket

OPERATIONS: list[Callable[[str], object]] = [
    objects.read_bytes,
    objects.exists,
    objects.file_digest,
    objects.list_objects,
    lambda url: objects.write_bytes(url, b"new"),
    lambda url: objects.create_bytes(f"{url}.new", b"new"),
    lambda url: objects.delete([url]),
]


def set_keys(monkeypatch: pytest.MonkeyPatch, access_key: str, secret_key: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)
    objects.use(objects.StoreOptions())


@pytest.mark.parametrize("wrong", ["access key", "secret key"])
def test_wrong_keys(s3: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    keys = {"access key": s3.server.access_key, "secret key": s3.server.secret_key, wrong: "WRONGWRONGWRONG"}
    objects.write_bytes(f"{s3.url}/x", b"1")
    set_keys(monkeypatch, keys["access key"], keys["secret key"])
    for ask in OPERATIONS:
        with pytest.raises(StorageError) as caught:
            ask(f"{s3.url}/x")
        assert caught.value.exit_code == 4
        assert "\n" not in str(caught.value)
        assert not any(key in str(caught.value) for key in keys.values())
    with pytest.raises(StorageError, match=r"access key: correct the credentials\)$"):
        objects.read_bytes(f"{s3.url}/x")


def test_no_keys_at_all(s3: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects.use(objects.StoreOptions())
    with pytest.raises(StorageError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        objects.read_bytes(f"{s3.url}/x")


def test_a_command_with_wrong_keys_ends_in_one_line(s3: Bucket) -> None:
    words = ["reconstruct", "--i", f"{s3.url}/p.star", "--o", f"{s3.url}/map.mrc"]
    done = subprocess.run(
        [sys.executable, "-c", "from runner.cli import main; main()", *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "AWS_SECRET_ACCESS_KEY": "WRONGWRONGWRONG"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"tomoburst: error: {s3.url}/p.star: ")
    assert "secret key does not fit" in done.stderr
    assert "WRONGWRONGWRONG" not in done.stderr
    assert s3.server.access_key not in done.stderr


def test_public_objects_need_no_keys(s3: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    objects.write_bytes(f"{s3.url}/public/x", b"1")
    objects.write_bytes(f"{s3.url}/private/x", b"2")
    bucket = s3.url.removeprefix("s3://")
    read = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/public/*",
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [read]})
    s3.server.client.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    objects.use(objects.StoreOptions(endpoint=s3.server.endpoint, region="us-east-1", anonymous=True))
    assert objects.read_bytes(f"{s3.url}/public/x") == b"1"
    with pytest.raises(StorageError, match="access denied"):
        objects.read_bytes(f"{s3.url}/private/x")
    with pytest.raises(StorageError, match="access denied"):
        objects.write_bytes(f"{s3.url}/public/x", b"3")


def test_replaced_keys_are_found_by_every_operation(rotating) -> None:
    url, rotate = rotating
    objects.write_bytes(f"{url}/x", b"1")
    rotate()
    for ask in OPERATIONS:
        ask(f"{url}/x")
    assert not objects.exists(f"{url}/x")
    assert objects.read_bytes(f"{url}/x.new") == b"new"


def test_keys_are_replaced_while_many_threads_work(rotating) -> None:
    url, rotate = rotating
    objects.write_bytes(f"{url}/first", b"")
    rotated = threading.Event()

    def work(thread: int) -> int:
        done = 0
        while not rotated.is_set() or done < 5:
            objects.write_bytes(f"{url}/{thread}/{done:05d}", b"%d" % done)
            assert objects.read_bytes(f"{url}/{thread}/{done:05d}") == b"%d" % done
            done += 1
        return done

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(work, thread) for thread in range(5)]
        rotate()
        rotated.set()
        done = [job.result() for job in jobs]
    assert len(objects.list_objects(url)) == 1 + sum(done)


def test_keys_that_are_gone_for_good(rotating) -> None:
    url, rotate = rotating
    objects.write_bytes(f"{url}/x", b"1")
    rotate(written=False)
    objects.reset_request_counts()
    with pytest.raises(StorageError, match="does not know the access key"):
        objects.read_bytes(f"{url}/x")
    assert objects.request_counts()["retries"] == 2
