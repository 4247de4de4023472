"""A read-through cache of chunks on fast local disk, shared by the processes of a machine."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from runner.errors import StorageError, UsageError
from runner.store.options import options_in_use, use

_SUFFIX = ".chunk"
_SCANS_PER_FILL = 16
_SHARE_OF_DISK = 0.9
_FULL = {errno.ENOSPC, errno.EDQUOT}


def use_cache(folder: str, size_bytes: int) -> None:
    """Keep chunks in ``folder`` from now on, in this process and the workers it sends tasks to; ``""``: nowhere."""
    options = replace(options_in_use(), cache=folder, cache_bytes=size_bytes)
    if options != options_in_use():
        use(options)


def open_cache() -> ChunkCache | None:
    """The cache that `use_cache` asked for."""
    options = options_in_use()
    return ChunkCache(options.cache, options.cache_bytes) if options.cache else None


class ChunkCache:
    """Objects by their SHA-256 in one folder, up to a number of bytes; safe for several threads and processes.

    Files appear by rename and are checked when they are read. A full cache makes room by removing the files that were
    used longest ago, but only those that were not used since it was opened: an iteration reads all chunks in the same
    order, and a cache that dropped the oldest of them for each new one would never find anything.
    """

    def __init__(self, folder: str, size_bytes: int = 0) -> None:
        """Cache of at most ``size_bytes`` in ``folder``, which is created; 0: nine tenths of what is free there.

        Raises
        ------
        UsageError
            When the folder cannot be made.
        """
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._opened = time.time()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--cache {folder}: no folder can be made there ({error.strerror}); give another"
            ) from error
        self._used_bytes = sum(size for _, size, _ in self._scan())
        self._unscanned_bytes = 0
        free = self._used_bytes + shutil.disk_usage(self._folder).free
        self._size_bytes = size_bytes or int(_SHARE_OF_DISK * free)

    def get(self, digest: str) -> bytes | None:
        """Bytes with the SHA-256 ``digest`` (hexadecimal), None when they are not here; a damaged file is removed."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink(missing_ok=True)
            return None
        _touch(path)
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keep ``data``, whose SHA-256 is ``digest``, if there is room for it.

        Raises
        ------
        StorageError
            When the disk refuses it for another reason than being full.
        """
        if not self._make_room(len(data)):
            return
        path = self._path(digest)
        temporary = None
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", suffix=".part", delete=False) as file:
                temporary = Path(file.name)
                file.write(data)
            temporary.replace(path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            if error.errno not in _FULL:
                raise StorageError(
                    f"--cache {self._folder}: cannot be written ({error.strerror}); give another folder"
                ) from error

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}{_SUFFIX}"

    def _make_room(self, needed: int) -> bool:
        """Whether ``needed`` bytes fit, after removing what may go; counts them as used if so."""
        with self._lock:
            many = self._unscanned_bytes + needed > self._size_bytes // _SCANS_PER_FILL  # others write too
            if many or self._used_bytes + needed > self._size_bytes:
                self._used_bytes = self._evict(self._size_bytes - needed)
                self._unscanned_bytes = 0
            if self._used_bytes + needed > self._size_bytes:
                return False
            self._used_bytes += needed
            self._unscanned_bytes += needed
            return True

    def _evict(self, limit_bytes: int) -> int:
        """Remove files not used since the cache was opened, oldest first, down to the limit; returns what is left."""
        files = sorted(self._scan())
        left = sum(size for _, size, _ in files)
        for used, size, path in files:
            if left <= limit_bytes or used >= self._opened:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    def _scan(self) -> list[tuple[float, int, Path]]:
        """Time of the last use, size and path of every file."""
        found = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has just removed it
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found


def _touch(path: Path) -> None:
    """Note the use of a file; its time of access may not be kept by the disk, so that of modification is used."""
    try:
        path.touch()
    except OSError:  # removed by another process: it was read already
        return
