"""Requests that are under way at the same time."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from runner.errors import StorageError
from runner.store.together import all_done, begun


def test_calls_on_a_remote_store_wait_for_each_other() -> None:
    together = threading.Barrier(3)
    all_done("s3://bucket/run", [lambda: together.wait(10)] * 3)


def test_local_calls_are_made_in_turn_by_the_caller() -> None:
    threads: list[threading.Thread] = []
    all_done("out/run", [lambda: threads.append(threading.current_thread())] * 3)
    assert threads == [threading.current_thread()] * 3


@pytest.mark.parametrize("url", ["out/run", "s3://bucket/run"])
def test_a_failure_is_raised(url: str) -> None:
    def fail() -> None:
        raise StorageError("full")

    with pytest.raises(StorageError, match="full"):
        all_done(url, [lambda: None, fail, lambda: None])
    with pytest.raises(StorageError, match="full"):
        begun(url, fail).result()


def test_a_remote_call_goes_on_while_the_caller_does_something_else() -> None:
    go, end = threading.Event(), begun("out/run", lambda: 1)
    assert end.done()
    end = begun("s3://bucket/run", partial(go.wait, 10))
    go.set()
    assert end.result() is True
