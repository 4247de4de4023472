"""What an iteration asks of the store: as docs/operations.md says, and every chunk once."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.plan.units import chunk_rows, reduction_levels, unit_rows
from runner.refinement import record
from runner.simulate import run_simulate
from runner.store.backend import LocalBackend
from runner.store.lease import claim

pytestmark = pytest.mark.e2e

ITERATIONS = 4
METHODS = ("GET", "PUT", "HEAD", "LIST", "DELETE")
FILES = 5  # data, model, optimiser, sampling, one map; without a search there is no distribution of orientations


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every object that is read from now on; heartbeats are left out."""
    found: list[str] = []
    read = LocalBackend.read

    def noted(self: LocalBackend, path: str, start: int | None, end: int | None) -> bytes:
        found.append(path)
        return read(self, path, start, end)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LocalBackend, "read", noted)
    monkeypatch.setattr(record, "claim", partial(claim, beat=3600.0))
    return found


def classified(particles: int, reads: list[str], flags: str) -> list[tuple[Counter[str], Counter[str]]]:
    """For each iteration its requests, and how often each chunk of particles was read for it."""
    run_simulate(
        SimulateConfig(o="set", n=particles, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3)
    )
    assert cli.run(["ingest", "--i", "set/particles.star", "--o", "p.zarr"]) == 0
    reads.clear()
    command = (
        "refine --i p.zarr --ref set/truth.mrc --o out/run --ctf --healpix_order 1 --offset_range 2 --offset_step 1 "
        f"--particle_diameter 110 --ini_high 60 --K 1 --iter {ITERATIONS} --random_seed 3 {flags}"
    )
    assert cli.run(command.split()) == 0
    lines = [json.loads(line) for line in Path("out/run_events.jsonl").read_text().splitlines()]
    requests = [Counter[str](line["store"]) for line in lines if line["event"] == "iteration_finished"]
    return list(zip(requests, by_iteration(reads), strict=True))


def by_iteration(reads: list[str]) -> list[Counter[str]]:
    """Reads of chunks; the driver asks for the commit of an iteration right before it makes it."""
    found: list[Counter[str]] = [Counter()]
    for path in reads:
        if path.endswith("commit.json"):
            found.append(Counter())
        elif "particles/c/" in path:
            found[-1][path] += 1
    return found[1:-1]  # the first is the initial noise, after the last commit there is nothing


def expected(particles: int) -> Counter[str]:
    """The formula of docs/operations.md, in one process and without heartbeats."""
    units = len(unit_rows(particles))
    nodes = sum(len(level) for level in reduction_levels(units))
    return Counter(
        GET=len(chunk_rows(particles)) + 1,
        PUT=units + nodes + FILES + 4,
        HEAD=4,
        LIST=2,
        DELETE=units + nodes + 3,
    )


@pytest.mark.parametrize("particles", [40, 560])  # 4 units; 18 units below 2 nodes
def test_iteration_reads_each_chunk_once(particles: int, reads: list[str]) -> None:
    for number, (requests, chunks) in enumerate(classified(particles, reads, "--skip_align"), start=1):
        assert sorted(chunks.values()) == [1] * len(chunk_rows(particles))
        if number > 2:  # the first two also read what stays in memory, and remove less
            assert {name: requests[name] for name in METHODS} == expected(particles)


@pytest.mark.parametrize("cache", ["", "--cache cache"])
def test_processes_read_the_input_and_the_sums_too(
    cache: str, reads: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = classified(40, reads, f"--skip_align --workers 2 {cache}")
    formula = expected(40) + Counter(GET=len(unit_rows(40)), HEAD=len(unit_rows(40)))
    if cache:
        formula -= Counter(GET=len(chunk_rows(40)))
    processes = workers_by_iteration(capsys.readouterr().err)
    for (requests, of_driver), workers in list(zip(found, processes, strict=True))[2:]:
        assert {name: requests[name] for name in METHODS} == formula + Counter(GET=len(workers))
        assert not of_driver


def workers_by_iteration(log: str) -> list[set[str]]:
    """Which workers computed a unit of each iteration; the other one may not have come in time."""
    found: list[set[str]] = []
    for line in map(json.loads, log.splitlines()):
        if line["event"] == "iteration_started":
            found.append(set())
        elif line["event"] == "unit_finished" and found:
            found[-1].add(line["worker"])
    return found


def test_chunks_come_from_the_cache_after_the_first_time(reads: list[str]) -> None:
    for number, (requests, chunks) in enumerate(classified(40, reads, "--skip_align --cache cache"), start=1):
        assert not chunks
        if number > 2:
            assert (requests["GET"], requests["bytes_read"]) == (1, 0)
