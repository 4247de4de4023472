"""The storage layer against a store that fails: nothing wrong is returned, retries are bounded, the end is one line."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from runner.errors import InputError, StorageError
from runner.store import objects, retry
from tests.conftest import Bucket
from tests.faults.proxy import AFTER, BEFORE, READS, STALE

DATA = bytes(range(256)) * 400


@pytest.fixture
def quiet(faulty_s3: Bucket, quick_retries: None) -> Bucket:
    """A bucket whose requests fail only when they are forced to; ``x`` holds DATA."""
    faulty_s3.proxy.rate = 0.0
    objects.write_bytes(f"{faulty_s3.url}/x", DATA)
    assert objects.supports_conditional_create(f"{faulty_s3.url}/x")
    objects.reset_request_counts()
    return faulty_s3


OPERATIONS = {
    "read": lambda url: objects.read_bytes(f"{url}/x") == DATA,
    "range": lambda url: objects.read_bytes(f"{url}/x", 100, 900) == DATA[100:900],
    "write": lambda url: objects.write_bytes(f"{url}/x", DATA) is None,
    "create": lambda url: objects.create_bytes(f"{url}/new", DATA) and objects.read_bytes(f"{url}/new") == DATA,
    "create again": lambda url: objects.create_bytes(f"{url}/x", b"other") is False,
    "exists": lambda url: objects.exists(f"{url}/x") and not objects.exists(f"{url}/none"),
    "list": lambda url: [info.size for info in objects.list_objects(url)] == [len(DATA)],
    "digest": lambda url: objects.file_digest(f"{url}/x") == objects.list_objects(url)[0].digest,
    "delete": lambda url: objects.delete([f"{url}/x"]) is None and not objects.exists(f"{url}/x"),
}


QUICK = [kind for kind in (*BEFORE, *AFTER) if kind != "timeout"]
SEEN_BY = {
    **dict.fromkeys(QUICK, tuple(OPERATIONS)),
    **dict.fromkeys(READS, ("read", "range", "list")),
    "timeout": ("read", "create"),
}


def start_over(bucket: Bucket) -> None:
    """The same objects before each operation, and fresh counters."""
    bucket.proxy.end_force()
    objects.delete([f"{bucket.url}/new"])
    objects.write_bytes(f"{bucket.url}/x", DATA)
    objects.reset_request_counts()
    bucket.proxy.counts.clear()
    bucket.proxy.requests = 0


@pytest.mark.parametrize("kind", SEEN_BY)
def test_every_operation_outlives_two_failures(quiet: Bucket, kind: str) -> None:
    quiet.proxy.hang = 2.5
    for operation in SEEN_BY[kind]:
        start_over(quiet)
        quiet.proxy.force(kind, 2)
        assert OPERATIONS[operation](quiet.url), operation
        assert quiet.proxy.counts[kind] == (1 if kind == "slow" else 2), operation
        assert objects.request_counts()["retries"] <= 2, operation


@pytest.mark.parametrize("kind", QUICK)
def test_a_store_that_is_gone(quiet: Bucket, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    attempts = 4
    monkeypatch.setattr(retry, "POLICY", replace(retry.POLICY, attempts=attempts))
    for operation, ask in OPERATIONS.items():
        start_over(quiet)
        quiet.proxy.force(kind, 10_000)
        with pytest.raises(StorageError) as caught:
            ask(quiet.url)
        assert f"after {attempts} attempts" in str(caught.value), operation
        assert "\n" not in str(caught.value), operation
        assert caught.value.exit_code == 4
        assert objects.request_counts()["retries"] == attempts - 1, operation
        # The HTTP client itself repeats a request once when a connection that it used before breaks.
        assert attempts <= quiet.proxy.requests <= 2 * attempts, operation


def test_a_body_that_always_ends_early_is_never_returned(quiet: Bucket) -> None:
    quiet.proxy.force("truncate", 10_000)
    with pytest.raises(StorageError, match=r"cannot be read .*after 8 attempts"):
        objects.read_bytes(f"{quiet.url}/x")
    with pytest.raises(StorageError, match=r"cannot be read .*after 8 attempts"):
        objects.read_bytes(f"{quiet.url}/x", 10, 50_000)


def test_the_loser_of_a_race_is_told_so_after_a_lost_answer(quiet: Bucket) -> None:
    quiet.proxy.force("reset", 1, "PUT", "/race")
    quiet.server.client.pipe_file(f"{quiet.url}/race", b"theirs")
    assert not objects.create_bytes(f"{quiet.url}/race", b"theirs")


def test_answers_that_say_no_are_not_questioned(quiet: Bucket) -> None:
    with pytest.raises(InputError, match="no such file"):
        objects.read_bytes(f"{quiet.url}/none")
    assert not objects.exists(f"{quiet.url}/none")
    assert not objects.create_bytes(f"{quiet.url}/x", b"")
    with pytest.raises(StorageError, match="no such bucket"):
        objects.write_bytes("s3://there-is-no-such-bucket/x", b"")
    with pytest.raises(InputError, match="no such bucket"):
        objects.list_objects("s3://there-is-no-such-bucket/x")
    assert objects.request_counts()["retries"] == 0


def test_a_store_that_cannot_remove_many_at_once(quiet: Bucket) -> None:
    urls = [f"{quiet.url}/{index}" for index in range(3)]
    for url in urls:
        objects.write_bytes(url, b"1")
    quiet.proxy.force("501", 1, "POST")
    objects.delete(urls)
    assert quiet.proxy.counts["501"] == 1
    assert [objects.basename(info.url) for info in objects.list_objects(quiet.url)] == ["x"]
    assert objects.request_counts()["retries"] == 0


def test_a_stale_listing_does_not_hide_an_object(quiet: Bucket) -> None:
    assert len(objects.list_objects(quiet.url)) == 1
    objects.write_bytes(f"{quiet.url}/new", b"1")
    quiet.proxy.force(STALE, 1)
    assert [objects.basename(info.url) for info in objects.list_objects(quiet.url)] == ["x"]
    assert objects.exists(f"{quiet.url}/new")
    assert objects.read_bytes(f"{quiet.url}/new") == b"1"
    assert len(objects.list_objects(quiet.url)) == 2


def test_many_threads_and_every_kind_of_failure(quiet: Bucket) -> None:
    quiet.proxy.rate = 0.3
    quiet.proxy.kinds = [*QUICK, *READS]

    def work(index: int) -> bool:
        url = f"{quiet.url}/many/{index:03d}"
        objects.write_bytes(url, b"%d" % index * 1000)
        created = objects.create_bytes(f"{url}.claim", b"%d" % index)
        return created and objects.read_bytes(url) == b"%d" % index * 1000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(100)))
    assert set(QUICK) <= set(quiet.proxy.counts)
    quiet.proxy.rate = 0.0
    assert len(objects.list_objects(f"{quiet.url}/many")) == 200
    assert 0 < objects.request_counts()["retries"] < 300 * retry.POLICY.attempts


def test_a_race_on_a_failing_store_has_one_winner(quiet: Bucket) -> None:
    quiet.proxy.rate = 0.3
    quiet.proxy.kinds = [*QUICK, *READS]
    barrier = threading.Barrier(8)

    def race(who: int) -> list[bool]:
        won = []
        for index in range(20):
            barrier.wait(60)
            won.append(objects.create_bytes(f"{quiet.url}/race{index}", b"%d" % who))
        return won

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(race, range(8)))
    quiet.proxy.rate = 0.0
    for index in range(20):
        won = [result[index] for result in results]
        assert won.count(True) == 1
        assert objects.read_bytes(f"{quiet.url}/race{index}") == b"%d" % won.index(True)
