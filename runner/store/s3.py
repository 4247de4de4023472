"""S3 over s3fs: one request for each operation, counted as sent, and retried nowhere but in `retry`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runner.store.backend import FsspecBackend, ObjectInfo
from runner.store.counts import count
from runner.store.retry import s3_answer

if TYPE_CHECKING:
    from runner.store.options import StoreOptions

CONNECT_TIMEOUT = 10  # seconds
READ_TIMEOUT = 30  # seconds without a byte
CONNECTIONS = 32
DELETED_AT_ONCE = 1000  # what one request may remove
MANY_NOT_DELETED = {400, 403, 405, 501}  # status of stores that remove objects only one by one
PRECONDITION_FAILED = 412
CREATOR = "tomoburst-creator"  # metadata of an object made by a conditional create: who made it

KIND_OF_OPERATION = {"Get": "GET", "List": "LIST", "Head": "HEAD", "Delete": "DELETE", "Abort": "DELETE"}


def s3_filesystem(options: StoreOptions) -> Any:
    """New s3fs filesystem that asks the default chain for credentials, caches no listing and does not retry."""
    import aiobotocore.session
    import s3fs

    session = aiobotocore.session.AioSession()
    session.register("before-send.s3", _count_request)
    region = options.region or os.environ.get("AWS_REGION", "")
    settings: dict[str, Any] = {"anon": True} if options.anonymous else {}
    if options.endpoint:
        settings["endpoint_url"] = options.endpoint
    if region:
        settings["client_kwargs"] = {"region_name": region}
    filesystem = s3fs.S3FileSystem(
        session=session,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": READ_TIMEOUT,
            "max_pool_connections": CONNECTIONS,
            "retries": {"total_max_attempts": 1},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        **settings,
    )
    filesystem.retries = 1
    return filesystem


def _count_request(event_name: str, **_: Any) -> None:
    operation = event_name.rpartition(".")[2]
    count(next((kind for start, kind in KIND_OF_OPERATION.items() if operation.startswith(start)), "PUT"))


class S3Backend(FsspecBackend):
    """Objects of S3; requests count themselves when they are sent."""

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """One GET; a body that ends early raises."""
        if end is not None and end <= (start or 0):
            return b""
        try:
            return bytes(self.filesystem.cat_file(path, start=start, end=end, max_concurrency=1))
        except OSError as error:
            if s3_answer(error)[0] == "InvalidRange":  # begins behind the end of the object
                return b""
            raise

    def write(self, path: str, data: bytes) -> None:
        """One PUT; a multipart upload from 100 MB on."""
        self.filesystem.pipe_file(path, data)

    def create(self, path: str, data: bytes, creator: str) -> bool:
        """PUT with ``If-None-Match: *``.

        A refusal may answer the repetition of a request that did its work: the HTTP client repeats requests on
        connections that break, and we do after lost answers. So the object names its creator, and whoever is refused
        reads that name.
        """
        try:
            self.filesystem.pipe_file(path, data, mode="create", Metadata={CREATOR: creator})
            return True
        except OSError as error:
            if not isinstance(error, FileExistsError) and s3_answer(error)[1] != PRECONDITION_FAILED:
                raise
        head = self._head(path)
        return head is not None and head.get("Metadata", {}).get(CREATOR) == creator

    def exists(self, path: str) -> bool:
        """Whether there is an object: one HEAD."""
        return self._head(path) is not None

    def info(self, path: str) -> ObjectInfo:
        """Facts on one object: one HEAD."""
        head = self._head(path)
        if head is None:
            raise FileNotFoundError(path)
        return _info(path, head, head["ContentLength"])

    def _head(self, path: str) -> dict[str, Any] | None:
        bucket, key, _ = self.filesystem.split_path(path)
        try:
            head: dict[str, Any] = self.filesystem.call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        return head

    def find(self, path: str) -> list[ObjectInfo]:
        """Every object below a folder: one LIST for each 1000."""
        bucket, key, _ = self.filesystem.split_path(path)
        below = f"{key.rstrip('/')}/" if key else ""
        found: list[ObjectInfo] = []
        page: dict[str, Any] = {}
        while True:
            answer = self.filesystem.call_s3("list_objects_v2", Bucket=bucket, Prefix=below, **page)
            found += [_info(f"{bucket}/{facts['Key']}", facts, facts["Size"]) for facts in answer.get("Contents", [])]
            if not answer.get("IsTruncated"):
                return found
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, paths: list[str]) -> None:
        """Remove objects: one DELETE for each 1000 of a bucket, and one for each object that it does not remove."""
        buckets: dict[str, list[str]] = {}
        for path in paths:
            bucket, key, _ = self.filesystem.split_path(path)
            buckets.setdefault(bucket, []).append(key)
        for bucket, keys in buckets.items():
            for start in range(0, len(keys), DELETED_AT_ONCE):
                for key in self._left(bucket, keys[start : start + DELETED_AT_ONCE]):
                    self.filesystem.call_s3("delete_object", Bucket=bucket, Key=key)

    def _left(self, bucket: str, keys: list[str]) -> list[str]:
        """What is left after a DELETE of many; some stores have none, Ceph 18 asks for rights to the bucket itself."""
        request = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
        try:
            answer = self.filesystem.call_s3("delete_objects", Bucket=bucket, Delete=request)
        except OSError as error:
            if s3_answer(error)[1] not in MANY_NOT_DELETED:
                raise
            return keys
        return [str(failure["Key"]) for failure in answer.get("Errors", [])]


def _info(path: str, facts: dict[str, Any], size: int) -> ObjectInfo:
    return ObjectInfo(path, int(size), facts["LastModified"].timestamp(), str(facts["ETag"]).strip('"'))
