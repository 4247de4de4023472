"""What a store can do, and the stores that need no network: local files and fsspec's ``memory://``."""

from __future__ import annotations

import os
import re
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runner.store.counts import count


@dataclass(frozen=True)
class ObjectInfo:
    """One object: URL, bytes, last change (seconds since 1970) and ETag (``""`` where there is none)."""

    url: str
    size: int
    modified: float
    etag: str = ""

    @property
    def digest(self) -> str:
        """Changes when the content does; equal to `objects.file_digest` of the URL."""
        return f"{self.size}-{self.etag or self.modified}"


class Backend(Protocol):
    """One kind of store; ``path`` is a URL without its protocol. Failures come as the driver raises them."""

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Bytes of the range ``[start, end)`` of one object."""

    def write(self, path: str, data: bytes) -> None:
        """Write one whole object."""

    def create(self, path: str, data: bytes, creator: str) -> bool:
        """Write one whole object unless there is one: False then. ``creator``: the same in all attempts of a call."""

    def exists(self, path: str) -> bool:
        """Whether there is an object; other than in S3, a folder counts too."""

    def info(self, path: str) -> ObjectInfo:
        """Facts on one object; its URL is ``path``."""

    def find(self, path: str) -> list[ObjectInfo]:
        """Every object below the folder ``path``, with ``path`` for URL."""

    def names(self, path: str) -> set[str]:
        """Names of what lies directly in the folder ``path``."""

    def delete(self, paths: list[str]) -> None:
        """Remove objects; those that are not there are no failure."""


class LocalBackend:
    """Files; each appears under its name only when it is whole."""

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Bytes of the range ``[start, end)`` of one file."""
        count("GET")
        with Path(path).open("rb") as file:
            file.seek(start or 0)
            return file.read() if end is None else file.read(max(0, end - (start or 0)))

    def write(self, path: str, data: bytes) -> None:
        """Write a temporary file and rename it."""
        count("PUT")
        temporary = _write_beside(Path(path), data)
        try:
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def create(self, path: str, data: bytes, creator: str) -> bool:  # noqa: ARG002 -- no answer is lost here
        """Write a temporary file and link it: the link fails when the name is taken."""
        count("PUT")
        temporary = _write_beside(Path(path), data)
        try:
            Path(path).hardlink_to(temporary)
        except OSError:
            if temporary.stat().st_nlink == 2:  # NFS: made, but the answer was lost and the request repeated
                return True
            if Path(path).exists():
                return False
            raise
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists."""
        count("HEAD")
        return Path(path).exists()

    def info(self, path: str) -> ObjectInfo:
        """Size and time of one file."""
        count("HEAD")
        facts = Path(path).stat()
        return ObjectInfo(path, facts.st_size, facts.st_mtime)

    def find(self, path: str) -> list[ObjectInfo]:
        """Every file below a folder, without those that are being written."""
        count("LIST")
        found = []
        for folder, _, names in os.walk(path):
            for name in names:
                if whole_name(name) is None:
                    file = os.path.join(folder, name)  # noqa: PTH118 -- keeps the form of `path`
                    try:
                        facts = os.stat(file)  # noqa: PTH116
                    except FileNotFoundError:  # removed since its folder was listed
                        continue
                    found.append(ObjectInfo(file, facts.st_size, facts.st_mtime))
        return found

    def names(self, path: str) -> set[str]:
        """Names in a folder."""
        count("LIST")
        return {entry.name for entry in os.scandir(path or ".")}

    def delete(self, paths: list[str]) -> None:
        """Remove files."""
        for path in paths:
            count("DELETE")
            Path(path).unlink(missing_ok=True)


def whole_name(name: str) -> str | None:
    """The name that a file which is being written gets when it is whole; None when ``name`` is not of such a file."""
    match = re.fullmatch(r"\.(.+)\.[0-9a-f]{32}\.part", name)
    return match[1] if match else None


def _write_beside(path: Path, data: bytes) -> Path:
    """A whole temporary file in the folder of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        with temporary.open("xb") as file:
            file.write(data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


class FsspecBackend:
    """Any fsspec driver, one request for each operation; ``memory://`` in tests."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Bytes of the range ``[start, end)`` of one object."""
        count("GET")
        return bytes(self.filesystem.cat_file(path, start=start, end=end))

    def write(self, path: str, data: bytes) -> None:
        """Write one whole object."""
        count("PUT")
        self.filesystem.pipe_file(path, data)

    def create(self, path: str, data: bytes, creator: str) -> bool:  # noqa: ARG002 -- no answer is lost here
        """Write one whole object unless there is one, as far as the driver knows how."""
        count("PUT")
        try:
            with _create_lock:  # drivers of this process check first and write then
                self.filesystem.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether an object or folder exists."""
        count("HEAD")
        return bool(self.filesystem.exists(path))

    def info(self, path: str) -> ObjectInfo:
        """Facts on one object."""
        count("HEAD")
        return _described(path, self.filesystem.info(path))

    def find(self, path: str) -> list[ObjectInfo]:
        """Every object below a folder."""
        count("LIST")
        found = self.filesystem.find(path, detail=True)
        return [_described(name, facts) for name, facts in found.items() if name.startswith(f"{path}/")]

    def names(self, path: str) -> set[str]:
        """Names in a folder."""
        count("LIST")
        return {str(entry).rstrip("/").rpartition("/")[2] for entry in self.filesystem.ls(path, detail=False)}

    def delete(self, paths: list[str]) -> None:
        """Remove objects one by one."""
        for path in paths:
            count("DELETE")
            try:
                self.filesystem.rm_file(path)
            except FileNotFoundError:
                continue


_create_lock = threading.Lock()


def _described(path: str, facts: dict[str, Any]) -> ObjectInfo:
    changed = next((facts[key] for key in ("LastModified", "mtime", "modified", "created") if facts.get(key)), 0.0)
    modified = changed.timestamp() if hasattr(changed, "timestamp") else float(changed)
    return ObjectInfo(path, int(facts.get("size") or 0), modified, str(facts.get("ETag") or "").strip('"'))
