"""Sums of units: the same bytes in whatever order units end, whoever computes them, and after a break."""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from kernels.orientations import euler_to_matrix
from kernels.projection import insert
from runner.errors import BadUnit, InputError
from runner.execute.local import LocalExecutor
from runner.execute.protocol import Executor, Outcome, Task, perform
from runner.formats.checkpoint import pack
from runner.plan.units import unit_rows
from runner.refinement import result as results
from runner.refinement.inputs import Device
from runner.refinement.memory import Recent
from runner.refinement.reduction import UnitDone, Work, reduce_units
from runner.refinement.result import UnitResult, packed_sums, take_result, unpacked_sums, write_result
from runner.store.objects import list_objects, write_bytes

KIND = "tests.unit.test_reduction:draw_unit"


def draw_unit(spec: dict[str, Any]) -> dict[str, Any]:
    """A unit of numbers of very different size, whose sum depends on the order in which they are added."""
    rows = np.arange(spec["start"], spec["stop"])
    draw = np.random.default_rng(rows)
    sums = {"half0.data": draw.normal(size=5) * 10.0 ** draw.integers(-8, 8, 5), "half1.data": draw.random(3)}
    if rows[0] % 3:
        del sums["half1.data"]
    write_result(spec["output"], UnitResult(sums, {"row": rows, "pmax": draw.random(len(rows))}))
    return {"key": spec["output"], "seconds": 0.5, "stages": {"insert": 0.25}, "operations": {"particles": len(rows)}}


def fail_unit(spec: dict[str, Any]) -> dict[str, Any]:
    """A unit that fails wherever it is tried, when it holds row 40."""
    if spec["start"] <= 40 < spec["stop"]:
        raise ZeroDivisionError("poison")
    return draw_unit(spec)


has_failed = threading.Event()


def fail_first(spec: dict[str, Any]) -> dict[str, Any]:
    """The first unit is bad; the second one is still under way then, and writes its result somewhat later."""
    if spec["start"] == 0:
        has_failed.set()
        raise InputError("particle 0: NaN")
    assert has_failed.wait(10)
    time.sleep(0.3)
    return draw_unit(spec)


class Shuffled(LocalExecutor):
    """Ends tasks in a random order, ``window`` of them under way; remembers the tasks."""

    def __init__(self, window: int, seed: int) -> None:
        super().__init__(1)
        self.window, self.random, self.tasks = window, random.Random(seed), list[Task]()

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """As `Executor.run`."""
        waiting = iter(tasks)
        running = list(islice(waiting, self.window))
        while running:
            task = running.pop(self.random.randrange(len(running)))
            self.tasks.append(task)
            yield Outcome(task, perform(task.kind, task.spec), None, 1, "elsewhere")
            running += islice(waiting, 1)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The folder of an iteration."""
    return str(tmp_path / "run_work" / "it001")


def work(folder: str, particles: int, kind: str = KIND, skip_bad: bool = False) -> Work:
    return Work(kind, folder, "0123456789abcdef", particles, Device(), skip_bad)


def reduce(executor: Executor, what: Work, done: list[UnitDone] | None = None) -> bytes:
    return pack(reduce_units(executor, what, ([] if done is None else done).append).result)


@pytest.mark.parametrize("particles", [16, 500, 700, 9000])
def test_the_bytes_do_not_depend_on_the_executor_or_the_order(
    particles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executors = [LocalExecutor(1), LocalExecutor(3), Shuffled(1, 0), Shuffled(7, 1), Shuffled(10**6, 2)]
    first, *others = [
        reduce(executor, work(str(tmp_path / str(number)), particles)) for number, executor in enumerate(executors)
    ]
    assert all(each == first for each in others)
    monkeypatch.setattr(results, "_kept", Recent(0))  # nothing is remembered: as if each task had its own process
    assert reduce(Shuffled(7, 3), work(str(tmp_path / "apart"), particles)) == first


def test_sums_that_are_still_being_written_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = reduce(LocalExecutor(2), work(str(tmp_path / "alone"), 700))

    def write_late(url: str, data: bytes) -> None:
        time.sleep(0.05)
        write_bytes(url, data)

    monkeypatch.setattr(results, "_kept", Recent(0))  # nothing is remembered, so that all is read back
    monkeypatch.setattr(results, "write_bytes", write_late)
    with LocalExecutor(2, overlap=True) as executor:
        assert reduce(executor, work(str(tmp_path / "late"), 700)) == alone


def test_up_to_sixteen_units_are_added_from_left_to_right(folder: str) -> None:
    what = work(folder, 500)
    found = reduce_units(LocalExecutor(2), what, lambda _: None).result
    expected = UnitResult()
    for info in list_objects(folder):
        expected.merge(take_result(info.url))
    assert pack(found) == pack(expected)
    assert found.rows["row"].tolist() == list(range(500))
    assert len(list_objects(folder)) == len(unit_rows(500)) == 16


def test_a_tree_differs_from_a_plain_sum_but_not_by_much(folder: str) -> None:
    what = work(folder, 9000)
    found = reduce_units(LocalExecutor(1), what, lambda _: None).result
    plain = UnitResult()
    for info in list_objects(folder):
        if "unit_" in info.url:
            plain.merge(take_result(info.url))
    for name, total in found.sums.items():
        np.testing.assert_allclose(total, plain.sums[name], rtol=1e-12)
    assert found.rows["row"].tolist() == list(range(9000))


@pytest.mark.parametrize("seed", range(5))
def test_a_resumed_reduction_computes_what_is_missing_only(folder: str, seed: int) -> None:
    what, draw = work(folder, 2000), random.Random(seed)
    whole = reduce(LocalExecutor(1), what)
    names = [info.url for info in list_objects(folder)]
    lost = set(draw.sample(names, 20))
    for name in lost:
        Path(name).unlink()
    executor, done = Shuffled(3, seed), list[UnitDone]()
    assert reduce(executor, what, done) == whole
    assert sum(unit.particles for unit in done) == 2000
    assert {task.spec["output"] for task in executor.tasks} <= lost
    found_finished = [unit for unit in done if not unit.worker]
    assert len(found_finished) + sum("unit_" in task.spec["output"] for task in executor.tasks) == len(unit_rows(2000))


def test_units_below_a_node_that_is_there_are_not_needed(folder: str) -> None:
    what = work(folder, 640)
    whole = reduce(LocalExecutor(1), what)
    for info in list_objects(folder):
        if "unit_" in info.url:
            Path(info.url).unlink()
    executor = Shuffled(1, 0)
    assert reduce(executor, what) == whole
    assert executor.tasks == []


def test_objects_of_another_input_are_not_used(folder: str) -> None:
    reduce(LocalExecutor(1), work(folder, 64))
    other = Work(KIND, folder, "fedcba9876543210", 64, Device(), False)
    executor = Shuffled(1, 0)
    reduce(executor, other)
    assert len(executor.tasks) == len(unit_rows(64))


def test_nodes_are_merged_while_units_are_still_computed(folder: str) -> None:
    executor = Shuffled(1, 0)
    reduce(executor, work(folder, 64 * 32))
    kinds = ["node" if task.kind.endswith("run_node") else "unit" for task in executor.tasks]
    assert kinds.count("node") == 4
    assert kinds.index("node") == 16


def test_seconds_and_operations_are_added_up(folder: str) -> None:
    done = list[UnitDone]()
    reduced = reduce_units(LocalExecutor(1), work(folder, 320), done.append)
    assert reduced.stages == {"insert": 0.25 * 10}
    assert reduced.operations == {"particles": 320}
    assert {unit.seconds for unit in done} == {0.5}


def test_a_poisoned_unit_ends_the_run_with_its_task(folder: str) -> None:
    with pytest.raises(BadUnit, match=r'unit_00001.*ZeroDivisionError: poison.*"start": 32'):
        reduce(LocalExecutor(1), work(folder, 320, "tests.unit.test_reduction:fail_unit"))


def test_a_poisoned_unit_loses_its_particles_where_that_is_allowed(folder: str) -> None:
    what = work(folder, 320, "tests.unit.test_reduction:fail_unit", skip_bad=True)
    found = reduce_units(LocalExecutor(2), what, lambda _: None).result
    assert sorted(found.bad) == list(range(32, 64))
    assert {"poison" in reason for reason in found.bad.values()} == {True}
    assert found.rows["row"].tolist() == [*range(32), *range(64, 320)]
    executor = Shuffled(1, 0)  # a resumed run knows it, and does not try again
    assert reduce(executor, what) == pack(found)
    assert executor.tasks == []


def test_nothing_is_written_after_a_failure_has_been_told(folder: str) -> None:
    with pytest.raises(InputError, match="particle 0: NaN"):
        reduce(LocalExecutor(2), work(folder, 640, "tests.unit.test_reduction:fail_first"))
    names = [info.url for info in list_objects(folder)]
    assert f"{folder}/unit_00001_0123456789abcdef.npz" in names
    time.sleep(0.6)
    assert [info.url for info in list_objects(folder)] == names


def test_bad_input_ends_the_run_even_then(folder: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        reduce(LocalExecutor(1), work(folder, 32, "runner.refinement.unit:run_unit", skip_bad=True))


@pytest.mark.parametrize(("r_max", "pad"), [(4, 1), (4, 2), (7, 3)])
def test_packed_sums_hold_all_that_insertion_reaches(r_max: int, pad: int) -> None:
    sums = Accumulators.zeros(2, 3, 5, 2 * r_max, r_max, pad)
    draw = np.random.default_rng(r_max)
    axis = np.arange(-r_max, r_max + 1)
    points = np.stack(np.meshgrid(axis, axis, axis), axis=0).reshape(3, -1)
    points = points[:, (points**2).sum(axis=0) <= r_max**2]
    matrices = euler_to_matrix(draw.uniform(0, 360, (40, 3)))
    values = draw.normal(size=(40, 2, points.shape[1]))
    for k in range(2):
        insert(sums.data_rft[k], sums.weight_rft[k], matrices, points, values, np.ones((40, points.shape[1])), pad)
    sums.pdf_direction += draw.random((2, 5))
    before = {name: values.copy() for name, values in vars(sums).items()}
    packed = packed_sums(0, sums)
    assert packed["half0.data_rft"].size < 0.75 * sums.data_rft.size
    after = unpacked_sums(0, packed, r_max, pad)
    assert {name: np.array_equal(values, before[name]) for name, values in vars(after).items()} == dict.fromkeys(
        before, True
    )


def test_rounded_grids_take_half_the_bytes_and_are_added_in_double_precision() -> None:
    draw = np.random.default_rng(3)
    grids = {"half0.data_rft": draw.normal(size=(1, 99)) + 1j, "half0.weight_rft": draw.random((1, 99))}
    result = UnitResult(grids | {"half0.pmax": draw.random(1), "count": np.arange(3)})
    exact = dict(result.sums)
    result.round_grids()
    assert result.sums["half0.pmax"] is exact["half0.pmax"]
    merged = UnitResult().merge(copy.deepcopy(result)).merge(result)
    for name, values in exact.items():
        halved = 2 if name in grids else 1
        assert result.sums[name].nbytes * halved == values.nbytes
        assert merged.sums[name].dtype == values.dtype
        np.testing.assert_array_equal(merged.sums[name], 2 * result.sums[name].astype(values.dtype))
        np.testing.assert_allclose(result.sums[name], values, rtol=6e-8)
