"""Requests to a store under way at the same time as others or as work, where each takes its time to be answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from runner.errors import StorageError
from runner.store.urls import is_local

T = TypeVar("T")

AT_ONCE = 6  # bounds the maps that are in memory as files
PATIENCE_SECONDS = 3.0  # of a run that is stopped


def all_done(url: str, calls: Sequence[Callable[[], Any]]) -> None:
    """Make calls that read or write beside ``url`` and return when all are done; local ones are made one by one.

    Raises
    ------
    Exception
        What the first of them that failed has raised; calls that were not begun by then are not made.
    """
    if is_local(url) or len(calls) < 2:
        for call in calls:
            call()
        return
    pool = ThreadPoolExecutor(min(len(calls), AT_ONCE), "tomoburst-store")
    try:
        for future in [pool.submit(call) for call in calls]:
            future.result()
    finally:  # a run that is stopped does not wait for a store that does not answer
        pool.shutdown(wait=False, cancel_futures=True)


def begun(url: str, call: Callable[[], T]) -> Future[T]:
    """Begin a call that reads or writes beside ``url``; a local one is done when this returns.

    The caller waits for the result later, and gets then what the call has raised.
    """
    if is_local(url):
        done = Future[T]()
        done.set_result(call())
        return done
    return _alone(call)


def by_another_thread(call: Callable[[], T]) -> T:
    """Result of a call that waits in compiled code, where the main thread would see no signal."""
    return _alone(call).result()


def _alone(call: Callable[[], T]) -> Future[T]:
    pool = ThreadPoolExecutor(1, "tomoburst-store")
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)


def _soon(call: Callable[[], object]) -> Future[None]:
    """The end of a call that does not take long.

    Raises
    ------
    StorageError
        When it has not ended after `PATIENCE_SECONDS`.
    Exception
        What it has raised.
    """
    done = Future[None]()
    end = _alone(call)
    wait([end], PATIENCE_SECONDS)
    if not end.done():
        raise StorageError(f"the store does not answer within {PATIENCE_SECONDS:g} s")
    end.result()
    done.set_result(None)
    return done


class Behind:
    """Calls that write to a store while the caller goes on; with ``at_once``, for local files, it waits for each.

    A call that fails is the last one: from then on `do` and `wait` raise what it has raised. As a context manager it
    waits at its end, after an exception only for `PATIENCE_SECONDS`. Calls after that are waited for, as long as that.

    Parameters
    ----------
    threads : calls under way at a time; one makes them in order.
    most : calls that may be waiting or under way.
    """

    def __init__(self, *, at_once: bool, threads: int = 1, most: int = 2) -> None:
        self._at_once = at_once
        self._most = most
        self._is_stopped = False
        self._under_way: deque[Future[None]] = deque()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "tomoburst-behind")  # starts its threads with the first calls

    def do(self, call: Callable[[], object]) -> Future[None]:
        """Make a call behind those before it, when fewer than ``most`` of them are left; returns its end."""
        if self._at_once:
            done = Future[None]()
            call()
            done.set_result(None)
            return done
        if self._is_stopped:
            return _soon(call)
        with self._lock:
            while self._under_way and (self._under_way[0].done() or len(self._under_way) >= self._most):
                self._under_way.popleft().result()
            if self._error is not None:
                raise self._error
            self._under_way.append(self._pool.submit(self._unless_failed, call))
            return self._under_way[-1]

    def wait(self) -> None:
        """Return when all calls are done."""
        with self._lock:
            while self._under_way:
                self._under_way.popleft().result()
            if self._error is not None:
                raise self._error

    def _unless_failed(self, call: Callable[[], object]) -> None:
        if self._error is not None:
            raise self._error
        try:
            call()
        except BaseException as error:
            self._error = error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._at_once = True
                self.wait()
            else:  # a run that is stopped does not wait for a store that does not answer
                self._is_stopped = True
                wait(list(self._under_way), PATIENCE_SECONDS)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
