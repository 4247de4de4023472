"""The table of a million particles: what reading and writing it takes a driver, and a worker.

``python -m tests.benchmarks.scale_table FOLDER [--particles 1000000] [--tomograms 500]`` makes a particle store without
particles (its table, names and digests are all there) and prints CPU time and memory of each step, for docs/scale.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil

from runner.formats.checkpoint import pack, unpack
from runner.formats.particles import data_blocks, read_particles
from runner.formats.star import format_star
from runner.model.state import PoseState
from runner.plan.units import batch_size
from runner.store.particles import Contents, Layout, commit, write_arrays, write_whole

T = TypeVar("T")

BOX = 128
HEADER = """data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnImagePixelSize
_rlnImageSize
_rlnImageDimensionality
_rlnCtfDataAreCtfPremultiplied
1 group1 1.35 128 3 0

data_particles

loop_
_rlnImageName
_rlnCtfImage
_rlnMicrographName
_rlnCoordinateX
_rlnCoordinateY
_rlnCoordinateZ
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnOriginZAngst
_rlnRandomSubset
_rlnOpticsGroup
"""


def make(url: str, particles: int, tomograms: int) -> int:
    """Make the store; returns the size of its table in bytes."""
    chance = np.random.default_rng(1)
    numbers = chance.uniform(-80, 80, (particles, 9))
    rows, images = [HEADER], {}
    for row in range(particles):
        tomogram = row * tomograms // particles
        name, ctf = f"Extract/TS_{tomogram:03d}/particle_{row:07d}.mrc", f"Extract/TS_{tomogram:03d}/wedge.mrc"
        cells = " ".join(f"{number:.6f}" for number in numbers[row])
        rows.append(f"{name} {ctf} Tomograms/TS_{tomogram:03d}.mrc {cells} {row % 2 + 1} 1\n")
        images[name] = [f"s3://bucket/project/{name}", f"8389632-{row:032x}", ctf]
    ctfs = {image[2]: [f"s3://bucket/project/{image[2]}", "8389632"] for image in images.values()}
    size = batch_size(particles)
    layout = Layout(particles, tomograms, BOX, 1.35, size, 1, "float32")
    write_arrays(url, layout)
    star = np.frombuffer("".join(rows).encode(), dtype=np.uint8)
    whole = {
        "star": star,
        "sources": np.frombuffer(json.dumps({"images": images, "ctfs": ctfs}).encode(), dtype=np.uint8),
        "ctf_index": np.arange(particles) * tomograms // particles,
        "particles_sha256": np.zeros((layout.chunks("particles"), 32), dtype=np.uint8),
        "ctf_sha256": np.zeros((tomograms, 32), dtype=np.uint8),
    }
    digests = {name: write_whole(url, name, values) for name, values in whole.items()}
    commit(url, Contents(layout, hashlib.sha256(star).hexdigest(), {}, digests))
    return len(star)


def step(name: str, function: Callable[[], T]) -> T:
    """Do one step and print its CPU time, and the memory that the process has afterwards."""
    begin = time.process_time()
    result = function()
    seconds, now = time.process_time() - begin, psutil.Process().memory_info().rss
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0])
    print(f"{name}: {seconds:.1f} s, {now / 2**20:.0f} MiB now, {peak / 2**10:.0f} MiB at most", flush=True)
    return result


def measure(url: str) -> None:
    """Read the table, pack and unpack the poses, write the STAR file of an iteration."""
    step("start", lambda: None)
    table = step("table read", lambda: read_particles(url))
    poses = step("poses", table.poses)
    poses = replace(poses, pmax=np.ones(len(table)))
    data = step("poses packed", lambda: pack(poses))
    print(f"packed poses: {len(data) / 2**20:.0f} MiB")
    step("poses unpacked", lambda: unpack(PoseState, data, "poses"))
    text = step("STAR file of an iteration", lambda: format_star(data_blocks(table, poses)))
    print(f"STAR file: {len(text) / 2**20:.0f} MiB")


def main() -> None:
    """Make the store, then measure in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--particles", type=int, default=1_000_000)
    parser.add_argument("--tomograms", type=int, default=500)
    given = parser.parse_args()
    if given.folder.endswith(".zarr"):
        measure(given.folder)
        return
    Path(given.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        url = str(Path(folder) / "particles.zarr")
        print(f"table: {make(url, given.particles, given.tomograms) / 2**20:.0f} MiB", flush=True)
        subprocess.run([sys.executable, "-m", "tests.benchmarks.scale_table", url], check=True)


if __name__ == "__main__":
    main()
