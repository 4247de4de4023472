"""Where the stores of this process are: endpoint, region, access without credentials; and the drivers made from that.

Credentials are no option: the driver asks the default chain (environment, profile, role) wherever a request is made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from runner.errors import StorageError
from runner.store.backend import Backend, FsspecBackend, LocalBackend
from runner.store.retry import reason, retrying
from runner.store.urls import is_local, local_path

T = TypeVar("T")


@dataclass(frozen=True)
class StoreOptions:
    """Settings of the stores, to be forwarded to other processes.

    Attributes
    ----------
    endpoint, region : of S3; empty: AWS_ENDPOINT_URL and AWS_REGION decide. anonymous : without credentials.
    cache : folder on fast local disk where chunks of particles are kept, ``""`` for none; cache_bytes : its limit, see
        `runner.store.cache.ChunkCache`.
    """

    endpoint: str = ""
    region: str = ""
    anonymous: bool = False
    cache: str = ""
    cache_bytes: int = 0


class _Process:
    """Options and drivers of this process; a driver is made once and shared by all threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.options = StoreOptions()
        self.s3: Backend | None = None
        self.s3_pid: int | None = None  # the threads of the client do not survive a fork
        self.answered: set[str] = set()  # buckets that accepted the credentials


_process = _Process()


def use(options: StoreOptions) -> None:
    """Reach S3 by these options from now on, in this process."""
    with _process.lock:
        _process.options = options
        _process.s3 = None
        _process.answered.clear()


def options_in_use() -> StoreOptions:
    """What `use` was told last."""
    return _process.options


def is_s3(url: str) -> bool:
    """Whether ``url`` names an object of S3."""
    return url.startswith(("s3://", "s3a://"))


def backend_of(url: str) -> tuple[Backend, str]:
    """Driver for ``url``, and its path there.

    Raises
    ------
    StorageError
        When there is no driver for its protocol.
    """
    if is_local(url):
        return LocalBackend(), str(local_path(url))
    if is_s3(url):
        return _s3_backend(), url.split("://", 1)[1]
    import fsspec  # neither the local disk nor S3 comes here

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: no storage driver for this URL ({reason(error)})") from error
    return FsspecBackend(filesystem), path


def _s3_backend() -> Backend:
    from runner.store.aws import Access
    from runner.store.s3 import S3Backend

    with _process.lock:
        if _process.s3_pid not in (None, os.getpid()):
            raise StorageError("S3 cannot be used in a fork of a process that used it: start processes by spawn")
        if _process.s3 is None:
            _process.s3 = S3Backend(Access(_process.options))
            _process.s3_pid = os.getpid()
        return _process.s3


def request(url: str, call: Callable[[Backend, str], T]) -> T:
    """Result of ``call(backend, path)``, tried again after failures that may pass, with fresh credentials if need be.

    Raises
    ------
    StorageError
        When there is no driver.
    Exception
        The last failure, as the driver raised it.
    """
    used: Backend | None = None

    def once() -> T:
        nonlocal used
        used, path = backend_of(url)
        return call(used, path)

    def renew() -> bool:
        if bucket not in _process.answered:
            return False
        with _process.lock:
            if _process.s3 is used:  # another thread may have looked them up already
                _process.s3 = None
        return True

    bucket = url.split("/")[2] if is_s3(url) else ""
    result = retrying(once, renew, url)
    if bucket:
        _process.answered.add(bucket)
    return result
