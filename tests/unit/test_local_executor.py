"""Units over threads: their results come in order and only a few are under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from runner.errors import BadUnit, InputError, StorageError, TomoburstError
from runner.execute.local import LocalExecutor, computing, ordered_map, write_behind
from runner.execute.protocol import MAX_ATTEMPTS, Happening, Task


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
    before = threading.active_count()
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
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_a_caller_who_stops_early_leaves_no_thread_behind(threads: int):
    before = threading.active_count()
    results = ordered_map(lambda item: item, range(1000), threads)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_no_items_no_results():
    assert list(ordered_map(lambda item: item, [], 3)) == []


def fake(name: str, count: int = 1, **spec: object) -> list[Task]:
    """Tasks of one of the functions of `fake_units`."""
    return [Task(f"u{item}", f"tests.faults.fake_units:{name}", {"item": item, **spec}) for item in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_task_has_one_outcome(threads: int):
    with LocalExecutor(threads) as executor:
        outcomes = list(executor.run(fake("square", 20)))
        assert executor.workers() == threads
    assert sorted(outcome.task.id for outcome in outcomes) == sorted(f"u{item}" for item in range(20))
    assert all(outcome.result == {"square": outcome.task.spec["item"] ** 2} for outcome in outcomes)
    assert {(outcome.error, outcome.attempts) for outcome in outcomes} == {(None, 1)}


@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_are_taken_as_threads_become_free(threads: int):
    taken: list[str] = []

    def tasks() -> Iterator[Task]:
        for task in fake("square", 50):
            taken.append(task.id)
            yield task

    for used, _ in enumerate(LocalExecutor(threads).run(tasks()), start=1):
        assert len(taken) <= used + 2 * threads
    assert len(taken) == 50


def test_specs_and_results_are_what_json_makes_of_them():
    (outcome,) = LocalExecutor().run([Task("u", "tests.faults.fake_units:echo", {"pair": (1, 2)})])
    assert outcome.result == {"pair": [1, 2]}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("error", "attempts", "kind"),
    [("input", 1, InputError), ("storage", MAX_ATTEMPTS, StorageError), ("surprise", MAX_ATTEMPTS, BadUnit)],
)
def test_what_fails_always_comes_back_as_an_error(
    threads: int, error: str, attempts: int, kind: type[TomoburstError], tmp_path
):
    log: list[Happening] = []
    tasks = fake("fail", error=error, folder=str(tmp_path)) + fake("square", 6)[1:]
    outcomes = {outcome.task.id: outcome for outcome in LocalExecutor(threads, log.append).run(tasks)}
    assert len(outcomes) == 6
    failed = outcomes.pop("u0")
    assert type(failed.error) is kind
    assert failed.result is None
    assert (failed.attempts, len(list(tmp_path.iterdir()))) == (attempts, attempts)
    assert [(entry.what, entry.details["unit"], entry.details["attempt"]) for entry in log] == [
        ("unit_retried", "u0", attempt) for attempt in range(2, attempts + 1)
    ]
    assert all(outcome.error is None for outcome in outcomes.values())


def test_a_bad_unit_names_its_task_and_the_cause(tmp_path):
    (outcome,) = LocalExecutor().run(fake("fail", error="surprise", folder=str(tmp_path)))
    message = str(outcome.error)
    assert message.startswith("unit u0: failed 3 times, the last time with ZeroDivisionError: surprise")
    assert fake("fail", error="surprise", folder=str(tmp_path))[0].as_json() in message


def test_a_task_that_fails_twice_succeeds(tmp_path):
    (outcome,) = LocalExecutor().run(fake("fail", error="storage", times=MAX_ATTEMPTS - 1, folder=str(tmp_path)))
    assert (outcome.result, outcome.error, outcome.attempts) == ({"item": 0}, None, MAX_ATTEMPTS)


def test_a_run_that_is_left_early_drops_what_has_not_started(tmp_path):
    run = LocalExecutor(2).run(fake("touch", 1000, folder=str(tmp_path)))
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 10


@pytest.mark.parametrize("threads", [1, 2])
def test_overlapping_tasks_wait_together_and_compute_apart(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Barrier(2 * threads)  # passed only by as many tasks as there are under way
    now, most, lock = 0, 0, threading.Lock()

    def work(kind: str, spec: dict[str, int]) -> dict[str, int]:
        nonlocal now, most
        waiting.wait(10)
        with computing():
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1
        return spec

    monkeypatch.setattr("runner.execute.local.perform", work)
    tasks = [Task(str(number), "", {"number": number}) for number in range(4 * threads)]
    found = [outcome.result for outcome in LocalExecutor(threads, overlap=True).run(tasks)]
    assert sorted(each["number"] for each in found if each) == list(range(4 * threads))
    assert most <= threads
    with computing():
        pass  # nobody is asked outside of an executor


def test_results_are_written_while_other_tasks_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    is_computed, written = threading.Event(), list[int]()

    def work(kind: str, spec: dict[str, int]) -> dict[str, int]:
        if spec["number"] == 0:
            write_behind(lambda: written.append(is_computed.wait(10)))
        else:
            is_computed.set()
        return spec

    monkeypatch.setattr("runner.execute.local.perform", work)
    with LocalExecutor(1, overlap=True) as executor:
        assert len(list(executor.run([Task(str(number), "", {"number": number}) for number in range(2)]))) == 2
    assert written == [True]


def test_a_result_that_cannot_be_written_ends_the_tasks_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StorageError("full")

    def work(kind: str, spec: dict[str, int]) -> dict[str, int]:
        write_behind(fail)
        return spec

    monkeypatch.setattr("runner.execute.local.perform", work)
    tasks = [Task(str(number), "", {}) for number in range(10)]
    executor = LocalExecutor(1, overlap=True)
    assert isinstance(list(executor.run(tasks))[-1].error, StorageError)
    with pytest.raises(StorageError, match="full"):
        executor.close()
