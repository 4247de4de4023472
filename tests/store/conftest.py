"""An empty folder of each kind of store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.faults.proxy import TRANSIENT

STEADY = ("local", "file", "memory", "s3")


def _folder(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if kind == "s3":
        yield f"{request.getfixturevalue('s3').url}/folder"
    elif kind == "faulty_s3":
        request.getfixturevalue("quick_retries")
        bucket = request.getfixturevalue("faulty_s3")
        bucket.proxy.kinds = TRANSIENT
        yield f"{bucket.url}/folder"
    elif kind == "memory":
        memory = fsspec.filesystem("memory")
        folder = f"memory://{uuid.uuid4().hex}"
        yield folder
        for path in [path for path in memory.store if path.startswith(folder.removeprefix("memory:/"))]:
            memory.rm_file(path)
    else:
        yield f"{'file://' if kind == 'file' else ''}{tmp_path}/store"


@pytest.fixture(params=[*STEADY, "faulty_s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty folder; in one case 5 % of the requests fail."""
    yield from _folder(request.param, request, tmp_path)


@pytest.fixture(params=STEADY)
def steady_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty folder where no request fails."""
    yield from _folder(request.param, request, tmp_path)
