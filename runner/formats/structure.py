"""Atoms of PDB and mmCIF files, gzipped or not: positions and electron-scattering weights."""

from __future__ import annotations

import gzip
import zlib

import gemmi
import numpy as np
import numpy.typing as npt

from runner.errors import InputError
from runner.store import objects

_GZIP_MAGIC = b"\x1f\x8b"
_HEAVIEST_ELEMENT = 98


def read_atoms(url: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read the atoms of the first model in a PDB or mmCIF file; errors of `parse_atoms`."""
    return parse_atoms(objects.read_bytes(url), url)


def parse_atoms(content: bytes, source: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Atoms in the bytes of a PDB or mmCIF file; ``source`` names it in errors.

    Waters and alternative conformations other than the first are left out.

    Returns
    -------
    positions (n, 3) x, y, z in Angstrom in the file's frame; weights (n,): occupancy times the electron scattering
    factor at zero angle in Angstrom (International Tables for Crystallography C, 4.3.2.2).

    Raises
    ------
    InputError
        When the file is missing, cannot be unpacked or parsed, or holds no atoms.
    """
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{source}: broken gzip file ({error}); copy it again") from error
    try:
        structure = gemmi.read_structure_string(content)
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: is neither a PDB nor an mmCIF file ({' '.join(str(error).split())})") from error
    structure.remove_waters()
    structure.remove_alternative_conformations()
    sites = [site.atom for site in structure[0].all()] if len(structure) else []
    weights = np.array([atom.occ * _scattering(atom.element, source) for atom in sites])
    if not sites or weights.sum() <= 0:
        raise InputError(f"{source}: holds no atoms; a PDB or mmCIF file with coordinates was expected")
    return np.array([atom.pos.tolist() for atom in sites]), weights


def _scattering(element: gemmi.Element, source: str) -> float:
    if element.atomic_number > _HEAVIEST_ELEMENT:
        raise InputError(
            f"{source}: no scattering factor is known for the element {element.name}; leave these atoms out"
        )
    return float(element.c4322.calculate_sf(0.0))
