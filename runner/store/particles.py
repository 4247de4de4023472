"""Particles in one place: a Zarr v3 group whose chunks are the batches of a run, each one object read with one request.

==================  ====================================================================================
``particles``       (n, N, N, N) float32 or float16, chunks (B, N, N, N), in the order of the particle table
``ctf``             (m, N, N, N//2+1) float32, each distinct CTF or wedge volume once, in the half layout
``ctf_index``       (n,) int64, the CTF volume of each particle
``star``            (bytes,) uint8, the particle STAR file as it was
``sources``         (bytes,) uint8, JSON, see `ParticleStore.sources`
``particles_sha256``, ``ctf_sha256``    (chunks, 32) uint8, digests of the stored objects
==================  ====================================================================================

Nothing is compressed (noise does not compress) and nothing sharded (a task writes whole objects). The group's own
``zarr.json`` is written last, by a conditional create: a store that Zarr can open is complete.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from runner.errors import InputError
from runner.store import objects

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from runner.store.cache import ChunkCache

SUFFIX = ".zarr"
GROUP_KEY = "zarr.json"
FORMAT = 1
_ATTRIBUTE = "tomoburst"
_DIGEST_BYTES = 32


def is_particle_store(url: str) -> bool:
    """Whether ``url`` names a particle store, by its suffix."""
    return url.rstrip("/").endswith(SUFFIX)


@dataclass(frozen=True)
class Layout:
    """Shapes of the arrays of a particle store.

    Attributes
    ----------
    particles, ctfs : number of particles, and of distinct CTF volumes (0 without CTFs).
    box : N in voxels; voxel_size_angst : of all particles.
    chunk_size, ctf_chunk_size : particles, and CTF volumes, of a chunk.
    dtype : of the stored particles, ``float32`` or ``float16``.
    """

    particles: int
    ctfs: int
    box: int
    voxel_size_angst: float
    chunk_size: int
    ctf_chunk_size: int
    dtype: str

    def chunk_shape(self, array: str) -> tuple[int, ...]:
        """Shape of a chunk of ``particles`` or ``ctf``."""
        if array == "ctf":
            return (self.ctf_chunk_size, self.box, self.box, self.box // 2 + 1)
        return (self.chunk_size, self.box, self.box, self.box)

    def dtype_of(self, array: str) -> np.dtype[Any]:
        """Type of the stored numbers of ``particles`` or ``ctf``, little-endian."""
        return np.dtype("float32" if array == "ctf" else self.dtype).newbyteorder("<")

    def rows(self, array: str, chunk: int) -> range:
        """First indices of ``particles`` or ``ctf`` that a chunk holds."""
        size, count = self.chunk_shape(array)[0], self.ctfs if array == "ctf" else self.particles
        return range(chunk * size, min((chunk + 1) * size, count))

    def chunks(self, array: str) -> int:
        """Number of chunks of ``particles`` or ``ctf``."""
        count = self.ctfs if array == "ctf" else self.particles
        return -(-count // self.chunk_shape(array)[0])


@dataclass(frozen=True)
class Contents:
    """What the attributes of a particle store tell.

    Attributes
    ----------
    inputs : digest of the STAR file, of the state of every file it names, and of the settings of the ingestion.
    bad : why each particle that was set aside cannot be used, by its row; its voxels are NaN.
    sha256 : digest of each array that is one object.
    """

    layout: Layout
    inputs: str
    bad: dict[int, str] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def chunk_url(store_url: str, array: str, chunk: int) -> str:
    """URL of the object that holds a chunk of ``particles`` or ``ctf``."""
    return objects.join(store_url, f"{array}/c/{chunk}/0/0/0")


def encode_chunk(layout: Layout, array: str, volumes: list[npt.NDArray[np.floating[Any]]]) -> bytes:
    """The object of a chunk: its volumes in Zarr's ``bytes`` codec, filled up with NaN where the last one is short."""
    chunk = np.full(layout.chunk_shape(array), np.nan, dtype=layout.dtype_of(array))
    for position, volume in enumerate(volumes):
        chunk[position] = volume
    return chunk.tobytes()


def write_arrays(store_url: str, layout: Layout) -> None:
    """Write the metadata of the large arrays."""
    for array in ("particles", "ctf") if layout.ctfs else ("particles",):
        shape = ((layout.ctfs if array == "ctf" else layout.particles), *layout.chunk_shape(array)[1:])
        metadata = _array_metadata(shape, layout.chunk_shape(array), layout.dtype_of(array), np.nan)
        objects.write_bytes(objects.join(store_url, f"{array}/{GROUP_KEY}"), metadata)


def write_whole(store_url: str, name: str, values: npt.NDArray[Any]) -> str:
    """Write a small array as one object, with its metadata; returns the object's digest."""
    data = np.ascontiguousarray(values).tobytes()
    objects.write_bytes(_whole_url(store_url, name, values.ndim), data)
    metadata = _array_metadata(values.shape, values.shape, values.dtype, 0)
    objects.write_bytes(objects.join(store_url, f"{name}/{GROUP_KEY}"), metadata)
    return hashlib.sha256(data).hexdigest()


def commit(store_url: str, contents: Contents) -> bool:
    """Declare a store complete; False when somebody else had done so before."""
    import zarr
    from zarr.storage import MemoryStore

    documents: dict[str, Any] = {}
    attributes = {_ATTRIBUTE: {"format": FORMAT, **asdict(contents)}}
    zarr.create_group(MemoryStore(documents), zarr_format=3, attributes=attributes)
    return objects.create_bytes(objects.join(store_url, GROUP_KEY), bytes(documents[GROUP_KEY].to_bytes()))


def _array_metadata(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: np.dtype[Any], fill_value: float) -> bytes:
    import zarr
    from zarr.storage import MemoryStore

    documents: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(documents),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        zarr_format=3,
        filters=None,
        compressors=None,
        fill_value=fill_value,
    )
    return bytes(documents[GROUP_KEY].to_bytes())


def _whole_url(store_url: str, name: str, dimensions: int) -> str:
    return objects.join(store_url, f"{name}/c" + "/0" * dimensions)


class ParticleStore:
    """A complete particle store, open for reading from any number of threads.

    A chunk whose bytes are not those that were written is read once more, then refused.
    """

    def __init__(self, url: str, contents: Contents, cache: ChunkCache | None = None) -> None:
        self.url = url
        self.contents = contents
        self.layout = contents.layout
        self._cache = cache
        self._lock = threading.Lock()
        self._sources: dict[str, Any] | None = None
        self._sha256 = {"particles": self._digests("particles")}
        self.ctf_index: npt.NDArray[np.int64] | None = None
        if self.layout.ctfs:
            self._sha256["ctf"] = self._digests("ctf")
            self.ctf_index = np.frombuffer(self._read_whole("ctf_index", 1), dtype="<i8")

    @classmethod
    def open(cls, url: str, cache: ChunkCache | None = None) -> Self:
        """Open the store at ``url``, with ``cache`` for its chunks.

        Raises
        ------
        InputError
            When there is no store, when its ingestion was not finished, or when something else made it.
        """
        contents = read_contents(url)
        if contents is None:
            raise InputError(f"{url}: no finished particle store; make it with `tomoburst ingest --i STAR --o {url}`")
        return cls(url, contents, cache)

    def __len__(self) -> int:
        return self.layout.particles

    @property
    def box(self) -> int:
        """Box of all particles in voxels."""
        return self.layout.box

    @property
    def chunk_size(self) -> int:
        """Particles of a chunk."""
        return self.layout.chunk_size

    @property
    def bad(self) -> dict[int, str]:
        """Why each particle that was set aside cannot be used, by row."""
        return self.contents.bad

    def chunk_of(self, row: int) -> int:
        """Chunk that holds particle ``row``."""
        return row // self.chunk_size

    def chunk_rows(self, chunk: int) -> range:
        """Particles of a chunk."""
        return self.layout.rows("particles", chunk)

    def read_chunk(self, chunk: int) -> npt.NDArray[np.float32]:
        """Particles of a chunk, with one request.

        Returns
        -------
        (b, N, N, N) float32, z y x; NaN for particles that were set aside.

        Raises
        ------
        InputError
            With store, chunk and particles, when the object is missing or not what was written.
        """
        return self._read("particles", chunk)

    def read_ctf_chunk(self, chunk: int) -> npt.NDArray[np.float32]:
        """CTF volumes of a chunk, with one request: (c, N, N, N//2+1) float32 in the half layout, as `read_ctf`."""
        return self._read("ctf", chunk)

    def read_ctf(self, index: int) -> npt.NDArray[np.float32]:
        """CTF volume ``index`` (see ``ctf_index``).

        Returns
        -------
        (N, N, N//2+1) float32, zero frequency at (0, 0, 0); the CTF itself, not its square.

        Raises
        ------
        InputError
            As `read_chunk`.
        """
        size = self.layout.ctf_chunk_size
        volume: npt.NDArray[np.float32] = self.read_ctf_chunk(index // size)[index % size]
        return volume

    def star(self) -> bytes:
        """The particle STAR file as it was."""
        return self._read_whole("star", 1)

    def sources(self) -> dict[str, Any]:
        """Where everything came from.

        ``images`` and ``ctfs`` hold for each name in the STAR file the URL where it was found, and its size and ETag or
        time of change; the images, which are in the order of the rows, also the name of their CTF volume.
        """
        with self._lock:
            if self._sources is None:
                self._sources = json.loads(self._read_whole("sources", 1))
            return self._sources

    def _read(self, array: str, chunk: int) -> npt.NDArray[np.float32]:
        layout = self.layout
        digest = self._sha256[array][chunk].tobytes().hex()
        data = self._cache.get(digest) if self._cache is not None else None
        if data is None:
            url = chunk_url(self.url, array, chunk)
            data = _read_checked(url, digest, lambda: f"{self.url} {array} chunk {chunk} ({self._names(array, chunk)})")
            if self._cache is not None:
                self._cache.put(digest, data)
        stored = np.frombuffer(data, dtype=layout.dtype_of(array)).reshape(layout.chunk_shape(array))
        volumes: npt.NDArray[np.float32] = stored[: len(layout.rows(array, chunk))].astype(np.float32, copy=False)
        return volumes

    def _names(self, array: str, chunk: int) -> str:
        rows = np.array(self.layout.rows(array, chunk))
        if array == "ctf":
            assert self.ctf_index is not None
            rows = np.flatnonzero(np.isin(self.ctf_index, rows))
        names = list(self.sources()["images"])
        shown = ", ".join(names[row] for row in rows[:3])
        return f"particles {shown} and {len(rows) - 3} more" if len(rows) > 3 else f"particles {shown}"

    def _digests(self, array: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self._read_whole(f"{array}_sha256", 2), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)

    def _read_whole(self, name: str, dimensions: int) -> bytes:
        url = _whole_url(self.url, name, dimensions)
        return _read_checked(url, self.contents.sha256[name], lambda: f"{self.url} {name}")


def read_contents(url: str) -> Contents | None:
    """What the store at ``url`` holds, None when there is none or its ingestion was not finished.

    Raises
    ------
    InputError
        When it is a Zarr group that something else made, or that a newer version made.
    """
    try:
        group = objects.read_bytes(objects.join(url, GROUP_KEY))
    except InputError:
        return None
    try:
        stored = dict(json.loads(group)["attributes"][_ATTRIBUTE])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{url}: no particle store of tomoburst; make one with `tomoburst ingest`") from error
    if stored.pop("format") != FORMAT:
        raise InputError(f"{url}: a particle store of another version of tomoburst; make it again with this one")
    contents = Contents(**stored)
    bad = {int(row): reason for row, reason in contents.bad.items()}
    return replace(contents, layout=Layout(**stored["layout"]), bad=bad)


def _read_checked(url: str, digest: str, where: Callable[[], str]) -> bytes:
    """Bytes of an object whose digest is known; a wrong answer gets a second chance."""
    for _ in range(2):
        try:
            data = objects.read_bytes(url)
        except InputError as error:
            raise InputError(f"{where()}: the object is missing ({url}); ingest again with --overwrite") from error
        if hashlib.sha256(data).hexdigest() == digest:
            return data
    raise InputError(
        f"{where()}: the object {url} is not what was written ({len(data)} bytes, wrong digest); "
        "ingest again with --overwrite"
    )
