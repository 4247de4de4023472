"""Checkpoints: every bit comes back, equal states give equal bytes, damage is named."""

from __future__ import annotations

import dataclasses
import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runner.errors import InputError
from runner.formats.checkpoint import pack, unpack
from runner.model.state import PoseState, RunState, SamplingState
from tests.unit.states import assert_identical, run_state


@pytest.mark.parametrize("halves", [1, 2])
def test_a_state_comes_back_to_the_last_bit(halves: int) -> None:
    state = run_state(halves)
    again = unpack(RunState, pack(state), "state.npz")
    assert_identical(again, state)
    assert pack(again) == pack(state)


def test_equal_states_give_equal_bytes_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pack(run_state())
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert pack(run_state()) == first


@dataclass
class Mixed:
    """One field of each kind."""

    number: float
    whole: int
    text: str
    flag: bool
    values: np.ndarray[Any, np.dtype[Any]]
    scalar: np.float32
    maybe: SamplingState | None
    several: list[int]


@given(
    number=st.floats(allow_nan=False),
    whole=st.integers(),
    text=st.text(),
    values=arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.complex64, np.complex128, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    scalar=st.floats(width=32),
    several=st.lists(st.integers()),
)
def test_every_kind_of_field_comes_back(
    number: float, whole: int, text: str, values: Any, scalar: float, several: list[int]
) -> None:
    for maybe in (None, SamplingState(1, 2.0, 3.0, 4.0)):
        value = Mixed(number, whole, text, whole > 0, values, np.float32(scalar), maybe, several)
        assert_identical(unpack(Mixed, pack(value), "x"), value)


def test_the_order_of_axes_in_memory_is_kept() -> None:
    for array in (np.zeros((3, 4, 5)), np.zeros((3, 4, 5), order="F")):
        poses = dataclasses.replace(run_state().poses, angles_deg=array)
        again = unpack(PoseState, pack(poses), "x")
        assert again.angles_deg.flags.f_contiguous == array.flags.f_contiguous


def test_numpy_opens_the_arrays() -> None:
    state = run_state()
    with np.load(io.BytesIO(pack(state)), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["halves/1/references"], state.halves[1].references)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damage_is_named(damage: str) -> None:
    data = bytearray(pack(run_state()))
    middle = len(data) // 2
    data[middle] ^= 1
    spoilt = {"cut": data[:middle], "flipped": data, "empty": b"", "text": b"data_"}[damage]
    with pytest.raises(InputError, match=r"store/state.npz: is damaged.*remove it"):
        unpack(RunState, bytes(spoilt), "store/state.npz")


def test_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="not of this version"):
        unpack(RunState, pack(run_state().poses), "x")


def test_what_cannot_be_kept_exactly_is_refused_when_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"poses/pmax: a set"):
        pack(dataclasses.replace(run_state(), poses=dataclasses.replace(run_state().poses, pmax={1})))


@dataclass
class Named:
    """Values by name and by number."""

    sums: dict[str, np.ndarray[Any, Any]]
    reasons: dict[int, str]


def test_dictionaries_come_back_whatever_order_they_were_filled_in() -> None:
    one = Named({"b": np.arange(3), "a": np.zeros((0, 2))}, {10: "late", 9: "early"})
    other = Named({"a": np.zeros((0, 2)), "b": np.arange(3)}, {9: "early", 10: "late"})
    assert pack(one) == pack(other)
    back = unpack(Named, pack(one), "one")
    assert back.reasons == one.reasons
    assert [(name, values.shape, values.dtype) for name, values in sorted(back.sums.items())] == [
        ("a", (0, 2), np.float64),
        ("b", (3,), np.int64),
    ]
