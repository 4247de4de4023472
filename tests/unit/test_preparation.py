"""Particles on their way to the comparison: moved, masked, transformed and cropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import fourier
from kernels.backend import cpu_backend
from kernels.geometry import likelihood_shells, shell_counts, shells
from kernels.likelihood import Mask, Model, Particle, Rules
from kernels.masks import background_mean, soft_sphere
from kernels.preparation import coloured_noise, mask_particle, prepare, translate_whole

BOX, VOXEL_ANGST = 16, 3.0
MASK = Mask(radius_px=4.0, edge_px=2.0, zero_fill=True)
DOUBLE = cpu_backend("float64")


def blob(centre_xyz: tuple[float, float, float]) -> np.ndarray:
    """A Gaussian blob at a place relative to the centre of the box."""
    axis = np.arange(BOX) - BOX // 2
    x, y, z = centre_xyz
    squared = (axis[:, None, None] - z) ** 2 + (axis[None, :, None] - y) ** 2 + (axis[None, None, :] - x) ** 2
    return np.exp(-squared / (2 * 1.3**2))


def model(current_size: int = BOX, use_ctf: bool = False, use_scale: bool = False) -> Model:
    """What the preparation needs of a model."""
    shell_count = BOX // 2 + 1
    return Model(
        box=BOX,
        voxel_size_angst=VOXEL_ANGST,
        pad=2,
        current_size=current_size,
        coarse_size=current_size,
        fine_size=current_size,
        references_rft=[],
        sigma2_noise=np.linspace(2.0, 0.5, shell_count)[None],
        group_scale=np.array([0.0002]),
        ssnr=np.zeros((1, shell_count)),
        pdf_class=np.ones(1),
        pdf_direction=np.ones((1, 1)),
        sigma2_offset_angst2=1.0,
        use_ctf=use_ctf,
        ctf_in_reference=use_ctf,
        use_scale=use_scale,
    )


def particle(
    volume: np.ndarray, origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0), index: int = 0
) -> Particle:
    """A particle with a random CTF volume."""
    return Particle(
        index=index,
        volume=volume,
        ctf_rft=np.random.default_rng(7).normal(size=(BOX, BOX, BOX // 2 + 1)),
        ctf_premultiplied=False,
        group=0,
        angles_deg=np.zeros(3),
        origin_angst=np.array(origin_angst),
        prior_angles_deg=np.zeros(3),
        prior_origin_angst=np.zeros(3),
    )


@pytest.mark.parametrize("steps", [(0, 0, 0), (1, -2, 3), (-15, 0, 15), (16, 0, 0), (0, -40, 0)])
def test_whole_steps_move_every_voxel_and_bring_in_zeros(steps: tuple[int, int, int]):
    size = 16
    volume = np.random.default_rng(1).normal(size=(size,) * 3)
    moved = translate_whole(volume, np.array(steps))
    index = np.arange(size)
    x, y, z = steps
    for k in index:
        for j in index:
            for i in (0, 3, 8, 15):
                source = (k - z, j - y, i - x)
                inside = all(0 <= s < size for s in source)
                assert moved[k, j, i] == (volume[source] if inside else 0.0)
    assert not np.shares_memory(moved, volume)


def test_the_outside_of_the_mask_becomes_the_mean_background():
    volume = np.random.default_rng(2).normal(5.0, 1.0, size=(BOX,) * 3)
    sphere = soft_sphere(BOX, MASK.radius_px, MASK.edge_px)
    masked = mask_particle(volume, particle(volume), model().sigma2_noise, MASK, DOUBLE)
    assert np.array_equal(masked[sphere == 1], volume[sphere == 1])
    assert masked[sphere == 0] == pytest.approx(background_mean(volume, sphere))


def test_the_outside_becomes_noise_of_the_seed_and_the_particle():
    volume, noisy = blob((0, 0, 0)), replace(MASK, zero_fill=False, seed=4)
    sigma2, sphere = model().sigma2_noise, soft_sphere(BOX, MASK.radius_px, MASK.edge_px)
    first, again, second = (mask_particle(volume, particle(volume, index=i), sigma2, noisy, DOUBLE) for i in (0, 0, 1))
    reseeded = mask_particle(volume, particle(volume), sigma2, replace(noisy, seed=5), DOUBLE)
    assert np.array_equal(first, again)
    assert np.array_equal(first[sphere == 1], second[sphere == 1])
    outside = sphere == 0
    assert abs(np.corrcoef(first[outside], second[outside])[0, 1]) < 0.1
    assert abs(np.corrcoef(first[outside], reseeded[outside])[0, 1]) < 0.1


def test_coloured_noise_has_the_variance_of_its_spectrum_in_every_shell():
    size, sigma2 = 16, np.array([3.0, 2.5, 2.0, 1.0, 0.8, 0.5, 0.4, 0.2, 0.1])
    power = np.zeros(size // 2 + 1)
    shell, repeats = likelihood_shells(size), 40
    for seed in range(repeats):
        rft = fourier.forward(coloured_noise(size, sigma2, np.random.default_rng(seed)))
        power += np.bincount(shell[shell >= 0], weights=np.abs(rft[shell >= 0]) ** 2)
        assert np.abs(rft[shells(size) > size // 2]).max() < 1e-12
    measured = power / (2 * shell_counts(size) * repeats)
    # |F|^2 of n coefficients scatters by 1/sqrt(n); the single one of shell 0 is real and has no expected value here
    scatter = 1.0 / np.sqrt(repeats * shell_counts(size))
    assert (np.abs(measured / sigma2 - 1)[1:] < 5 * scatter[1:]).all()


def test_a_particle_on_a_whole_offset_is_centred_exactly():
    volume = blob((3, -2, 1))
    prepared = prepare(particle(volume, (-9.0, 6.0, -3.0)), model(), MASK, Rules.relion(), False, DOUBLE)
    assert prepared.centre_px.tolist() == [-3.0, 2.0, -1.0]
    centred = fourier.inverse(prepared.image_rft)
    assert centred == pytest.approx(translate_whole(volume, (-3, 2, -1)))
    assert centred == pytest.approx(blob((0, 0, 0)), abs=1e-3)
    assert prepared.ctf_rft is None
    assert prepared.scale == 1.0


@pytest.mark.parametrize("keep_offset", [False, True])
@pytest.mark.parametrize("rules", [Rules(), Rules.relion()], ids=["corrected", "relion"])
def test_the_fraction_of_an_offset_is_kept_where_asked_for(rules: Rules, keep_offset: bool):
    true_px = np.array([1.3, -2.4, 0.6])
    prepared = prepare(
        particle(blob(tuple(true_px)), tuple(-VOXEL_ANGST * true_px)), model(), MASK, rules, keep_offset, DOUBLE
    )
    images = [fourier.inverse(rft) for rft in (prepared.image_rft, prepared.masked_rft)]
    if rules.keep_offset_fraction or keep_offset:
        assert prepared.centre_px == pytest.approx(-true_px)
        expected = blob((0, 0, 0))
    else:
        assert prepared.centre_px.tolist() == [-1.0, 2.0, -1.0]
        expected = blob((0.3, -0.4, -0.4))
    for image in images:
        assert np.abs(image - expected).max() < 0.01


def test_halves_round_away_from_zero():
    origin = tuple(VOXEL_ANGST * np.array([0.5, -0.5, 1.5]))
    prepared = prepare(particle(blob((0, 0, 0)), origin), model(), MASK, Rules.relion(), False, DOUBLE)
    assert prepared.centre_px.tolist() == [1.0, -1.0, 2.0]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_transforms_and_ctf_are_cropped_and_the_power_is_that_of_the_whole_box(precision: str):
    backend, volume = cpu_backend(precision), np.random.default_rng(3).normal(size=(BOX,) * 3)
    prepared = prepare(particle(volume), model(10, use_ctf=True), MASK, Rules(), False, backend)
    for array in (prepared.image_rft, prepared.masked_rft, prepared.ctf_rft):
        assert array.shape == (10, 10, 6)
    assert prepared.image_rft.dtype == prepared.masked_rft.dtype == backend.complex
    assert prepared.ctf_rft.dtype == backend.real
    assert prepared.image_rft == pytest.approx(fourier.crop(fourier.forward(volume), 10), abs=1e-7)
    assert prepared.ctf_rft == pytest.approx(fourier.crop(particle(volume).ctf_rft, 10), rel=1e-6)
    masked = fourier.forward(mask_particle(volume, particle(volume), model().sigma2_noise, MASK, DOUBLE))
    shell = likelihood_shells(BOX)
    for s in range(BOX // 2 + 1):
        expected = (np.abs(masked[shell == s]) ** 2).sum() if s else 0.0
        assert prepared.power[s] == pytest.approx(expected, rel=1e-5)


def test_a_group_scale_of_almost_nothing_is_lifted():
    prepared = prepare(particle(blob((0, 0, 0))), model(use_scale=True), MASK, Rules(), False, DOUBLE)
    assert prepared.scale == 0.001
