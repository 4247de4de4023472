"""How many particles a table holds and what they are like, from its beginning and one header: for plans of a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from runner.errors import InputError
from runner.formats import optics as optics_tables
from runner.formats.mrc import HEADER_BYTES, read_header
from runner.formats.optics import VolumeHeader
from runner.formats.particles import particle_block
from runner.formats.star import StarFile, parse_star
from runner.store import objects
from runner.store.particles import is_particle_store, read_contents

HEAD_BYTES = 1 << 20
RANGE_BYTES = 1 << 24


@dataclass(frozen=True)
class ParticleHead:
    """What the beginning of a table of particles tells.

    Attributes
    ----------
    particles, groups : their number, and that of the micrographs among those looked at.
    box : N in voxels; voxel_size_angst : of the first particle.
    volume_bytes : of one particle where it is read from; ctf_bytes : of the CTF volumes that have to be read, per
        particle looked at (0: no CTFs).
    looked_at : particles whose rows were looked at.
    """

    particles: int
    groups: int
    box: int
    voxel_size_angst: float
    volume_bytes: int
    ctf_bytes: float
    looked_at: int


def read_particle_head(url: str) -> ParticleHead:
    """Read the first megabyte of the STAR file at ``url``, count the rows of the rest, and read one volume's header.

    Of a particle store (``.zarr``) its metadata are read.

    Raises
    ------
    InputError
        The file is missing or holds no particles, or its first volume is missing or no cube.
    """
    if is_particle_store(url):
        return _of_store(url)
    star, rest = _head(url)
    block = particle_block(star, url)
    columns = block.columns
    name = objects.resolve(columns["rlnImageName"][0].removesuffix(":mrc"), url)
    header = read_header(name)
    if len(set(header[0])) > 1:
        size_z, size_y, size_x = header[0]
        raise InputError(f"{name}: {size_x} x {size_y} x {size_z} voxels (x, y, z); cut cubic subtomograms")
    box = header[0][0]
    micrographs = columns.get("rlnGroupName", columns.get("rlnMicrographName", columns.get("rlnTomoName", ["one"])))
    ctfs = set(columns.get("rlnCtfImage", [])) - {"", "None"}
    return ParticleHead(
        particles=len(block) + rest,
        groups=len(set(micrographs)),
        box=box,
        voxel_size_angst=_voxel_size(star, url, header),
        volume_bytes=4 * box**3 + HEADER_BYTES,
        ctf_bytes=len(ctfs) * (4 * box**3 + HEADER_BYTES) / len(block),
        looked_at=len(block),
    )


def _of_store(url: str) -> ParticleHead:
    contents = read_contents(url)
    if contents is None:
        raise InputError(f"{url}: no particle store, or its ingestion is not finished; make it with `tomoburst ingest`")
    layout = contents.layout
    half = layout.box**2 * (layout.box // 2 + 1)
    return ParticleHead(
        particles=layout.particles,
        groups=1,
        box=layout.box,
        voxel_size_angst=layout.voxel_size_angst,
        volume_bytes=layout.dtype_of("particles").itemsize * layout.box**3,
        ctf_bytes=4.0 * half * layout.ctfs / max(1, layout.particles),
        looked_at=layout.particles,
    )


def _head(url: str) -> tuple[StarFile, int]:
    """The beginning of a STAR file, and how many rows follow; the whole file when another table comes later."""
    data = objects.read_bytes(url, 0, HEAD_BYTES)
    if len(data) < HEAD_BYTES:
        return parse_star(_text(data, url), url), 0
    end = data.rfind(b"\n") + 1
    rows = _rows_from(url, end)
    if rows is None:
        return parse_star(_text(objects.read_bytes(url), url), url), 0
    return parse_star(_text(data[:end], url), url), rows


def _rows_from(url: str, start: int) -> int | None:
    """Lines that are not blank from byte ``start`` on, in ranges that fit into memory; None when a table begins."""
    rows, broken = 0, b""
    for number in count():
        first = start + number * RANGE_BYTES
        data = objects.read_bytes(url, first, first + RANGE_BYTES)
        *lines, broken = (broken + data).split(b"\n")
        if len(data) < RANGE_BYTES:
            lines.append(broken)
        if any(line.startswith(b"data_") for line in lines):
            return None
        rows += sum(1 for line in lines if line.strip())
        if len(data) < RANGE_BYTES:
            break
    return rows


def _text(data: bytes, url: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: is not a text file; a STAR file was expected") from error


def _voxel_size(star: StarFile, url: str, header: VolumeHeader) -> float:
    """That of the first particle's optics group, completed from the volume's header as in a run."""
    block = particle_block(star, url)
    columns = {label: list(values) for label, values in block.columns.items()}
    if "optics" in star.blocks and len(star.blocks["optics"]):
        optics = star.blocks["optics"].columns
        number = int(float(columns.get("rlnOpticsGroup", optics["rlnOpticsGroup"])[0]))
    else:
        optics, columns = optics_tables.split_single_table(columns, url)
        number = int(columns["rlnOpticsGroup"][0])
    version = optics_tables.dialect(star, block)
    groups = optics_tables.build_optics(optics, {number}, lambda _: header, version, url, [])
    return next(group.pixel_size_angst for group in groups if group.group == number)
