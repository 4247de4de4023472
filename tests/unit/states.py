"""States of refinements with arbitrary numbers in them, and their comparison to the last bit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from runner.model.state import HalfModel, PoseState, RunState, SamplingState, ScheduleState


def half_model(seed: int, classes: int = 2, box: int = 8) -> HalfModel:
    random = np.random.default_rng(seed)
    spectra = [random.normal(size=(classes, box // 2 + 1)) for _ in range(5)]
    return HalfModel(
        random.normal(size=(classes, box, box, box)),
        *spectra,
        sigma2_noise=random.normal(size=(3, box // 2 + 1)),
        group_scale=np.ones(3),
        group_particles=np.arange(3),
        pdf_class=np.full(classes, 0.5),
        pdf_direction=random.random((classes, 12)),
        sigma2_offset_angst2=float(random.normal()),
        log_likelihood=random.normal(),
        orientability=None if seed % 2 else random.random((classes, 5)),
    )


def run_state(halves: int = 2) -> RunState:
    random = np.random.default_rng(9)
    poses = PoseState(
        *(random.normal(size=(7, 3)) for _ in range(2)),
        *(random.integers(0, 3, 7) for _ in range(2)),
        *(random.normal(size=7) for _ in range(3)),
        significant_samples=random.integers(0, 99, 7),
    )
    schedule = ScheduleState(
        current_resolution=np.float64(0.1) * 3, best_resolution=0.1 + 0.2, changes_classes=math.inf
    )
    return RunState(4, [half_model(k) for k in range(halves)], poses, SamplingState(2, 15.0, 6.0, 2.0 / 3), schedule)


def assert_identical(one: Any, other: Any) -> None:
    """The same types and bits, all the way down."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_identical(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_identical(*pair)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, float):
        assert one.hex() == other.hex()
    else:
        assert one == other
