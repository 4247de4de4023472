"""Point groups are groups with RELION's axes, and asymmetric units hold each direction once."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.healpix_nest import pixel_centres
from kernels.symmetry import (
    asymmetric_directions,
    canonical_name,
    direction_vectors,
    in_asymmetric_unit,
    operators,
    parse_group,
    rotation_about,
)

GROUP_ORDERS = {
    "C1": 1, "C2": 2, "C3": 3, "C7": 7, "C12": 12, "D1": 2, "D2": 4, "D3": 6, "D7": 14,
    "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip

# (axis, fold) with the digits RELION documents
GENERATORS = {
    "C7": [((0, 0, 1), 7)],
    "D1": [((1, 0, 0), 2)],
    "D3": [((0, 0, 1), 3), ((1, 0, 0), 2)],
    "T": [((0, 0, 1), 3), ((0, 0.816496, 0.577350), 2)],
    "O": [((0.5773502, 0.5773502, 0.5773502), 3), ((0, 0, 1), 4)],
    "I": [((0, 0, 1), 2), ((0.525731114, 0, 0.850650807), 5), ((0, 0.356822076, 0.934172364), 3)],
    "I1": [((1, 0, 0), 2), ((0.85065080702670, 0, -0.5257311142635), 5), ((0.9341723640, 0.3568220765, 0), 3)],
    "I3": [
        ((-0.5257311143, 0, 0.8506508070), 2),
        ((0, 0, 1), 5),
        ((-0.4911234778630044, 0.3568220764705179, 0.7946544753759428), 3),
    ],
    "I4": [
        ((0.5257311143, 0, 0.8506508070), 2),
        ((0.8944271932547096, 0, 0.4472135909903704), 5),
        ((0.4911234778630044, 0.3568220764705179, 0.7946544753759428), 3),
    ],
}

# Directions of the asymmetric unit at HEALPix orders 0, 1, 2 ... in sampling STARs written by RELION 3.1.3
DIRECTION_COUNTS = {
    "C1": (12, 48, 192, 768, 3072, 12288),
    "C2": (6, 24, 96, 384, 1536, 6176, 24640),
    "C3": (3, 14, 60, 248, 1003, 4086, 16406),
    "C4": (3, 12, 48, 192, 768, 3072, 12412),
    "C5": (1, 8, 35, 150, 598, 2438, 9868),
    "C6": (1, 6, 28, 118, 496, 2005, 8170),
    "C7": (1, 5, 24, 106, 427, 1726, 7012),
    "C12": (1, 2, 12, 58, 239, 1002, 4126),
    "D1": (7, 24, 96, 384, 1536, 6208, 24704),
    "D2": (4, 12, 48, 192, 768, 3072, 12384),
    "D3": (2, 8, 33, 129, 503, 2033, 8246),
    "D4": (2, 6, 24, 96, 384, 1536, 6240),
    "D5": (1, 5, 19, 76, 305, 1220, 4960),
    "D7": (1, 3, 13, 53, 218, 864, 3493),
    "T": (1, 3, 14, 59, 250, 1009, 4075),
    "O": (1, 1, 7, 32, 126, 507, 2037),
    "I": (0, 0, 2, 11, 48, 199, 809),
    "I1": (1, 1, 3, 12, 49, 199, 807),
    "I2": (0, 0, 2, 11, 48, 199, 809),
    "I3": (0, 0, 4, 12, 53, 206, 820),
    "I4": (0, 1, 2, 11, 48, 196, 802),
}


def contains(group: np.ndarray, matrix: np.ndarray, tolerance: float = 1e-12) -> bool:
    return bool(np.abs(group - matrix).max(axis=(1, 2)).min() < tolerance)


@pytest.mark.parametrize(("name", "order"), GROUP_ORDERS.items())
def test_operators_form_a_group_of_rotations(name, order):
    group = operators(name)
    assert group.shape == (order, 3, 3)
    assert np.array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), group.shape), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(group), 1.0, atol=1e-14)
    assert all(contains(group, a @ b) for a in group for b in group)
    distances = np.abs(group[:, None] - group[None]).max(axis=(2, 3))
    assert (distances + np.eye(order)).min() > 0.1


@pytest.mark.parametrize("name", GENERATORS)
def test_operators_turn_about_the_documented_axes(name):
    for axis, fold in GENERATORS[name]:
        assert contains(operators(name), rotation_about(axis, 360 / fold), tolerance=1e-6)


def test_a_rotation_about_z_turns_x_towards_y():
    np.testing.assert_allclose(rotation_about((0, 0, 2), 90) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_operators_are_shared_and_cannot_be_changed():
    assert operators("c3") is operators("C3")
    with pytest.raises(ValueError, match="read-only"):
        operators("C3")[0, 0, 0] = 2.0


@pytest.mark.parametrize(
    ("name", "parsed", "canonical"),
    [
        ("c1", ("C", 1), "C1"),
        ("C12", ("C", 12), "C12"),
        (" d7 ", ("D", 7), "D7"),
        ("t", ("T", 0), "T"),
        ("O", ("O", 0), "O"),
        ("i", ("I", 2), "I2"),
        ("I2", ("I", 2), "I2"),
        ("i4", ("I", 4), "I4"),
    ],
)
def test_group_names_in_any_case(name, parsed, canonical):
    assert parse_group(name) == parsed
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    "name", ["", "C", "C0", "D0", "C-3", "C2.5", "I5", "IH", "CS", "Ci", "C3V", "TH", "X", "C1 C2"]
)
def test_other_names_are_refused_with_the_list_of_groups(name):
    with pytest.raises(ValueError, match=r"unknown symmetry group .*: expected one of Cn, Dn, T, O, I, I1") as refusal:
        operators(name)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "counts"), DIRECTION_COUNTS.items())
def test_numbers_of_directions_are_those_of_relion(name, counts):
    assert tuple(asymmetric_directions(name, order).size for order in range(len(counts))) == counts


@pytest.mark.parametrize("name", GROUP_ORDERS)
def test_the_asymmetric_unit_holds_one_copy_of_every_direction(name):
    vectors = np.random.default_rng(3).normal(size=(500, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = (vectors @ operators(name)).reshape(-1, 3)
    rot, tilt = np.rad2deg(np.arctan2(copies[:, 1], copies[:, 0])), np.rad2deg(np.arccos(copies[:, 2]))
    inside = in_asymmetric_unit(name, rot, tilt).reshape(-1, 500)
    assert np.array_equal(inside.sum(axis=0), np.ones(500))


@pytest.mark.parametrize(("name", "order"), [("C3", 3), ("D2", 3), ("T", 4), ("O", 4), ("I1", 4), ("I3", 4)])
def test_directions_cover_the_sphere_once(name, order):
    centres = pixel_centres(order, np.arange(12 * 4**order))
    pixels = asymmetric_directions(name, order)
    vectors = direction_vectors(centres[:, 0], centres[:, 1])
    kept = (vectors[pixels] @ operators(name)).reshape(-1, 3)
    spacing = np.sqrt(np.pi / 3) / 2**order
    nearest = np.arccos(np.clip((vectors @ kept.T).max(axis=1), -1, 1))
    assert nearest.max() < spacing
    assert len(kept) == pytest.approx(len(vectors), rel=0.1)
