"""Reading the volumes of particles: subtomograms and their CTF or wedge volumes, checked and in one layout."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from kernels.wedge import half_ctf
from runner.errors import InputError
from runner.formats.mrc import read_mrc

if TYPE_CHECKING:
    import numpy.typing as npt

    from runner.model.particles import ParticleTable

DEFAULT_CACHE_BYTES = 2**28


def read_particle_volume(table: ParticleTable, particle: int) -> npt.NDArray[np.float32]:
    """Subtomogram of one particle.

    Returns
    -------
    (N, N, N) float32, z y x, with the N of the particle's optics group.

    Raises
    ------
    InputError
        When the file is missing, truncated or no volume, has another box, holds NaN, or holds one value only.
    """
    size = table.optics[table.optics_index[particle]].image_size
    try:
        data = read_mrc(table.image_urls[particle]).data
    except InputError as error:
        raise InputError(f"{table.describe(particle)}: {error}") from error
    if data.shape != (size, size, size):
        raise InputError(
            f"{table.describe(particle)}: the volume has {_sizes(data.shape)} voxels (x, y, z), the optics table says "
            f"{size} (rlnImageSize); correct the table or cut the particles to one box"
        )
    if float(data.min()) == float(data.max()):
        raise InputError(
            f"{table.describe(particle)}: every voxel of the volume is {float(data.min()):g}; "
            "extract the particle again or leave it out"
        )
    return data


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
        if table.ctf_urls is None:
            raise InputError(
                f"{table.source}: --ctf needs the column rlnCtfImage with the CTF or wedge volume of each particle; "
                "add it or leave out --ctf"
            )
        self._table = table
        self._urls = table.ctf_urls
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[tuple[str, int, bool], npt.NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, particle: int) -> npt.NDArray[np.float32]:
        """CTF of one particle in half layout.

        Returns
        -------
        (N, N, N//2 + 1) float32, read only, zero frequency at (0, 0, 0); the CTF itself, not its square: where the
        optics group says that the file holds squares, the root is taken.

        Raises
        ------
        InputError
            When the file is missing or damaged, does not fit the box, or is zero everywhere.
        """
        optics = self._table.optics[self._table.optics_index[particle]]
        key = (self._urls[particle], optics.image_size, optics.ctf_squared)
        with self._lock:
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key]
        ctf = self._load(particle, *key)
        with self._lock:
            self._cached[key] = ctf
            while len(self._cached) > 1 and sum(kept.nbytes for kept in self._cached.values()) > self._cache_bytes:
                self._cached.popitem(last=False)
        return ctf

    def _load(self, particle: int, url: str, size: int, squared: bool) -> npt.NDArray[np.float32]:
        where = f"{self._table.describe(particle)}, rlnCtfImage"
        try:
            ctf = half_ctf(read_mrc(url).data, size)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except ValueError as error:
            raise InputError(f"{where} {url}: {error}") from error
        if not ctf.any():
            raise InputError(f"{where} {url}: the volume is zero everywhere; no data would be used, make it again")
        if squared:
            ctf = np.sqrt(np.abs(ctf))
        ctf.flags.writeable = False
        return ctf


def _sizes(shape_zyx: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in reversed(shape_zyx))
