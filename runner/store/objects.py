"""Whole objects under fsspec URLs: ``s3://bucket/key``, ``memory://key``, ``file:///path`` or a plain local path."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from runner.errors import InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def is_url(name: str) -> bool:
    """Whether ``name`` carries a protocol (``s3://…``)."""
    return "://" in name


def is_local(url: str) -> bool:
    """Whether ``url`` is a local path, with or without ``file://``."""
    return not is_url(url) or url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    """Path of a local URL."""
    return Path(url.split("://", 1)[1] if is_url(url) else url)


def join(base: str, name: str) -> str:
    """``name`` below the folder ``base``; an absolute path or URL is returned as it is."""
    if is_url(name) or Path(name).is_absolute() or not base:
        return name
    return f"{base.rstrip('/') or '/'}/{name}" if base != "/" else f"/{name}"


def parent(url: str) -> str:
    """Folder of ``url``: ``''`` for a bare local name."""
    protocol, separator, path = url.rpartition("://")
    folder = path.rpartition("/")[0]
    if not separator:
        return folder or ("/" if path.startswith("/") else "")
    return f"{protocol}://{folder}" if folder else f"{protocol}://"


def basename(url: str) -> str:
    """Last component of ``url``."""
    return url.rpartition("/")[2]


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{url}: no storage driver for this URL ({_reason(error)})") from error
    return filesystem, path


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def exists(url: str) -> bool:
    """Whether an object (or local file or folder) exists under ``url``.

    Raises
    ------
    StorageError
        When the store does not answer.
    """
    filesystem, path = _filesystem(url)
    try:
        return bool(filesystem.exists(path))
    except Exception as error:  # drivers raise their own classes, for missing credentials for instance
        raise StorageError(f"{url}: the store does not answer ({_reason(error)})") from error


def read_bytes(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes of one object, or of its range ``[start, end)``.

    Raises
    ------
    InputError
        When the object does not exist or is a folder.
    StorageError
        When it exists but cannot be read.
    """
    filesystem, path = _filesystem(url)
    try:
        return bytes(filesystem.cat_file(path, start=start, end=end))
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file; correct its name or path") from error
    except IsADirectoryError as error:
        raise InputError(f"{url}: is a folder, a file was expected") from error
    except Exception as error:  # drivers raise their own classes, for missing credentials for instance
        raise StorageError(f"{url}: cannot be read ({_reason(error)})") from error


def write_bytes(url: str, data: bytes) -> None:
    """Write one whole object; a reader sees the old object or the new one, never a part.

    Missing parent folders are created. Locally a temporary file is renamed; elsewhere one PUT is made.

    Raises
    ------
    StorageError
        When the object cannot be written.
    """
    try:
        if is_local(url):
            _write_local(local_path(url), data)
        else:
            filesystem, path = _filesystem(url)
            filesystem.pipe_file(path, data)
    except StorageError:
        raise
    except Exception as error:  # drivers raise their own classes for refused credentials and missing buckets
        raise StorageError(f"{url}: cannot be written ({_reason(error)}); check path and permissions") from error


def check_writable(url: str) -> None:
    """Tell before any work that a local file cannot be written; creates nothing. Other stores answer when written to.

    Raises
    ------
    StorageError
        When ``url`` is a folder, lies below a file, or below a folder without permission to write.
    """
    if not is_local(url):
        return
    path = local_path(url)
    if path.is_dir():
        raise StorageError(f"{url}: is a folder, a file is to be written there; give another --o")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise StorageError(f"{url}: cannot be written, {folder} is a file and no folder; give another --o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{url}: cannot be written, no permission in {folder}; correct it or give another --o")


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def candidates(name: str, star_url: str) -> list[str]:
    """Where a file named in a STAR may lie: relative to the STAR, then to the working directory."""
    if is_url(name) or Path(name).is_absolute():
        return [name]
    beside_star = join(parent(star_url), name)
    return list(dict.fromkeys([beside_star, str(Path.cwd() / name)]))


def resolve(name: str, star_url: str) -> str:
    """URL of the file that ``star_url`` calls ``name``.

    Raises
    ------
    InputError
        Naming every place that was tried.
    """
    return _first_existing(name, star_url, exists)


def resolve_all(names: Sequence[str], star_url: str, where: Callable[[int], str]) -> list[str]:
    """`resolve` of many names, with one listing for each folder instead of one request for each name.

    ``where(i)`` describes name ``i`` in an error (file, row and column).
    """
    listings: dict[str, set[str] | None] = {}

    def is_there(url: str) -> bool:
        folder = parent(url)
        if folder not in listings:
            listings[folder] = _listing(folder)
        listing = listings[folder]
        return exists(url) if listing is None else basename(url) in listing

    resolved: dict[str, str] = {}
    for index, name in enumerate(names):
        if name not in resolved:
            try:
                resolved[name] = _first_existing(name, star_url, is_there)
            except InputError as error:
                raise InputError(f"{where(index)}: {error}") from error
    return [resolved[name] for name in names]


def _first_existing(name: str, star_url: str, is_there: Callable[[str], bool]) -> str:
    tried = candidates(name, star_url)
    for url in tried:
        if is_there(url):
            return url
    places = " and ".join(tried)
    raise InputError(
        f"cannot find '{name}' (tried {places}); correct the path or run from the folder that it starts at"
    )


def _listing(folder: str) -> set[str] | None:
    """Names in a folder; empty when it does not exist, None when the store cannot list."""
    filesystem, path = _filesystem(folder or ".")
    try:
        return {basename(str(entry).rstrip("/")) for entry in filesystem.ls(path, detail=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, NotImplementedError):
        return None
    except Exception as error:  # drivers raise their own classes, for missing credentials for instance
        raise StorageError(f"{folder}: the store does not answer ({_reason(error)})") from error
