"""The README's first command, from nothing to a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runner.demo import VOXEL_ANGST, run_demo
from runner.plan.simulate_config import DemoConfig


@pytest.mark.e2e
@pytest.mark.slow
def test_demo_finds_the_truth_it_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = run_demo(DemoConfig(o=str(tmp_path / "new" / "demo"), j=2))
    assert np.median(before.poses.angle_deg) > 6.0
    assert np.median(after.poses.angle_deg) < 4.0
    assert np.median(after.poses.shift_angst) < 0.4 * VOXEL_ANGST
    assert after.resolution_angst < 24.0 < before.resolution_angst
    printed = capsys.readouterr().out
    assert "median angular error" in printed
    for name in ("refine/run_class001.mrc", "refine/run_data.star", "truth.mrc", "particles.star"):
        assert (tmp_path / "new" / "demo" / name).exists()
        assert name in printed
