"""`tomoburst ingest`: the volumes of a particle STAR file into one particle store, from which every later run reads.

Each chunk of particles is read from its MRC files, checked and written by a task of its own; the store is complete when
its group metadata exist. What an interrupted ingestion finished is found and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from runner.errors import InputError, StorageError
from runner.execute.images import read_ctf_volume, read_subtomogram
from runner.execute.local import ordered_map
from runner.execute.protocol import Executor, Task
from runner.execution import open_executor
from runner.formats.particles import read_particles
from runner.model.particles import Optics, ParticleTable
from runner.plan.ingest_config import IngestConfig
from runner.plan.units import batch_size
from runner.report.events import Events, ParticleSetAside, RunFinished, RunStarted, StageStarted, UnitFinished
from runner.store import objects
from runner.store import particles as stores
from runner.store.cache import ChunkCache
from runner.store.particles import Contents, Layout, ParticleStore

READERS = 8  # files of a chunk that are read at a time: a store answers slowly, but many at once
WORK = "sources/ingestion"  # what is only needed until the store is complete; inside of an array Zarr looks away
CLAIM = f"{WORK}/inputs.json"  # says for which particles the place is; stays


@dataclass(frozen=True)
class IngestSettings:
    """How particles are ingested: their type in the store, what happens to bad ones, and to an earlier store."""

    dtype: str = "float32"
    on_bad_particle: str = "fail"
    overwrite: bool = False


def run_ingest(config: IngestConfig, events: Events) -> None:
    """Ingest as ``config`` says.

    Raises
    ------
    InputError, StorageError
        Data or storage do not allow it; what was finished is kept.
    """
    table = read_particles(config.i)
    for note in table.notes:
        events.note(note)
    events.emit(RunStarted("ingest", config.o, len(table)))
    settings = IngestSettings("float16" if config.float16 else "float32", config.on_bad_particle, config.overwrite)
    with open_executor(config, events) as executor:
        store = ensure_ingested(table, config.o, executor, events, settings)
    for row, reason in sorted(store.bad.items()):
        events.emit(ParticleSetAside(table.image_names[row], int(table.row_number[row]), reason))
    events.emit(RunFinished("ingest", files=(config.o,)))


def ensure_ingested(
    table: ParticleTable,
    url: str,
    executor: Executor,
    events: Events,
    settings: IngestSettings | None = None,
    cache: ChunkCache | None = None,
) -> ParticleStore:
    """The store at ``url`` with all particles of ``table``, as read from a STAR file; it is made where it is not there.

    Parameters
    ----------
    cache : for the chunks of the store that is returned.

    Raises
    ------
    InputError
        When a particle cannot be used and is not to be skipped, or when something else lies at ``url``.
    StorageError
        When the store fails; the same call later makes what is missing.
    """
    settings = settings or IngestSettings()
    plan = _plan(table, settings)
    if settings.overwrite:
        _remove(url)
    contents = stores.read_contents(url)
    if contents is None:
        contents = _ingest(plan, url, executor, events, settings)
    elif contents.inputs != plan.digest:
        raise InputError(_difference(url, plan, contents.layout.dtype, contents.sha256["star"]))
    else:
        events.note(f"{url}: these particles are already there and are used")
        claim = objects.join(url, CLAIM)
        objects.delete([each.url for each in objects.list_objects(objects.join(url, WORK)) if each.url != claim])
    store = ParticleStore(url, contents, cache)
    if store.bad and settings.on_bad_particle == "fail":
        reason = next(iter(store.bad.values()))
        raise InputError(f"{reason} (it was set aside when {url} was made; --on_bad_particle skip goes on without it)")
    return store


@dataclass(frozen=True)
class _Plan:
    """What is to be stored: the table, its STAR file, and the distinct CTF volumes by the first row that uses each."""

    table: ParticleTable
    star: bytes
    layout: Layout
    ctf_index: npt.NDArray[np.int64]
    ctf_rows: list[int]
    sources: dict[str, Any]
    digest: str


def _plan(table: ParticleTable, settings: IngestSettings) -> _Plan:
    star = objects.read_bytes(table.source)
    first = table.optics[table.optics_index[0]]
    for index in np.unique(table.optics_index):
        optics = table.optics[index]
        if (optics.image_size, optics.pixel_size_angst) != (first.image_size, first.pixel_size_angst):
            raise InputError(
                f"{table.source}: optics group {optics.name} has {optics.image_size} voxels of "
                f"{optics.pixel_size_angst:g} A, {first.name} has {first.image_size} of {first.pixel_size_angst:g} A; "
                "a particle store holds one box and voxel size: extract all particles alike, or ingest them apart"
            )
    ctf_index, ctf_rows = _distinct_ctfs(table)
    chunk_size = batch_size(len(table))
    sources = _sources(table)
    layout = Layout(
        particles=len(table),
        ctfs=len(ctf_rows),
        box=first.image_size,
        voxel_size_angst=first.pixel_size_angst,
        chunk_size=chunk_size,
        ctf_chunk_size=chunk_size if len(ctf_rows) == len(table) else 1,
        dtype=settings.dtype,
    )
    states = [[name, state] for kind in ("images", "ctfs") for name, (_, state, *_) in sources[kind].items()]
    inputs = json.dumps([hashlib.sha256(star).hexdigest(), asdict(layout), states])
    return _Plan(table, star, layout, ctf_index, ctf_rows, sources, hashlib.sha256(inputs.encode()).hexdigest())


def _distinct_ctfs(table: ParticleTable) -> tuple[npt.NDArray[np.int64], list[int]]:
    """CTF volume of each particle, numbered in the order of their first use, and the row of that use."""
    if table.ctf_urls is None:
        return np.zeros(0, dtype=np.int64), []
    first: dict[tuple[str, bool], int] = {}
    rows: list[int] = []
    index = np.zeros(len(table), dtype=np.int64)
    for row, url in enumerate(table.ctf_urls):
        key = (url, table.optics[table.optics_index[row]].ctf_squared)
        if key not in first:
            first[key] = len(rows)
            rows.append(row)
        index[row] = first[key]
    return index, rows


def _sources(table: ParticleTable) -> dict[str, Any]:
    """What `ParticleStore.sources` returns."""
    state = _states([*table.image_urls, *(table.ctf_urls or [])])
    ctf_names = table.ctf_names or [""] * len(table)
    images = zip(table.image_names, table.image_urls, ctf_names, strict=True)
    ctfs = zip(table.ctf_names or [], table.ctf_urls or [], strict=True)
    return {
        "images": {name: [url, state[url], ctf] for name, url, ctf in images},
        "ctfs": {name: [url, state[url]] for name, url in ctfs},
    }


def _states(urls: list[str]) -> dict[str, str]:
    """Size and ETag or time of change of each file, from one listing for each folder."""
    known: dict[str, str] = {}
    listed: set[str] = set()
    for url in urls:
        folder = objects.parent(url)
        if url not in known and folder and folder not in listed:
            listed.add(folder)
            known.update((each.url, each.digest) for each in objects.list_objects(folder))
        if url not in known:
            known[url] = objects.file_digest(url)
    return known


def _ingest(plan: _Plan, url: str, executor: Executor, events: Events, settings: IngestSettings) -> Contents:
    """Make what is missing of the store, and declare it complete."""
    finished = _begin(plan, url)
    found = frozenset(finished)
    missing = (task for task in _tasks(plan, url, settings) if task.id not in found)
    done, total = len(found), plan.layout.chunks("particles") + plan.layout.chunks("ctf")
    events.emit(StageStarted("ingesting", total))
    for outcome in executor.run(missing):
        if outcome.error is not None:
            raise outcome.error
        assert outcome.result is not None
        finished[outcome.task.id] = outcome.result
        done += 1
        events.emit(UnitFinished(done, total, outcome.task.id, outcome.worker))
    bad = dict(sorted((int(row), why) for result in finished.values() for row, why in result["bad"].items()))
    if len(bad) == plan.layout.particles:
        raise InputError(f"{plan.table.source}: none of {len(bad)} particles can be used; the first: {bad[0]}")
    contents = Contents(plan.layout, plan.digest, bad, _write_index(plan, url, finished))
    if not stores.commit(url, contents):
        other = stores.read_contents(url)
        if other is None or other.inputs != plan.digest:
            raise StorageError(f"{url}: other particles were ingested there at the same time; give another place")
    objects.delete([objects.join(url, _mark(task)) for task in finished])  # by name: a listing may miss the newest
    return contents


def _begin(plan: _Plan, url: str) -> dict[str, dict[str, Any]]:
    """Claim the place for these inputs and write what is known before any volume; returns what is finished, by task."""
    found = [each.url for each in objects.list_objects(url)]
    claim = objects.join(url, CLAIM)
    if found and not objects.exists(claim):
        raise InputError(f"{url}: holds other things and no particle store ({found[0]}); give another place")
    star_digest = hashlib.sha256(plan.star).hexdigest()
    ours = {"inputs": plan.digest, "dtype": plan.layout.dtype, "star": star_digest}
    if not objects.create_bytes(claim, json.dumps(ours).encode()):
        theirs = json.loads(objects.read_bytes(claim))
        if theirs["inputs"] != plan.digest:
            raise InputError(_difference(url, plan, theirs["dtype"], theirs["star"]))
    stores.write_arrays(url, plan.layout)
    folder = objects.join(url, WORK)
    results = [each for each in found if objects.parent(each) == folder and each != claim]
    names = [objects.basename(each).removesuffix(".json") for each in results]
    return dict(zip(names, map(json.loads, ordered_map(objects.read_bytes, results, READERS)), strict=True))


def _write_index(plan: _Plan, url: str, finished: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Write the small arrays; returns their digests."""
    whole: dict[str, npt.NDArray[Any]] = {
        "star": np.frombuffer(plan.star, dtype=np.uint8),
        "sources": np.frombuffer(json.dumps(plan.sources).encode(), dtype=np.uint8),
    }
    if plan.layout.ctfs:
        whole["ctf_index"] = plan.ctf_index.astype("<i8")
    for array in ("particles", "ctf") if plan.layout.ctfs else ("particles",):
        digests = [finished[_task_id(array, chunk)]["sha256"] for chunk in range(plan.layout.chunks(array))]
        whole[f"{array}_sha256"] = np.frombuffer(bytes.fromhex("".join(digests)), dtype=np.uint8).reshape(-1, 32)
    return {name: stores.write_whole(url, name, values) for name, values in whole.items()}


def _task_id(array: str, chunk: int) -> str:
    return f"{array}_{chunk:06d}"


def _mark(task_id: str) -> str:
    """Where a task notes that it is done, relative to the store."""
    return f"{WORK}/{task_id}.json"


def _tasks(plan: _Plan, url: str, settings: IngestSettings) -> Iterator[Task]:
    """A task for each chunk."""
    table, layout = plan.table, plan.layout
    for array, rows_of in (("particles", list(range(len(table)))), ("ctf", plan.ctf_rows)):
        for chunk in range(layout.chunks(array)):
            rows = [rows_of[index] for index in layout.rows(array, chunk)]
            spec = {
                "store": objects.absolute(url),
                "array": array,
                "chunk": chunk,
                "layout": asdict(layout),
                "skip": array == "particles" and settings.on_bad_particle == "skip",
                "volumes": [_volume(table, array, row) for row in rows],
            }
            yield Task(_task_id(array, chunk), "runner.ingest:ingest_chunk", spec)


def _volume(table: ParticleTable, array: str, row: int) -> dict[str, Any]:
    """What a task has to know of one volume."""
    optics = table.optics[table.optics_index[row]]
    volume = {"row": row, "group": optics.group, "squared": optics.ctf_squared}
    if array == "particles":
        url = table.image_urls[row]
        return {**volume, "url": objects.absolute(url), "name": url, "where": table.describe(row)}
    assert table.ctf_urls is not None
    url = table.ctf_urls[row]
    where = f"{table.describe(row)}, rlnCtfImage {url}"
    return {**volume, "url": objects.absolute(url), "name": url, "where": where}


def ingest_chunk(spec: dict[str, Any]) -> dict[str, Any]:
    """Task: read, check and store the volumes of one chunk, and note that it is done.

    Raises
    ------
    InputError
        Naming row and file, when a volume cannot be used and is not to be skipped.
    """
    layout = Layout(**spec["layout"])
    array, chunk, store_url = spec["array"], spec["chunk"], spec["store"]
    bad: dict[str, str] = {}
    volumes = []
    answers = ordered_map(partial(_read, layout, array), spec["volumes"], READERS)
    for entry, read in zip(spec["volumes"], answers, strict=True):
        if isinstance(read, InputError):
            if not spec["skip"]:
                raise read
            bad[str(entry["row"])] = str(read)
            volumes.append(np.full(layout.chunk_shape(array)[1:], np.nan, dtype=np.float32))
        else:
            volumes.append(read)
    data = stores.encode_chunk(layout, array, volumes)
    objects.write_bytes(stores.chunk_url(store_url, array, chunk), data)
    result = {"sha256": hashlib.sha256(data).hexdigest(), "bad": bad}
    mark = _mark(_task_id(array, chunk))
    objects.write_bytes(objects.join(store_url, mark), json.dumps(result).encode())
    return result


def _read(layout: Layout, array: str, entry: dict[str, Any]) -> npt.NDArray[np.float32] | InputError:
    optics = Optics(
        entry["group"], "", layout.voxel_size_angst, layout.box, False, columns={}, ctf_squared=entry["squared"]
    )
    try:
        if array == "ctf":
            return read_ctf_volume(entry["url"], optics, entry["where"])
        volume = read_subtomogram(entry["url"], optics, entry["where"])
        greatest = float(np.abs(volume).max())
        if greatest > float(np.finfo(layout.dtype).max):
            raise InputError(f"{entry['where']}: values up to {greatest:.4g} do not fit into float16; store float32")
    except InputError as error:  # names the file as the run does, so that the reason is the same whoever reads it
        return InputError(str(error).replace(entry["url"], entry["name"]))
    return volume


def _difference(url: str, plan: _Plan, dtype: str, star_digest: str) -> str:
    """Why a store that was made, or begun, at ``url`` is not the one that is asked for."""
    if dtype != plan.layout.dtype:
        what = f"as {dtype}, {plan.layout.dtype} is asked for"
    elif star_digest != hashlib.sha256(plan.star).hexdigest():
        what = f"from another STAR file than {plan.table.source} is now"
    else:
        what = f"from volumes that have changed since{_changed_volumes(url, plan)}"
    return f"{url}: holds particles that were ingested {what}; give another place, or --overwrite to ingest anew"


def _changed_volumes(url: str, plan: _Plan) -> str:
    """The first volume that has changed since a finished store was made; empty for an unfinished one."""
    contents = stores.read_contents(url)
    if contents is None:
        return ""
    then = ParticleStore(url, contents).sources()
    now = plan.sources
    kinds = ("images", "ctfs")
    names = [name for kind in kinds for name, (_, state, *_) in now[kind].items() if then[kind][name][1] != state]
    return f" ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})" if names else ""


def _remove(url: str) -> None:
    """Remove a particle store, finished or not; anything else is left alone."""
    contents = stores.read_contents(url)
    claim = objects.join(url, CLAIM)
    if contents is None and not objects.exists(claim):
        return
    objects.delete([objects.join(url, stores.GROUP_KEY)])
    found = [each.url for each in objects.list_objects(url)]
    objects.delete([each for each in found if each != claim])
    objects.delete([claim])
