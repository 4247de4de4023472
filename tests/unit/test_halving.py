"""An E-step that does not fit into memory: half the particles at a time, down to one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kernels.clock import Clock
from kernels.expectation import expectation
from kernels.halving import expectation_within_memory
from kernels.likelihood import Rules
from tests.unit import strict_device
from tests.unit.strict_device import DeviceArray, strict_backend
from tests.unit.test_device_path import placed
from tests.unit.test_expectation import MASK, problem, tiny_particles


def with_room_for(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device refuse tables (particles, classes, orientations, translations) of more scores."""

    def zeros(shape: Any, dtype: Any = float) -> DeviceArray:
        if np.ndim(shape) == 1 and len(shape) == 4 and math.prod(shape) > scores:
            raise MemoryError("out of memory allocating the scores")
        return DeviceArray(np.zeros(shape, dtype=dtype))

    monkeypatch.setattr(strict_device, "zeros", zeros)


@pytest.mark.parametrize(("fitting", "halvings"), [(3, 0), (2, 1), (1, 2)])
def test_particles_that_do_not_fit_together_are_halved(fitting: int, halvings: int, monkeypatch: pytest.MonkeyPatch):
    device, (model, search) = strict_backend("float64"), problem("global")
    particles = tiny_particles()
    expected, poses = expectation(particles, placed(model, device), search, MASK, Rules(), device)
    directions = int((model.pdf_direction > 0).any(axis=0).sum())
    one = len(model.pdf_class) * directions * len(search.grid.psi_deg) * len(search.translations_angst)
    with_room_for(fitting * one, monkeypatch)
    clock = Clock()
    sums, found = expectation_within_memory(particles, placed(model, device), search, MASK, Rules(), device, clock)
    assert clock.counts.get("halvings", 0) == halvings
    assert [pose.index for pose in found] == [pose.index for pose in poses]
    assert [pose.pmax for pose in found] == pytest.approx([pose.pmax for pose in poses], rel=1e-12)
    assert sums.data_rft == pytest.approx(expected.data_rft, abs=1e-12 * float(np.abs(expected.data_rft).max()))
    assert sums.sigma2_noise == pytest.approx(expected.sigma2_noise, rel=1e-12)


def test_a_particle_that_does_not_fit_alone_is_an_error(monkeypatch: pytest.MonkeyPatch):
    device, (model, search) = strict_backend(), problem("global")
    with_room_for(10, monkeypatch)
    with pytest.raises(MemoryError, match="allocating the scores"):
        expectation_within_memory(tiny_particles(), placed(model, device), search, MASK, Rules(), device)
