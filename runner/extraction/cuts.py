"""The tomograms that positions belong to, and the box of each position in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.geometry import relion_round
from runner.errors import InputError
from runner.execute.tomogram import Point, Tomogram, open_tomogram, reaches_beyond
from runner.formats.positions import Positions
from runner.plan.extract_config import ExtractConfig
from runner.store import objects

FILES = (".mrc", ".rec", ".map")
VOXEL_SIZE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Opened:
    """A tomogram and its voxel size in Angstrom."""

    tomogram: Tomogram
    voxel_size_angst: float


@dataclass(frozen=True)
class Cut:
    """One box.

    Attributes
    ----------
    row, where : number of its position from 0, and where that comes from, for messages.
    centre : x, y, z of the voxel of the tomogram that becomes voxel N//2.
    origin_angst : x, y, z, the shift that centres the particle: what rounding to a voxel has left.
    start : z, y, x of its first voxel.
    skipped : why it is not cut; "" when it is.
    """

    row: int
    where: str
    tomogram: Tomogram
    centre: Point
    origin_angst: tuple[float, float, float]
    start: Point
    skipped: str = ""

    @property
    def image_name(self) -> str:
        """Name of its volume in the output folder."""
        return f"subtomo/{self.row + 1:06d}.mrc"


def open_tomograms(positions: Positions, config: ExtractConfig) -> dict[str, Opened]:
    """The tomogram of every name in the STAR file.

    Raises
    ------
    InputError
        When one is missing or damaged, or voxel sizes are missing or do not fit together.
    """
    names = list(dict.fromkeys(positions.tomogram_names))
    is_file = config.tomogram.endswith(FILES)
    if is_file and len(names) > 1:
        raise InputError(
            f"{positions.source}: names {len(names)} tomograms ({names[0]}, {names[1]} …), "
            f"--tomogram {config.tomogram} is one; give their folder, or select the positions of one"
        )
    opened = {}
    for name in names:
        tomogram, voxel_size = open_tomogram(config.tomogram if is_file else _find(name, positions, config.tomogram))
        opened[name] = Opened(tomogram, _voxel_size(tomogram, voxel_size, positions, config))
    first = opened[names[0]]
    for each in opened.values():
        if _differ(each.voxel_size_angst, first.voxel_size_angst):
            raise InputError(
                f"{each.tomogram.url}: voxels of {each.voxel_size_angst:g} A, {first.tomogram.url} has "
                f"{first.voxel_size_angst:g} A; extract from tomograms of one voxel size, or give --angpix"
            )
    return opened


def _find(name: str, positions: Positions, folder: str) -> str:
    if not name:
        raise InputError(
            f"{positions.source}: names no tomograms (rlnMicrographName or rlnTomoName); give --tomogram FILE.mrc"
        )
    stem = name.removesuffix(".tomostar")
    files = [stem] if stem.endswith(FILES) else [f"{stem}{ending}" for ending in FILES]
    if folder:
        tried = [objects.join(folder, part) for file in files for part in dict.fromkeys([file, objects.basename(file)])]
    else:
        tried = [url for file in files for url in objects.candidates(file, positions.source)]
    for url in tried:
        if objects.exists(url):
            return url
    raise InputError(
        f"{positions.source}: cannot find the tomogram '{name}' (tried {', '.join(tried)}); "
        "give --tomogram with the file or its folder"
    )


def _voxel_size(tomogram: Tomogram, of_header: float, positions: Positions, config: ExtractConfig) -> float:
    if config.angpix > 0:
        return config.angpix
    picked = positions.picked_voxel_size_angst
    if of_header in (0.0, 1.0):
        if not picked:
            raise InputError(f"{tomogram.url}: no voxel size in its header; give --angpix")
        return picked
    in_its_voxels = not (positions.centered or positions.voxel_size_angst or config.coords_angpix > 0)
    if picked and in_its_voxels and _differ(picked, of_header):
        raise InputError(
            f"{tomogram.url}: voxels of {of_header:g} A, but rlnImagePixelSize of {positions.source} is {picked:g}; "
            f"give --coords_angpix {picked:g} when the positions are in such voxels, or the tomogram that was picked on"
        )
    return of_header


def _differ(size_angst: float, other_angst: float) -> bool:
    return abs(size_angst - other_angst) > VOXEL_SIZE_TOLERANCE * other_angst


def plan_cuts(positions: Positions, tomograms: dict[str, Opened], config: ExtractConfig) -> list[Cut]:
    """The box of each position, in order.

    Raises
    ------
    InputError
        When a position lies outside of its tomogram, a box reaches beyond it and may not, or no box is left.
    """
    cuts = [_cut(positions, row, tomograms[name], config) for row, name in enumerate(positions.tomogram_names)]
    if all(cut.skipped for cut in cuts):
        raise InputError(f"{cuts[0].skipped}, and so do all; give a smaller --extract_size, or --edge pad")
    return cuts


def _cut(positions: Positions, row: int, opened: Opened, config: ExtractConfig) -> Cut:
    tomogram, voxel = opened.tomogram, opened.voxel_size_angst
    size_xyz = np.array(tomogram.shape[::-1])
    unit = config.coords_angpix if config.coords_angpix > 0 else positions.voxel_size_angst or voxel
    if positions.centered:
        place = positions.coordinates[row] / voxel + size_xyz // 2
    else:
        place = positions.coordinates[row] * (unit / voxel)
    place = place - positions.origins[row] * ((unit if positions.origins_in_voxels else 1.0) / voxel)
    centre = relion_round(place)
    x, y, z = (int(value) for value in centre)
    where, box = positions.describe(row), config.extract_size
    extent = f"{tomogram.url} of {' x '.join(map(str, size_xyz))} voxels"
    if np.any(centre < 0) or np.any(centre >= size_xyz):
        raise InputError(
            f"{where}: voxel {x}, {y}, {z} (x, y, z) lies outside of {extent}; correct the position, or say with "
            "--coords_angpix or --centered what the coordinates are"
        )
    start = (z - box // 2, y - box // 2, x - box // 2)
    skipped = ""
    if config.edge != "pad" and reaches_beyond(tomogram, start, box):
        skipped = f"{where}: the box of {box} voxels around {x}, {y}, {z} reaches beyond {extent}"
        if config.edge == "fail":
            raise InputError(f"{skipped}; leave the row out, or give --edge skip or pad")
    left_x, left_y, left_z = ((centre - place) * voxel).tolist()
    return Cut(row, where, tomogram, (x, y, z), (left_x, left_y, left_z), start, skipped)
