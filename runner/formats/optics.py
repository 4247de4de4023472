"""Optics groups of a particle table, and the conversion of RELION 3.0 single tables to optics groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import InputError
from runner.formats.star import StarBlock, StarFile, format_float
from runner.model.particles import Optics

if TYPE_CHECKING:
    from collections.abc import Callable

Columns = dict[str, list[str]]
VolumeHeader = tuple[tuple[int, int, int], float]

_MOVED_TO_OPTICS = (
    "rlnAmplitudeContrast",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
    "rlnSphericalAberration",
    "rlnVoltage",
    "rlnDetectorPixelSize",
    "rlnMagnification",
)
_VOXELS_TO_ANGSTROM = {
    **{f"rlnOrigin{axis}{kind}": f"rlnOrigin{axis}{kind}Angst" for kind in ("", "Prior") for axis in "XYZ"},
    "rlnHelicalTrackLength": "rlnHelicalTrackLengthAngst",
}
_RELION_5 = {"rlnTomoSubTomosAre2DStacks", "rlnTomoVisibleFrames", "rlnCenteredCoordinateXAngst"}
_RELION_4 = {"rlnTomoParticleName", "rlnTomoSubtomogramBinning", "rlnTomoSubtomogramRot"}
# RELION refuses an optics table without these two; they have no effect where the CTF is a volume.
_ASSUMED = {"rlnVoltage": "300.000000", "rlnSphericalAberration": "2.700000"}


def dialect(star: StarFile, particles: StarBlock) -> str:
    """The RELION version whose conventions a file follows: ``3.0``, ``3.1``, ``4`` or ``5``.

    The ``# version`` comment decides where there is one; files of other programs are told by their columns.
    """
    labels = set(particles.columns)
    for name in ("general", "optics"):
        if name in star.blocks:
            labels.update(star.blocks[name].columns)
    version = star.version or 0
    if version >= 50000 or labels & _RELION_5:
        return "5"
    if version >= 40000 or labels & _RELION_4:
        return "4"
    return "3.1" if "optics" in star.blocks else "3.0"


def to_number(value: str, label: str, where: str) -> float:
    """``value`` as a float; raises `InputError` naming ``label`` and ``where``."""
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{where}: {label} is '{value}', a number was expected") from None


def split_single_table(columns: Columns, source: str) -> tuple[Columns, Columns]:
    """Optics and particle columns of a RELION 3.0 table, by the rules of relion_convert_star.

    One optics group for each combination of acquisition settings, in order of appearance; pixel size = 10000 *
    rlnDetectorPixelSize / rlnMagnification; a column rlnImagePixelSize or rlnPixelSize stands in for these.
    """
    pixel_label = next((label for label in ("rlnImagePixelSize", "rlnPixelSize") if label in columns), None)
    has_magnification = {"rlnDetectorPixelSize", "rlnMagnification"} <= columns.keys()
    moved = [label for label in _MOVED_TO_OPTICS if label in columns]
    deciding = moved if has_magnification or pixel_label is None else [*moved, pixel_label]
    count = len(columns["rlnImageName"])
    settings = [
        tuple(to_number(columns[label][row], label, f"{source} row {row + 1}") for label in deciding)
        for row in range(count)
    ]
    first_row: dict[tuple[float, ...], int] = {}
    for row, values in enumerate(settings):
        first_row.setdefault(values, row)
    numbers = {values: str(number) for number, values in enumerate(first_row, start=1)}

    replaced = {"rlnDetectorPixelSize", "rlnMagnification"} if has_magnification else set()
    optics: Columns = {
        "rlnOpticsGroup": list(numbers.values()),
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers.values()],
    }
    optics.update(
        {label: [columns[label][row] for row in first_row.values()] for label in moved if label not in replaced}
    )
    if has_magnification:
        optics["rlnImagePixelSize"] = [_pixel_size(columns, row, source) for row in first_row.values()]
    elif pixel_label is not None:
        optics["rlnImagePixelSize"] = [columns[pixel_label][row] for row in first_row.values()]
    particles = {label: values for label, values in columns.items() if label not in moved}
    particles["rlnOpticsGroup"] = [numbers[values] for values in settings]
    return optics, particles


def _pixel_size(columns: Columns, row: int, source: str) -> str:
    detector = float(columns["rlnDetectorPixelSize"][row])
    magnification = float(columns["rlnMagnification"][row])
    if not (detector > 0 and magnification > 0):
        raise InputError(f"{source} row {row + 1}: rlnDetectorPixelSize and rlnMagnification have to be positive")
    return format_float(10000.0 * detector / magnification)


def offsets_to_angstrom(columns: Columns, pixel_sizes_angst: list[float], source: str) -> Columns:
    """Replace the columns in voxels that RELION 3.0 wrote (rlnOriginX …) by those in Angstrom, appended at the end.

    Where both exist the one in Angstrom holds and the other is dropped.
    """
    old = [label for label in _VOXELS_TO_ANGSTROM if label in columns]
    converted = {label: values for label, values in columns.items() if label not in old}
    for label in old:
        target = _VOXELS_TO_ANGSTROM[label]
        if target not in converted:
            converted[target] = [
                format_float(to_number(value, label, f"{source} row {row}") * pixel)
                for row, (value, pixel) in enumerate(zip(columns[label], pixel_sizes_angst, strict=True), start=1)
            ]
    return converted


def build_optics(
    table: Columns,
    used: set[int],
    first_header: Callable[[int], VolumeHeader | None],
    version: str,
    source: str,
    notes: list[str],
) -> list[Optics]:
    """Optics groups from the columns of ``data_optics``; what is missing is taken from the first volume of the group.

    ``used`` holds the group numbers that particles refer to; ``first_header(number)`` gives the header of the first
    volume of a group, or None when volumes may not be looked at. Assumptions are added to ``notes``.
    """
    rows = len(next(iter(table.values())))
    groups: list[Optics] = []
    for row in range(rows):
        columns = {label: values[row] for label, values in table.items()}
        where = f"{source} data_optics row {row + 1}"
        number = _integer(columns, "rlnOpticsGroup", where)
        if any(group.group == number for group in groups):
            raise InputError(f"{where}: optics group {number} occurs twice; give each group its own number")
        if number in used:
            where = f"{source} optics group {number}"
            _complete(columns, number, first_header, where, notes)
            _check(columns, where)
        premultiplied = columns.get("rlnCtfDataAreCtfPremultiplied", "0") not in ("0", "")
        groups.append(
            Optics(
                group=number,
                name=columns.get("rlnOpticsGroupName", f"opticsGroup{number}"),
                pixel_size_angst=float(columns.get("rlnImagePixelSize", 0.0)),
                image_size=int(float(columns.get("rlnImageSize", 0))),
                ctf_premultiplied=premultiplied,
                ctf_squared=premultiplied and version in ("4", "5"),
                columns=columns,
            )
        )
    return groups


def _integer(columns: dict[str, str], label: str, where: str) -> int:
    if label not in columns:
        raise InputError(f"{where}: column {label} is missing; add it as RELION 3.1 writes it")
    value = to_number(columns[label], label, where)
    if not value.is_integer():
        raise InputError(f"{where}: {label} is '{columns[label]}', an integer was expected")
    return int(value)


def _complete(
    columns: dict[str, str],
    number: int,
    first_header: Callable[[int], VolumeHeader | None],
    where: str,
    notes: list[str],
) -> None:
    needed = ("rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality")
    missing = [label for label in needed if label not in columns]
    header = first_header(number) if missing else None
    if "rlnImagePixelSize" in missing:
        if header is None or header[1] in (0.0, 1.0):
            raise InputError(
                f"{where}: no pixel size; add rlnImagePixelSize (Angstrom) to data_optics, "
                "or rlnDetectorPixelSize and rlnMagnification to a table of RELION 3.0"
            )
        columns["rlnImagePixelSize"] = format_float(header[1])
        notes.append(f"{where}: no pixel size in the table; {header[1]:.4f} A is that of its first volume")
    if header is not None and "rlnImageSize" in missing:
        columns["rlnImageSize"] = str(header[0][2])
    if header is not None and "rlnImageDimensionality" in missing:
        columns["rlnImageDimensionality"] = "2" if header[0][0] == 1 else "3"
    for label, value in _ASSUMED.items():
        if label not in columns:
            columns[label] = value
            notes.append(
                f"{where}: {label} is missing; {float(value):g} is written (no effect where the CTF is a volume)"
            )


def _check(columns: dict[str, str], where: str) -> None:
    pixel = to_number(columns["rlnImagePixelSize"], "rlnImagePixelSize", where)
    if not 0 < pixel < float("inf"):
        raise InputError(f"{where}: rlnImagePixelSize is {pixel:g}, a positive number of Angstrom was expected")
    if "rlnImageDimensionality" in columns and _integer(columns, "rlnImageDimensionality", where) != 3:
        raise InputError(
            f"{where}: rlnImageDimensionality is {columns['rlnImageDimensionality']}, but 3D subtomograms are needed; "
            "extract them as volumes (RELION 5: without 2D stacks; Warp: ts_export_particles --3d)"
        )
    if "rlnImageSize" in columns:
        size = _integer(columns, "rlnImageSize", where)
        if size <= 0 or size % 2:
            raise InputError(
                f"{where}: rlnImageSize is {size}, an even number was expected; extract again with an even box"
            )
