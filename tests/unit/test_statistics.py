"""The weighted sums of one particle, each on its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from kernels.back_projection import Inserted
from kernels.fourier import shift
from kernels.geometry import likelihood_shells, shell_counts
from kernels.likelihood import Model, Search
from kernels.orientations import angular_grid
from kernels.preparation import PreparedParticle
from kernels.statistics import ClassPoints, accumulate
from tests.unit.test_scores import (
    BOX,
    DOUBLE,
    MATRICES,
    PAD,
    SHIFTS_PX,
    SIZE,
    model,
    particle,
    prediction,
    use_small_blocks,
)

SEARCH = Search(
    grid=angular_grid(0),
    translations_angst=np.zeros((1, 3)),
    offset_step_angst=1.0,
    perturbation=0.0,
    oversampling=0,
)
WEIGHTS = np.array([0.5, 0.2, 0.3])


def wide_model(**changes: object) -> Model:
    """The model of the scores with a direction for every one of the grid."""
    return model(pdf_direction=np.ones((2, len(SEARCH.grid.directions_deg))), **changes)


def points(class_index: int = 0, weights: np.ndarray = WEIGHTS) -> ClassPoints:
    """Three points over two orientations and two translations."""
    return ClassPoints(
        class_index=class_index,
        matrices=MATRICES,
        shifts_px=SHIFTS_PX,
        direction=np.array([0, 3, 3, 7, 11]),
        row=np.array([1, 1, 4]),
        column=np.array([0, 2, 2]),
        weight=weights,
        best=0,
    )


def add(
    sums: Accumulators, one: PreparedParticle, parts: list[ClassPoints], model_: Model, search: Search = SEARCH
) -> None:
    """Add one particle to the sums."""
    inserted = [Inserted(data, weight, DOUBLE) for data, weight in zip(sums.data_rft, sums.weight_rft, strict=True)]
    accumulate(sums, inserted, one, parts, model_, search, DOUBLE)
    for each in inserted:
        each.finish()


def sums_of(one: PreparedParticle, parts: list[ClassPoints], model_: Model, search: Search = SEARCH) -> Accumulators:
    """Fresh sums with one particle in them."""
    sums = Accumulators.zeros(2, 1, len(SEARCH.grid.directions_deg), BOX, SIZE // 2, PAD)
    add(sums, one, parts, model_, search)
    return sums


def test_classes_directions_and_weights_are_counted():
    sums = sums_of(particle(), [points(0, 0.5 * WEIGHTS), points(1, 0.4 * WEIGHTS)], wide_model())
    assert sums.pdf_class == pytest.approx([0.5, 0.4])
    assert sums.weight == pytest.approx([0.9])
    assert sums.group_weight == pytest.approx([0.9])
    expected = np.zeros((2, 12))
    expected[:, 3], expected[:, 11] = (0.35, 0.28), (0.15, 0.12)
    assert sums.pdf_direction == pytest.approx(expected)


def test_fixed_orientations_count_no_directions():
    fixed = replace(points(), direction=np.full(5, -1))
    sums = sums_of(particle(), [fixed], wide_model(), replace(SEARCH, fixed_orientation=True))
    assert not sums.pdf_direction.any()
    assert sums.pdf_class[0] == pytest.approx(1.0)


def test_offsets_are_measured_from_their_prior():
    one = particle()
    source = replace(one.source, prior_origin_angst=np.array([2.0, 0.0, -4.0]))
    one = replace(one, source=source, centre_px=np.array([1.0, 1.0, 1.0]))
    sums = sums_of(one, [points()], wide_model())
    prior_px = np.array([1.0, 0.0, -2.0])
    distance = [((prior_px - 1.0 - SHIFTS_PX[t]) ** 2).sum() for t in (0, 2, 2)]
    assert sums.sigma2_offset_angst2 == pytest.approx([4.0 * (WEIGHTS * distance).sum()])


def test_a_perfect_prediction_leaves_no_noise_and_scale_ratio_one():
    one = particle()
    masked = shift(prediction(one, MATRICES[1], 0, SIZE), -SHIFTS_PX[1], BOX)
    one = replace(one, masked_rft=masked)
    perfect = replace(points(), row=np.array([1]), column=np.array([1]), weight=np.ones(1))
    sums = sums_of(one, [perfect], wide_model(ssnr=np.full((2, BOX // 2 + 1), 4.0)))
    edge = SIZE // 2 + 1
    shell = likelihood_shells(SIZE)
    power = np.bincount(shell[shell >= 0], weights=np.abs(masked[shell >= 0]) ** 2)
    assert np.abs(sums.sigma2_noise[0, :edge]).max() < 1e-12 * power.max()
    assert sums.sigma2_noise[0, edge:] == pytest.approx(one.power[edge:])
    # signal is divided by the scale, power by its square: their ratio is the scale itself
    assert sums.scale_signal[0] / sums.scale_power[0] == pytest.approx(one.scale)


def test_the_noise_is_the_weighted_residual_by_shell():
    one = particle()
    sums = sums_of(one, [points()], wide_model())
    shell, expected = likelihood_shells(SIZE), np.zeros(SIZE // 2 + 1)
    for row, column, weight in zip((1, 1, 4), (0, 2, 2), WEIGHTS, strict=True):
        residual = prediction(one, MATRICES[row], 0, SIZE) - shift(one.masked_rft, SHIFTS_PX[column], BOX)
        expected += weight * np.bincount(shell[shell >= 0], weights=np.abs(residual[shell >= 0]) ** 2)
    assert sums.sigma2_noise[0, : len(expected)] == pytest.approx(expected)


def test_only_strong_shells_count_for_the_scale():
    ssnr = np.zeros((2, BOX // 2 + 1))
    weak = sums_of(particle(), [points()], wide_model(ssnr=ssnr + 3.0))
    assert not weak.scale_signal.any()
    assert not weak.scale_power.any()
    ssnr[0, 2] = 3.1
    one = particle()
    strong = sums_of(one, [points()], wide_model(ssnr=ssnr))
    shell = likelihood_shells(SIZE)
    expected = sum(
        weight * (np.abs(prediction(one, MATRICES[row], 0, SIZE)[shell == 2]) ** 2).sum()
        for row, weight in zip((1, 1, 4), WEIGHTS, strict=True)
    )
    assert strong.scale_power[0] == pytest.approx(expected / one.scale**2)


def test_correlation_updates_neither_noise_nor_scale():
    search = replace(SEARCH, cross_correlation=True)
    sums = sums_of(particle(), [points()], wide_model(ssnr=np.full((2, BOX // 2 + 1), 9.0)), search)
    assert not sums.sigma2_noise.any()
    assert not sums.scale_signal.any()
    assert not sums.scale_power.any()
    assert sums.weight_rft.any()


def test_the_inserted_weight_is_that_of_every_counted_coefficient():
    one = replace(particle(), ctf_rft=None, scale=1.0)
    sums = sums_of(one, [points()], wide_model(sigma2_noise=np.full((1, BOX // 2 + 1), 0.25)))
    # of the plane kx = 0 the likelihood leaves out ky < 0 and the insertion kz < 0
    axis = np.arange(-SIZE // 2, SIZE // 2 + 1)
    kz, ky, kx = np.meshgrid(axis, axis, axis, indexing="ij")
    stored = (kx >= 0) & (kz > -SIZE // 2) & (ky > -SIZE // 2) & (kx**2 + ky**2 + kz**2 <= (SIZE // 2) ** 2)
    counted = stored & ~((kx == 0) & ((ky < 0) | (kz < 0)))
    assert sums.weight_rft[0].sum() == pytest.approx(4.0 * counted.sum() * WEIGHTS.sum())
    assert not sums.weight_rft[1].any()
    assert counted.sum() < shell_counts(SIZE).sum()


def test_blocks_of_coefficients_and_orientations_change_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(9)
    many = ClassPoints(
        class_index=1,
        matrices=np.repeat(MATRICES, 30, axis=0),
        shifts_px=SHIFTS_PX,
        direction=np.repeat(np.arange(5), 30),
        row=rng.permutation(150),
        column=rng.integers(0, 3, 150),
        weight=np.full(150, 1 / 150),
        best=-1,
    )
    plenty = sums_of(particle(), [many], wide_model())
    use_small_blocks(monkeypatch)
    scarce = sums_of(particle(), [many], wide_model())
    for name in ("data_rft", "weight_rft", "sigma2_noise", "scale_signal", "scale_power"):
        there = getattr(plenty, name)
        assert np.abs(getattr(scarce, name) - there).max() <= 1e-12 * max(1.0, np.abs(there).max()), name


def test_sums_add_up():
    once = sums_of(particle(), [points()], wide_model())
    twice = sums_of(particle(), [points()], wide_model())
    add(twice, particle(), [points()], wide_model())
    assert twice.data_rft == pytest.approx(2 * once.data_rft)
    assert twice.sigma2_noise == pytest.approx(2 * once.sigma2_noise)
