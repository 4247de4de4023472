"""Whole objects under fsspec URLs: ``s3://bucket/key``, ``memory://key``, ``file:///path`` or a plain local path.

Each function makes as few requests as it can, tries again after failures that pass by themselves, and ends in one line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runner.errors import InputError, StorageError
from runner.store.backend import Backend, ObjectInfo, whole_name
from runner.store.counts import RequestMeter, count, request_counts, reset_request_counts
from runner.store.options import StoreOptions, backend_of, options_in_use, request, use
from runner.store.retry import Trouble, reason, trouble
from runner.store.s3_errors import s3_answer
from runner.store.urls import absolute, basename, is_local, is_url, join, local_path, parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "ObjectInfo",
    "RequestMeter",
    "StoreOptions",
    "absolute",
    "basename",
    "candidates",
    "check_writable",
    "create_bytes",
    "delete",
    "exists",
    "file_digest",
    "is_local",
    "is_url",
    "join",
    "list_names",
    "list_objects",
    "local_path",
    "options_in_use",
    "parent",
    "partial_files",
    "read_bytes",
    "remove_leftovers",
    "request_counts",
    "reset_request_counts",
    "resolve",
    "resolve_all",
    "supports_conditional_create",
    "use",
    "write_bytes",
]

PROBE = ".tomoburst-probe-"
NOT_IMPLEMENTED = 501
NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}

T = TypeVar("T")
_probing = threading.Lock()
_probed: dict[tuple[StoreOptions, str], bool] = {}


def exists(url: str) -> bool:
    """Whether an object (or local file or folder) exists under ``url``: one request, never out of date.

    Raises
    ------
    StorageError
        When the store does not answer.
    """
    return _answer(url, lambda store, path: store.exists(path))


def read_bytes(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes of one object, or of its range ``[start, end)``; shorter when the object ends before.

    Raises
    ------
    InputError
        When the object does not exist or is a folder.
    StorageError
        When it exists but cannot be read.
    """
    data = _answer(url, lambda store, path: store.read(path, start, end), "cannot be read")
    count("bytes_read", len(data))
    return data


def write_bytes(url: str, data: bytes) -> None:
    """Write one whole object; a reader sees the old object or the new one, never a part.

    Missing parent folders are created. Locally a temporary file is renamed; elsewhere one PUT is made.

    Raises
    ------
    StorageError
        When the object cannot be written.
    """
    try:
        request(url, lambda store, path: store.write(path, data))
    except StorageError:
        raise
    except Exception as error:
        raise _not_written(url, error) from error
    count("bytes_written", len(data))


def create_bytes(url: str, data: bytes) -> bool:
    """Write one whole object where there is none: True when this call made it, False when somebody else has.

    Of any number of callers at once exactly one gets True, on stores with `supports_conditional_create`. Elsewhere the
    object is looked for and then written, which is right for a single caller only.

    Raises
    ------
    StorageError
        When the object cannot be written.
    """
    creator = uuid.uuid4().hex
    conditional = supports_conditional_create(url)

    def create(store: Backend, path: str) -> bool:
        if conditional:
            return store.create(path, data, creator)
        if store.exists(path):
            return False
        store.write(path, data)
        return True

    try:
        created = request(url, create)
    except StorageError:
        raise
    except Exception as error:
        raise _not_written(url, error) from error
    count("bytes_written", len(data) if created else 0)
    return created


def supports_conditional_create(url: str) -> bool:
    """Whether the store of ``url`` refuses to create an object twice.

    Found out once for each bucket or local file system by creating an object beside ``url`` twice and removing it.

    Raises
    ------
    StorageError
        When nothing can be written there.
    """
    place = (options_in_use(), _device(url) if is_local(url) else "/".join(url.split("/")[:3]))
    with _probing:
        if place not in _probed:
            _probed[place] = _refuses_second_create(join(parent(url), f"{PROBE}{uuid.uuid4().hex}"))
        return _probed[place]


def _device(url: str) -> str:
    """The file system of a local file that may not be there yet."""
    folder = local_path(url).absolute().parent
    while not folder.exists():
        folder = folder.parent
    return str(folder.stat().st_dev)


def _refuses_second_create(probe: str) -> bool:
    try:
        made = [request(probe, lambda store, path: store.create(path, b"", uuid.uuid4().hex)) for _ in range(2)]
    except StorageError:
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError | TypeError) or s3_answer(error)[1] == NOT_IMPLEMENTED:
            return False
        if is_local(probe) and getattr(error, "errno", None) in NO_HARD_LINKS:
            return False
        raise _not_written(probe, error) from error
    delete([probe])
    return made == [True, False]


def list_objects(folder: str) -> list[ObjectInfo]:
    """Every object below ``folder`` (not those whose name only begins like it), sorted by URL; none: an empty list.

    Some stores list with a delay: ask `exists` for an object whose absence decides something, and expect that one which
    is listed may be gone.

    Raises
    ------
    StorageError
        When the store does not answer, or has no such bucket.
    """
    folder = folder.rstrip("/") or ("/" if folder else ".")

    def find(store: Backend, path: str) -> list[ObjectInfo]:
        found = [replace(info, url=folder + info.url[len(path) :]) for info in store.find(path)]
        return sorted((info for info in found if not basename(info.url).startswith(PROBE)), key=lambda info: info.url)

    return _answer(folder, find)


def list_names(folder: str) -> set[str]:
    """Names of the objects and folders that lie directly in ``folder``; none: an empty set.

    Raises
    ------
    StorageError
        When the store does not answer, or does not list.
    """
    names = _listing(folder)
    if names is None:
        raise StorageError(f"{folder}: cannot be listed; check permissions, and the names of the objects there")
    return names


def partial_files(folder: str) -> dict[str, str]:
    """Local files in ``folder`` that are being written, or that a killed writer has left.

    Returns
    -------
    URL -> URL that it gets when it is whole; nothing in other stores, where no such files are.
    """
    names = ((name, whole_name(name)) for name in (list_names(folder) if is_local(folder) else ()))
    return {join(folder, name): join(folder, whole) for name, whole in names if whole is not None}


def remove_leftovers(folder: str, above: Sequence[str] = ()) -> None:
    """Remove what killed writers have left below ``folder``, and then the local folders that are empty, ``above`` too.

    Raises
    ------
    StorageError
        When something cannot be removed.
    """
    probes = _answer(folder, lambda store, path: [info.url[len(path) :] for info in store.find(path)])
    delete(folder + name for name in probes if basename(name).startswith(PROBE))
    if not is_local(folder):
        return
    for path, _, names in os.walk(local_path(folder), topdown=False):
        delete(str(Path(path, name)) for name in names if whole_name(name) is not None)
        _remove_if_empty(Path(path))
    for each in above:
        _remove_if_empty(local_path(each))


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def file_digest(url: str) -> str:
    """A text that changes when the object does, from its ETag or from size and time: one request without its content.

    Raises
    ------
    InputError
        When the object does not exist.
    StorageError
        When the store does not answer.
    """
    return _answer(url, lambda store, path: store.info(path)).digest


def delete(urls: Iterable[str]) -> None:
    """Remove objects; those that are not there are no failure.

    Raises
    ------
    StorageError
        When one cannot be removed.
    """
    stores: dict[str, list[str]] = {}
    for url in urls:
        stores.setdefault("" if is_local(url) else url.split("://", 1)[0], []).append(url)
    for some in stores.values():
        paths = [backend_of(url)[1] for url in some]
        try:
            request(some[0], partial(_remove, paths))
        except Exception as error:
            raise StorageError(f"{some[0]}: cannot be removed ({reason(error)}); check path and permissions") from error


def _remove(paths: list[str], store: Backend, _: str) -> None:
    store.delete(paths)


def _answer(url: str, ask: Callable[[Backend, str], T], failure: str = "the store does not answer") -> T:
    """What the store answers; its failures become one line."""
    try:
        return request(url, ask)
    except StorageError:
        raise
    except FileNotFoundError as error:
        if s3_answer(error)[0] == "NoSuchBucket":
            raise InputError(f"{url}: no such bucket; correct its name or the endpoint") from error
        raise InputError(f"{url}: no such file; correct its name or path") from error
    except IsADirectoryError as error:
        raise InputError(f"{url}: is a folder, a file was expected") from error
    except Exception as error:  # drivers raise their own classes, for missing credentials for instance
        raise StorageError(f"{url}: {failure} ({reason(error)})") from error


def _not_written(url: str, error: Exception) -> StorageError:
    return StorageError(f"{url}: cannot be written ({reason(error)}); check path and permissions")


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
    try:
        return request(folder, lambda store, path: store.names(path))
    except StorageError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, NotImplementedError) as error:
        if trouble(error) is Trouble.TRANSIENT:
            raise StorageError(f"{folder}: the store does not answer ({reason(error)})") from error
        return None
    except Exception as error:  # drivers raise their own classes, for missing credentials for instance
        raise StorageError(f"{folder}: the store does not answer ({reason(error)})") from error
