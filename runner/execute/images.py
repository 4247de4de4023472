"""Reading the volumes of particles, from their MRC files or from a particle store: checked and in one layout."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kernels.wedge import half_ctf
from runner.errors import InputError
from runner.formats.mrc import read_mrc
from runner.formats.volumes import check_ctf_shape, check_particle_header
from runner.store.cache import open_cache
from runner.store.particles import ParticleStore

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from runner.formats.mrc import Volume
    from runner.model.particles import Optics, ParticleTable

DEFAULT_CACHE_BYTES = 2**28


class ParticleSource(Protocol):
    """Where the volumes of the particles of a table come from; safe to use from several threads."""

    @property
    def bad(self) -> dict[int, str]:
        """Why rows that were set aside earlier cannot be used; others may turn out to be bad when they are read."""

    def read(self, rows: Iterable[int]) -> Iterator[npt.NDArray[np.float32] | InputError]:
        """Yield for each row its subtomogram, (N, N, N) float32, z y x, or the error that tells why it is unusable."""

    def read_ctf(self, row: int) -> npt.NDArray[np.float32]:
        """Return the CTF of a row in half layout, (N, N, N//2 + 1) float32, read only; the CTF itself, not its square.

        Raises
        ------
        InputError
            When it cannot be used.
        """


def open_source(table: ParticleTable, ctf: bool) -> ParticleSource:
    """Source of the volumes of ``table``, which was read from a STAR file or from a particle store.

    Raises
    ------
    InputError
        When ``ctf`` is asked for and the particles name no CTF volumes.
    """
    if ctf:
        _ctf_urls(table)
    if not table.store:
        return MrcSource(table, ctf)
    store = ParticleStore.open(table.store, open_cache())
    position = {name: row for row, name in enumerate(store.sources()["images"])}
    return StoreSource(store, [position[name] for name in table.image_names])


class MrcSource:
    """The MRC files that a particle table names, each volume read and checked when it is asked for."""

    def __init__(self, table: ParticleTable, ctf: bool) -> None:
        self._table = table
        self._ctfs = CtfVolumes(table) if ctf else None
        self.bad: dict[int, str] = {}

    def read(self, rows: Iterable[int]) -> Iterator[npt.NDArray[np.float32] | InputError]:
        """As `ParticleSource.read`."""
        for row in rows:
            try:
                yield read_particle_volume(self._table, row)
            except InputError as error:
                yield error

    def read_ctf(self, row: int) -> npt.NDArray[np.float32]:
        """As `ParticleSource.read_ctf`."""
        assert self._ctfs is not None, "the source was opened without CTFs"
        return self._ctfs.read(row)


class StoreSource:
    """The chunks of a particle store: each is read once for all rows of it that follow each other.

    ``positions`` are the particles of the store that the rows stand for, None for all in their order.
    """

    def __init__(
        self, store: ParticleStore, positions: list[int] | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        self._store = store
        self.positions: Sequence[int] = range(len(store)) if positions is None else positions
        self._ctfs = _Recent(cache_bytes)
        self.bad = {row: store.bad[position] for row, position in enumerate(self.positions) if position in store.bad}

    def read(self, rows: Iterable[int]) -> Iterator[npt.NDArray[np.float32] | InputError]:
        """As `ParticleSource.read`."""
        store = self._store
        for chunk, members in groupby(map(self._position, rows), store.chunk_of):
            try:
                volumes = store.read_chunk(chunk)
            except InputError as error:  # all of its particles are lost
                yield from (error for _ in members)
                continue
            first = store.chunk_rows(chunk).start
            for row in members:
                yield InputError(store.bad[row]) if row in store.bad else volumes[row - first]

    def read_ctf(self, row: int) -> npt.NDArray[np.float32]:
        """As `ParticleSource.read_ctf`."""
        store = self._store
        assert store.ctf_index is not None, "the store was made without CTFs"
        chunk, position = divmod(int(store.ctf_index[self._position(row)]), store.layout.ctf_chunk_size)
        volume: npt.NDArray[np.float32] = self._ctfs.get(chunk, lambda: store.read_ctf_chunk(chunk))[position]
        return volume

    def _position(self, row: int) -> int:
        return self.positions[int(row)]


def read_particle_volume(table: ParticleTable, particle: int) -> npt.NDArray[np.float32]:
    """Subtomogram of one particle of a table: `read_subtomogram` of its file."""
    optics = table.optics[table.optics_index[particle]]
    return read_subtomogram(table.image_urls[particle], optics, table.describe(particle))


def read_subtomogram(url: str, optics: Optics, where: str) -> npt.NDArray[np.float32]:
    """Subtomogram at ``url`` of a particle of the group ``optics``; ``where`` starts the messages.

    Returns
    -------
    (N, N, N) float32, z y x, with the N of the optics group.

    Raises
    ------
    InputError
        When the file is missing, truncated or no volume, has another box or voxel size than its optics group, or holds
        NaN or one value only.
    """
    try:
        volume = read_mrc(url)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    check_particle_header(_shape(volume), volume.voxel_size_angst, optics, where)
    least, greatest = float(volume.data.min()), float(volume.data.max())
    if least == greatest:
        raise InputError(f"{where}: every voxel of the volume is {least:g}; extract the particle again or leave it out")
    return volume.data


def read_ctf_volume(url: str, optics: Optics, where: str) -> npt.NDArray[np.float32]:
    """CTF or wedge volume at ``url`` for particles of the group ``optics``; ``where`` starts the messages.

    Returns
    -------
    (N, N, N//2 + 1) float32, read only, zero frequency at (0, 0, 0); the CTF itself, not its square: where the optics
    group says that the file holds squares, the root is taken.

    Raises
    ------
    InputError
        When the file is missing or damaged, does not fit the box, or is zero everywhere.
    """
    try:
        volume = read_mrc(url)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    check_ctf_shape(_shape(volume), optics, where)
    ctf = half_ctf(volume.data, optics.image_size)
    if not ctf.any():
        raise InputError(f"{where}: the volume is zero everywhere; no data would be used, make it again")
    if optics.ctf_squared:
        ctf = np.sqrt(np.abs(ctf))
    ctf.flags.writeable = False
    return ctf


class CtfVolumes:
    """CTF and wedge volumes of a particle table: each file is read once while it stays in a bounded cache.

    Safe to use from several threads.
    """

    def __init__(self, table: ParticleTable, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        """Volumes of ``table``, keeping the most recently used ones within ``cache_bytes`` (at least one).

        Raises
        ------
        InputError
            When the particles name no CTF volumes.
        """
        self._table = table
        self._urls = _ctf_urls(table)
        self._recent = _Recent(cache_bytes)

    def read(self, particle: int) -> npt.NDArray[np.float32]:
        """CTF of one particle: `read_ctf_volume` of its file."""
        optics, url = self._table.optics[self._table.optics_index[particle]], self._urls[particle]
        where = f"{self._table.describe(particle)}, rlnCtfImage {url}"
        key = (url, optics.image_size, optics.ctf_squared)
        return self._recent.get(key, lambda: read_ctf_volume(url, optics, where))


def _ctf_urls(table: ParticleTable) -> list[str]:
    if table.ctf_urls is None:
        raise InputError(
            f"{table.source}: --ctf needs the column rlnCtfImage with the CTF or wedge volume of each particle; "
            "add it or leave out --ctf"
        )
    return table.ctf_urls


class _Recent:
    """The most recently used arrays within a number of bytes, at least one; threads that want the same read it once."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, npt.NDArray[np.float32]] = OrderedDict()
        self._reading: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            array = self._kept.get(key)
            if array is None:
                array = read()
            with self._lock:
                self._kept[key] = array
                self._kept.move_to_end(key)
                while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._limit_bytes:
                    oldest, _ = self._kept.popitem(last=False)
                    self._reading.pop(oldest, None)
        return array


def _shape(volume: Volume) -> tuple[int, int, int]:
    size_z, size_y, size_x = volume.data.shape
    return size_z, size_y, size_x
