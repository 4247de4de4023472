"""One iteration of a million particles on 64 workers, with units that compute nothing.

``python -m tests.benchmarks.scale FOLDER|s3 [--particles 1000000] [--workers 64] [--sum_voxels 2000]`` prints the lines
of docs/scale.md: what the driver, the scheduler and the store have to do beside the computation. Plan, tasks, results,
reduction tree, scheduler, store and messages are the real ones; only a unit writes made-up sums, small ones, at once.
With ``s3`` it starts the server of the tests.

Scheduler and workers are processes of their own; the workers share one, each with a thread.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from runner.execute.dask_cluster import DaskExecutor
from runner.execute.dask_link import Link, TlsFiles, connect
from runner.execute.protocol import Happening, Outcome, Task
from runner.plan.units import batch_size, chunks_per_unit, reduction_levels, unit_rows
from runner.refinement.inputs import Device
from runner.refinement.reduction import INPUT, Work, reduce_units
from runner.refinement.result import UnitResult, write_result
from runner.store.objects import (
    basename,
    delete,
    list_objects,
    read_bytes,
    request_counts,
    reset_request_counts,
    write_bytes,
)
from tests.parity.programs import TOMOBURST

SAMPLE_SECONDS = 0.2


def fake_unit(spec: dict[str, Any]) -> dict[str, Any]:
    """Write made-up sums and the values of all particles of a unit: a task like `runner.refinement.unit.run_unit`."""
    begin = time.perf_counter()
    rows = np.arange(spec["start"], spec["stop"])
    voxels = _sum_voxels(spec["input"])
    result = UnitResult(
        sums={f"half{half}.data_rft": np.full((1, voxels), 1 + 1j, dtype=np.complex64) for half in (0, 1)}
        | {f"half{half}.weight_rft": np.ones((1, voxels), dtype=np.float32) for half in (0, 1)},
        rows={
            "row": rows,
            "angles_deg": np.zeros((len(rows), 3)),
            "origins_angst": np.zeros((len(rows), 3)),
            "class_number": np.ones(len(rows), dtype=np.int64),
            "log_likelihood": np.zeros(len(rows)),
            "pmax": np.zeros(len(rows)),
            "significant_samples": np.ones(len(rows), dtype=np.int64),
        },
    )
    size = write_result(spec["output"], result)
    return {"key": spec["output"], "bytes": size, "bad": 0, "seconds": time.perf_counter() - begin}


@cache
def _sum_voxels(url: str) -> int:
    voxels: int = json.loads(read_bytes(url))["sum_voxels"]
    return voxels


@dataclass
class Recorder:
    """An executor that remembers when each task ended and what it took."""

    executor: DaskExecutor
    ended: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    workers_used: Counter[str] = field(default_factory=Counter)

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        for outcome in self.executor.run(tasks):
            assert outcome.result is not None, outcome.error
            self.ended[outcome.task.id] = time.perf_counter()
            self.seconds[outcome.task.id] = outcome.result["seconds"]
            self.workers_used[outcome.worker] += 1
            yield outcome

    def workers(self) -> int:
        return self.executor.workers()

    def close(self) -> None:
        self.executor.close()


@dataclass
class Watch:
    """Memory and CPU time of a process while a block runs."""

    process: psutil.Process
    peak_bytes: int = 0
    cpu_seconds: float = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before, stop = self._cpu(), threading.Event()

        def sample() -> None:
            while not stop.wait(SAMPLE_SECONDS):
                self.peak_bytes = max(self.peak_bytes, self.process.memory_info().rss)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.cpu_seconds = self._cpu() - before

    def _cpu(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[tuple[str, psutil.Process, psutil.Process]]:
    """A scheduler and a process with all workers: the address, and the two processes."""
    port = 20000 + os.getpid() % 20000
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [*TOMOBURST, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--health_port", "0"]
    scheduler = subprocess.Popen(command, **quiet)
    farm = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.scale", "--farm", address, str(workers)], **quiet)
    try:
        yield address, psutil.Process(scheduler.pid), psutil.Process(farm.pid)
    finally:
        for process in (farm, scheduler):
            process.kill()
            process.wait()


def farm(address: str, workers: int) -> None:
    """Be the process of the workers."""
    from distributed import Worker

    async def work() -> None:
        there = [
            await Worker(address, nthreads=1, name=f"worker-{number:02d}", dashboard=False, memory_limit=0)
            for number in range(workers)
        ]
        await asyncio.gather(*(worker.finished() for worker in there))

    asyncio.run(work())


def measure(folder: str, particles: int, workers: int, voxels: int) -> None:
    """Run the iteration and print what it took."""
    begin = time.perf_counter()
    write_bytes(f"{folder}/{INPUT}", json.dumps({"sum_voxels": voxels}).encode())
    incidents: Counter[str] = Counter()

    def report(happening: Happening) -> None:
        incidents[happening.what] += 1

    with cluster(workers) as (address, scheduler_process, farm_process):
        link = connect(address, TlsFiles(), report)
        while _workers(link) < workers:
            time.sleep(SAMPLE_SECONDS)
        executor = Recorder(DaskExecutor(link, report))
        own, scheduler, farm = Watch(psutil.Process()), Watch(scheduler_process), Watch(farm_process)
        before = psutil.Process().memory_info().rss
        reset_request_counts()
        print(f"{workers} workers were there after {time.perf_counter() - begin:.0f} s", flush=True)
        with own.watching(), scheduler.watching(), farm.watching():
            start = time.perf_counter()
            work = Work("tests.benchmarks.scale:fake_unit", folder, "digest", particles, Device(), skip_bad=False)
            reduced = reduce_units(executor, work, lambda unit: None)
            end = time.perf_counter()
        assert np.array_equal(reduced.result.rows["row"], np.arange(particles))
        assert reduced.result.sums["half0.weight_rft"][0, 0] == len(unit_rows(particles))
        requests = request_counts()
        _print(folder, particles, executor, start, end)
        print(f"driver: {before / 2**20:.0f} MiB before, {own.peak_bytes / 2**20:.0f} MiB at most")
        print(f"driver: {own.cpu_seconds:.1f} s of CPU, requests {requests}")
        print(f"scheduler: {scheduler.peak_bytes / 2**20:.0f} MiB at most, {scheduler.cpu_seconds:.1f} s of CPU")
        print(f"workers: {farm.peak_bytes / 2**20:.0f} MiB at most, {farm.cpu_seconds:.1f} s of CPU, all together")
        print(f"incidents: {dict(incidents)}")
        begin = time.perf_counter()
        delete([each.url for each in list_objects(folder)])
        print(f"removal of the objects: {time.perf_counter() - begin:.1f} s")
        executor.close()
    print(f"peak of the driver's process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def _workers(link: Link) -> int:
    link.next_message(SAMPLE_SECONDS)
    return link.worker_count()


def _print(folder: str, particles: int, executor: Recorder, start: float, end: float) -> None:
    units = [name for name in executor.ended if name.startswith("unit_")]
    nodes = [name for name in executor.ended if name.startswith("node_")]
    last_unit = max(executor.ended[name] for name in units)
    print(f"plan: {particles} particles, chunks of {batch_size(particles)}, {chunks_per_unit(particles)} chunks a unit")
    print(f"units {len(units)}, nodes {[len(level) for level in reduction_levels(len(units))]}")
    print(f"wall {end - start:.1f} s, first result after {min(executor.ended.values()) - start:.2f} s")
    print(f"tasks a second: {len(executor.ended) / (end - start):.0f}, workers used {len(executor.workers_used)}")
    print(f"after the last unit: {end - last_unit:.2f} s until everything was merged")
    for kind, names in (("unit", units), ("node", nodes)):
        seconds = sorted(executor.seconds[name] for name in names)
        print(f"{kind}: median {seconds[len(seconds) // 2] * 1000:.0f} ms, longest {seconds[-1] * 1000:.0f} ms")
    found: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for each in list_objects(folder):
        kind = basename(each.url).split("_")[0]
        found[kind] += 1
        size[kind] += each.size
    print("objects: " + ", ".join(f"{kind} {found[kind]} ({size[kind] / 2**20:.1f} MiB)" for kind in sorted(found)))


def main() -> None:
    """Measure one iteration, or be the workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--sum_voxels", type=int, default=2000)
    parser.add_argument("--farm", nargs=2)
    given = parser.parse_args()
    if given.farm:
        farm(given.farm[0], int(given.farm[1]))
    elif given.folder == "s3":
        from tests.store import s3_server

        with s3_server.running() as server:
            os.environ.update(server.environment)
            bucket = f"scale-{uuid.uuid4().hex[:8]}"
            server.client.mkdir(bucket)
            measure(f"s3://{bucket}/run_work/it001", given.particles, given.workers, given.sum_voxels)
    else:
        Path(given.folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            measure(f"{folder}/run_work/it001", given.particles, given.workers, given.sum_voxels)


if __name__ == "__main__":
    main()
