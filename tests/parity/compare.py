"""Compare two runs' files: STAR files field by field, maps by relative L2, BILD files line by line.

The reader is deliberately separate from ``runner.formats``: an error there must not hide itself.
"""

from __future__ import annotations

import shlex
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.parity.dataset import euler_matrix

RELATIVE = 1e-4
MAP_RELATIVE_L2 = 1e-5
POSE_DEG = 1e-3
# Power left beyond the cut-off of a low-passed float32 map, relative to the largest of its column: rounding noise.
POWER_FLOOR = 1e-13
POWER_LABELS = ("rlnSsnrMap", "rlnReferenceTau2")
# Degrees by which an arc cosine of a rounded 1 differs from 0: the change of orientations that were not searched.
ARC_COSINE_DEG = 1e-6
CHANGE_LABELS = ("rlnChangesOptimalOrientations", "rlnSmallestChangesOrientations")
ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")


@dataclass
class Block:
    """One STAR block; ``columns`` maps labels (without underscore) to verbatim strings."""

    loop: bool
    columns: dict[str, list[str]]


@dataclass(frozen=True)
class Difference:
    """One deviation; ``excess`` is the error in units of what is allowed (inf for structure)."""

    where: str
    ours: str
    theirs: str
    excess: float

    def __str__(self) -> str:
        return f"{self.where}: tomoburst {self.ours} | RELION {self.theirs} | {self.excess:.3g} x allowed"


def read_star(path: Path) -> dict[str, Block]:
    """Read every block of a STAR file."""
    blocks: dict[str, Block] = {}
    block, labels = Block(False, {}), []
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("data_"):
            block = blocks[line[5:]] = Block(False, {})
            labels = []
        elif line == "loop_":
            block.loop = True
        elif line.startswith("_"):
            fields = shlex.split(line)
            labels.append(fields[0][1:])
            block.columns[labels[-1]] = [] if block.loop else [fields[1]]
        else:
            values = shlex.split(line)
            if len(values) != len(labels):
                raise ValueError(f"{path}: {len(values)} values for {len(labels)} labels: {line}")
            for label, value in zip(labels, values, strict=True):
                block.columns[label].append(value)
    return blocks


def read_map(path: Path) -> npt.NDArray[np.float64]:
    """Read a mode-2 MRC volume as float64 (z, y, x)."""
    content = path.read_bytes()
    nx, ny, nz, mode = struct.unpack_from("<4i", content)
    if mode != 2:
        raise ValueError(f"{path}: MRC mode {mode}, expected 2")
    (extended,) = struct.unpack_from("<i", content, 92)
    values = np.frombuffer(content, "<f4", nx * ny * nz, 1024 + extended)
    return values.reshape(nz, ny, nx).astype(np.float64)


def relative_l2(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    """Norm of the difference over the norm of the second map (inf when shapes differ or values are not finite)."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    norm = float(np.linalg.norm(theirs))
    error = float(np.linalg.norm(ours - theirs))
    return error / norm if norm > 0 else (0.0 if error == 0 else float("inf"))


def printed_unit(text: str) -> float:
    """Value of one unit in the last printed digit: 1e-06 for ``0.123456``, 1e-13 for ``1.234567e-07``."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2])
    return float(10.0 ** (int(exponent or 0) - decimals))


def _is_integer(text: str) -> bool:
    return text.lstrip("+-").isdigit()


def compare_values(where: str, ours: str, theirs: str, floor: float = 0.0) -> Difference | None:
    """Compare two printed values: text and integers exactly, numbers to ``RELATIVE`` plus half a unit of each print."""
    if ours == theirs:
        return None
    try:
        a, b = float(ours), float(theirs)
    except ValueError:
        return Difference(where, ours, theirs, float("inf"))
    if _is_integer(theirs) and _is_integer(ours):
        return Difference(where, ours, theirs, float("inf"))
    allowed = RELATIVE * abs(b) + 0.5 * (printed_unit(ours) + printed_unit(theirs)) + floor
    excess = abs(a - b) / allowed
    return Difference(where, ours, theirs, excess) if not excess <= 1.0 else None


def _angle_between_deg(ours: tuple[str, ...], theirs: tuple[str, ...]) -> float:
    product = euler_matrix([float(v) for v in ours]) @ euler_matrix([float(v) for v in theirs]).T
    axis = [product[2, 1] - product[1, 2], product[0, 2] - product[2, 0], product[1, 0] - product[0, 1]]
    return float(np.degrees(np.arctan2(0.5 * np.linalg.norm(axis), 0.5 * (np.trace(product) - 1.0))))


def _compare_angles(name: str, ours: Block, theirs: Block) -> list[Difference]:
    triples = [list(zip(*(block.columns[label] for label in ANGLES), strict=True)) for block in (ours, theirs)]
    found = []
    for row, (a, b) in enumerate(zip(*triples, strict=True)):
        angle = _angle_between_deg(a, b)
        if angle > POSE_DEG:
            where = f"{name} row {row} rot, tilt, psi ({angle:.4g} deg apart)"
            found.append(Difference(where, " ".join(a), " ".join(b), angle / POSE_DEG))
    return found


def compare_blocks(name: str, ours: Block, theirs: Block, ignore: frozenset[str] = frozenset()) -> list[Difference]:
    """Compare two blocks label by label, row by row; orientation columns as rotations."""
    if list(ours.columns) != list(theirs.columns):
        missing = [label for label in theirs.columns if label not in ours.columns]
        extra = [label for label in ours.columns if label not in theirs.columns]
        if missing or extra:
            return [Difference(f"{name} labels", f"extra {extra}", f"missing {missing}", float("inf"))]
        return [Difference(f"{name} label order", str(list(ours.columns)), str(list(theirs.columns)), float("inf"))]
    found: list[Difference] = []
    rotations = all(label in theirs.columns for label in ANGLES)
    for label, values in theirs.columns.items():
        if label in ignore or (rotations and label in ANGLES):
            continue
        mine = ours.columns[label]
        if len(mine) != len(values):
            found.append(Difference(f"{name} {label} rows", str(len(mine)), str(len(values)), float("inf")))
            continue
        floor = POWER_FLOOR * max(map(float, values), default=0.0) if label in POWER_LABELS else 0.0
        floor = ARC_COSINE_DEG if label in CHANGE_LABELS else floor
        for row, (a, b) in enumerate(zip(mine, values, strict=True)):
            difference = compare_values(f"{name} {label} row {row}", a, b, floor)
            if difference:
                found.append(difference)
    rows_agree = len(next(iter(ours.columns.values()), [])) == len(next(iter(theirs.columns.values()), []))
    return found + (_compare_angles(name, ours, theirs) if rotations and rows_agree else [])


def compare_star(ours: Path, theirs: Path, ignore: frozenset[str] = frozenset()) -> list[Difference]:
    """Compare two STAR files block by block."""
    mine, oracle = read_star(ours), read_star(theirs)
    if list(mine) != list(oracle):
        return [Difference(f"{theirs.name} blocks", str(list(mine)), str(list(oracle)), float("inf"))]
    return [
        difference
        for name, block in oracle.items()
        for difference in compare_blocks(f"{theirs.name} {name}", mine[name], block, ignore)
    ]


def compare_maps(ours: Path, theirs: Path) -> list[Difference]:
    """Compare two maps by relative L2 and their voxel sizes (cell lengths) exactly."""
    found = []
    a, b = read_map(ours), read_map(theirs)
    error = relative_l2(a, b)
    if error > MAP_RELATIVE_L2:
        correlation = float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.shape == b.shape else float("nan")
        scale = float(np.vdot(a, b) / max(np.vdot(b, b), 1e-300)) if a.shape == b.shape else float("nan")
        where = f"{theirs.name} relative L2 {error:.3g} (correlation {correlation:.8f}, scale {scale:.6f})"
        found.append(Difference(where, f"shape {a.shape}", f"shape {b.shape}", error / MAP_RELATIVE_L2))
    cells = [struct.unpack_from("<3f", path.read_bytes()[:1024], 40) for path in (ours, theirs)]
    if cells[0] != cells[1]:
        found.append(Difference(f"{theirs.name} cell", str(cells[0]), str(cells[1]), float("inf")))
    return found


def compare_text(ours: Path, theirs: Path) -> list[Difference]:
    """Compare two BILD files word by word: colours of the scale 0 to 1 and coordinates, to a millionth at least."""
    mine, oracle = ours.read_text().splitlines(), theirs.read_text().splitlines()
    if len(mine) != len(oracle):
        return [Difference(f"{theirs.name} lines", str(len(mine)), str(len(oracle)), float("inf"))]
    found = []
    for number, (a, b) in enumerate(zip(mine, oracle, strict=True), start=1):
        words_a, words_b = a.split(), b.split()
        if len(words_a) != len(words_b):
            found.append(Difference(f"{theirs.name} line {number}", a, b, float("inf")))
            continue
        pairs = enumerate(zip(words_a, words_b, strict=True))
        results = (compare_values(f"{theirs.name} line {number} word {w}", x, y, 1e-6) for w, (x, y) in pairs)
        found += [difference for difference in results if difference]
    return found


def compare_file(ours: Path, theirs: Path, ignore: frozenset[str] = frozenset()) -> list[Difference]:
    """Compare two files by kind."""
    if not ours.exists():
        return [Difference(theirs.name, "missing", "present", float("inf"))]
    if theirs.suffix == ".star":
        return compare_star(ours, theirs, ignore)
    return compare_maps(ours, theirs) if theirs.suffix == ".mrc" else compare_text(ours, theirs)


def report(differences: list[Difference], first: int = 12) -> str:
    """The first and the worst deviations, readable in a test log."""
    if not differences:
        return "no differences"
    worst = sorted(differences, key=lambda d: -d.excess)[:4]
    lines = [f"{len(differences)} differences; first:"] + [f"  {d}" for d in differences[:first]]
    return "\n".join(lines + ["worst:"] + [f"  {d}" for d in worst])
