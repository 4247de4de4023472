"""The units of an iteration through an executor, and their results merged in a tree that only their number decides."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from runner.errors import BadUnit, TomoburstError
from runner.execute.local import LocalExecutor
from runner.execute.protocol import Executor, Outcome, Task
from runner.plan.units import node_name, reduction_levels, unit_name, unit_rows
from runner.refinement.inputs import Device
from runner.refinement.result import UnitResult, take_result, write_result
from runner.store.objects import list_objects

Amounts = Counter[str]

INPUT = "input.npz"
NODE = "runner.refinement.unit:run_node"


@dataclass(frozen=True)
class UnitDone:
    """A unit whose result is there: ``particles`` it holds, ``worker`` and ``seconds`` unless it was found."""

    name: str
    particles: int
    worker: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """The units of one iteration.

    Attributes
    ----------
    kind : function of `runner.refinement.unit` that computes a unit.
    folder : of the iteration, with the units' input in it; ``digest`` is that of the input.
    particles : number of rows of the particle table, which decides the cut.
    skip_bad : a unit that fails again and again loses its particles; otherwise it ends the run.
    is_shared : other processes compute units too, and may write one after the folder was listed.
    """

    kind: str
    folder: str
    digest: str
    particles: int
    device: Device
    skip_bad: bool
    is_shared: bool = True


@dataclass
class Reduced:
    """The merged result of all units, and what their computation took, summed over units: seconds by stage, operations
    by kind, and the requests to the store, of nodes too, as the processes of the units counted them.
    """

    result: UnitResult
    stages: Amounts = field(default_factory=Counter)
    operations: Amounts = field(default_factory=Counter)
    requests: Amounts = field(default_factory=Counter)


def reduce_units(executor: Executor, work: Work, done: Callable[[UnitDone], None]) -> Reduced:
    """Compute the units that are not finished yet and merge all of them; ``done`` hears of each unit.

    Raises
    ------
    TomoburstError
        A unit or a node of the tree failed for good.
    """
    return _Reduction(executor, work, done).run()


@dataclass
class _Item:
    """A unit (level 0) or a node of the tree; ``members`` are the items of the level below that it merges."""

    url: str
    task: Task
    rows: range
    members: list[_Item] = field(default_factory=list)
    parent: _Item | None = None
    missing: int = 0


class _Reduction:
    """One run through the tree. Nodes are tasks as units are, and go first: they set results free."""

    def __init__(self, executor: Executor, work: Work, done: Callable[[UnitDone], None]) -> None:
        self._executor = executor
        self._work = work
        self._done = done
        self._there = {info.url for info in list_objects(work.folder)}
        self._top = _tree(work)
        self._units: deque[_Item] = deque()
        self._nodes: deque[_Item] = deque()
        self._under_way: dict[str, _Item] = {}
        self._merged = 0
        self._error: TomoburstError | None = None
        self._reduced = Reduced(UnitResult())

    def run(self) -> Reduced:
        for item in self._top:
            self._want(item)
        self._merge()
        while self._units or self._nodes:
            for outcome in self._executor.run(self._tasks()):
                self._finish(outcome)
            if self._error is not None:
                raise self._error
        return self._reduced

    def _want(self, item: _Item) -> None:
        """Queue what has to be computed for an item; whatever lies below one that is there is not needed any more."""
        if item.url in self._there:
            for unit in _units_of(item):
                self._done(UnitDone(unit.task.id, len(unit.rows)))
        elif not item.members:
            self._units.append(item)
        else:
            for member in item.members:
                self._want(member)
            item.missing = sum(member.url not in self._there for member in item.members)
            if not item.missing:
                self._nodes.append(item)

    def _tasks(self) -> Iterator[Task]:
        """Tasks as workers become free. Nodes that get ready after the last unit was taken wait for the next run."""
        while self._nodes or self._units:
            item = self._nodes.popleft() if self._nodes else self._units.popleft()
            self._under_way[item.task.id] = item
            yield item.task

    def _finish(self, outcome: Outcome) -> None:
        item = self._under_way.pop(outcome.task.id)
        if outcome.error is not None:
            if item.members or not self._work.skip_bad or not isinstance(outcome.error, BadUnit):
                self._fail(outcome.error)
                return
            lost = UnitResult(bad=dict.fromkeys(item.rows, str(outcome.error)))
            write_result(item.url, lost, self._work.device.shares.results_bytes)
        report = outcome.result or {}
        self._reduced.requests.update(report.get("requests", {}))
        if not item.members:
            self._reduced.stages.update(report.get("stages", {}))
            self._reduced.operations.update(report.get("operations", {}))
            self._done(UnitDone(item.task.id, len(item.rows), outcome.worker, report.get("seconds", 0.0)))
        self._there.add(item.url)
        if item.parent is None:
            self._merge()
            return
        item.parent.missing -= 1
        if not item.parent.missing:
            self._nodes.append(item.parent)

    def _merge(self) -> None:
        """Merge the items at the top, from left to right, as far as they are there."""
        while self._merged < len(self._top) and self._top[self._merged].url in self._there:
            self._reduced.result.merge(take_result(self._top[self._merged].url))
            self._merged += 1

    def _fail(self, error: TomoburstError) -> None:
        """End with ``error``: at once, or after the units in this process, which would still write otherwise."""
        if not isinstance(self._executor, LocalExecutor):
            raise error
        self._error = self._error or error
        self._units.clear()
        self._nodes.clear()


def _tree(work: Work) -> list[_Item]:
    """The items at the top of the tree, which the driver merges."""
    items = [_unit(work, number, rows) for number, rows in enumerate(unit_rows(work.particles))]
    for level, nodes in enumerate(reduction_levels(len(items)), start=1):
        items = [_node(work, level, number, [items[each] for each in node]) for number, node in enumerate(nodes)]
    return items


def _unit(work: Work, number: int, rows: range) -> _Item:
    url = f"{work.folder}/{unit_name(number, work.digest)}"
    spec: dict[str, Any] = {
        "input": f"{work.folder}/{INPUT}",
        "digest": work.digest,
        "start": rows.start,
        "stop": rows.stop,
        "output": url,
        "may_be_there": work.is_shared,
        "gpu": work.device.gpu,
        "units": work.device.units,
        "references_bytes": work.device.shares.references_bytes,
        "results_bytes": work.device.shares.results_bytes,
    }
    return _Item(url, Task(f"unit_{number:05d}", work.kind, spec, locality=f"rows {rows.start}"), rows)


def _node(work: Work, level: int, number: int, members: list[_Item]) -> _Item:
    url = f"{work.folder}/{node_name(level, number, work.digest)}"
    spec: dict[str, Any] = {
        "members": [member.url for member in members],
        "output": url,
        "may_be_there": work.is_shared,
        "results_bytes": work.device.shares.results_bytes,
    }
    rows = range(members[0].rows.start, members[-1].rows.stop)
    item = _Item(url, Task(f"node_{level}_{number:05d}", NODE, spec, priority=1), rows, members)
    for member in members:
        member.parent = item
    return item


def _units_of(item: _Item) -> Iterator[_Item]:
    """The units below an item, or the item itself when it is one."""
    if not item.members:
        yield item
    for member in item.members:
        yield from _units_of(member)
