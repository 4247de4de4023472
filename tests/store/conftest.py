"""An empty folder of each kind of store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["local", "file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty folder."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3').url}/folder"
    elif request.param == "memory":
        memory = fsspec.filesystem("memory")
        folder = f"memory://{uuid.uuid4().hex}"
        yield folder
        for path in [path for path in memory.store if path.startswith(folder.removeprefix("memory:/"))]:
            memory.rm_file(path)
    else:
        yield f"{'file://' if request.param == 'file' else ''}{tmp_path}/store"
