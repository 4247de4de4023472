"""A small, deterministic set of subtomograms for parity runs: NumPy only, nothing from the packages under test.

A particle is a sum of Gaussian blobs evaluated at rotated positions (no map is ever interpolated), filtered by its own
3D CTF (missing wedge times an oscillating, sign-changing function) with unit-variance noise on top.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

BOX = 18
PIXEL_ANGST = 10.0


@dataclass(frozen=True)
class Flavour:
    """What varies between data sets; the particles' poses and noise are the same in all of them."""

    name: str
    ctf: str = "cube"  # "cube", "half" (FFTW half layout) or "asymmetric" (a cube that is not centro-symmetric)
    premultiplied: bool = False
    states: int = 1
    extras: bool = False  # also further masks, a tau2 spectrum and a map with a wrong voxel size in its header


def write_mrc(path: Path, data: Array, pixel_angst: float = PIXEL_ANGST) -> None:
    """Write float32 ``data`` (z, y, x) as a mode-2 MRC file, by default with the voxel size of this data set."""
    nz, ny, nx = data.shape
    header = bytearray(1024)
    cell = (nx * pixel_angst, ny * pixel_angst, nz * pixel_angst)
    struct.pack_into("<10i6f3i", header, 0, nx, ny, nz, 2, 0, 0, 0, nx, ny, nz, *cell, 90.0, 90.0, 90.0, 1, 2, 3)
    struct.pack_into("<4s4B", header, 208, b"MAP ", 0x44, 0x44, 0, 0)
    struct.pack_into("<4f", header, 76, float(data.min()), float(data.max()), float(data.mean()), 0.0)
    struct.pack_into("<f", header, 216, float(data.std()))
    path.write_bytes(bytes(header) + np.ascontiguousarray(data, dtype="<f4").tobytes())


def euler_matrix(angles_deg: npt.ArrayLike) -> Array:
    """RELION's ZYZ matrix of (rot, tilt, psi): ``particle position = A @ reference position`` (x, y, z)."""
    rot, tilt, psi = np.deg2rad(np.asarray(angles_deg, dtype=np.float64))

    def about_z(angle: float) -> Array:
        c, s = np.cos(angle), np.sin(angle)
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    c, s = np.cos(tilt), np.sin(tilt)
    about_y = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    matrix: Array = about_z(psi) @ about_y @ about_z(rot)
    return matrix


def blobs(state: int) -> tuple[Array, Array, Array]:
    """Centres (n, 3) in pixels (x, y, z), widths and heights of the particle's blobs; ``state`` 1 lacks two of them."""
    random = np.random.default_rng(4)
    directions = random.normal(size=(9, 3))
    centres = directions / np.linalg.norm(directions, axis=1, keepdims=True) * random.uniform(0.5, 4.5, size=(9, 1))
    widths, heights = random.uniform(1.0, 1.5, size=9), random.uniform(0.35, 0.7, size=9)
    kept = slice(0, 9) if state == 0 else slice(2, 9)
    return centres[kept], widths[kept], heights[kept]


def density(matrix: Array, shift_px: Array, state: int = 0) -> Array:
    """The particle rotated by ``matrix`` and moved by ``shift_px`` (x, y, z); (BOX, BOX, BOX)."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((BOX, BOX, BOX))
    for centre, width, height in zip(*blobs(state), strict=True):
        px, py, pz = matrix @ centre + shift_px
        volume += height * np.exp(-((x - px) ** 2 + (y - py) ** 2 + (z - pz) ** 2) / (2.0 * width**2))
    return volume


def ctf_cube(index: int, asymmetric: bool = False) -> Array:
    """Centred 3D CTF of one particle: a soft 60 degree wedge around y times a cosine that changes sign."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    wedge = np.clip(1.2 * np.abs(x) * np.tan(np.deg2rad(60.0)) - np.abs(z) + 1.0, 0.0, 1.0)
    cube: Array = wedge * np.cos(np.pi * radius**2 / (60.0 + 6.0 * (index % 4)) + 0.25)
    return cube * (1.0 + 0.05 * np.sin(0.7 * x + 0.4 * y - 0.3 * z)) if asymmetric else cube


def apply_ctf(volume: Array, cube: Array) -> Array:
    """Filter ``volume`` by a centred CTF cube."""
    return np.real(np.fft.ifftn(np.fft.fftn(volume) * np.fft.ifftshift(cube)))


def _star(blocks: list[tuple[str, list[str], list[list[str]]]]) -> str:
    lines: list[str] = []
    for name, labels, rows in blocks:
        lines += ["", "# version 30001", "", f"data_{name}", "", "loop_"]
        lines += [f"_{label} #{number}" for number, label in enumerate(labels, start=1)]
        lines += [" ".join(row) for row in rows] + [""]
    return "\n".join(lines) + "\n"


# Micrographs interleaved, so that the stable sort matters; the last one has particles in one half only.
MICROGRAPHS = ("b", "a", "c", "b", "a", "c", "b", "a", "d", "c", "b", "a", "d", "a", "b", "c")
SUBSETS = (1, 2, 1, 2, 1, 2, 1, 2, 1, 1, 2, 1, 1, 2, 2, 2)


def poses(number: int) -> tuple[Array, Array, Array, Array]:
    """True angles, true shifts (px, that centre the particle), input angles (about 8 degrees off) and input offsets."""
    random = np.random.default_rng(11)
    angles = np.column_stack(
        [
            random.uniform(-180.0, 180.0, number),
            np.degrees(np.arccos(random.uniform(-0.95, 0.95, number))),
            random.uniform(-180.0, 180.0, number),
        ]
    )
    shifts = random.normal(0.0, 1.0, (number, 3))
    return angles, shifts, angles + random.normal(0.0, 5.0, (number, 3)), shifts + random.normal(0.0, 0.6, (number, 3))


def build(folder: Path, flavour: Flavour) -> None:
    """Write particles, CTFs, references, masks and STAR files; names are relative to the parent as ``data/...``."""
    (folder / "subtomo").mkdir(parents=True)
    (folder / "ctf").mkdir()
    number = len(MICROGRAPHS)
    angles, shifts, input_angles, input_offsets = poses(number)
    random = np.random.default_rng(7)
    rows = []
    for index in range(number):
        cube = ctf_cube(index, flavour.ctf == "asymmetric")
        state = index % 2 if flavour.states == 2 else 0
        noise = random.normal(size=(BOX, BOX, BOX))
        volume = apply_ctf(density(euler_matrix(angles[index]), -shifts[index], state), cube) + noise
        if flavour.premultiplied:
            volume = apply_ctf(volume, cube)
        write_mrc(folder / "subtomo" / f"{index + 1:03d}.mrc", volume)
        stored = np.fft.ifftshift(cube)[:, :, : BOX // 2 + 1] if flavour.ctf == "half" else cube
        write_mrc(folder / "ctf" / f"{index + 1:03d}.mrc", stored)
        numbers = [*input_angles[index], *(input_offsets[index] * PIXEL_ANGST)]
        rows.append(
            [f"{MICROGRAPHS[index]}.mrc", f"{10 * index}.5", "20.0", "0.25"]
            + [f"data/subtomo/{index + 1:03d}.mrc", f"data/ctf/{index + 1:03d}.mrc", "1"]
            + [f"{value:.6f}" for value in numbers]
            + [str(SUBSETS[index])]
        )
    particle_labels = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnImageName"]
    particle_labels += ["rlnCtfImage", "rlnOpticsGroup", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    particle_labels += ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnRandomSubset"]
    optics_labels = ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration"]
    optics_labels += ["rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality", "rlnCtfDataAreCtfPremultiplied"]
    optics = ["1", "opticsGroup1", "300.0", "2.7", f"{PIXEL_ANGST:.6f}", str(BOX), "3", str(int(flavour.premultiplied))]
    table = ("optics", optics_labels, [optics])
    (folder / "particles.star").write_text(_star([table, ("particles", particle_labels, rows)]))
    unsplit = [row[:-1] for row in rows]
    (folder / "unsplit.star").write_text(_star([table, ("particles", particle_labels[:-1], unsplit)]))
    classified = [[*row, str(1 + index % 2)] for index, row in enumerate(rows)]
    labels = [*particle_labels, "rlnClassNumber"]
    (folder / "classified.star").write_text(_star([table, ("particles", labels, classified)]))
    _references(folder)
    if flavour.extras:
        _extras(folder)


def _references(folder: Path) -> None:
    """Two reference maps, a STAR file that lists them, a soft mask and an FSC curve."""
    for state in (0, 1):
        reference = density(euler_matrix((2.0, 3.0, -1.0)), np.array([0.2, -0.1, 0.1]), state)
        write_mrc(folder / f"ref{state + 1}.mrc", reference)
    names = [["data/ref1.mrc"], ["data/ref2.mrc"]]
    (folder / "refs.star").write_text(_star([("", ["rlnReferenceImage"], names)]))
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    radius = np.sqrt((x / 1.1) ** 2 + y**2 + (z / 0.9) ** 2)
    write_mrc(folder / "mask.mrc", np.clip(0.5 * (7.5 - radius), 0.0, 1.0))
    curve = [[str(shell), f"{1.0 / (1.0 + np.exp(shell - 5.0)):.6f}"] for shell in range(BOX // 2 + 1)]
    (folder / "fsc.star").write_text(_star([("fsc", ["rlnSpectralIndex", "rlnGoldStandardFsc"], curve)]))


def _extras(folder: Path) -> None:
    """Two soft masks inside the particle, a tau2 spectrum, and the first reference with a wrong voxel size."""
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    for name, (cx, cy, cz), radius in (("mask2", (0.0, 0.0, 0.0), 2.0), ("region", (2.0, -1.0, 1.0), 3.0)):
        distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)
        write_mrc(folder / f"{name}.mrc", np.clip(0.5 * (radius + 2.0 - distance), 0.0, 1.0))
    spectrum = [[str(shell), f"{2e-4 * np.exp(-shell / 3.0):.6e}"] for shell in range(BOX // 2 + 1)]
    (folder / "tau.star").write_text(_star([("tau", ["rlnSpectralIndex", "rlnReferenceTau2"], spectrum)]))
    reference = density(euler_matrix((2.0, 3.0, -1.0)), np.array([0.2, -0.1, 0.1]))
    write_mrc(folder / "ref_1A.mrc", reference, pixel_angst=1.0)


def digest(folder: Path) -> str:
    """Digest of every file of a data set."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
