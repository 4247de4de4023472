"""Paired timing of one refinement with everything on the local disk and everything in a bucket on loopback.

``python -m tests.benchmarks.storage DATA_FOLDER ... [--searches local global] [--rounds 5] [--threads 2]`` prints a
table for docs/storage.md. A round is one run on the disk and one in the bucket, each a whole process with a new output
prefix, and every other round begins with the bucket, so that the load of the machine hits both alike; the S3 server of
the tests runs on the same machine. The files of both are compared. ``store`` reads the particles from a particle store,
so that both sides do the same; ``files`` from a STAR file, which the run in the bucket ingests first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from runner.store import objects
from tests.accuracy.run import COMMANDS, DIAMETER_ANGST, prepare
from tests.benchmarks.processes import Timing, timed
from tests.parity.programs import TOMOBURST
from tests.store.s3_server import running

BUCKET = "s3://benchmark"
HEADER = (
    "| set | search | particles from | rounds | wall s, disk / S3 | ratio (spread) | CPU s, disk / S3 | ratio | "
    "requests to S3 an iteration | files with other bytes |\n|---|---|---|---|---|---|---|---|---|---|"
)
METHODS = ("GET", "PUT", "LIST", "HEAD", "DELETE")


@dataclass(frozen=True)
class Side:
    """One of the two places: the URL of its folder, and the timings of its runs."""

    place: str
    timings: list[Timing]

    def median(self, kind: str) -> float:
        """Median seconds of ``wall_s`` or ``cpu_s``."""
        return statistics.median(float(getattr(timing, kind)) for timing in self.timings)


def copy(folder: Path, place: str) -> None:
    """Put the particles, their CTFs and the reference into the bucket."""
    for path in sorted([folder / "particles.star", folder / "rec.mrc", *folder.glob("*/*.mrc")]):
        objects.write_bytes(f"{place}/{path.relative_to(folder)}", path.read_bytes())


def requests(place: str) -> str:
    """Median requests of the iterations after the second one, by kind."""
    lines = [json.loads(line) for line in objects.read_bytes(f"{place}/out/run_events.jsonl").splitlines()]
    every = [Counter[str](line["store"]) for line in lines if line["event"] == "iteration_finished"][2:]
    return ", ".join(f"{statistics.median(each[kind] for each in every):g} {kind}" for kind in METHODS)


def differing(disk: str, place: str) -> str:
    """How many of the files of the run that name no others are not the same in both places."""
    names = {each.url.removeprefix(f"{disk}/") for each in objects.list_objects(f"{disk}/out")}
    names = {name for name in names if name.endswith((".mrc", ".bild", "_data.star", "_sampling.star"))}
    others = [name for name in names if objects.read_bytes(f"{disk}/{name}") != objects.read_bytes(f"{place}/{name}")]
    return f"{len(others)} of {len(names)}"


def measure(sides: list[Side], folder: Path, particles: str, flags: list[str], rounds: int) -> str:
    """The last cells of a row; a first round, in which kernels are compiled and caches filled, does not count."""
    disk, bucket = sides
    for number in range(rounds + 1):
        for side in (disk, bucket) if number % 2 else (bucket, disk):
            objects.delete([each.url for each in objects.list_objects(f"{side.place}/out")])
            files = ["--i", f"{side.place}/{particles}", "--ref", f"{side.place}/rec.mrc"]
            timing = timed([*TOMOBURST, "refine", *files, "--o", f"{side.place}/out/run", *flags], folder)
            if number:
                side.timings.append(timing)
    pairs = [theirs.wall_s / ours.wall_s for ours, theirs in zip(disk.timings, bucket.timings, strict=True)]
    wall, cpu = ([side.median(kind) for side in sides] for kind in ("wall_s", "cpu_s"))
    cells = [str(rounds), f"{wall[0]:.1f} / {wall[1]:.1f}"]
    cells += [f"{wall[1] / wall[0]:.2f} ({min(pairs):.2f}–{max(pairs):.2f})", f"{cpu[0]:.1f} / {cpu[1]:.1f}"]
    cells += [f"{cpu[1] / cpu[0]:.2f}", requests(bucket.place), differing(disk.place, bucket.place)]
    return " | ".join(cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--searches", nargs="+", choices=("local", "global"), default=["local"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=99)
    parser.add_argument("--particles", nargs="+", choices=("store", "files"), default=["store", "files"])
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, --j {options.threads}\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as temporary, running() as server:
        os.environ.update(server.environment)
        server.client.mkdir(BUCKET)
        for data in options.data:
            name = data.resolve().name
            folder, place = Path(temporary) / name, f"{BUCKET}/{name}"
            prepare(data, folder, 0.0)
            copy(folder, place)
            for each in (str(folder), place):
                timed([*TOMOBURST, "ingest", "--i", f"{each}/particles.star", "--o", f"{each}/particles.zarr"], folder)
            for search, kind in product(options.searches, options.particles):
                particles = {"store": "particles.zarr", "files": "particles.star"}[kind]
                sides = [Side(str(folder), []), Side(place, [])]
                cells = measure(sides, folder, particles, settings(name, search, options), options.rounds)
                print(f"| `{name}` | {search} | {particles} | {cells} |", flush=True)


def settings(name: str, search: str, options: argparse.Namespace) -> list[str]:
    """Flags of the accuracy run of one data set."""
    flags = COMMANDS[search].replace("--i particles.star --ref rec.mrc ", "").split()
    flags += ["--particle_diameter", str(DIAMETER_ANGST.get(name, 250)), "--random_seed", "7"]
    return [*flags, "--j", str(options.threads), "--auto_iter_max", str(options.iterations)]


if __name__ == "__main__":
    main()
