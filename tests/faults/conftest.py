"""A user whose keys are replaced while they are in use."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.store import objects
from tests.conftest import Bucket


@pytest.fixture
def rotating(
    s3: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, Callable[..., None]]]:
    """A bucket of a user whose keys are in a shared credentials file, and a way to replace the keys."""
    user = f"rotating-{uuid.uuid4().hex}"
    credentials = tmp_path / "credentials"
    s3.server.admin(
        "user", "create", f"--uid={user}", "--display-name=rotating", "--access-key=old", "--secret-key=old"
    )

    def write(access_key: str, secret_key: str) -> None:
        text = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        (tmp_path / "next").write_text(text)
        (tmp_path / "next").replace(credentials)

    def rotate(*, written: bool = True) -> None:
        s3.server.admin("key", "create", f"--uid={user}", "--access-key=new", "--secret-key=new", "--key-type=s3")
        if written:
            write("new", "new")
        s3.server.admin("key", "rm", f"--uid={user}", "--access-key=old", "--key-type=s3")

    bucket = s3.url.removeprefix("s3://")
    rights = {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}, "Action": "s3:*"}
    places = {"Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rights | places]})
    s3.server.client.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)
    write("old", "old")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    objects.use(objects.StoreOptions())
    yield s3.url, rotate
    s3.server.admin("user", "rm", f"--uid={user}", "--purge-data")
