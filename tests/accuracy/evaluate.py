"""Compare a finished refinement with the truth of its data set: poses after one global rotation and shift, maps, FSC.

``python -m tests.accuracy.evaluate DATA_FOLDER OUT/run [OUT2/run ...]`` prints one Markdown row for every run, be it of
tomoburst or of RELION (the file names are the same).  Nothing of the packages under test is used here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from tests.parity.compare import ANGLES, Block, read_map, read_star
from tests.parity.dataset import euler_matrix

Array = npt.NDArray[np.float64]

ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
NEAR_DEG = 15.0
MASK_EDGE_PX = 5.0


@dataclass(frozen=True)
class Accuracy:
    """What one run reached; resolutions in Angstrom, shifts in pixels, angles in degrees."""

    particles: int
    angle_median_deg: float
    angle_p90_deg: float
    within_15_deg: float
    shift_median_px: float
    drift_deg: float
    half_map_resolution_angst: float
    half_map_resolution_masked_angst: float
    truth_resolution_angst: float
    truth_resolution_masked_angst: float
    class_agreement: float

    def row(self, name: str) -> str:
        """One row of the table in docs/accuracy.md."""
        cells = [
            name,
            f"{self.particles}",
            f"{self.angle_median_deg:.2f}",
            f"{self.angle_p90_deg:.2f}",
            f"{100 * self.within_15_deg:.0f}",
            f"{self.shift_median_px:.3f}",
            f"{self.half_map_resolution_angst:.1f} / {self.half_map_resolution_masked_angst:.1f}",
            f"{self.truth_resolution_angst:.1f} / {self.truth_resolution_masked_angst:.1f}",
            f"{self.drift_deg:.1f}",
            f"{100 * self.class_agreement:.0f}",
        ]
        return "| " + " | ".join("–" if "nan" in cell else cell for cell in cells) + " |"


HEADER = (
    "| run | particles | angle median (°) | p90 (°) | within 15° (%) | shift median (px) | "
    "half maps FSC 0.143, unmasked / masked (Å) | to truth FSC 0.5, unmasked / masked (Å) | drift (°) | class (%) |\n"
     "|---|" + "---|" * 9
)  # fmt: skip


def last_iteration(prefix: Path) -> Path:
    """``prefix`` itself when the run has converged, else ``prefix_itNNN`` of its last iteration."""
    if Path(f"{prefix}_data.star").exists():
        return prefix
    files = sorted(prefix.parent.glob(f"{prefix.name}_it*_data.star"))
    if not files:
        raise FileNotFoundError(f"no {prefix}_data.star and no {prefix}_itNNN_data.star")
    return files[-1].with_name(files[-1].name.removesuffix("_data.star"))


def poses_by_name(path: Path) -> tuple[dict[str, tuple[Array, Array, int]], float]:
    """Rotation, origin (Angstrom) and class of every particle by its image's file name; and the pixel size."""
    blocks = read_star(path)
    table: Block = blocks["particles"]
    angles = np.array([[float(v) for v in table.columns[label]] for label in ANGLES]).T
    number = len(angles)
    origins = np.array([[float(v) for v in table.columns.get(label, ["0"] * number)] for label in ORIGINS]).T
    classes = [int(v) for v in table.columns.get("rlnClassNumber", ["0"] * number)]
    names = [Path(name).name for name in table.columns["rlnImageName"]]
    matrices = [euler_matrix(a) for a in angles]
    poses = dict(zip(names, zip(matrices, origins, classes, strict=True), strict=True))
    return poses, float(blocks["optics"].columns["rlnImagePixelSize"][0])


def _angles_deg(rotations: Array) -> Array:
    chord = np.linalg.norm(rotations - np.eye(3), axis=(-2, -1)) / np.sqrt(8.0)
    return np.asarray(np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0))))


def global_rotation(estimated: Array, true: Array) -> Array:
    """The rotation ``R`` in ``estimated = true R`` of most particles: L1 centre from the best single particle."""
    relative = np.swapaxes(true, -1, -2) @ estimated
    spread = _angles_deg(np.swapaxes(relative, -1, -2)[:, None] @ relative[None])
    rotation = relative[np.argmin(np.minimum(spread, 30.0).sum(axis=1))]
    for _ in range(50):
        error = _angles_deg(rotation.T @ relative)
        weights = np.where(error < 30.0, 1.0 / np.maximum(error, 0.1), 0.0)
        u, _, vt = np.linalg.svd(np.einsum("i,iab->ab", weights, relative))
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    return rotation


def global_shift(vectors: Array) -> Array:
    """Geometric median of ``vectors`` (n, 3)."""
    centre = np.median(vectors, axis=0)
    for _ in range(100):
        weights = 1.0 / np.maximum(np.linalg.norm(vectors - centre, axis=1), 1e-3)
        centre = weights @ vectors / weights.sum()
    return np.asarray(centre)


def fsc(one: Array, two: Array) -> Array:
    """Fourier shell correlation, shells 0 to N/2."""
    size = one.shape[0]
    axis = np.fft.fftfreq(size, 1.0 / size)
    shell = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis**2)).astype(int).ravel()
    a, b = np.fft.fftn(one).ravel(), np.fft.fftn(two).ravel()
    cross, power_a, power_b = (
        np.bincount(shell, values)[: size // 2 + 1] for values in ((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2)
    )
    return np.asarray(cross / np.sqrt(np.maximum(power_a * power_b, 1e-300)))


def resolution(curve: Array, threshold: float, box_angst: float, interpolate: bool) -> float:
    """Resolution where ``curve`` first falls below ``threshold``: the last shell above it, or interpolated."""
    below = np.flatnonzero(curve[1:] < threshold)
    if len(below) == 0:
        return box_angst / (len(curve) - 1)
    shell = float(below[0])  # index of the last shell above the threshold
    if interpolate and shell >= 1:
        high, low = curve[int(shell)], curve[int(shell) + 1]
        shell += (high - threshold) / (high - low)
    return box_angst / max(shell, 1.0)


def soft_mask(truth: Array) -> Array:
    """A soft mask around the true map: 5 % of its maximum, grown by one voxel, a cosine edge of five."""
    inside = ndimage.binary_dilation(ndimage.gaussian_filter(truth, 1.0) > 0.05 * truth.max(), iterations=1)
    distance = ndimage.distance_transform_edt(~inside)
    return np.where(distance < MASK_EDGE_PX, 0.5 + 0.5 * np.cos(np.pi * distance / MASK_EDGE_PX), 0.0)


def into_true_frame(volume: Array, rotation: Array, shift_px: Array) -> Array:
    """Resample ``volume``: voxel ``x`` (x, y, z from the centre) gets its value at ``rotation^T (x + shift)``."""
    flip = np.eye(3)[::-1]  # x, y, z to z, y, x
    matrix = flip @ rotation.T @ flip
    centre = np.full(3, volume.shape[0] // 2)
    offset = centre + matrix @ (shift_px[::-1] - centre)
    return np.asarray(ndimage.affine_transform(volume, matrix, offset=offset, order=3, mode="constant"))


def _best_class_agreement(ours: list[int], true: list[int]) -> float:
    same = float(np.mean(np.array(ours) == np.array(true)))
    return max(same, 1.0 - same)


def evaluate(folder: Path, prefix: Path) -> Accuracy:
    """Compare the run ``prefix`` with the truth in ``folder`` (truth.star or reference_poses.star, truth.mrc)."""
    run = last_iteration(prefix)
    truth_star = next(p for p in (folder / "truth.star", folder / "reference_poses.star") if p.exists())
    true, pixel_angst = poses_by_name(truth_star)
    found, _ = poses_by_name(Path(f"{run}_data.star"))
    names = [name for name in true if name in found]
    estimated_matrices, true_matrices = (np.array([table[n][0] for n in names]) for table in (found, true))
    rotation = global_rotation(estimated_matrices, true_matrices)
    angle = _angles_deg(np.swapaxes(true_matrices @ rotation, -1, -2) @ estimated_matrices)
    difference = np.array([found[n][1] - true[n][1] for n in names])
    vectors = np.einsum("iba,ib->ia", true_matrices, difference)
    near = angle < max(NEAR_DEG, float(np.median(angle)))
    centre = global_shift(vectors[near])
    shift_px = np.linalg.norm(vectors - centre, axis=1) / pixel_angst
    classes = [[table[n][2] for n in names] for table in (found, true)]
    two_states = len(set(classes[1])) == 2 and len(set(classes[0])) == 2
    return Accuracy(
        len(names),
        float(np.median(angle)),
        float(np.quantile(angle, 0.9)),
        float(np.mean(angle <= NEAR_DEG)),
        float(np.median(shift_px)),
        float(_angles_deg(rotation)),
        *_resolutions(folder, run, rotation, centre / pixel_angst, pixel_angst),
        _best_class_agreement(*classes) if two_states else float("nan"),
    )


def _half_maps(run: Path) -> list[Array]:
    """The unfiltered half maps of a converged run, else those of its last iteration; empty without halves."""
    for ending in ("_unfil", ""):
        paths = [Path(f"{run}_half{half}_class001{ending}.mrc") for half in (1, 2)]
        if all(path.exists() for path in paths):
            return [read_map(path) for path in paths]
    return []


def _resolutions(folder: Path, run: Path, rotation: Array, shift_px: Array, pixel_angst: float) -> list[float]:
    """FSC 0.143 between the half maps and FSC 0.5 to the truth, each unmasked and masked; nan where there is no map."""
    halves, merged, true_map = _half_maps(run), Path(f"{run}_class001.mrc"), folder / "truth.mrc"
    final = [read_map(merged)] if merged.exists() else [(halves[0] + halves[1]) / 2.0] if halves else []
    found = [float("nan")] * 4
    if halves:
        box_angst = len(halves[0]) * pixel_angst
        found[0] = resolution(fsc(*halves), 0.143, box_angst, False)
    if true_map.exists() and final:
        truth = read_map(true_map)
        box_angst, mask = len(truth) * pixel_angst, soft_mask(truth)
        aligned = into_true_frame(final[0], rotation, shift_px)
        found[2] = resolution(fsc(aligned, truth), 0.5, box_angst, True)
        found[3] = resolution(fsc(aligned * mask, truth * mask), 0.5, box_angst, True)
        if halves:
            turned = into_true_frame(mask, rotation.T, -rotation.T @ shift_px)
            found[1] = resolution(fsc(halves[0] * turned, halves[1] * turned), 0.143, box_angst, False)
    return found


def main(folder: str, *prefixes: str) -> None:
    """Print the table of the runs given."""
    print(HEADER)
    for prefix in prefixes:
        print(evaluate(Path(folder), Path(prefix)).row(prefix))


if __name__ == "__main__":
    main(*sys.argv[1:])
