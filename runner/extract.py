"""``tomoburst extract``: subtomograms from tomograms, at the positions of a STAR file.

Positions are checked against the headers of the tomograms before anything is written. Each task then reads the rows of
voxels that some neighbouring boxes need and writes their volumes; the STAR file of the particles comes last. What an
interrupted extraction finished is found and kept.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import ctf
from kernels.noise import normalise_background
from runner.errors import InputError, StorageError
from runner.execute.images import read_ctf_volume
from runner.execute.local import ordered_map
from runner.execute.protocol import Task
from runner.execute.tomogram import Tomogram, read_boxes
from runner.execution import open_executor
from runner.extraction.cuts import Cut, open_tomograms, plan_cuts
from runner.formats.mrc import format_mrc, write_mrc
from runner.formats.positions import Positions, particle_blocks, read_positions
from runner.formats.star import format_star
from runner.model.particles import Optics
from runner.plan.extract_config import ExtractConfig
from runner.plan.flags import changed_flags
from runner.report.events import Events, ParticleSetAside, RunFinished, RunStarted, StageStarted, UnitFinished
from runner.store import objects

STAR = "particles.star"
WORK = "extraction"
CLAIM = f"{WORK}/inputs.json"  # says what the folder is made from; stays
WRITERS = 8
MOST_PARTICLES, MOST_BYTES = 32, 2**27  # of a task


@dataclass(frozen=True)
class _Plan:
    """What is extracted.

    Attributes
    ----------
    cuts : the boxes of all positions; ``kept`` those that are not skipped.
    ctf_names : CTF volume of each particle that is kept; None: none.
    ctf_content : the volume that is written for all of them; empty where the STAR file names its own.
    inputs : digests and settings that the volumes depend on.
    """

    positions: Positions
    voxel_size_angst: float
    cuts: list[Cut]
    ctf_names: list[str] | None
    ctf_content: bytes
    inputs: dict[str, Any]

    @property
    def kept(self) -> list[Cut]:
        return [cut for cut in self.cuts if not cut.skipped]


def run_extract(config: ExtractConfig, events: Events) -> None:
    """Extract as ``config`` says.

    Raises
    ------
    InputError, StorageError
        Data or storage do not allow it; before anything is written where the headers of the tomograms tell it.
    """
    config.validate()
    plan = _plan(config)
    for note in plan.positions.notes:
        events.note(note)
    events.emit(RunStarted("extract", config.o, len(plan.kept), {"box": config.extract_size}))
    star = objects.join(config.o, STAR)
    tasks = _tasks(plan, config)
    _begin(plan, config)
    if objects.exists(star):
        events.note(f"{star}: these particles are already there")
    else:
        _extract(plan, tasks, config, events)
    objects.delete(_mark(config.o, task.id) for task in tasks)
    for cut in plan.cuts:
        if cut.skipped:
            events.emit(ParticleSetAside(cut.image_name, cut.row + 1, cut.skipped))
    events.emit(RunFinished("extract", files=(star,)))


def _plan(config: ExtractConfig) -> _Plan:
    """Everything that can be told without reading a voxel of the tomograms."""
    positions = read_positions(config.i, config.centered, config.coords_angpix > 0)
    tomograms = open_tomograms(positions, config)
    cuts = plan_cuts(positions, tomograms, config)
    voxel_size = next(iter(tomograms.values())).voxel_size_angst
    names, content = _ctf(positions, [cut for cut in cuts if not cut.skipped], voxel_size, config)
    urls = sorted({each.tomogram.url for each in tomograms.values()})
    inputs = {
        "flags": changed_flags(replace(config, i="", o="", tomogram="", ctf_file=""), results_only=True),
        "star": hashlib.sha256(positions.star).hexdigest(),
        "tomograms": {url: objects.file_digest(url) for url in urls},
        "ctf": hashlib.sha256(json.dumps(names).encode() + content).hexdigest(),
    }
    return _Plan(positions, voxel_size, cuts, names, content, inputs)


def _ctf(
    positions: Positions, kept: list[Cut], voxel_size_angst: float, config: ExtractConfig
) -> tuple[list[str] | None, bytes]:
    """Names of the CTF volumes of all particles, and the content of the one that is written for them."""
    if config.wedge > 0:
        wedge = ctf.wedge(ctf.centred_frequencies(config.extract_size), config.wedge)
        return ["ctf/wedge.mrc"] * len(kept), format_mrc(wedge, voxel_size_angst)
    optics = Optics(1, "", voxel_size_angst, config.extract_size, False, columns={})
    if config.ctf_file:
        read_ctf_volume(config.ctf_file, optics, f"--ctf_file {config.ctf_file}")
        return ["ctf/ctf.mrc"] * len(kept), objects.read_bytes(config.ctf_file)
    column = positions.columns.get("rlnCtfImage", [])
    if set(column) <= {"", "None"}:
        return None, b""
    names = [column[cut.row] for cut in kept]
    urls = objects.resolve_all(names, positions.source, lambda index: f"{kept[index].where}, rlnCtfImage")
    read_ctf_volume(urls[0], optics, f"{kept[0].where}, rlnCtfImage")
    return [objects.absolute(url) for url in urls], b""


def _begin(plan: _Plan, config: ExtractConfig) -> None:
    """Claim the folder for these inputs."""
    claim = objects.join(config.o, CLAIM)
    if config.overwrite:
        _remove(config.o)
    if not objects.exists(claim):
        found = objects.list_objects(config.o)
        if found:
            raise InputError(f"{config.o}: holds other things and no extraction ({found[0].url}); give another --o")
        if objects.create_bytes(claim, json.dumps(plan.inputs).encode()):
            return
    theirs = json.loads(objects.read_bytes(claim))
    differ = [name for name, value in plan.inputs.items() if theirs[name] != value]
    if differ:
        raise InputError(
            f"{config.o}: holds subtomograms of another extraction (other {', '.join(differ)}); give another --o, or "
            "--overwrite to extract anew"
        )


def _remove(folder: str) -> None:
    """Remove an extraction, finished or not; anything else is left alone."""
    claim = objects.join(folder, CLAIM)
    if not objects.exists(claim):
        return
    objects.delete([objects.join(folder, STAR)])
    below = [objects.join(folder, part) for part in (WORK, "subtomo", "ctf")]
    objects.delete(each.url for part in below for each in objects.list_objects(part) if each.url != claim)
    objects.delete([claim])


def _extract(plan: _Plan, tasks: list[Task], config: ExtractConfig, events: Events) -> None:
    """Make the volumes that are missing, and then the STAR file."""
    marks = objects.list_names(objects.join(config.o, WORK))
    missing = [task for task in tasks if f"{task.id}.json" not in marks]
    done = len(tasks) - len(missing)
    if plan.ctf_names and plan.ctf_content:
        objects.write_bytes(objects.join(config.o, plan.ctf_names[0]), plan.ctf_content)
    events.emit(StageStarted("extracting", len(tasks)))
    with open_executor(config, events) as executor:
        for outcome in executor.run(missing):
            if outcome.error is not None:
                raise outcome.error
            done += 1
            events.emit(UnitFinished(done, len(tasks), outcome.task.id, outcome.worker))
    star = _star(plan, config)
    url = objects.join(config.o, STAR)
    if not objects.create_bytes(url, star) and objects.read_bytes(url) != star:
        raise StorageError(f"{url}: was written by something else at the same time; give another --o")


def _star(plan: _Plan, config: ExtractConfig) -> bytes:
    kept = plan.kept
    blocks = particle_blocks(
        plan.positions,
        rows=[cut.row for cut in kept],
        image_names=[cut.image_name for cut in kept],
        tomogram_names=[plan.positions.tomogram_names[cut.row] or objects.basename(cut.tomogram.url) for cut in kept],
        centres_px=np.array([cut.centre for cut in kept]),
        origins_angst=np.array([cut.origin_angst for cut in kept]),
        ctf_names=plan.ctf_names,
        box=config.extract_size,
        voxel_size_angst=plan.voxel_size_angst,
    )
    return format_star(blocks).encode()


def _tasks(plan: _Plan, config: ExtractConfig) -> list[Task]:
    """Boxes of one tomogram that lie near each other, so that they share the rows that are read."""
    box = config.extract_size
    most = max(1, min(MOST_PARTICLES, MOST_BYTES // (4 * box**3)))
    groups = [
        cuts[first : first + most]
        for _, same in groupby(sorted(plan.kept, key=lambda cut: _nearness(cut, box)), lambda cut: cut.tomogram.url)
        for cuts in [list(same)]
        for first in range(0, len(cuts), most)
    ]
    return [
        Task(
            f"boxes_{number:06d}",
            "runner.extract:extract_boxes",
            {
                "o": objects.absolute(config.o),
                "task": f"boxes_{number:06d}",
                "tomogram": {**asdict(cuts[0].tomogram), "url": objects.absolute(cuts[0].tomogram.url)},
                "box": box,
                "voxel_size_angst": plan.voxel_size_angst,
                "invert": config.invert_contrast,
                "background_radius_px": config.background_radius_px(),
                "particles": [{"file": cut.image_name, "start": cut.start, "where": cut.where} for cut in cuts],
            },
        )
        for number, cuts in enumerate(groups)
    ]


def _nearness(cut: Cut, box: int) -> tuple[Any, ...]:
    """Layers as thick as a box, and in each from row to row: a plane is read for two layers, a row for few tasks."""
    z, y, x = cut.start
    return cut.tomogram.url, z // box, y, x, cut.row


def _mark(folder: str, task_id: str) -> str:
    """Where a task notes that it is done."""
    return objects.join(folder, f"{WORK}/{task_id}.json")


def extract_boxes(spec: dict[str, Any]) -> dict[str, Any]:
    """Task: read the boxes of some particles, write their volumes, and note that it is done.

    Raises
    ------
    InputError
        Naming the row, when a box holds NaN or nothing.
    """
    facts = spec["tomogram"]
    tomogram = Tomogram(facts["url"], tuple(facts["shape"]), facts["dtype"], facts["data_offset"])
    particles = spec["particles"]
    boxes = read_boxes(tomogram, [tuple(each["start"]) for each in particles], spec["box"])
    volumes = [
        _finished(box, each["where"], spec["invert"], spec["background_radius_px"])
        for box, each in zip(boxes, particles, strict=True)
    ]
    write = partial(_write, spec["o"], spec["voxel_size_angst"])
    names = (each["file"] for each in particles)
    for _ in ordered_map(write, zip(names, volumes, strict=True), WRITERS):
        pass
    objects.write_bytes(_mark(spec["o"], spec["task"]), b"{}")
    return {"particles": len(particles)}


def _finished(
    box: npt.NDArray[np.float32], where: str, invert: bool, background_radius_px: float | None
) -> npt.NDArray[np.float32]:
    """The volume that is written: contrast and grey scale as asked for."""
    bad = box.size - int(np.count_nonzero(np.isfinite(box)))
    if bad:
        raise InputError(f"{where}: {bad} of {box.size} voxels of its box are NaN or infinite; leave the row out")
    if box.min() == box.max():
        raise InputError(f"{where}: every voxel of its box is {box.min():g}; leave the row out")
    if invert:
        box = -box
    if background_radius_px is None:
        return box
    radius = background_radius_px or -1.0  # 0: the voxel at the centre counts too
    try:
        return normalise_background(box.astype(np.float64), radius)[0].astype(np.float32)
    except ValueError as error:
        raise InputError(f"{where}: {error}; give a smaller --bg_radius, or leave the row out") from error


def _write(folder: str, voxel_size_angst: float, named: tuple[str, npt.NDArray[np.float32]]) -> None:
    name, volume = named
    write_mrc(objects.join(folder, name), volume, voxel_size_angst)
