"""Subtomograms are those of relion_preprocess, voxel by voxel, and RELION averages them from our STAR file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from runner.extract import run_extract
from runner.formats.mrc import write_mrc
from runner.plan.extract_config import ExtractConfig
from runner.report.events import Events

BOX, VOXEL_ANGST = 16, 12.5
POSITIONS = [(20, 18, 16), (5, 18, 16), (33, 35, 30), (12, 3, 31), (25, 20, 9)]  # x, y, z; three reach beyond
MICROGRAPHS = f"""
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographPixelSize #3
_rlnMicrographOriginalPixelSize #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
opticsGroup1 1 {VOXEL_ANGST} {VOXEL_ANGST} 300.0 2.7 0.07


# version 30001

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
raw/tomo.mrc 1
"""
PICKS = "data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnMicrographName\n"


@pytest.mark.relion
def test_subtomograms_of_relion_preprocess(tmp_path: Path, requires: Callable[[str], str]) -> None:
    data = np.random.default_rng(3).normal(7.0, 3.0, (32, 36, 40)).astype(np.float32)
    write_mrc(f"{tmp_path}/raw/tomo.mrc", data, VOXEL_ANGST)
    (tmp_path / "micrographs.star").write_text(MICROGRAPHS)
    rows = "".join(f"{x} {y} {z} raw/tomo.mrc\n" for x, y, z in POSITIONS)
    for name in ("raw/tomo_pick.star", "picks.star"):
        (tmp_path / name).write_text(PICKS + rows)
    words = "--i micrographs.star --coord_dir ./ --coord_suffix _pick.star --part_star relion.star --part_dir relion/"
    words += f" --extract --extract_size {BOX} --norm --no_ramp --bg_radius 6 --invert_contrast"
    run([requires("relion_preprocess"), *words.split()], tmp_path)
    config = ExtractConfig(
        i=f"{tmp_path}/picks.star",
        o=f"{tmp_path}/ours",
        extract_size=BOX,
        norm=True,
        bg_radius=6,
        invert_contrast=True,
        edge="pad",
        wedge=60,
    )
    with Events() as events:
        run_extract(config, events)
    for number in range(1, len(POSITIONS) + 1):
        ours = mrcfile.read(tmp_path / f"ours/subtomo/{number:06d}.mrc")
        np.testing.assert_allclose(ours, mrcfile.read(tmp_path / f"relion/raw/tomo{number:06d}.mrc"), rtol=0, atol=1e-6)
    arguments = ["--3d_rot", "--ctf", "--i", "particles.star", "--o", "rec.mrc"]
    run([requires("relion_reconstruct"), *arguments], tmp_path / "ours")
    assert mrcfile.read(tmp_path / "ours/rec.mrc").shape == (BOX, BOX, BOX)


def run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
