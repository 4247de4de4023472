"""How fast particles are ingested and read, from MRC files and from a particle store, beside each other.

``python -m tests.benchmarks.particle_store FOLDER`` with an empty local folder or a place in a bucket. Rounds of all
measurements follow each other, and the median of the rounds is printed, so that the load of the machine hits all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

from runner.execute.images import MrcSource, ParticleSource, StoreSource
from runner.execute.local import LocalExecutor
from runner.formats.mrc import format_mrc
from runner.formats.particles import read_particles
from runner.ingest import IngestSettings, ensure_ingested
from runner.report.events import Events
from runner.store import objects
from runner.store.cache import ChunkCache
from runner.store.counts import request_counts, reset_request_counts
from runner.store.particles import ParticleStore


def write_set(folder: str, particles: int, box: int) -> str:
    """Write particles of pure noise as MRC files; returns their STAR file."""
    random = np.random.default_rng(1)
    lines = ["data_optics", "", "loop_", "_rlnOpticsGroup", "_rlnImagePixelSize", "_rlnImageSize", f"1 5.0 {box}", ""]
    lines += ["data_particles", "", "loop_", "_rlnImageName", "_rlnOpticsGroup"]
    for number in range(particles):
        volume = random.normal(size=(box,) * 3).astype(np.float32)
        objects.write_bytes(f"{folder}/subtomo/{number:06d}.mrc", format_mrc(volume, 5.0))
        lines.append(f"subtomo/{number:06d}.mrc 1")
    objects.write_bytes(f"{folder}/particles.star", "\n".join([*lines, ""]).encode())
    return f"{folder}/particles.star"


def read_all(source: ParticleSource, particles: int) -> None:
    """Read every particle once."""
    for volume in source.read(range(particles)):
        assert isinstance(volume, np.ndarray)


def ingest(star: str, url: str, dtype: str) -> ParticleStore:
    """Ingest anew."""
    with Events() as events, LocalExecutor(4) as executor:
        return ensure_ingested(read_particles(star), url, executor, events, IngestSettings(dtype=dtype, overwrite=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    count, folder = options.particles, options.folder
    megabytes = count * options.box**3 * 4 / 1e6
    star = write_set(folder, count, options.box)
    stores = {dtype: ingest(star, f"{folder}/{dtype}.zarr", dtype) for dtype in ("float32", "float16")}
    with tempfile.TemporaryDirectory() as cache:
        cached = ParticleStore.open(stores["float32"].url, ChunkCache(cache))
        read_all(StoreSource(cached), count)
        work: dict[str, Callable[[], object]] = {
            "ingest, float32": lambda: ingest(star, f"{folder}/again.zarr", "float32"),
            "read MRC files": lambda: read_all(MrcSource(read_particles(star), ctf=False), count),
            "read store, float32": lambda: read_all(StoreSource(stores["float32"]), count),
            "read store, float16": lambda: read_all(StoreSource(stores["float16"]), count),
            "read store, cached": lambda: read_all(StoreSource(cached), count),
        }
        seconds: dict[str, list[float]] = {name: [] for name in work}
        requests: dict[str, int] = {}
        for _ in range(options.rounds):
            for name, action in work.items():
                reset_request_counts()
                started = time.perf_counter()
                action()
                seconds[name].append(time.perf_counter() - started)
                counts = request_counts()
                requests[name] = sum(counts[kind] for kind in ("GET", "PUT", "LIST", "HEAD", "DELETE"))
    print(f"{count} particles of box {options.box}, {megabytes:.0f} MB, at {folder}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:22s} {median:7.2f} s {megabytes / median:6.0f} MB/s {requests[name]:6d} requests")


if __name__ == "__main__":
    main()
