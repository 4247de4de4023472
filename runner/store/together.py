"""Requests to a store under way at the same time as others or as work, where each takes its time to be answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from runner.store.urls import is_local

AT_ONCE = 6  # bounds the maps that are in memory as files


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


def begun(url: str, call: Callable[[], object]) -> Future[object]:
    """Begin a call that reads or writes beside ``url``; a local one is done when this returns.

    The caller waits for the result later, and gets then what the call has raised.
    """
    if is_local(url):
        done = Future[object]()
        done.set_result(call())
        return done
    pool = ThreadPoolExecutor(1, "tomoburst-store")
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)
