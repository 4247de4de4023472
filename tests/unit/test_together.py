"""Requests that are under way at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial

import pytest

from runner.errors import StorageError
from runner.store import together
from runner.store.together import Behind, all_done, begun


def test_calls_on_a_remote_store_wait_for_each_other() -> None:
    barrier = threading.Barrier(3)
    all_done("s3://bucket/run", [lambda: barrier.wait(10)] * 3)


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


def test_calls_behind_are_made_in_order_while_the_caller_goes_on() -> None:
    go, made = threading.Event(), list[int]()
    with Behind(at_once=False) as behind:
        ends = [behind.do(partial(go.wait, 10)), behind.do(partial(made.append, 1))]
        assert not any(end.done() for end in ends)
        go.set()
        behind.do(partial(made.append, 2))
        behind.wait()
        assert made == [1, 2]
        behind.do(partial(made.append, 3))
    assert made == [1, 2, 3]
    behind.do(lambda: made.append(threading.get_ident()))
    assert made[-1] == threading.get_ident()


def test_no_more_calls_wait_than_agreed() -> None:
    go, third = threading.Event(), threading.Event()
    with Behind(at_once=False, most=2) as behind:
        for _ in range(2):
            behind.do(partial(go.wait, 10))
        caller = threading.Thread(target=lambda: (behind.do(lambda: None), third.set()))
        caller.start()
        assert not third.wait(0.2)
        go.set()
        caller.join(10)
        assert third.is_set()


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_behind_one_that_fails_are_not_made(threads: int) -> None:
    made: list[int] = []

    def fail() -> None:
        raise StorageError("full")

    behind = Behind(at_once=False, threads=threads)
    with pytest.raises(StorageError, match="full"):
        behind.do(fail).result()
    for _ in range(3):
        with pytest.raises(StorageError, match="full"):
            behind.do(partial(made.append, 1))
    with pytest.raises(StorageError, match="full"), behind:
        pass
    assert made == []


def test_a_run_that_ends_by_an_error_does_not_wait_for_a_store_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 0.1)
    go = threading.Event()
    ends: list[Future[None]] = []

    def run() -> None:
        with Behind(at_once=False) as behind:
            ends.append(behind.do(partial(go.wait, 60)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not ends[0].done()
    go.set()


def test_calls_of_a_run_that_was_stopped_are_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 0.1)
    behind, made, go = Behind(at_once=False), [], threading.Event()
    with pytest.raises(KeyboardInterrupt), behind:
        raise KeyboardInterrupt
    assert behind.do(partial(made.append, 1)).done()
    assert made == [1]
    with pytest.raises(StorageError, match=r"does not answer within 0\.1 s"):
        behind.do(partial(go.wait, 60))
    with pytest.raises(StorageError, match="full"):
        behind.do(_refuse)
    go.set()


def _refuse() -> None:
    raise StorageError("full")
