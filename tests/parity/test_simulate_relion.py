"""RELION turns simulated particles and their true poses back into the true map: every convention at once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate

BOX = 24


def fsc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fourier shell correlation of two cubic maps, shells 0 .. N/2 - 1."""
    size = len(first)
    axis = np.fft.fftfreq(size) * size
    shell = np.round(np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)).astype(
        int
    )
    a, b = np.fft.fftn(first), np.fft.fftn(second)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell.ravel(), weights=values.ravel())

    return (total((a * b.conj()).real) / np.sqrt(total(np.abs(a) ** 2) * total(np.abs(b) ** 2)))[: size // 2]


@pytest.mark.relion
@pytest.mark.parametrize(
    "changes",
    [{}, {"ctf": True}, {"ctf": True, "half_ctf": True}, {"sym": "D2"}],
    ids=["wedge", "ctf-cube", "ctf-half", "D2"],
)
def test_relion_reconstructs_the_true_map(
    tmp_path: Path, requires: Callable[[str], str], changes: dict[str, object]
) -> None:
    program = requires("relion_reconstruct")
    config = SimulateConfig(o=str(tmp_path), n=40, box=BOX, angpix=10.0, snr=2.0, offset_sigma=1.5)
    config = replace(config, **changes)  # type: ignore[arg-type]
    run_simulate(config)
    command = [program, "--3d_rot", "--ctf", "--i", "truth.star", "--o", "rec.mrc", "--sym", config.sym]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    reconstruction, truth = (mrcfile.read(tmp_path / name).astype(np.float64) for name in ("rec.mrc", "truth.mrc"))
    assert np.corrcoef(reconstruction.ravel(), truth.ravel())[0, 1] > 0.97
    assert fsc(reconstruction, truth)[1:8].min() > 0.95
    scale = np.vdot(reconstruction, truth) / np.vdot(truth, truth)
    assert scale == pytest.approx(1.0, abs=0.1)
