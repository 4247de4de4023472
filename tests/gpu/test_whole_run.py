"""A whole refinement agrees between CPU and GPU, and two on the GPU are the same; skipped where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernels.backend import cuda_backend
from tests.gpu.whole_run import LEAST_FSC, LEAST_POSES, Case, compare

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default::UserWarning")]


def test_a_refinement_on_the_gpu_agrees_with_the_cpu_and_with_itself(tmp_path: Path):
    try:
        cuda_backend()
    except RuntimeError as error:
        pytest.skip(str(error))
    found = compare(Case(particles=100, iterations=6), tmp_path)
    assert found.fsc > LEAST_FSC
    assert found.poses >= LEAST_POSES
    assert found.same_bytes
