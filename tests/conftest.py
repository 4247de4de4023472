"""Fixtures shared by all tests: external programs, test data and the hypothesis profile."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from runner.store import objects, retry
from tests.faults.proxy import FaultyProxy, faulty_proxy
from tests.store import s3_server

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile(
    "tomoburst", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tomoburst")

# A shell has its background jobs ignore SIGINT, and their children inherit that: tests interrupt theirs all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


def in_ci() -> bool:
    """Whether every external program has to be there."""
    return os.environ.get("TOMOBURST_CI") == "1"


def find_program(program: str, source: str = "`apt-get install relion openmpi-bin` provides RELION on Debian") -> str:
    """Path of an external program; skips the test when it is missing, fails it when TOMOBURST_CI=1."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed: {source}"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def requires() -> Callable[[str], str]:
    """``requires("relion_refine")``: the program's path, or the test is skipped (fails when TOMOBURST_CI=1)."""
    return find_program


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the independent test data: TOMOBURST_DATA, else ../shared/data beside the repository.

    Without them tests are skipped, or fail when TOMOBURST_CI=1.
    """
    folder = Path(os.environ.get("TOMOBURST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        message = f"no test data in {folder}: set TOMOBURST_DATA to their folder"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def s3_service() -> Iterator[s3_server.S3Server]:
    """A real S3 server for the whole session; without one tests are skipped, or fail when TOMOBURST_CI=1."""
    try:
        server = s3_server.start(with_parent=True)
    except s3_server.NoServer as error:
        if in_ci():
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield server
    server.stop()


@dataclass(frozen=True)
class Bucket:
    """An empty bucket: ``url`` is ``s3://NAME``; ``proxy`` lets requests fail where it is in front of the server."""

    url: str
    server: s3_server.S3Server
    proxy: FaultyProxy | None = None


@pytest.fixture
def s3(s3_service: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A fresh bucket; endpoint and credentials are in the environment, for this process and those that it starts."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    for name, value in s3_service.environment.items():
        monkeypatch.setenv(name, value)
    objects.use(objects.StoreOptions())
    bucket = Bucket(f"s3://test-{uuid.uuid4().hex}", s3_service)
    client = s3_service.client
    client.mkdir(bucket.url)
    yield bucket
    client.rm(bucket.url, recursive=True)
    objects.use(objects.StoreOptions())


@pytest.fixture
def faulty_s3(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The same behind a proxy that lets 5 % of the requests fail in every way; ``faulty_s3.proxy`` has the knobs."""
    with faulty_proxy(s3.server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        objects.use(objects.StoreOptions())
        yield Bucket(s3.url, s3.server, proxy)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many retries as ever, with short pauses and timeouts, in this process."""
    monkeypatch.setattr(retry, "POLICY", retry.RetryPolicy(first_pause=0.01, longest_pause=0.05))
    monkeypatch.setattr("runner.store.s3.READ_TIMEOUT", 2)
