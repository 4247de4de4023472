"""MRC maps over any store: modes 0, 1, 2, 6 and 12 (float16) are read; the header that is written is RELION's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.errors import InputError, UsageError
from runner.store import objects

HEADER_BYTES = 1024
_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_HEADER = np.dtype(
    [
        ("shape_xyz", "i4", 3), ("mode", "i4"), ("start", "i4", 3), ("sampling", "i4", 3), ("cell", "f4", 3),
        ("angles", "f4", 3), ("axes", "i4", 3), ("statistics", "f4", 3), ("space_group", "i4"),
        ("extended_bytes", "i4"), ("extra", "V100"), ("origin", "f4", 3), ("map", "S4"), ("stamp", "u1", 4),
        ("rms", "f4"), ("label_count", "i4"), ("labels", "S80", 10),
    ]
)  # fmt: skip


@dataclass
class Volume:
    """A map: ``data`` float32 (z, y, x); ``voxel_size_angst`` from its header, 0 where the header gives none."""

    data: npt.NDArray[np.float32]
    voxel_size_angst: float


@dataclass(frozen=True)
class Header:
    """What an MRC file holds: ``shape`` (z, y, x), type of its voxels, and the byte at which they start."""

    shape: tuple[int, int, int]
    voxel_size_angst: float
    dtype: np.dtype[np.generic]
    data_offset: int


def read_header(url: str) -> tuple[tuple[int, int, int], float]:
    """Shape (z, y, x) and voxel size in Angstrom of the map at ``url``, from its first kilobyte.

    Raises
    ------
    InputError
        When the file is missing or not an MRC file.
    """
    header = read_layout(url)
    return header.shape, header.voxel_size_angst


def read_layout(url: str) -> Header:
    """What the map at ``url`` holds, from its first kilobyte; raises what `read_header` raises."""
    return _parse_header(objects.read_bytes(url, 0, HEADER_BYTES), url)


def read_mrc(url: str) -> Volume:
    """Read the three-dimensional map at ``url``.

    Raises
    ------
    InputError
        When the file is missing, not MRC, truncated, a single two-dimensional image, or holds NaN or infinite voxels.
    """
    return parse_mrc(objects.read_bytes(url), url)


def parse_mrc(content: bytes, source: str) -> Volume:
    """Map in the bytes of an MRC file; ``source`` names it in errors (those of `read_mrc`)."""
    header = _parse_header(content, source)
    count = int(np.prod(header.shape, dtype=np.int64))
    expected = header.data_offset + count * header.dtype.itemsize
    if len(content) < expected:
        raise InputError(
            f"{source}: truncated, {len(content)} bytes of the {expected} its header promises; copy it again"
        )
    if header.shape[0] == 1:
        _, rows, columns = header.shape
        raise InputError(f"{source}: a two-dimensional image of {columns} x {rows} pixels; a 3D volume was expected")
    data = np.frombuffer(content, header.dtype, count, header.data_offset).astype(np.float32).reshape(header.shape)
    bad = count - int(np.count_nonzero(np.isfinite(data)))
    if bad:
        raise InputError(f"{source}: {bad} of {count} voxels are NaN or infinite; make it again or leave it out")
    return Volume(data, header.voxel_size_angst)


def _parse_header(content: bytes, source: str) -> Header:
    if len(content) < HEADER_BYTES:
        raise InputError(f"{source}: {len(content)} bytes are no MRC file, its header alone has {HEADER_BYTES}")
    for order in ("<", ">"):
        dtype = _HEADER.newbyteorder(order)
        record = np.frombuffer(content, dtype, 1)[0]
        shape_xyz = [int(value) for value in record["shape_xyz"]]
        if int(record["mode"]) in range(128) and all(0 < value < 2**24 for value in shape_xyz):
            break
    else:
        raise InputError(f"{source}: is not an MRC file (no valid size and mode in its header)")
    mode = int(record["mode"])
    if mode not in _DTYPES:
        raise InputError(f"{source}: MRC mode {mode} is not supported; convert it to float32 (mode 2)")
    if [int(axis) for axis in record["axes"]] not in ([1, 2, 3], [0, 0, 0]):
        axes = ", ".join(str(int(axis)) for axis in record["axes"])
        raise InputError(f"{source}: axis order {axes} is not supported; rewrite the map with axis order 1, 2, 3")
    sampling = int(record["sampling"][0]) or shape_xyz[0]
    voxel_size = float(np.float64(record["cell"][0]) / sampling)
    return Header(
        shape=(shape_xyz[2], shape_xyz[1], shape_xyz[0]),
        voxel_size_angst=voxel_size if np.isfinite(voxel_size) and voxel_size > 0 else 0.0,
        dtype=np.dtype(_DTYPES[mode]).newbyteorder(order),
        data_offset=HEADER_BYTES + max(0, int(record["extended_bytes"])),
    )


def format_mrc(data: npt.NDArray[np.floating], voxel_size_angst: float, float16: bool = False) -> bytes:
    """Bytes of an MRC file: cell = size times voxel size, starts and origin zero, as RELION writes it.

    Raises
    ------
    ValueError
        When ``data`` is not three-dimensional.
    UsageError
        When a value does not fit into float16.
    """
    if data.ndim != 3:
        raise ValueError(f"a map has three axes z, y, x; got shape {data.shape}")
    voxels = np.ascontiguousarray(data, dtype="<f4")
    if float16:
        if voxels.size and float(np.abs(voxels).max()) > float(np.finfo(np.float16).max):
            raise UsageError(f"values up to {float(np.abs(voxels).max()):.4g} do not fit into float16; write float32")
        voxels = voxels.astype("<f2")
    values = voxels.astype(np.float64)
    header = np.zeros(1, dtype=_HEADER.newbyteorder("<"))
    shape_xyz = np.array(data.shape[::-1])
    header["shape_xyz"] = header["sampling"] = shape_xyz
    header["mode"] = 12 if float16 else 2
    header["cell"] = shape_xyz * voxel_size_angst
    header["angles"] = 90.0
    header["axes"] = (1, 2, 3)
    header["statistics"] = (values.min(), values.max(), values.mean())
    header["map"] = b"MAP "
    header["stamp"] = (0x44, 0x41, 0, 0)
    header["rms"] = values.std()
    header["label_count"] = 1
    header["labels"][0, 0] = b"tomoburst"
    return header.tobytes() + voxels.tobytes()


def write_mrc(url: str, data: npt.NDArray[np.floating], voxel_size_angst: float, float16: bool = False) -> None:
    """Write ``data`` (z, y, x) at ``url``, whole or not at all; raises what `format_mrc` and the store raise."""
    objects.write_bytes(url, format_mrc(data, voxel_size_angst, float16))
