"""The tasks of a refinement: each reads its input from the store, writes one object and can be done again anywhere.

Every function here is the ``kind`` of a task: it takes the task's spec and returns a small report. The objects hold
nothing that differs between two computations, so that doing a unit twice leaves the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from kernels.clock import Clock
from kernels.expectation import DegenerateParticleError
from kernels.fourier import forward
from kernels.halving import expectation_within_memory
from kernels.likelihood import Assignment, Particle
from kernels.masks import fill_background, soft_sphere
from kernels.spectra import power_spectrum
from runner.errors import InputError
from runner.execute.local import computing
from runner.plan.memory import Shares
from runner.plan.units import batch_size
from runner.refinement.inputs import (
    SET_ASIDE,
    Device,
    NoiseInput,
    Opened,
    Particles,
    find_input,
    find_noise_input,
    find_particles,
)
from runner.refinement.result import UnitResult, packed_sums, take_result, write_result
from runner.store.objects import RequestMeter, exists

Spec = dict[str, Any]
Report = dict[str, Any]
Volume = npt.NDArray[np.float32]
Chunk = list[tuple[int, Volume | InputError, Volume | None]]

SINGLE_BYTES = 4

DEGENERATE = (
    "no pose has a weight above zero; check this particle and its CTF volume for NaN or zeros, and that particles and "
    "reference have the same grey scale (or use --firstiter_cc)"
)


def run_unit(spec: Spec) -> Report:
    """E-step of the particles of one unit.

    The spec names the ``input`` and its ``digest``, the first row ``start`` and the last one before ``stop``, the
    ``output`` and whether it may be there already, as of a worker that ended right after it wrote it, the ``gpu`` of
    this process with the number of ``units`` that share it, and what the process may spend:
    ``references_bytes`` on rotated references and ``results_bytes`` on results that wait to be merged.
    """
    clock = Clock()

    def compute() -> UnitResult:
        opened = find_input(spec["input"], spec["digest"], _device(spec))
        opened.backend.activate()
        result = UnitResult()
        for chunk in _chunks(spec, opened.particles, opened.given.rows.half, clock):
            with computing():
                result.merge(_expectation(opened, chunk, clock))
        if opened.backend.real.itemsize == SINGLE_BYTES:
            result.round_grids()
        return result

    report = _written(spec, compute)
    return report | {"stages": clock.seconds, "operations": clock.counts}


def _device(spec: Spec) -> Device:
    return Device(spec["gpu"], spec["units"], Shares(spec["references_bytes"], spec["results_bytes"], 1))


def run_noise_unit(spec: Spec) -> Report:
    """Power spectra and the sum of the particles of one unit, for the initial estimate of the noise; spec as above."""

    def compute() -> UnitResult:
        given = find_noise_input(spec["input"], spec["digest"])
        result = UnitResult()
        for chunk in _chunks(spec, find_particles(given.where), given.half, Clock()):
            with computing():
                result.merge(_spectra(given, chunk))
        return result

    return _written(spec, compute)


def run_node(spec: Spec) -> Report:
    """Merge the results named by ``members``, in this order."""

    def compute() -> UnitResult:
        result = UnitResult()
        for url in spec["members"]:
            result.merge(take_result(url))
        return result

    return _written(spec, compute)


def _written(spec: Spec, compute: Callable[[], UnitResult]) -> Report:
    """Compute and write the object of a task, unless an earlier attempt or another worker has written it."""
    _one_thread_for_products()
    started, meter = time.perf_counter(), RequestMeter()
    report = {"key": spec["output"], "bytes": 0, "bad": 0}
    if not (spec["may_be_there"] and exists(spec["output"])):
        result = compute()
        written = write_result(spec["output"], result, spec["results_bytes"])
        report |= {"bytes": written, "bad": len(result.bad)}
    return report | {"seconds": time.perf_counter() - started, "requests": meter.since()}


@cache
def _one_thread_for_products() -> None:
    """The order of the sums in a matrix product depends on the number of threads."""
    threadpool_limits(1)


def _chunks(spec: Spec, particles: Particles, half: npt.NDArray[np.int64], clock: Clock) -> Iterator[Chunk]:
    """The chunks of a unit, one after the other to bound its memory; the next one is read while one is computed.

    What is left to wait for is the stage ``read`` of the clock.
    """
    size = batch_size(len(half))
    rows = [range(start, min(start + size, spec["stop"])) for start in range(spec["start"], spec["stop"], size)]
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_read, particles, rows[0], half)
        for following in rows[1:]:
            with clock.stage("read"):
                chunk = ahead.result()
            ahead = reader.submit(_read, particles, following, half)
            yield chunk
        with clock.stage("read"):
            chunk = ahead.result()
        yield chunk


def _read(particles: Particles, rows: range, half: npt.NDArray[np.int64]) -> Chunk:
    """Row, volume and CTF of the particles of a chunk that take part; the error where one cannot be used."""
    taking_part = [row for row in rows if half[row] != SET_ASIDE]
    chunk: Chunk = []
    for row, volume in zip(taking_part, particles.source.read(taking_part), strict=True):
        if isinstance(volume, InputError) or not particles.where.ctf:
            chunk.append((row, volume, None))
            continue
        try:
            chunk.append((row, volume, particles.source.read_ctf(row)))
        except InputError as error:
            chunk.append((row, error, None))
    return chunk


def _expectation(opened: Opened, chunk: Chunk, clock: Clock) -> UnitResult:
    """E-step of one chunk, half by half."""
    given, particles = opened.given, opened.particles
    result = UnitResult()
    found: dict[int, list[Particle]] = {}
    for row, volume, ctf in _usable(chunk, given.skip_bad, result.bad):
        found.setdefault(int(given.rows.half[row]), []).append(given.rows.particle(row, volume, ctf))
    assigned: list[Assignment] = []
    for half in sorted(found):
        members = found[half]
        while members:
            try:
                sums, assignments = expectation_within_memory(
                    members, opened.models[half], given.searches[half], given.mask, given.rules, opened.backend, clock
                )
            except DegenerateParticleError as error:
                where = particles.describe(error.index)
                _set_aside(error.index, InputError(f"{where}: {DEGENERATE}"), given.skip_bad, result.bad)
                members = [particle for particle in members if particle.index != error.index]
                continue
            result.sums |= packed_sums(half, sums)
            assigned += assignments
            break
    result.rows = _assigned_rows(assigned)
    return result


def _assigned_rows(assigned: list[Assignment]) -> dict[str, npt.NDArray[Any]]:
    """Assignments as arrays, by the names of `PoseState`."""
    return {
        "row": np.array([each.index for each in assigned], dtype=np.int64),
        "angles_deg": np.array([each.angles_deg for each in assigned], dtype=np.float64).reshape(-1, 3),
        "origins_angst": np.array([each.origin_angst for each in assigned], dtype=np.float64).reshape(-1, 3),
        "class_number": np.array([each.class_index + 1 for each in assigned], dtype=np.int64),
        "log_likelihood": np.array([each.log_likelihood for each in assigned], dtype=np.float64),
        "pmax": np.array([each.pmax for each in assigned], dtype=np.float64),
        "significant_samples": np.array([each.significant_samples for each in assigned], dtype=np.int64),
    }


def _spectra(given: NoiseInput, chunk: Chunk) -> UnitResult:
    """Sums of the spectra by half and group, (H, G, S), their numbers and the sum of the particles of one chunk."""
    result = UnitResult()
    sphere = soft_sphere(given.box, given.mask.radius_px, given.mask.edge_px) if given.mask.zero_fill else None
    power = np.zeros((given.halves, given.groups, given.box // 2 + 1))
    count = np.zeros((given.halves, given.groups), dtype=np.int64)
    total = np.zeros((given.box,) * 3)
    for row, read, _ in _usable(chunk, given.skip_bad, result.bad):
        volume = read.astype(np.float64)
        if sphere is not None:
            volume = fill_background(volume, sphere)
        power[given.half[row], given.group[row]] += power_spectrum(forward(volume))
        count[given.half[row], given.group[row]] += 1
        total += volume
    result.sums = {"power": power, "count": count, "volume": total}
    return result


def _usable(chunk: Chunk, skip_bad: bool, bad: dict[int, str]) -> Iterator[tuple[int, Volume, Volume | None]]:
    """The particles of a chunk that can be used; the others are set aside in ``bad``."""
    for row, volume, ctf in chunk:
        if isinstance(volume, InputError):
            _set_aside(row, volume, skip_bad, bad)
        else:
            yield row, volume, ctf


def _set_aside(row: int, error: InputError, skip_bad: bool, bad: dict[int, str]) -> None:
    """Set a particle aside with its reason, or end the unit with it."""
    if not skip_bad:
        raise error
    bad[row] = str(error)
