"""``reconstruct`` agrees with RELION where voxel sizes and boxes differ between optics groups, or from the map's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from runner.formats.mrc import read_mrc, write_mrc
from runner.plan.config import ReconstructConfig
from runner.reconstruct import run_reconstruct
from runner.report.events import Events
from tests.parity.compare import read_map, relative_l2

pytestmark = pytest.mark.relion

GROUPS = {1: (20, 10.0), 2: (16, 10.0), 3: (20, 8.0)}  # box, voxel size
OPTICS = [
    "OpticsGroup",
    "OpticsGroupName",
    "SphericalAberration",
    "Voltage",
    "ImageSize",
    "ImageDimensionality",
    "ImagePixelSize",
]
PARTICLES = [
    "ImageName",
    "OpticsGroup",
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "OriginZAngst",
]


def write_particles(folder: Path, groups: list[int]) -> None:
    """Two noisy blobs of every optics group in known poses."""
    rng = np.random.default_rng(1)
    rows = []
    for index, group in enumerate(sorted(groups * 2)):
        box, voxel = GROUPS[group]
        axis = (np.arange(box) - box // 2) * voxel
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        blob = np.exp(-((x - 20) ** 2 + (y + 15) ** 2 + (z - 5) ** 2) / (2 * 25.0**2))
        write_mrc(str(folder / f"p{index}.mrc"), blob + 0.1 * rng.normal(size=blob.shape), voxel)
        rows.append(f"p{index}.mrc {group} {30 * index} {20 * index} 10 3.0 -4.0 5.0")
    optics = [f"{group} g{group} 2.7 300 {GROUPS[group][0]} 3 {GROUPS[group][1]}" for group in groups]
    lines: list[str] = []
    for name, labels, values in (("optics", OPTICS, optics), ("particles", PARTICLES, rows)):
        lines += ["", "# version 30001", "", f"data_{name}", "", "loop_"]
        lines += [*(f"_rln{label} #{number}" for number, label in enumerate(labels, 1)), *values, ""]
    (folder / "particles.star").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("groups", "flags"),
    [
        ([1, 2], {}),
        ([1, 3], {}),
        ([3, 1], {"maxres": 25.0}),
        ([1], {"angpix": 8.0}),
        ([1], {"angpix": 12.0, "maxres": 40.0}),
        ([1], {"iter": 2}),
        ([1], {"pad": 3}),
    ],
)
def test_map_agrees_with_relion(groups, flags, tmp_path, requires, monkeypatch):
    program = requires("relion_reconstruct")
    monkeypatch.chdir(tmp_path)
    write_particles(tmp_path, groups)
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [program, "--3d_rot", "--i", "particles.star", "--o", "theirs.mrc", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    run_reconstruct(ReconstructConfig(i="particles.star", o="ours.mrc", **flags), Events())
    assert relative_l2(read_map(tmp_path / "ours.mrc"), read_map(tmp_path / "theirs.mrc")) < 1e-6
    assert read_mrc("ours.mrc").voxel_size_angst == pytest.approx(read_mrc("theirs.mrc").voxel_size_angst)
