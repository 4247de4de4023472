"""Operators, directions and local priors against what RELION prints and writes.

One iteration on four tiny particles costs RELION a tenth of a second.  With a reference close to zero all poses fit
equally well, so the distribution of directions that it writes is the prior of its local searches itself.
"""

from __future__ import annotations

import re
import subprocess

import mrcfile
import numpy as np
import pytest

from kernels.orientations import angular_grid
from kernels.priors import local_prior
from kernels.symmetry import operators
from runner.formats.star import StarBlock, format_star, parse_star

pytestmark = pytest.mark.relion

SIZE, VOXEL_ANGST = 16, 10.0
POSES = ((0.0, 40.0, 10.0), (30.0, 0.5, 100.0), (-75.0, 178.0, -60.0), (12.3, 45.6, 78.9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sampling")
    rng = np.random.default_rng(1)
    axis = np.arange(SIZE) - SIZE // 2
    blob = np.exp(-(axis[:, None, None] ** 2 * 3 + axis[:, None] ** 2 * 2 + axis**2) / 20)
    mrcfile.write(path / "flat.mrc", (1e-7 * blob).astype(np.float32), voxel_size=VOXEL_ANGST)
    for index in range(len(POSES)):
        noisy = (blob + rng.normal(size=blob.shape)).astype(np.float32)
        mrcfile.write(path / f"p{index}.mrc", noisy, voxel_size=VOXEL_ANGST)
    optics = {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "one",
        "rlnVoltage": "300.0",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnImagePixelSize": f"{VOXEL_ANGST}",
        "rlnImageSize": f"{SIZE}",
        "rlnImageDimensionality": "3",
    }
    names = [f"p{index}.mrc" for index in range(len(POSES))]
    columns = {"rlnImageName": names, "rlnMicrographName": ["m"] * len(POSES)}
    for label, values in zip(("Rot", "Tilt", "Psi"), np.transpose(POSES), strict=True):
        columns[f"rlnAngle{label}"] = [f"{value:.6f}" for value in values]
    for label in "XYZ":
        columns[f"rlnCoordinate{label}"] = columns[f"rlnOrigin{label}Angst"] = ["0.0"] * len(POSES)
    columns["rlnOpticsGroup"] = ["1"] * len(POSES)
    blocks = [
        StarBlock("optics", {label: [value] for label, value in optics.items()}, loop=True),
        StarBlock("particles", columns, loop=True),
    ]
    (path / "particles.star").write_text(format_star(blocks))
    return path


def refine(folder, symmetry, order, *flags):
    """One iteration of local searches; returns the sampling, model and data STAR files."""
    command = [
        "relion_refine", "--o", "./run", "--i", "particles.star", "--ref", "flat.mrc", "--ini_high", "100",
        "--iter", "1", "--particle_diameter", "120", "--zero_mask", "--oversampling", "0", "--perturb", "0",
        "--random_seed", "1",
        "--offset_range", "1", "--offset_step", "2", "--adaptive_fraction", "0.9999999999",
        "--sym", symmetry, "--healpix_order", str(order), *flags,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    kinds = ("sampling", "model", "data")
    return tuple(parse_star((folder / f"run_it001_{kind}.star").read_text()).blocks for kind in kinds)


@pytest.mark.parametrize("symmetry", ["C1", "C3", "C7", "D1", "D2", "D7", "T", "O", "I", "I1", "I2", "I3", "I4"])
def test_operators_are_those_relion_prints(symmetry):
    command = ["relion_refine", "--sym", symmetry, "--print_symmetry_ops"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    matrices = [text.split("Euler")[0].split()[:9] for text in re.split(r"R\(\d+\)=", printed)[1:]]
    theirs = np.array(matrices, dtype=np.float64).reshape(-1, 3, 3)
    ours = operators(symmetry)
    assert len(theirs) == len(ours)
    # RELION prints five significant digits, of axes that it knows to six
    distance = np.abs(theirs[:, None] - ours[None]).max(axis=(2, 3))
    assert distance.min(axis=1).max() < 6e-6
    assert len(set(distance.argmin(axis=1))) == len(ours)


GRIDS = [
    (name, order, -91) for name in ("C1", "C3", "C12", "D2", "D7", "T", "O", "I1", "I2", "I3", "I4") for order in (2, 4)
]
GRIDS += [
    ("C3", 6, -91),
    ("C12", 6, -91),
    ("D2", 6, -91),
    ("T", 6, -91),
]  # 4000 directions and more: both sides of seams
GRIDS += [(name, 4, limit) for name in ("C1", "C3", "D2") for limit in (30, -40)]


@pytest.mark.parametrize(("symmetry", "order", "limit"), GRIDS)
def test_directions_are_those_relion_writes(folder, symmetry, order, limit):
    flags = ("--sigma_ang", "1", "--limit_tilt", str(limit))
    written = refine(folder, symmetry, order, *flags)[0]["sampling_directions"].columns
    theirs = np.array([written["rlnAngleRot"], written["rlnAngleTilt"]], dtype=np.float64).T
    ours = angular_grid(order, symmetry, limit_tilt_deg=limit).directions_deg
    assert theirs.shape == ours.shape
    np.testing.assert_allclose(ours, theirs, atol=6e-6)


@pytest.mark.parametrize(
    ("flags", "sigmas"),
    [
        ("--sigma_ang 7.5", (7.5, 7.5, 7.5)),
        ("--sigma_ang 0.3", (0.3, 0.3, 0.3)),
        ("--sigma_rot 12 --sigma_tilt 9", (12, 9, 0)),
        ("--sigma_rot 20", (20, 0, 0)),
        ("--sigma_tilt 6", (0, 6, 0)),
        ("--sigma_psi 10", (0, 0, 10)),
    ],
)
@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "T", "O", "I1"])
def test_local_priors_are_those_of_relion(folder, symmetry, flags, sigmas):
    order = 2
    _, model, data = refine(folder, symmetry, order, *flags.split())
    grid = angular_grid(order, symmetry)
    found = [local_prior(grid, pose, *sigmas, polar_safe=False) for pose in POSES]
    shares = [prior.weight / prior.weight.sum() for prior in found]

    particles = data["particles"].columns
    theirs = dict(zip(particles["rlnImageName"], particles["rlnNrOfSignificantSamples"], strict=True))
    assert [int(theirs[f"p{index}.mrc"]) for index in range(len(POSES))] == [share.size for share in shares]
    best = dict(zip(particles["rlnImageName"], particles["rlnMaxValueProbDistribution"], strict=True))
    largest = [float(best[f"p{index}.mrc"]) for index in range(len(POSES))]
    np.testing.assert_allclose(largest, [share.max() for share in shares], atol=2e-6)

    written = model["model_pdf_orient_class_1"].columns["rlnOrientationDistribution"]
    size = len(grid.directions_deg)
    ours = [np.bincount(p.direction_index, s, minlength=size) for p, s in zip(found, shares, strict=True)]
    np.testing.assert_allclose(np.mean(ours, axis=0), np.array(written, dtype=np.float64), atol=2e-6)
