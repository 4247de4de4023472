"""Units over threads: their results come in order and only a few are under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runner.execute.local import ordered_map


@pytest.mark.parametrize("threads", [0, 1, 2, 5, 100])
def test_results_come_in_the_order_of_the_items(threads: int):
    barrier = threading.Event()

    def slow_at_first(item: int) -> int:
        if item == 0 and threads > 1:
            assert barrier.wait(10)  # the first result comes last
        if item == 1:
            barrier.set()
        return item * item

    assert list(ordered_map(slow_at_first, range(20), threads)) == [item * item for item in range(20)]


def test_one_thread_starts_nothing_and_computes_as_results_are_asked_for():
    computed: list[int] = []

    def note(item: int) -> threading.Thread:
        computed.append(item)
        return threading.current_thread()

    before = threading.active_count()
    results = ordered_map(note, range(5), 1)
    assert computed == []
    assert next(results) is threading.current_thread()
    assert computed == [0]
    assert list(results) == [threading.current_thread()] * 4
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [2, 4])
def test_items_are_taken_no_faster_than_results_are_used(threads: int):
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(50):
            taken += 1
            yield item

    for used, result in enumerate(ordered_map(lambda item: item, items(), threads), start=1):
        assert result == used - 1
        assert taken <= used + threads
    assert taken == 50


@pytest.mark.parametrize("threads", [2, 3])
def test_that_many_threads_work_at_once_and_no_more(threads: int):
    together = threading.Barrier(threads)
    running, most, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)
        with lock:
            running -= 1
        return item

    assert list(ordered_map(work, range(4 * threads), threads)) == list(range(4 * threads))
    assert most == threads


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_an_error_reaches_the_caller_and_later_items_are_not_started(threads: int):
    started: list[int] = []

    def fail_at_three(item: int) -> int:
        started.append(item)
        if item == 3:
            raise ValueError("item 3")
        return item

    results = []
    with pytest.raises(ValueError, match="item 3"):
        results.extend(iter(ordered_map(fail_at_three, range(1000), threads)))
    assert max(started) <= 3 + threads
    assert threading.active_count() == 1 or threads == 1


@pytest.mark.parametrize("threads", [1, 3])
def test_a_caller_who_stops_early_leaves_no_thread_behind(threads: int):
    before = threading.active_count()
    results = ordered_map(lambda item: item, range(1000), threads)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_no_items_no_results():
    assert list(ordered_map(lambda item: item, [], 3)) == []
