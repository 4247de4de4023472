"""Particle STAR files of RELION 3.0, 3.1, 4 and 5 and of programs that write them: read, checked and written."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from runner.errors import InputError
from runner.formats import optics as optics_tables
from runner.formats.mrc import read_header
from runner.formats.star import StarBlock, StarFile, format_float, format_int, parse_star, read_star
from runner.formats.volumes import check_first_volumes
from runner.model.particles import Optics, ParticleTable
from runner.store import objects
from runner.store.particles import ParticleStore, is_particle_store

if TYPE_CHECKING:
    from runner.formats.optics import Columns, VolumeHeader
    from runner.model.state import FloatArray, IntArray, PoseState

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_ORIGIN_PRIORS = tuple(f"rlnOrigin{axis}PriorAngst" for axis in "XYZ")
_COORDINATES = tuple(
    f"rln{kind}Coordinate{axis}{unit}" for kind, unit in (("", ""), ("Centered", "Angst")) for axis in "XYZ"
)
_PIPELINE_JOB = re.compile(r"^.*?/job\d{3}[^/]*/")
_ABSENT_PRIOR = 999.0
_LARGEST_INTEGER = 2**31 - 1


def read_particles(url: str, check_files: bool = True, store_url: str = "") -> ParticleTable:
    """Read the particle STAR file at ``url``: one row for each 3D subtomogram, sorted stably by micrograph.

    Parameters
    ----------
    url : the STAR file, or a particle store (``….zarr``) that was made from one; file names in it are relative to it,
        or else to the working directory.
    check_files : False to read a table whose volumes are not at hand: nothing is looked up, and what only the volumes
        could tell (box size) is 0.
    store_url : a particle store that holds the volumes of the particles of the STAR file, by their names.

    Raises
    ------
    InputError
        With file, row and column, for everything that would make a refinement fail or mislead it.
    """
    if is_particle_store(url) or store_url:
        store = ParticleStore.open(store_url or url)
        star = read_star(url) if store_url else parse_star(store.star().decode("utf-8-sig"), url)
        table = _read_table(star, url, _StoredFiles(store, url))
        table.store = store.url
        _check_ctfs(table, store)
        return table
    return _read_table(read_star(url), url, _Files(url, at_hand=check_files))


def _read_table(star: StarFile, url: str, files: _Files | _StoredFiles) -> ParticleTable:
    block = particle_block(star, url)
    _check_angles(block, url)
    version = optics_tables.dialect(star, block)
    columns = {label: list(values) for label, values in block.columns.items()}
    _refuse_2d(star, columns, url)
    _refuse_duplicates(columns["rlnImageName"], url)
    notes: list[str] = []
    if "optics" in star.blocks and len(star.blocks["optics"]):
        optics_columns = star.blocks["optics"].columns
        if "rlnOpticsGroup" not in columns:
            _assume_one_group(columns, optics_columns, url, notes)
    else:
        optics_columns, columns = optics_tables.split_single_table(columns, url)

    names = columns["rlnImageName"]
    urls = files.resolve(names, "rlnImageName")
    numbers = _integers(columns, "rlnOpticsGroup", len(names), 0, url)
    first_row = {int(number): int(np.argmax(numbers == number)) for number in np.unique(numbers)}

    def first_header(number: int) -> VolumeHeader | None:
        return files.header(urls[first_row[number]])

    groups = optics_tables.build_optics(optics_columns, set(first_row), first_header, version, url, notes)
    optics_index = _optics_index(numbers, groups, url)
    columns = optics_tables.offsets_to_angstrom(columns, [groups[i].pixel_size_angst for i in optics_index], url)
    ctf_names = _ctf_names(columns, url)
    group_of_row = _groups_by_row(columns)
    table = ParticleTable(
        optics=groups,
        optics_index=optics_index,
        columns=columns,
        image_names=names,
        image_urls=urls,
        ctf_names=ctf_names,
        ctf_urls=None if ctf_names is None else files.resolve(ctf_names, "rlnCtfImage"),
        angles_deg=_vectors(columns, ANGLES, len(names), url),
        origins_angst=_vectors(columns, ORIGINS, len(names), url),
        angle_priors_deg=_angle_priors(columns, len(names), url),
        origin_priors_angst=_vectors(columns, _ORIGIN_PRIORS, len(names), url),
        class_number=_integers(columns, "rlnClassNumber", len(names), 0, url),
        random_subset=_subsets(columns, len(names), url),
        norm_correction=_floats(columns, "rlnNormCorrection", len(names), 1.0, url),
        micrograph_names=columns.get("rlnMicrographName"),
        group_names=[],
        group_index=np.zeros(len(names), dtype=np.int64),
        row_number=np.arange(1, len(names) + 1),
        source=url,
        notes=notes,
        dialect=version,
    )
    _check_origins(table)
    for label in _COORDINATES:
        _floats(columns, label, len(names), 0.0, url)
    order = _micrograph_order(columns, len(names))
    table = table.select(order)
    table.group_names, table.group_index = _number_groups([group_of_row[row] for row in order])
    if files.at_hand:
        check_first_volumes(table)
    return table


def _check_origins(table: ParticleTable) -> None:
    """An offset as wide as the box leaves nothing of the particle; tables whose boxes are unknown (0) pass."""
    boxes = [group.image_size * group.pixel_size_angst for group in table.optics]
    width = np.array(boxes)[table.optics_index, None]
    for labels, values in ((ORIGINS, table.origins_angst), (_ORIGIN_PRIORS, table.origin_priors_angst)):
        for row, axis in np.argwhere((np.abs(values) >= width) & (width > 0))[:1]:
            raise InputError(
                f"{table.describe(row)}: {labels[axis]} is {values[row, axis]:g} A, beyond the box of "
                f"{width[row, 0]:g} A; correct it, or extract the particle again around its new position"
            )


def particle_block(star: StarFile, url: str) -> StarBlock:
    """The table of particles among the blocks of the file at ``url``; `InputError` where there is none."""
    blocks = star.blocks
    for candidate in blocks.values():
        if "rlnTomoParticlesFile" in candidate.columns:
            named = candidate.columns["rlnTomoParticlesFile"][0]
            raise InputError(f"{url}: is an optimisation set; give the particle file that it names: {named}")
    with_images = [block for name, block in blocks.items() if "rlnImageName" in block.columns and name != "optics"]
    fallback = with_images[0] if len(with_images) == 1 else blocks.get("")
    block = blocks.get("particles", fallback)
    if block is None:
        found = ", ".join(f"data_{name}" for name in blocks)
        raise InputError(f"{url}: no table 'data_particles' (found {found}); give a particle STAR file")
    if "rlnImageName" not in block.columns:
        raise InputError(
            f"{url}: column rlnImageName is missing in data_{block.name}; "
            "these are positions without volumes: extract 3D subtomograms first (`tomoburst extract`)"
        )
    if not len(block):
        raise InputError(f"{url}: data_{block.name} holds no particles")
    return block


def _refuse_2d(star: StarFile, columns: Columns, url: str) -> None:
    way_out = (
        "extract 3D subtomograms (RELION 5: relion_tomo_subtomo without --stack2d; Warp: ts_export_particles --3d)"
    )
    general = star.blocks.get("general")
    if general is not None and general.columns.get("rlnTomoSubTomosAre2DStacks", ["0"])[0] == "1":
        raise InputError(f"{url}: RELION 5 particles as stacks of 2D images (rlnTomoSubTomosAre2DStacks 1); {way_out}")
    for row, name in enumerate(columns["rlnImageName"], start=1):
        if re.match(r"\d+@", name) or name.endswith((".mrcs", ":mrcs")):
            raise InputError(f"{url} row {row}: rlnImageName {name} is a stack of 2D images; {way_out}")


def _refuse_duplicates(names: list[str], url: str) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(names, start=1):
        if name in first:
            raise InputError(
                f"{url} rows {first[name]} and {row}: the same particle {name} twice; remove one of the rows"
            )
        first[name] = row


def _check_angles(block: StarBlock, url: str) -> None:
    """All three angles or none, which stands for particles that were never aligned."""
    missing = [label for label in ANGLES if label not in block.columns]
    if 0 < len(missing) < len(ANGLES):
        raise InputError(
            f"{url}: column {missing[0]} is missing in data_{block.name}, other angles are there; "
            f"add it, or remove {', '.join(label for label in ANGLES if label not in missing)} too"
        )


def _assume_one_group(columns: Columns, optics_columns: Columns, url: str, notes: list[str]) -> None:
    numbers = optics_columns.get("rlnOpticsGroup", [])
    if len(numbers) != 1:
        raise InputError(
            f"{url}: column rlnOpticsGroup is missing and data_optics has {len(numbers)} groups; add the column"
        )
    columns["rlnOpticsGroup"] = numbers * len(columns["rlnImageName"])
    notes.append(f"{url}: column rlnOpticsGroup is missing; all particles put into the only group {numbers[0]}")


class _Files:
    """The volumes of a STAR file, looked up beside it and in the working directory if they are at hand."""

    def __init__(self, url: str, at_hand: bool) -> None:
        self._url = url
        self.at_hand = at_hand

    def resolve(self, names: list[str], label: str) -> list[str]:
        bare = [name.removesuffix(":mrc") for name in names]
        if not self.at_hand:
            return [objects.candidates(name, self._url)[0] for name in bare]
        return objects.resolve_all(bare, self._url, lambda index: f"{self._url} row {index + 1}, {label}")

    def header(self, url: str) -> VolumeHeader | None:
        return read_header(url) if self.at_hand else None


class _StoredFiles:
    """The volumes of a particle store, where they were found and checked when it was made."""

    at_hand = False

    def __init__(self, store: ParticleStore, url: str) -> None:
        self._store = store
        self._url = url

    def resolve(self, names: list[str], label: str) -> list[str]:
        known = self._store.sources()["images" if label == "rlnImageName" else "ctfs"]
        for row, name in enumerate(names, start=1):
            if name not in known:
                raise InputError(
                    f"{self._url} row {row}: {label} {name} is not in the particle store {self._store.url}"
                )
        return [known[name][0] for name in names]

    def header(self, url: str) -> VolumeHeader | None:  # noqa: ARG002 - all volumes of a store are alike
        box = self._store.box
        return (box, box, box), self._store.layout.voxel_size_angst


def _check_ctfs(table: ParticleTable, store: ParticleStore) -> None:
    """A store knows particles by their names, and with each the CTF volume that it had then."""
    images = store.sources()["images"]
    for row, name in enumerate(table.ctf_names or []):
        stored = images[table.image_names[row]][2]
        if name != stored:
            raise InputError(
                f"{table.describe(row)}: rlnCtfImage is {name}, but {stored} in the particle store {store.url}; "
                "ingest this file into a store of its own"
            )


def _ctf_names(columns: Columns, url: str) -> list[str] | None:
    names = columns.get("rlnCtfImage")
    if names is None:
        return None
    empty = [row for row, name in enumerate(names, start=1) if name in ("", "None")]
    if len(empty) == len(names):
        return None
    if empty:
        raise InputError(
            f"{url} row {empty[0]}: rlnCtfImage is empty, other rows have one; name a volume in every row or in none"
        )
    return names


def _floats(columns: Columns, label: str, count: int, default: float, url: str) -> FloatArray:
    if label not in columns:
        return np.full(count, default)
    values = np.array(
        [optics_tables.to_number(value, label, f"{url} row {row}") for row, value in enumerate(columns[label], start=1)]
    )
    for row in np.flatnonzero(~np.isfinite(values))[:1]:
        raise InputError(f"{url} row {row + 1}: {label} is '{columns[label][row]}', a finite number was expected")
    return values


def _integers(columns: Columns, label: str, count: int, default: int, url: str) -> IntArray:
    values = _floats(columns, label, count, default, url)
    for row in np.flatnonzero((values != np.rint(values)) | (np.abs(values) > _LARGEST_INTEGER))[:1]:
        raise InputError(f"{url} row {row + 1}: {label} is '{columns[label][row]}', an integer was expected")
    return values.astype(np.int64)


def _vectors(columns: Columns, labels: tuple[str, ...], count: int, url: str) -> FloatArray:
    return np.stack([_floats(columns, label, count, 0.0, url) for label in labels], axis=1)


def _angle_priors(columns: Columns, count: int, url: str) -> FloatArray:
    labels = tuple(f"{label}Prior" for label in ANGLES)
    priors = np.stack([_floats(columns, label, count, _ABSENT_PRIOR, url) for label in labels], axis=1)
    return np.where(np.abs(priors - _ABSENT_PRIOR) < 0.01, math.nan, priors)


def _subsets(columns: Columns, count: int, url: str) -> IntArray:
    subsets = _integers(columns, "rlnRandomSubset", count, 0, url)
    for row in np.flatnonzero((subsets < 0) | (subsets > 2))[:1]:
        raise InputError(f"{url} row {row + 1}: rlnRandomSubset is {subsets[row]}, 1 or 2 was expected")
    if np.any(subsets == 0) and np.any(subsets != 0):
        row = int(np.argmax(subsets == 0)) + 1
        raise InputError(
            f"{url} row {row}: rlnRandomSubset is 0, other rows have 1 or 2; set it in every row or remove the column"
        )
    return subsets


def _optics_index(numbers: IntArray, groups: list[Optics], url: str) -> IntArray:
    position = {group.group: index for index, group in enumerate(groups)}
    for row, number in enumerate(numbers, start=1):
        if int(number) not in position:
            known = ", ".join(str(group.group) for group in groups)
            raise InputError(
                f"{url} row {row}: rlnOpticsGroup {number} is not in data_optics ({known}); correct one of them"
            )
    return np.array([position[int(number)] for number in numbers], dtype=np.int64)


def _groups_by_row(columns: Columns) -> list[str]:
    """RELION's rule: rlnGroupName, else the micrograph without its pipeline job, else the tomogram, else one group."""
    if "rlnGroupName" in columns:
        return columns["rlnGroupName"]
    micrographs = columns.get("rlnMicrographName", columns.get("rlnTomoName"))
    if micrographs is None:
        return ["group"] * len(columns["rlnImageName"])
    return [_PIPELINE_JOB.sub("", name) for name in micrographs]


def _micrograph_order(columns: Columns, count: int) -> IntArray:
    names = columns.get("rlnMicrographName", columns.get("rlnTomoName"))
    if names is None:
        return np.arange(count)
    return np.array(sorted(range(count), key=lambda row: names[row].rpartition("@")[2]), dtype=np.int64)


def _number_groups(names: list[str]) -> tuple[list[str], IntArray]:
    numbers: dict[str, int] = {}
    index = [numbers.setdefault(name, len(numbers)) for name in names]
    return list(numbers), np.array(index, dtype=np.int64)


def read_poses(table: ParticleTable) -> PoseState:
    """The assignment that an iteration of a refinement wrote into ``table``, with its likelihoods.

    Raises
    ------
    InputError
        With row and column, for cells that are no numbers.
    """
    count, url = len(table), table.source
    poses = table.poses()
    poses.log_likelihood = _floats(table.columns, "rlnLogLikeliContribution", count, 0.0, url)
    poses.pmax = _floats(table.columns, "rlnMaxValueProbDistribution", count, 0.0, url)
    poses.significant_samples = _integers(table.columns, "rlnNrOfSignificantSamples", count, 0, url)
    return poses


def data_blocks(table: ParticleTable, poses: PoseState, scored: bool = True) -> list[StarBlock]:
    """Blocks ``optics`` and ``particles`` of a data.star: the input columns with new values, then RELION's new columns.

    ``scored`` is False before the first iteration, which has no likelihoods yet.
    """
    optics = StarBlock("optics", {label: [] for group in table.optics for label in group.columns})
    for label, values in optics.columns.items():
        values.extend(group.columns.get(label, "0") for group in table.optics)
    return [optics, StarBlock("particles", {**table.columns, **_assigned(table, poses, scored)})]


def _assigned(table: ParticleTable, poses: PoseState, scored: bool) -> Columns:
    columns: Columns = {"rlnGroupNumber": [format_int(index + 1) for index in table.group_index.tolist()]}
    for labels, values in ((ANGLES, poses.angles_deg), (ORIGINS, poses.origins_angst)):
        for label, column in zip(labels, values.T.tolist(), strict=True):
            columns[label] = [format_float(value) for value in column]
    columns["rlnClassNumber"] = [format_int(value) for value in poses.class_number.tolist()]
    columns["rlnNormCorrection"] = [format_float(value) for value in poses.norm_correction.tolist()]
    if np.any(poses.random_subset > 0):
        columns["rlnRandomSubset"] = [format_int(value) for value in poses.random_subset.tolist()]
    if scored:
        columns["rlnLogLikeliContribution"] = [format_float(value) for value in poses.log_likelihood.tolist()]
        columns["rlnMaxValueProbDistribution"] = [format_float(value) for value in poses.pmax.tolist()]
        columns["rlnNrOfSignificantSamples"] = [format_int(value) for value in poses.significant_samples.tolist()]
    return columns
