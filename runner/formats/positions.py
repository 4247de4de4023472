"""STAR files of positions in tomograms, of pyTME, RELION and other pickers, and of the particles that are cut there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from runner.errors import InputError
from runner.formats.optics import Columns
from runner.formats.particles import ANGLES, ORIGINS
from runner.formats.relion_tables import Table, floats
from runner.formats.star import StarBlock, StarFile, format_float, format_int, parse_star
from runner.store import objects

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

VOXELS = tuple(f"rlnCoordinate{axis}" for axis in "XYZ")
CENTERED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ")
_FRAME = tuple(f"rlnTomoSubtomogram{angle}" for angle in ("Rot", "Tilt", "Psi"))
_ORIGINS_PX = tuple(f"rlnOrigin{axis}" for axis in "XYZ")
_TOMOGRAM_NAMES = ("rlnMicrographName", "rlnTomoName")
_RELION_5 = 50000
_MICROSCOPE = {"rlnVoltage": "300.000000", "rlnSphericalAberration": "2.700000", "rlnAmplitudeContrast": "0.070000"}
_OF_OTHER_IMAGES = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize", "rlnImagePixelSize", "rlnGroupNumber")


@dataclass(frozen=True)
class Positions:
    """Positions in tomograms, one a row.

    Attributes
    ----------
    coordinates : (n, 3) x, y, z: Angstrom from the centre of the tomogram when ``centered``, else voxels from 0.
    voxel_size_angst : of the coordinates, as the file tells it; 0 where it does not.
    picked_voxel_size_angst : of the images that were picked on, as the optics table tells it; 0 where it does not.
    origins : (n, 3) x, y, z offsets that are to be taken off, in Angstrom, or voxels when ``origins_in_voxels``.
    tomogram_names : of each row; "" where the file names none.
    columns, optics : the input columns of positions and optics groups, verbatim.
    notes : one line for each thing that was assumed.
    """

    source: str
    star: bytes
    coordinates: FloatArray
    centered: bool
    voxel_size_angst: float
    picked_voxel_size_angst: float
    origins: FloatArray
    origins_in_voxels: bool
    tomogram_names: list[str]
    columns: Columns
    optics: Columns
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.coordinates)

    def describe(self, row: int) -> str:
        """Where row number ``row`` comes from, for messages."""
        return f"{self.source} row {row + 1}"


def read_positions(url: str, centered: bool = False, in_voxels: bool = False) -> Positions:
    """Read the STAR file at ``url``.

    Parameters
    ----------
    centered, in_voxels : what rlnCoordinateX/Y/Z are, where the user says it: Angstrom from the centre, or voxels.

    Raises
    ------
    InputError
        With file, row and column: no positions, values that are no numbers, coordinates that can mean two things.
    """
    content = objects.read_bytes(url)
    try:
        star = parse_star(content.decode("utf-8-sig"), url)
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: is not a text file; a STAR file was expected") from error
    block = _block(star, url)
    optics = star.blocks["optics"].columns if "optics" in star.blocks else {}
    notes: list[str] = []
    labels = CENTERED if CENTERED[0] in block.columns else VOXELS
    coordinates = _vectors(block, labels, url)
    voxel_size = _number(optics, "rlnTomoTiltSeriesPixelSize", url)
    is_centered = labels is CENTERED or centered
    if not is_centered and not in_voxels and not voxel_size and (star.version or 0) >= _RELION_5:
        is_centered = _look_centered(coordinates, url)
        notes.append(f"{url}: rlnCoordinateX/Y/Z are taken as A from the centre (pyTME 0.3 for RELION 5)")
    _check_frame(block, url)
    in_pixels = ORIGINS[0] not in block.columns and _ORIGINS_PX[0] in block.columns
    origin_labels = _ORIGINS_PX if in_pixels else ORIGINS
    has_origins = origin_labels[0] in block.columns
    if _has_some(block, ANGLES, url):
        _vectors(block, ANGLES, url)
    label = next((each for each in _TOMOGRAM_NAMES if each in block.columns), "")
    return Positions(
        source=url,
        star=content,
        coordinates=coordinates,
        centered=is_centered,
        voxel_size_angst=voxel_size,
        picked_voxel_size_angst=_number(optics, "rlnImagePixelSize", url),
        origins=_vectors(block, origin_labels, url) if has_origins else np.zeros((len(block), 3)),
        origins_in_voxels=in_pixels,
        tomogram_names=list(block.columns[label]) if label else [""] * len(block),
        columns=block.columns,
        optics=optics,
        notes=notes,
    )


def particle_blocks(
    positions: Positions,
    rows: Sequence[int],
    image_names: Sequence[str],
    tomogram_names: Sequence[str],
    centres_px: IntArray,
    origins_angst: FloatArray,
    ctf_names: Sequence[str] | None,
    box: int,
    voxel_size_angst: float,
) -> list[StarBlock]:
    """Blocks ``optics`` and ``particles`` of subtomograms cut at ``rows`` of ``positions``, in RELION 3.1's form.

    Parameters
    ----------
    image_names, tomogram_names, centres_px, origins_angst, ctf_names : of these rows: volume, tomogram, (n, 3) x, y, z
        voxel of the tomogram at the centre of the box, (n, 3) offset that is left, CTF volume (None: no volumes).
    """
    dropped = {*CENTERED, *_ORIGINS_PX, *_OF_OTHER_IMAGES, "rlnCtfImage", "rlnClassNumber"}
    columns: Columns = {label: floats(centres_px[:, i]) for i, label in enumerate(VOXELS)}
    columns["rlnMicrographName"] = list(tomogram_names)
    columns["rlnImageName"] = list(image_names)
    if ctf_names is not None:
        columns["rlnCtfImage"] = list(ctf_names)
    for label, values in positions.columns.items():
        if label not in columns and label not in dropped and not label.startswith("rlnTomo"):
            columns[label] = [values[row] for row in rows]
    columns.update({label: floats(origins_angst[:, i]) for i, label in enumerate(ORIGINS)})
    optics = _optics(positions, box, voxel_size_angst)
    if "rlnOpticsGroup" not in columns or not positions.optics:
        columns["rlnOpticsGroup"] = optics["rlnOpticsGroup"][:1] * len(rows)
    return [StarBlock("optics", optics), StarBlock("particles", columns)]


def _optics(positions: Positions, box: int, voxel_size_angst: float) -> Columns:
    given = positions.optics
    groups = given.get("rlnOpticsGroup", ["1"])
    kept = ("rlnOpticsGroupName", *_MICROSCOPE)
    default = {"rlnOpticsGroupName": "opticsGroup{}", **_MICROSCOPE}
    return {
        "rlnOpticsGroup": groups,
        **{label: given.get(label, [default[label].format(group) for group in groups]) for label in kept},
        "rlnImageSize": [format_int(box)] * len(groups),
        "rlnImageDimensionality": ["3"] * len(groups),
        "rlnImagePixelSize": [format_float(voxel_size_angst)] * len(groups),
    }


def _block(star: StarFile, url: str) -> StarBlock:
    blocks = [block for block in star.blocks.values() if VOXELS[0] in block.columns or CENTERED[0] in block.columns]
    if len(blocks) != 1:
        names = [f"data_{name}" for name in star.blocks]
        found = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise InputError(
            f"{url}: {len(blocks)} tables with rlnCoordinateX or rlnCenteredCoordinateXAngst (found {found}); "
            "give a STAR file with one table of positions"
        )
    if not len(blocks[0]):
        raise InputError(f"{url}: data_{blocks[0].name} holds no positions")
    groups = len(star.blocks["optics"]) if "optics" in star.blocks else 1
    if groups != 1 and "rlnOpticsGroup" not in blocks[0].columns:
        raise InputError(f"{url}: column rlnOpticsGroup is missing and data_optics has {groups} groups; add the column")
    return blocks[0]


def _has_some(block: StarBlock, labels: tuple[str, ...], url: str) -> bool:
    """All columns or none; `InputError` in between."""
    missing = [label for label in labels if label not in block.columns]
    if 0 < len(missing) < len(labels):
        raise InputError(
            f"{url}: column {missing[0]} is missing in data_{block.name}, others of its kind are there; add it"
        )
    return not missing


def _vectors(block: StarBlock, labels: tuple[str, ...], url: str) -> FloatArray:
    _has_some(block, labels, url)
    values = np.stack([Table(block, url).floats(label) for label in labels], axis=1)
    for row, axis in np.argwhere(~np.isfinite(values))[:1]:
        raise InputError(f"{url} row {row + 1}: {labels[axis]} is {values[row, axis]:g}, a finite number was expected")
    return values


def _number(optics: Columns, label: str, url: str) -> float:
    """The value that all optics groups share; 0 where there is none."""
    if label not in optics:
        return 0.0
    values = set(Table(StarBlock("optics", optics), url).floats(label).tolist())
    if len(values) > 1:
        raise InputError(f"{url}: optics groups of several {label}; extract each group from its own STAR file")
    return float(values.pop())


def _look_centered(coordinates: FloatArray, url: str) -> bool:
    if np.any(coordinates < 0):
        return True
    raise InputError(
        f"{url}: RELION 5's version, but rlnCoordinateX/Y/Z and not rlnCenteredCoordinateX/Y/ZAngst; "
        "give --centered when they are A from the centre of the tomogram, or --coords_angpix with their voxel size"
    )


def _check_frame(block: StarBlock, url: str) -> None:
    for label in _FRAME:
        if label in block.columns and np.any(Table(block, url).floats(label)):
            raise InputError(
                f"{url}: {label} is not 0: the angles belong to subtomograms that were cut in turned frames; "
                "extract these with relion_tomo_subtomo, or set all angles in the frame of the tomogram"
            )
