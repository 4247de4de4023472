"""Reading the volumes of particles: subtomograms and their CTF or wedge volumes, checked and in one layout."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from kernels.wedge import half_ctf
from runner.errors import InputError
from runner.formats.mrc import read_mrc
from runner.formats.volumes import check_ctf_shape, check_particle_header

if TYPE_CHECKING:
    import numpy.typing as npt

    from runner.formats.mrc import Volume
    from runner.model.particles import Optics, ParticleTable

DEFAULT_CACHE_BYTES = 2**28


def read_particle_volume(table: ParticleTable, particle: int) -> npt.NDArray[np.float32]:
    """Subtomogram of one particle.

    Returns
    -------
    (N, N, N) float32, z y x, with the N of the particle's optics group.

    Raises
    ------
    InputError
        When the file is missing, truncated or no volume, has another box or voxel size than its optics group, or holds
        NaN or one value only.
    """
    where = table.describe(particle)
    try:
        volume = read_mrc(table.image_urls[particle])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    check_particle_header(_shape(volume), volume.voxel_size_angst, table.optics[table.optics_index[particle]], where)
    least, greatest = float(volume.data.min()), float(volume.data.max())
    if least == greatest:
        raise InputError(f"{where}: every voxel of the volume is {least:g}; extract the particle again or leave it out")
    return volume.data


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
        ctf = self._load(particle, optics)
        with self._lock:
            self._cached[key] = ctf
            while len(self._cached) > 1 and sum(kept.nbytes for kept in self._cached.values()) > self._cache_bytes:
                self._cached.popitem(last=False)
        return ctf

    def _load(self, particle: int, optics: Optics) -> npt.NDArray[np.float32]:
        where = f"{self._table.describe(particle)}, rlnCtfImage {self._urls[particle]}"
        try:
            volume = read_mrc(self._urls[particle])
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


def _shape(volume: Volume) -> tuple[int, int, int]:
    size_z, size_y, size_x = volume.data.shape
    return size_z, size_y, size_x
