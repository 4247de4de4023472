"""Whether the volumes that a particle table names fit its optics groups, told from the header of the first of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runner.errors import InputError
from runner.formats.mrc import Volume, read_header, read_mrc

if TYPE_CHECKING:
    from runner.model.particles import Optics, ParticleTable

_UNSET_VOXEL_SIZES = (0.0, 1.0)
_TOLERANCE = 0.01


def read_map_of_flag(flag: str, url: str) -> Volume:
    """Read the map that a flag of the command line names; the flag starts the messages.

    Raises
    ------
    InputError
        Those of `runner.formats.mrc.read_mrc`.
    """
    try:
        return read_mrc(url)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def check_first_volumes(table: ParticleTable) -> None:
    """Compare the first particle and CTF volume of every optics group with the optics table.

    Raises
    ------
    InputError
        When a volume is flat, no cube, has an odd or another box or another pixel size, or when a CTF volume has a
        layout that cannot be used.
    """
    for position in np.unique(table.optics_index):
        particle = int(np.argmax(table.optics_index == position))
        optics = table.optics[position]
        where = table.describe(particle)
        check_particle_header(*read_header(table.image_urls[particle]), optics, where)
        if table.ctf_urls is not None:
            shape, _ = read_header(table.ctf_urls[particle])
            check_ctf_shape(shape, optics, f"{where}, rlnCtfImage {table.ctf_urls[particle]}")


def check_particle_header(shape: tuple[int, int, int], voxel_size_angst: float, optics: Optics, where: str) -> None:
    """Compare a particle volume of ``shape`` (z, y, x) with its optics group; ``where`` starts the message.

    The voxel size may differ by one part in a hundred, as tables round it; 0 and 1 in a header count as never set.
    """
    size_z, size_y, size_x = shape
    if size_z == 1:
        raise InputError(f"{where}: a 2D image of {size_x} x {size_y} pixels; extract 3D subtomograms")
    if not size_x == size_y == size_z:
        raise InputError(f"{where}: {size_x} x {size_y} x {size_z} voxels (x, y, z); cut cubic subtomograms")
    if size_x % 2:
        raise InputError(f"{where}: an odd box of {size_x} voxels; cut subtomograms with an even box")
    if size_x != optics.image_size:
        raise InputError(
            f"{where}: a box of {size_x} voxels, but rlnImageSize of group {optics.group} is {optics.image_size}; "
            "correct the table or give these particles a group of their own"
        )
    difference = abs(voxel_size_angst - optics.pixel_size_angst)
    if voxel_size_angst not in _UNSET_VOXEL_SIZES and difference > _TOLERANCE * optics.pixel_size_angst:
        raise InputError(
            f"{where}: voxels of {voxel_size_angst:.4f} A in the header, but rlnImagePixelSize of optics group "
            f"{optics.group} is {optics.pixel_size_angst:.4f}; correct the one that is wrong"
        )


def check_ctf_shape(shape: tuple[int, int, int], optics: Optics, where: str) -> None:
    """Refuse a CTF volume whose ``shape`` (z, y, x) is neither the centred cube nor the half layout of a particle."""
    size = optics.image_size
    half = (size, size, size // 2 + 1)
    if shape in ((size, size, size), half):
        return
    if shape == (2 * size, *half[1:]):
        raise InputError(
            f"{where}: CTF and multiplicity in one file (RELION 4); extract with relion_tomo_subtomo --nrm "
            "and name *_data_nrm.mrc and *_CTF2_nrm.mrc instead"
        )
    size_z, size_y, size_x = shape
    raise InputError(
        f"{where}: {size_x} x {size_y} x {size_z} voxels (x, y, z); a cube of {size} or a half volume of "
        f"{half[2]} x {size} x {size} was expected"
    )
