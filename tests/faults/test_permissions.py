"""The policy of docs/storage.md suffices for a run, and each right in it is needed."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runner import cli
from runner.errors import StorageError
from runner.store import objects
from tests.conftest import REPOSITORY, Bucket

pytestmark = pytest.mark.e2e

Statements = list[dict[str, Any]]


def documented() -> Statements:
    text = (REPOSITORY / "docs" / "storage.md").read_text()
    statements: Statements = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])["Statement"]
    return statements


@pytest.fixture
def restricted(s3: Bucket, quick_retries: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Become a user who has these rights to the bucket and no others."""
    user = f"restricted-{uuid.uuid4().hex}"
    s3.server.admin("user", "create", f"--uid={user}", "--display-name=r", f"--access-key={user}", "--secret-key=r")
    bucket = s3.url.removeprefix("s3://")

    def become(statements: Statements) -> None:
        who = {"Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [who | each for each in statements]})
        s3.server.client.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy.replace("BUCKET", bucket))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "r")
        objects.use(objects.StoreOptions())

    yield become
    s3.server.admin("user", "rm", f"--uid={user}")


def test_a_whole_run_with_the_documented_rights(s3: Bucket, restricted: Callable[..., None]) -> None:
    restricted(documented())
    where = f"{s3.url}/job"
    made = cli.run(f"simulate --o {where}/set --n 8 --box 16 --angpix 10 --particle_diameter 110 --snr 1".split())
    assert made == 0
    words = (
        f"refine --i {where}/set/particles.star --ref {where}/set/truth.mrc --o {where}/run --ctf --healpix_order 0 "
        "--offset_range 2 --offset_step 1 --particle_diameter 110 --ini_high 60 --K 1 --iter 2 --random_seed 1"
    )
    assert cli.run(words.split()) == 0
    assert objects.exists(f"{where}/run_it002_class001.mrc")
    assert objects.exists(f"{where}/run_work/finished.json")
    large = b"0123456789" * 10_500_000
    objects.write_bytes(f"{where}/large", large)
    assert objects.read_bytes(f"{where}/large") == large


@pytest.mark.parametrize(
    ("right", "ask"),
    [
        ("s3:ListBucket", objects.list_objects),
        ("s3:ListBucket", lambda url: objects.exists(f"{url}/none")),
        ("s3:GetObject", lambda url: objects.read_bytes(f"{url}/x")),
        ("s3:PutObject", lambda url: objects.write_bytes(f"{url}/x", b"2")),
        ("s3:PutObject", lambda url: objects.create_bytes(f"{url}/y", b"2")),
        ("s3:DeleteObject", lambda url: objects.delete([f"{url}/x"])),
    ],
)
def test_a_right_that_is_missing_is_named(
    s3: Bucket, restricted: Callable[..., None], right: str, ask: Callable[[str], object]
) -> None:
    objects.write_bytes(f"{s3.url}/x", b"1")
    fewer = copy.deepcopy(documented())
    for statement in fewer:
        statement["Action"] = [action for action in statement["Action"] if action != right]
    restricted([statement for statement in fewer if statement["Action"]])
    with pytest.raises(StorageError, match=r"access denied: these credentials lack the permission"):
        ask(s3.url)
    assert s3.server.client.cat_file(f"{s3.url}/x") == b"1"
