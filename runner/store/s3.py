"""S3 over obstore: one request for each operation, counted as sent, and retried nowhere but in `retry`.

obstore does its work in compiled code, beside the computation: the client of a small request takes a fifth of the
processor time of one in Python, and holds no lock of the interpreter meanwhile.
"""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import UnauthenticatedError
from obstore.store import S3Store

from runner.store.backend import ObjectInfo
from runner.store.counts import count
from runner.store.s3_errors import S3Error, failure_of
from runner.store.together import by_another_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import Attributes, GetOptions, ObjectMeta
    from obstore.store import ClientConfig

    from runner.store.aws import Access

T = TypeVar("T")

CONNECT_TIMEOUT = 10  # seconds
READ_TIMEOUT = 30  # seconds without a byte
WHOLE_TIMEOUT = 86_400  # none, that is: a large object may take its time
UPLOAD_TIMEOUT = 120  # seconds, for a large object: no byte comes while it is on its way
LARGE_BYTES = 4_000_000
MULTIPART_BYTES = 100_000_000  # from here on an object is uploaded in parts
PART_BYTES = 50_000_000
PARTS_AT_ONCE = 4
LISTED_AT_ONCE = 1000  # objects of one answer
DELETED_AT_ONCE = 1000  # what one request may remove
MANY_NOT_DELETED = {400, 403, 405, 501}  # status of stores that remove objects only one by one
PRECONDITION_FAILED = 412
RANGE_NOT_SATISFIABLE = 416
CREATOR = "tomoburst-creator"  # metadata of an object made by a conditional create: who made it


class S3Backend:
    """Objects of S3; requests count themselves when they are sent.

    Failures are those of `runner.store.s3_errors.failure_of`. A signal is seen while the main thread waits.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._stores: dict[tuple[str, bool, bool], S3Store] = {}
        self._lock = threading.Lock()

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """One GET; a body that ends early raises."""
        if end is not None and end <= (start or 0):
            return b""
        bucket, key = _split(path)
        store = self._store(bucket)
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start or 0, end)
        elif start:
            options["range"] = {"offset": start}
        count("GET")
        try:
            return self._answer(lambda: bytes(obstore.get(store, key, options=options).bytes()))
        except S3Error as error:
            if error.status == RANGE_NOT_SATISFIABLE:  # begins behind the end of the object
                return b""
            raise

    def write(self, path: str, data: bytes) -> None:
        """One PUT; a multipart upload from 100 MB on."""
        bucket, key = _split(path)
        store = self._store(bucket, is_large=len(data) > LARGE_BYTES)
        in_parts = len(data) >= MULTIPART_BYTES
        count("PUT", -(-len(data) // PART_BYTES) + 2 if in_parts else 1)
        self._answer(
            lambda: obstore.put(
                store, key, data, use_multipart=in_parts, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )
        )

    def create(self, path: str, data: bytes, creator: str) -> bool:
        """PUT with ``If-None-Match: *``.

        A refusal may answer the repetition of a request that did its work: the HTTP client repeats requests on
        connections that break, and we do after lost answers. So the object names its creator, and whoever is refused
        reads that name.
        """
        bucket, key = _split(path)
        store = self._store(bucket, is_large=len(data) > LARGE_BYTES)
        attributes: Attributes = {CREATOR: creator}
        count("PUT")
        try:
            self._answer(lambda: obstore.put(store, key, data, mode="create", attributes=attributes))
            return True
        except S3Error as error:
            if error.status != PRECONDITION_FAILED:
                raise
        count("HEAD")
        try:
            found = self._answer(lambda: obstore.get(store, key, options={"head": True}).attributes)
        except FileNotFoundError:
            return False
        return found.get(CREATOR) == creator

    def exists(self, path: str) -> bool:
        """Whether there is an object: one HEAD."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def info(self, path: str) -> ObjectInfo:
        """Facts on one object: one HEAD."""
        bucket, key = _split(path)
        store = self._store(bucket)
        count("HEAD")
        return _info(path, self._answer(lambda: obstore.head(store, key)))

    def find(self, path: str) -> list[ObjectInfo]:
        """Every object below a folder: one LIST for each 1000."""
        bucket, _, folder = path.partition("/")
        store = self._store(bucket)
        count("LIST")
        found = self._answer(lambda: obstore.list(store, folder or None).collect())
        count("LIST", _further_pages(len(found)))
        infos = (_info(f"{bucket}/{meta['path']}", meta) for meta in found)
        return [info for info in infos if info.url.startswith(f"{path.rstrip('/')}/")]

    def names(self, path: str) -> set[str]:
        """Names in a folder: one LIST for each 1000."""
        bucket, _, folder = path.partition("/")
        store = self._store(bucket)
        count("LIST")
        found = self._answer(lambda: obstore.list_with_delimiter(store, folder or None))
        names = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        count("LIST", _further_pages(len(names)))
        return {name.rpartition("/")[2] for name in names}

    def delete(self, paths: list[str]) -> None:
        """Remove objects: one DELETE for each 1000 of a bucket, and one for each object where that is not possible."""
        buckets: dict[str, list[str]] = {}
        for path in paths:
            bucket, key = _split(path)
            buckets.setdefault(bucket, []).append(key)
        for bucket, keys in buckets.items():
            for start in range(0, len(keys), DELETED_AT_ONCE):
                self._delete(bucket, keys[start : start + DELETED_AT_ONCE])

    def _delete(self, bucket: str, keys: list[str]) -> None:
        """Remove many at once; some stores have no such request, Ceph 18 asks for rights to the bucket itself."""
        store = self._store(bucket)
        count("DELETE")
        try:
            self._answer(lambda: obstore.delete(store, keys))
        except S3Error as error:
            if error.status not in MANY_NOT_DELETED | {0}:
                raise
            for key in keys:
                self._delete_one(bucket, key)

    def _delete_one(self, bucket: str, key: str) -> None:
        store = self._store(bucket, one_by_one=True)
        count("DELETE")
        with suppress(FileNotFoundError):  # Amazon does not mind
            self._answer(lambda: obstore.delete(store, key))

    def _store(self, bucket: str, *, is_large: bool = False, one_by_one: bool = False) -> S3Store:
        """The client of a bucket, for an upload that is large or not, and for stores that remove objects one by one."""
        with self._lock:
            use = (bucket, is_large, one_by_one)
            if use not in self._stores:
                read_timeout = UPLOAD_TIMEOUT if is_large else READ_TIMEOUT
                self._stores[use] = _open(self._access, bucket, read_timeout, one_by_one)
            return self._stores[use]

    def _answer(self, ask: Callable[[], T]) -> T:
        """What obstore answers, or an exception that tells what went wrong."""
        try:
            return by_another_thread(ask) if threading.current_thread() is threading.main_thread() else ask()
        except Exception as error:  # noqa: BLE001 -- becomes the exception that is raised
            of_credentials = self._access.failure if isinstance(error, UnauthenticatedError) else None
            failure = of_credentials or failure_of(error)
        raise failure


def _open(access: Access, bucket: str, read_timeout: float, one_by_one: bool) -> S3Store:
    region = access.region(bucket)
    endpoint = access.endpoint or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    client: ClientConfig = {
        "allow_http": True,
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT),
        "read_timeout": timedelta(seconds=read_timeout),
        "timeout": timedelta(seconds=WHOLE_TIMEOUT),
        "root_certificate": access.certificates,
    }
    return S3Store(
        bucket,
        endpoint=endpoint,
        aws_endpoint_url_s3=endpoint,  # both, as the variables of the environment for either would win over the other
        region=region,
        skip_signature=access.anonymous,
        disable_bulk_delete=one_by_one,
        client_options=client,
        retry_config={"max_retries": 0},
        credential_provider=None if access.anonymous else access.credentials,
    )


def _split(path: str) -> tuple[str, str]:
    """Bucket and key of an object."""
    bucket, _, key = path.partition("/")
    if not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise FileNotFoundError(errno.ENOENT, "no name of an object may be or contain an empty part, '.' or '..'")
    return bucket, key


def _further_pages(entries: int) -> int:
    """How many answers after the first one a listing took."""
    return max(entries - 1, 0) // LISTED_AT_ONCE


def _info(path: str, meta: ObjectMeta) -> ObjectInfo:
    return ObjectInfo(path, meta["size"], meta["last_modified"].timestamp(), (meta["e_tag"] or "").strip('"'))
