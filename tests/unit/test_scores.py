"""Scores as matrix products: every entry is the squared difference, or the correlation, of its pose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import back_projection, expectation, scores, statistics
from kernels.backend import Backend, cpu_backend
from kernels.fourier import crop, shift
from kernels.geometry import likelihood_shells
from kernels.likelihood import Model, Particle
from kernels.orientations import euler_to_matrix
from kernels.preparation import PreparedParticle
from kernels.projection import reference_rft, sample
from kernels.scores import (
    coarse_scores,
    correlation_terms,
    fine_scores,
    inverse_noise,
    likelihood_terms,
    predicted_gain,
    room_for_references,
)
from kernels.sphere import sphere

BOX, SIZE, PAD = 12, 8, 2
DOUBLE = cpu_backend("float64")
MATRICES = euler_to_matrix(np.array([[0.0, 0, 0], [30, 60, 90], [-100, 120, 7], [5, 10, 15], [170, 80, -60]]))
SHIFTS_PX = np.array([[0.0, 0.0, 0.0], [1.0, -0.5, 2.0], [-2.25, 0.0, 1.0]])


def model(**changes: object) -> Model:
    """Two random references."""
    rng, shells = np.random.default_rng(1), BOX // 2 + 1
    result = Model(
        box=BOX,
        voxel_size_angst=2.0,
        pad=PAD,
        current_size=SIZE,
        coarse_size=SIZE,
        fine_size=SIZE,
        references_rft=[reference_rft(rng.normal(size=(BOX,) * 3), PAD, SIZE // 2) for _ in range(2)],
        sigma2_noise=np.linspace(0.01, 0.002, shells)[None],
        group_scale=np.ones(1),
        ssnr=np.zeros((2, shells)),
        pdf_class=np.full(2, 0.5),
        pdf_direction=np.ones((2, 1)),
        sigma2_offset_angst2=1.0,
        use_ctf=True,
        ctf_in_reference=True,
        use_scale=True,
    )
    return replace(result, **changes)


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut even these few coefficients, orientations and insertions into several blocks."""
    for module in (scores, statistics):
        monkeypatch.setattr(module, "COEFFICIENTS_PER_BLOCK", 50)
        monkeypatch.setattr(module, "ROWS_PER_BLOCK", 7)
    monkeypatch.setattr(scores, "COARSE_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(back_projection, "ORIENTATIONS_PER_FLUSH", 20)
    monkeypatch.setattr(expectation, "PARTICLES_PER_BATCH", 2)


def half_array(references: np.ndarray, size: int) -> np.ndarray:
    """Sampled coefficients (2, n_f) as a half array."""
    rft = np.zeros(size * size * (size // 2 + 1), dtype=np.complex128)
    rft[sphere(size).flat] = references[0] + 1j * references[1]
    return rft.reshape(size, size, size // 2 + 1)


def rotated(matrix: np.ndarray, class_index: int, size: int) -> np.ndarray:
    """A rotated reference as a half array."""
    points = sphere(size)
    return half_array(
        sample(model().references_rft[class_index], matrix[None], points.frequencies_xyz, PAD, DOUBLE)[0], size
    )


def particle(seed: int = 2, premultiplied: bool = False, backend: Backend = DOUBLE) -> PreparedParticle:
    """A prepared particle of random coefficients."""
    rng = np.random.default_rng(seed)
    rfts = [np.fft.rfftn(rng.normal(size=(SIZE,) * 3)).astype(backend.complex) / 100 for _ in range(2)]
    return PreparedParticle(
        source=Particle(
            index=0,
            volume=None,
            ctf_rft=None,
            ctf_premultiplied=premultiplied,
            group=0,
            angles_deg=np.zeros(3),
            origin_angst=np.zeros(3),
            prior_angles_deg=np.zeros(3),
            prior_origin_angst=np.zeros(3),
        ),
        centre_px=np.zeros(3),
        image_rft=rfts[0],
        masked_rft=rfts[1],
        ctf_rft=rng.uniform(-1, 1, size=rfts[0].shape).astype(backend.real),
        power=rng.uniform(size=BOX // 2 + 1),
        scale=0.7,
    )


def prediction(one: PreparedParticle, matrix: np.ndarray, class_index: int, size: int) -> np.ndarray:
    """What a pose predicts."""
    ctf = crop(one.ctf_rft, size)
    return rotated(matrix, class_index, size) * one.scale * (ctf**2 if one.source.ctf_premultiplied else ctf)


def squared_difference(one: PreparedParticle, expected: np.ndarray, move: np.ndarray, size: int) -> float:
    """RELION's squared difference on full half arrays."""
    shell = likelihood_shells(size)
    minv = np.where(shell > 0, 1.0 / model().sigma2_noise[0][shell], 0.0)
    moved = shift(crop(one.masked_rft, size), move, BOX)
    return float(0.5 * (minv * np.abs(expected - moved) ** 2).sum() + 0.5 * one.power[SIZE // 2 + 1 :].sum())


def correlation(one: PreparedParticle, expected: np.ndarray, move: np.ndarray, size: int) -> float:
    """Normalised correlation over all stored coefficients."""
    moved = shift(crop(one.masked_rft, size), move, BOX)
    product = (expected * moved.conj()).real.sum()
    return float(product / np.sqrt((np.abs(expected) ** 2).sum() * (np.abs(moved) ** 2).sum()))


@pytest.mark.parametrize("size", [6, SIZE])
@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("in_blocks", [False, True])
def test_a_coarse_score_and_the_constant_make_the_squared_difference(
    size: int, premultiplied: bool, in_blocks: bool, monkeypatch: pytest.MonkeyPatch
):
    if in_blocks:
        use_small_blocks(monkeypatch)
    backend = DOUBLE
    particles = [particle(seed, premultiplied) for seed in (2, 3)]
    terms = [likelihood_terms(one, model(), size, backend) for one in particles]
    scores = coarse_scores(terms, MATRICES, SHIFTS_PX, size, False, model(), backend)
    assert scores.shape == (2, 2, len(MATRICES), len(SHIFTS_PX))
    for p, one in enumerate(particles):
        for k in range(2):
            for r, matrix in enumerate(MATRICES):
                expected = prediction(one, matrix, k, size)
                for t, move in enumerate(SHIFTS_PX):
                    value = squared_difference(one, expected, move, size)
                    assert scores[p, k, r, t] + terms[p].constant == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("size", [6, SIZE])
def test_a_correlation_score_is_minus_the_normalised_correlation(size: int):
    one = particle()
    terms = correlation_terms(one, model(), size, DOUBLE)
    scores = coarse_scores([terms], MATRICES, SHIFTS_PX, size, True, model(), DOUBLE)[0]
    assert terms.constant == 0.0
    for k in range(2):
        for r, matrix in enumerate(MATRICES):
            for t, move in enumerate(SHIFTS_PX):
                value = correlation(one, prediction(one, matrix, k, size), move, size)
                assert scores[k, r, t] == pytest.approx(-value, abs=1e-12)
    assert np.abs(scores).max() <= 1.0


def test_a_particle_equal_to_its_prediction_correlates_perfectly_and_differs_by_nothing():
    one = particle()
    one = replace(one, masked_rft=prediction(one, MATRICES[1], 0, SIZE), power=np.zeros(BOX // 2 + 1))
    still = np.zeros((1, 3))
    correlated = coarse_scores(
        [correlation_terms(one, model(), SIZE, DOUBLE)], MATRICES, still, SIZE, True, model(), DOUBLE
    )
    assert correlated[0, 0, 1, 0] == pytest.approx(-1.0)
    assert correlated.argmin() == 1
    terms = likelihood_terms(one, model(), SIZE, DOUBLE)
    compared = coarse_scores([terms], MATRICES, still, SIZE, False, model(), DOUBLE) + terms.constant
    assert compared[0, 0, 1, 0] == pytest.approx(0.0, abs=1e-9 * terms.constant)
    assert compared.argmin() == 1


@pytest.mark.parametrize("cross_correlation", [False, True])
@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("memory_bytes", [1, 1 << 30])
def test_fine_scores_of_any_set_of_pairs_are_those_of_the_full_table(
    cross_correlation: bool, memory_bytes: int, in_blocks: bool, monkeypatch: pytest.MonkeyPatch
):
    if in_blocks:
        use_small_blocks(monkeypatch)
    backend, rng, one = cpu_backend("float64", memory_bytes), np.random.default_rng(4), particle()
    terms = (correlation_terms if cross_correlation else likelihood_terms)(one, model(), SIZE, backend)
    matrices = euler_to_matrix(rng.uniform(-180, 180, size=(20, 2, 3)))  # two children each
    shifts = rng.uniform(-3, 3, size=(6, 4, 3))  # four children each
    pairs = np.argwhere(rng.uniform(size=(20, 6)) < 0.3)
    rows, row = np.unique(pairs[:, 0], return_inverse=True)
    columns, column = np.unique(pairs[:, 1], return_inverse=True)
    room = room_for_references("references", matrices[rows], SIZE, backend)
    fine = fine_scores(
        terms,
        model().references_rft[1],
        matrices[rows],
        shifts[columns],
        (row, column),
        SIZE,
        cross_correlation,
        model(),
        backend,
        room,
    )
    table = coarse_scores(
        [terms],
        matrices[rows].reshape(-1, 3, 3),
        shifts[columns].reshape(-1, 3),
        SIZE,
        cross_correlation,
        model(),
        DOUBLE,
    )[0, 1]
    assert len(fine.score) == len(pairs) * 2 * 4
    assert fine.score == pytest.approx(table[fine.row, fine.column], rel=1e-9)
    assert np.array_equal(fine.row // 2, row[fine.parent])
    assert np.array_equal(fine.column // 4, column[fine.parent])
    assert len(set(zip(fine.parent, fine.row, fine.column, strict=True))) == len(fine.score)
    assert (room is None) == (memory_bytes == 1)
    if room is not None:
        again = sample(
            model().references_rft[1], matrices[rows].reshape(-1, 3, 3), sphere(SIZE).frequencies_xyz, PAD, DOUBLE
        )
        np.testing.assert_array_equal(np.concatenate(room, axis=2), again)


def test_single_precision_scores_stay_close():
    single = cpu_backend("float32")
    references = [reference.astype(np.complex64) for reference in model().references_rft]
    one, narrow = particle(), model(references_rft=references)
    rough = coarse_scores(
        [likelihood_terms(particle(backend=single), narrow, SIZE, single)],
        MATRICES,
        SHIFTS_PX,
        SIZE,
        False,
        narrow,
        single,
    )
    exact = coarse_scores(
        [likelihood_terms(one, model(), SIZE, DOUBLE)], MATRICES, SHIFTS_PX, SIZE, False, model(), DOUBLE
    )
    assert rough.dtype == np.float32
    assert np.abs(rough - exact).max() < 1e-5 * np.abs(exact).max()


def test_noise_is_not_divided_by_where_it_is_unknown_or_not_counted():
    sigma2, shell = np.array([4.0, 0.0, 2.0]), np.array([0, 1, 2, 2, 9])
    counted = np.array([True, True, True, False, False])
    assert inverse_noise(sigma2, shell, counted).tolist() == [0.25, 0.0, 0.5, 0.0, 0.0]


def test_the_prediction_has_the_scale_and_the_ctf_once_or_squared_or_not_at_all():
    one, flat = particle(), sphere(SIZE).flat
    ctf = one.ctf_rft.ravel()[flat]
    squared = replace(one, source=replace(one.source, ctf_premultiplied=True))
    assert predicted_gain(one, model(), SIZE, flat, DOUBLE) == pytest.approx(0.7 * ctf)
    assert predicted_gain(squared, model(), SIZE, flat, DOUBLE) == pytest.approx(0.7 * ctf**2)
    assert (predicted_gain(one, model(ctf_in_reference=False), SIZE, flat, DOUBLE) == 0.7).all()
    assert (predicted_gain(replace(one, ctf_rft=None), model(), SIZE, flat, DOUBLE) == 0.7).all()
