"""What the units of an iteration are given: one object, from which any process can compute any of them."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend, cpu_backend, cuda_backend
from kernels.geometry import padded_radius, padded_squared_radius
from kernels.likelihood import Mask, Model, Particle, Rules, Search
from kernels.projection import reference_rft
from runner.errors import UsageError
from runner.execute.images import ParticleSource, StoreSource, open_source
from runner.formats.checkpoint import pack, unpack
from runner.formats.particles import read_particles
from runner.model.particles import ParticleTable
from runner.plan.memory import WITHOUT_BUDGET, Shares
from runner.refinement.memory import Recent
from runner.store.cache import open_cache
from runner.store.objects import absolute, read_bytes, write_bytes
from runner.store.particles import ParticleStore
from runner.store.together import begun

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Transform = npt.NDArray[np.complex128]

SET_ASIDE = -1


@dataclass(frozen=True)
class Where:
    """Where the particles are.

    Attributes
    ----------
    url : of the table; ctf : whether CTFs are used; digest : changes with what the table names.
    store : particle store that holds the volumes, empty where they are in files of their own.
    position, row_number : (n,) particle of the store, and row of the STAR file from 1 up, of each row of the table;
        empty without a store: then a process reads the table itself.
    """

    url: str
    ctf: bool
    digest: str
    store: str
    position: IntArray
    row_number: IntArray


@dataclass(frozen=True)
class Computing:
    """How units are computed, as far as their bytes depend on it."""

    precision: str
    gpu: bool
    reserved_bytes: int
    tf32: bool = False

    @property
    def complex(self) -> np.dtype[Any]:
        """Complex dtype of bulk arrays."""
        return np.result_type(self.precision, np.complex64)


@dataclass(frozen=True)
class Device:
    """Where a process computes, on which no byte depends: the number of its GPU, how many units share it, and what
    the process may spend on speed.
    """

    gpu: int = 0
    units: int = 1
    shares: Shares = WITHOUT_BUDGET


@dataclass(frozen=True)
class ParticleRows:
    """What is known of the particles beside their volumes, by row of the particle table.

    Attributes
    ----------
    angles_deg, prior_angles_deg : (n, 3) rot, tilt, psi; origins_angst, prior_origins_angst : (n, 3) x, y, z.
    half : (n,) position of the half model, -1 for particles that were set aside; group : (n,) noise group.
    only_class : (n,) 0-based class to which a particle is restricted, -1 for all; ctf_premultiplied : (n,) bool.
    """

    angles_deg: FloatArray
    origins_angst: FloatArray
    prior_angles_deg: FloatArray
    prior_origins_angst: FloatArray
    half: IntArray
    group: IntArray
    only_class: IntArray
    ctf_premultiplied: npt.NDArray[np.bool_]

    def particle(self, row: int, volume: Any, ctf_rft: Any) -> Particle:
        """One particle as the E-step takes it."""
        return Particle(
            index=row,
            volume=volume,
            ctf_rft=ctf_rft,
            ctf_premultiplied=bool(self.ctf_premultiplied[row]),
            group=int(self.group[row]),
            angles_deg=self.angles_deg[row],
            origin_angst=self.origins_angst[row],
            prior_angles_deg=self.prior_angles_deg[row],
            prior_origin_angst=self.prior_origins_angst[row],
            only_class=int(self.only_class[row]),
        )


@dataclass(frozen=True)
class ExpectationInput:
    """Input of the E-step of one iteration, with one model, search and stack of references for each half.

    Attributes
    ----------
    models : without their transforms, which every process makes itself: maps are many times smaller.
    references : (K, N, N, N) maps of each half.
    lowest_shell : shells up to this one are left out of the comparison, -1 for none.
    skip_bad : particles that cannot be used are set aside; otherwise the first one ends the run.
    """

    where: Where
    rows: ParticleRows
    models: list[Model]
    references: list[FloatArray]
    lowest_shell: int
    searches: list[Search]
    mask: Mask
    rules: Rules
    computing: Computing
    skip_bad: bool


@dataclass(frozen=True)
class NoiseInput:
    """Input of the spectra that the initial noise is estimated from.

    ``half`` and ``group`` are those of `ParticleRows`, ``halves`` and ``groups`` their numbers; particles of ``box``
    voxels are masked before, unless the mask fills with noise.
    """

    where: Where
    half: IntArray
    group: IntArray
    halves: int
    groups: int
    box: int
    mask: Mask
    skip_bad: bool


@dataclass(frozen=True)
class Particles:
    """The particles of a run: the source of their volumes, and how a row is called in messages."""

    where: Where
    source: ParticleSource
    describe: Callable[[int], str]


@dataclass(frozen=True)
class Opened:
    """An input of the E-step, ready to compute with: transforms made and on the device, particles found."""

    given: ExpectationInput
    models: list[Model]
    particles: Particles
    backend: Backend


_opened: Recent[Any] = Recent(2)
_particles: Recent[Particles] = Recent(2)


def particles_of(table: ParticleTable, ctf: bool) -> Particles:
    """The particles of a table, remembered for the units that this process computes.

    Raises
    ------
    InputError
        When ``ctf`` is asked for and the particles name no CTF volumes.
    """
    names = "\n".join([*table.image_urls, *(table.ctf_urls or []), *map(str, table.optics)])
    position, row_number = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    source = open_source(table, ctf)
    if isinstance(source, StoreSource):
        position, row_number = np.array(source.positions), table.row_number
    digest = hashlib.sha256(names.encode()).hexdigest()
    where = Where(table.source, ctf, digest, absolute(table.store), position, row_number)
    particles = Particles(where, source, table.describe)
    _particles.put(_key(where), particles)
    return particles


def find_particles(where: Where) -> Particles:
    """The particles that ``where`` names, found at most once in this process."""

    def find() -> Particles:
        if not where.store:
            table = read_particles(where.url)
            return Particles(where, open_source(table, where.ctf), table.describe)
        store = ParticleStore.open(where.store, open_cache())

        def describe(row: int) -> str:
            name = list(store.sources()["images"])[where.position[row]]
            return f"{where.url} row {where.row_number[row]} ({name})"

        return Particles(where, StoreSource(store, where.position.tolist()), describe)

    return _particles.get(_key(where), find)


def _key(where: Where) -> str:
    return f"{where.url} {where.store} {where.ctf} {where.digest}"


@cache
def open_backend(computing: Computing, device: Device = Device()) -> Backend:
    """The device of this process.

    Raises
    ------
    RuntimeError
        A GPU is asked for and cannot be used.
    """
    if not computing.gpu:
        return cpu_backend(computing.precision, 2 * device.shares.references_bytes)
    return cuda_backend(
        computing.precision,
        device=device.gpu,
        reserved_bytes=computing.reserved_bytes,
        units=device.units,
        tf32=computing.tf32,
    )


def transform_references(references: FloatArray, pad: float, r_max: int) -> list[Transform]:
    """Oversampled transforms of the references (K, N, N, N) of one half."""
    return [reference_rft(reference, pad, r_max) for reference in references]


def limit_low_resolution(transforms: list[Transform], lowest_shell: int, pad: float) -> None:
    """Take away, in place, the shells up to ``lowest_shell`` from the comparison."""
    if lowest_shell < 0:
        return
    for transform in transforms:
        transform[padded_squared_radius(transform.shape[0]) <= padded_radius(lowest_shell, pad) ** 2] = 0


def with_transforms(model: Model, transforms: list[Transform], backend: Backend) -> Model:
    """The model of one half with the transforms of its references on the device."""
    return replace(model, references_rft=[backend.xp.asarray(each, dtype=backend.complex) for each in transforms])


def write_input(url: str, given: ExpectationInput | NoiseInput) -> tuple[str, Future[object]]:
    """Begin to write the input of an iteration; returns its digest, by which units know it, and the end of writing."""
    data = pack(given)
    return hashlib.sha256(data).hexdigest()[:16], begun(url, partial(write_bytes, url, data))


def remember(url: str, digest: str, opened: Opened | NoiseInput) -> None:
    """Keep an input for the units that this process computes, so that it is not read back."""
    _opened.put(f"{url} {digest}", opened)


def forget(url: str, digest: str) -> None:
    """Let go of an input whose units are done."""
    _opened.pop(f"{url} {digest}")


def find_input(url: str, digest: str, device: Device) -> Opened:
    """The input at ``url``, read and opened at most once in this process.

    Raises
    ------
    UsageError
        This process has no GPU that works, but was promised one.
    """

    def find() -> Opened:
        given = unpack(ExpectationInput, read_bytes(url), url)
        try:
            backend = open_backend(given.computing, device)
        except RuntimeError as error:
            raise UsageError(
                f"--gpu: {error} on {socket.gethostname()}; give every worker a GPU that works, or leave --gpu out"
            ) from error
        models = []
        for model, references in zip(given.models, given.references, strict=True):
            transforms = transform_references(references, model.pad, model.r_max)
            limit_low_resolution(transforms, given.lowest_shell, model.pad)
            models.append(with_transforms(model, transforms, backend))
        return Opened(given, models, find_particles(given.where), backend)

    opened: Opened = _opened.get(f"{url} {digest}", find)
    return opened


def find_noise_input(url: str, digest: str) -> NoiseInput:
    """The input at ``url`` of the initial noise, read at most once in this process."""
    given: NoiseInput = _opened.get(f"{url} {digest}", lambda: unpack(NoiseInput, read_bytes(url), url))
    return given
