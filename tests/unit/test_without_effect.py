"""Flags that the others leave nothing to do are answered, not accepted in silence."""

from __future__ import annotations

from typing import Any

import pytest

from runner.plan.config import RefineConfig
from runner.refinement.run import _without_effect

AUTO: dict[str, Any] = {"auto_refine": True, "split_random_halves": True}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"solvent_mask": "m.mrc"}, ["--solvent_mask"]),
        ({"solvent_mask": "m.mrc", "flatten_solvent": True}, []),
        ({"solvent_mask": "m.mrc", "solvent_correct_fsc": True, **AUTO}, []),
        ({"solvent_mask": "m.mrc", "solvent_mask2": "n.mrc"}, ["--solvent_mask", "--solvent_mask2"]),
        ({"auto_ignore_angles": True, "tau": "t.star"}, ["--auto_ignore_angles"]),
        ({"auto_ignore_angles": True, "tau": "t.star", "iter": 3, **AUTO}, ["--iter", "--tau"]),
        ({}, []),
    ],
)
def test_flags_without_effect_are_named(flags: dict[str, Any], expected: list[str]) -> None:
    assert [message.split()[0] for message in _without_effect(RefineConfig(**flags))] == expected
