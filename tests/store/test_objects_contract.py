"""What every store promises: the same tests on files, in memory and on a real S3 server, also
when it fails now and then."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from runner.errors import InputError, StorageError
from runner.store import objects


def test_one_object(store):
    url = f"{store}/a/b/x.bin"
    assert not objects.exists(url)
    objects.write_bytes(url, b"first")
    objects.write_bytes(url, b"0123456789")
    assert objects.exists(url)
    assert objects.read_bytes(url) == b"0123456789"
    with pytest.raises(InputError, match=r"none\.bin: no such file"):
        objects.read_bytes(f"{store}/a/none.bin")


@pytest.mark.parametrize(("start", "end", "part"), [(2, 5, b"234"), (7, None, b"789"), (0, 99, b"0123456789")])
def test_ranges(store, start, end, part):
    objects.write_bytes(f"{store}/x", b"0123456789")
    assert objects.read_bytes(f"{store}/x", start, end) == part


def test_ranges_without_bytes(store):
    objects.write_bytes(f"{store}/x", b"0123456789")
    objects.write_bytes(f"{store}/empty", b"")
    assert objects.read_bytes(f"{store}/x", 4, 4) == b""
    assert objects.read_bytes(f"{store}/x", 10, 20) == b""
    assert objects.read_bytes(f"{store}/empty", 0, 1024) == b""
    assert objects.read_bytes(f"{store}/empty") == b""


def test_only_the_first_create_succeeds(store):
    url = f"{store}/new/claim.json"
    assert objects.create_bytes(url, b"mine")
    assert not objects.create_bytes(url, b"yours")
    assert not objects.create_bytes(url, b"mine")
    assert objects.read_bytes(url) == b"mine"
    objects.write_bytes(url, b"over")
    assert not objects.create_bytes(url, b"yours")
    objects.delete([url])
    assert objects.create_bytes(url, b"yours")
    assert objects.read_bytes(url) == b"yours"


def test_one_of_32_creators_wins(store):
    url = f"{store}/claim"
    assert objects.supports_conditional_create(url)
    barrier = threading.Barrier(32)

    def create(index: int) -> bool:
        barrier.wait()
        return objects.create_bytes(url, b"%d" % index)

    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(create, range(32)))
    assert won.count(True) == 1
    assert objects.read_bytes(url) == b"%d" % won.index(True)


def test_one_of_two_creators_wins_fifty_times(store):
    barrier = threading.Barrier(2)

    def create(who: bytes) -> list[bool]:
        results = []
        for index in range(50):
            barrier.wait()
            results.append(objects.create_bytes(f"{store}/{index}", who))
        return results

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(create, [b"1", b"2"])
    assert [one != two for one, two in zip(first, second, strict=True)] == [True] * 50
    assert [objects.read_bytes(f"{store}/{index}") for index in range(50)] == [b"1" if one else b"2" for one in first]


def test_the_probe_leaves_nothing(store):
    assert objects.supports_conditional_create(f"{store}/fresh/x")
    assert objects.list_objects(store) == []


def test_listing(store):
    names = ["run/it1/b", "run/it1/a", "run/it10/a", "run/a", "run2/a", "run"[:2]]
    for name in names:
        objects.write_bytes(f"{store}/{name}", name.encode())
    found = objects.list_objects(f"{store}/run")
    assert [info.url for info in found] == [f"{store}/run/{name}" for name in ("a", "it1/a", "it1/b", "it10/a")]
    assert [info.size for info in found] == [5, 9, 9, 10]
    assert [info.digest for info in found] == [objects.file_digest(info.url) for info in found]
    assert objects.list_objects(f"{store}/run/") == found
    assert [objects.read_bytes(info.url) for info in found] == [b"run/a", b"run/it1/a", b"run/it1/b", b"run/it10/a"]
    assert objects.list_objects(f"{store}/none") == []
    assert objects.list_objects(f"{store}/run/it") == []


def test_a_listing_and_a_removal_of_more_than_a_thousand(store):
    urls = [f"{store}/many/{index:05d}" for index in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda url: objects.write_bytes(url, b"x"), reversed(urls)))
    assert [info.url for info in objects.list_objects(f"{store}/many")] == urls
    objects.delete([*urls[:1003], f"{store}/many/never-there"])
    assert [info.url for info in objects.list_objects(f"{store}/many")] == urls[1003:]


def test_digests_follow_the_content(store):
    url = f"{store}/x"
    objects.write_bytes(url, b"one")
    before = objects.file_digest(url)
    assert objects.file_digest(url) == before
    objects.write_bytes(url, b"other")
    assert objects.file_digest(url) != before
    with pytest.raises(InputError, match="no such file"):
        objects.file_digest(f"{store}/none")


def test_readers_never_see_a_part(store):
    url = f"{store}/x"
    objects.write_bytes(url, b"0" * 200_000)
    stop = threading.Event()

    def write() -> None:
        for index in range(40):
            objects.write_bytes(url, b"%d" % (index % 10) * 200_000)
        stop.set()

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(write)
        while not stop.is_set():
            data = objects.read_bytes(url)
            assert len(data) == 200_000
            assert len(set(data)) == 1
        writer.result()


def test_requests_are_counted(steady_store):
    objects.create_bytes(f"{steady_store}/probe", b"")  # the probe of the store is made once
    objects.reset_request_counts()
    objects.write_bytes(f"{steady_store}/x", b"12345")
    objects.read_bytes(f"{steady_store}/x")
    objects.read_bytes(f"{steady_store}/x", 1, 3)
    objects.exists(f"{steady_store}/x")
    objects.exists(f"{steady_store}/none")
    objects.file_digest(f"{steady_store}/x")
    objects.list_objects(steady_store)
    objects.create_bytes(f"{steady_store}/new", b"1")
    objects.delete([f"{steady_store}/x"])
    assert objects.request_counts() == {
        "GET": 2,
        "PUT": 2,
        "LIST": 1,
        "HEAD": 3,
        "DELETE": 1,
        "retries": 0,
        "bytes_read": 7,
        "bytes_written": 6,
    }


def test_names_are_resolved_by_one_listing(store):
    for index in range(3):
        objects.write_bytes(f"{store}/sub/{index}.mrc", b"1")
    objects.list_objects(store)
    objects.reset_request_counts()
    names = [f"sub/{index}.mrc" for index in range(3)]
    assert objects.resolve_all(names, f"{store}/p.star", str) == [f"{store}/{name}" for name in names]
    assert objects.request_counts()["HEAD"] == 0
    with pytest.raises(InputError, match=r"cannot find 'sub/9\.mrc'"):
        objects.resolve_all(["sub/9.mrc"], f"{store}/p.star", str)


def test_a_store_without_conditional_create_serves_one_creator(store, monkeypatch):
    backend, _ = objects.backend_of(store)
    overwrite = type(backend).write

    def ignore_the_condition(self, path, data, creator):
        overwrite(self, path, data)
        return True

    monkeypatch.setattr(type(backend), "create", ignore_the_condition)
    monkeypatch.setattr(objects, "_probed", {})
    assert not objects.supports_conditional_create(f"{store}/x")
    assert objects.create_bytes(f"{store}/x", b"mine")
    assert not objects.create_bytes(f"{store}/x", b"yours")
    assert objects.read_bytes(f"{store}/x") == b"mine"
    assert [info.url for info in objects.list_objects(store)] == [f"{store}/x"]


def test_failures_are_one_line(store, monkeypatch):
    backend, _ = objects.backend_of(store)

    def fail(*_, **__):
        raise OSError(28, "No space\nleft")

    for method in ("read", "write", "create", "exists", "info", "find", "delete"):
        monkeypatch.setattr(type(backend), method, fail)
    url = f"{store}/x"
    for call in (
        lambda: objects.read_bytes(url),
        lambda: objects.write_bytes(url, b""),
        lambda: objects.create_bytes(url, b""),
        lambda: objects.exists(url),
        lambda: objects.file_digest(url),
        lambda: objects.list_objects(url),
        lambda: objects.delete([url]),
    ):
        with pytest.raises(StorageError, match="No space left") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 4
