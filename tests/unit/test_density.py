"""Simulated densities: points and maps end up where RELION's conventions say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernels import ctf, density, fourier, noise
from kernels.geometry import half_frequencies, squared_radius
from kernels.symmetry import operators
from kernels.wedge import half_ctf

BOX, VOXEL = 32, 5.0


def pose(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's pose matrix, written out from its three rotations."""

    def about_z(angle: float) -> np.ndarray:
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])

    c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    about_y = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return about_z(psi) @ about_y @ about_z(rot)


def blob(points: list[list[float]], weights: list[float], sigma_angst: float) -> density.PointModel:
    return density.PointModel(np.array(points), np.array(weights), np.full(len(points), sigma_angst))


def centre_of_mass_xyz_angst(volume: np.ndarray) -> np.ndarray:
    axis = (np.arange(BOX) - BOX // 2) * VOXEL
    total = volume.sum()
    return np.array(
        [
            (volume.sum(axis=(0, 1)) * axis).sum() / total,
            (volume.sum(axis=(0, 2)) * axis).sum() / total,
            (volume.sum(axis=(1, 2)) * axis).sum() / total,
        ]
    )


def peak_xyz_angst(volume: np.ndarray) -> np.ndarray:
    return (np.array(np.unravel_index(np.argmax(volume), volume.shape))[::-1] - BOX // 2) * VOXEL


def render(model: density.PointModel, matrix: np.ndarray, origin: list[float], resolution: float = 0.0) -> np.ndarray:
    envelope = density.resolution_envelope(BOX, VOXEL, resolution)
    return fourier.inverse(envelope * density.points_rft(model, BOX, VOXEL, matrix, origin))


def test_single_blob_is_a_sampled_gaussian_of_the_given_weight() -> None:
    sigma, place = 12.0, np.array([7.0, -11.0, 4.0])
    volume = render(blob([list(place)], [3.0], sigma), np.eye(3), [0, 0, 0])
    axis = (np.arange(BOX) - BOX // 2) * VOXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    r2 = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2
    expected = 3.0 * VOXEL**3 * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2) ** 1.5
    assert volume.sum() == pytest.approx(3.0, rel=1e-4)
    assert np.abs(volume - expected).max() < 2e-4 * expected.max()


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, 0, 0), (0, 90, 0), (25, 70, -130), (-100, 160, 45)])
def test_blob_moves_to_the_rotated_place_less_the_origin(angles: tuple[float, float, float]) -> None:
    """x_particle = A x_reference - origin, in x, y, z."""
    place, origin = np.array([40.0, 10.0, -20.0]), [6.0, -13.0, 9.0]
    matrix = pose(*angles)
    volume = render(blob([list(place)], [1.0], 10.0), matrix, origin)
    np.testing.assert_allclose(centre_of_mass_xyz_angst(volume), matrix @ place - origin, atol=0.1)


def test_quarter_turns_by_hand() -> None:
    """tilt 90 carries +z to -x, and psi 90 carries +x to -y (RELION turns the frame, not the object)."""
    on_z, on_x = blob([[0.0, 0.0, 40.0]], [1.0], 10.0), blob([[40.0, 0.0, 0.0]], [1.0], 10.0)
    np.testing.assert_allclose(peak_xyz_angst(render(on_z, pose(0, 90, 0), [0, 0, 0])), [-40, 0, 0])
    np.testing.assert_allclose(peak_xyz_angst(render(on_x, pose(0, 0, 90), [0, 0, 0])), [0, -40, 0])


def test_applying_the_origin_as_a_shift_centres_the_particle() -> None:
    model, origin = density.blob_model(50.0).centred(), np.array([8.0, -4.0, 11.0])
    moved = density.points_rft(model, BOX, VOXEL, pose(10, 20, 30), origin)
    centred = density.points_rft(model, BOX, VOXEL, pose(10, 20, 30), np.zeros(3))
    difference = fourier.shift(moved, origin / VOXEL) - centred
    inside = squared_radius(BOX) < (BOX // 2) ** 2
    assert np.abs(difference[inside]).max() < 1e-3 * np.abs(centred).max()


def test_map_and_points_in_the_same_pose_agree() -> None:
    model, matrix, origin = density.blob_model(55.0).centred(), pose(40, 65, -20), np.array([4.0, -9.0, 6.0])
    from_points = render(model, matrix, list(origin), 20.0)
    prepared = density.map_model(render(model, np.eye(3), [0, 0, 0], 20.0), VOXEL)
    from_map = fourier.inverse(density.map_rft(prepared, BOX, VOXEL, matrix, origin))
    assert np.linalg.norm(from_map - from_points) < 0.01 * np.linalg.norm(from_points)


def test_map_of_another_voxel_size_keeps_its_scale_in_angstrom() -> None:
    place = [30.0, -15.0, 10.0]
    fine = blob([place], [1.0], 12.0)
    volume = fourier.inverse(density.points_rft(fine, 64, 2.5, np.eye(3), np.zeros(3)))
    resampled = density.map_rft(density.map_model(volume, 2.5, 10.0), BOX, VOXEL, np.eye(3), np.zeros(3))
    np.testing.assert_allclose(centre_of_mass_xyz_angst(fourier.inverse(resampled)), place, atol=0.3)


def test_resolution_is_where_the_amplitude_is_one_over_e() -> None:
    envelope = density.resolution_envelope(BOX, VOXEL, 20.0)
    shell = int(BOX * VOXEL / 20.0)
    assert envelope[0, 0, shell] == pytest.approx(np.exp(-1.0))
    assert envelope[0, 0, BOX // 2] == 0.0
    assert density.resolution_envelope(BOX, VOXEL, 0.0)[3, 4, 5] == 1.0


def test_built_in_object_has_no_symmetry_and_one_hand() -> None:
    volume = render(density.blob_model(60.0).centred(), np.eye(3), [0, 0, 0], 10.0)
    norm = np.linalg.norm(volume)
    reference = volume / norm
    for rotation in operators("O")[1:]:
        turned = render(density.blob_model(60.0).centred(), rotation, [0, 0, 0], 10.0) / norm
        assert float(np.sum(turned * reference)) < 0.9
    mirrored = np.roll(reference[:, :, ::-1], 1, axis=2)
    assert float(np.sum(mirrored * reference)) < 0.9


@pytest.mark.parametrize("group", ["C3", "D2", "O"])
def test_symmetrised_object_has_exactly_its_group(group: str) -> None:
    model = density.blob_model(60.0, asymmetric_unit=True).symmetrised(operators(group))
    reference = render(model, np.eye(3), [0, 0, 0], 10.0)
    assert model.weights.sum() == pytest.approx(1.0)
    for operator in operators(group):
        copy = render(model, operator, [0, 0, 0], 10.0)
        assert np.abs(copy - reference).max() < 1e-3 * reference.max()
    turned = render(model, pose(20, 0, 0), [0, 0, 0], 10.0)
    assert np.linalg.norm(turned - reference) > 0.2 * np.linalg.norm(reference)


def test_symmetrised_map_is_invariant() -> None:
    volume = density.symmetrise_map(render(density.blob_model(50.0), np.eye(3), [0, 0, 0], 20.0), operators("C4"))
    centre = BOX // 2
    inner = volume[1:, 1:, 1:]  # the part of an even box that is symmetric about the centre
    quarter_turn = np.rot90(inner, axes=(1, 2))
    assert volume[centre, centre, centre] == pytest.approx(inner[centre - 1, centre - 1, centre - 1])
    assert np.linalg.norm(quarter_turn - inner) < 0.01 * np.linalg.norm(inner)


def test_wedge_is_zero_beyond_the_largest_tilt_about_y() -> None:
    volume = ctf.wedge(ctf.centred_frequencies(BOX), 60.0)
    centre = BOX // 2
    assert volume[centre, centre, centre] == 1.0
    assert volume[centre, :, centre].all()  # along the tilt axis
    assert volume[centre, centre, :].all()  # plane of the untilted image
    assert not volume[centre + 1 :, centre, centre].any()  # along the beam
    assert volume[centre + 10, centre, centre + 6] == 1.0  # atan(10 / 6) = 59 deg
    assert volume[centre + 11, centre, centre + 6] == 0.0  # atan(11 / 6) = 61 deg
    assert ctf.wedge(ctf.centred_frequencies(BOX), 90.0).all()


def test_ctf_starts_at_the_amplitude_contrast_and_crosses_zero_where_it_should() -> None:
    microscope = ctf.Microscope(300.0, 0.0, 0.0)
    assert microscope.wavelength_angst() == pytest.approx(0.019687, abs=1e-6)
    first_zero = 1.0 / np.sqrt(microscope.wavelength_angst() * 3.0e4)
    values = ctf.contrast_transfer(np.array([0.0, 0.7 * first_zero, first_zero, 1.2 * first_zero]), 3.0, microscope)
    np.testing.assert_allclose(values[[0, 2]], 0.0, atol=1e-9)
    assert values[1] > 0.9
    assert values[3] < -0.5
    with_contrast = ctf.contrast_transfer(np.array([0.0]), 3.0, ctf.Microscope(300.0, 2.7, 0.07))
    assert with_contrast[0] == pytest.approx(0.07)


def test_ctf_volume_has_the_same_values_in_both_layouts() -> None:
    arguments = (BOX, VOXEL, ctf.tilt_angles(60.0, 3.0), 3.0, ctf.Microscope(), 3.0)
    cube = ctf.ctf_volume(ctf.centred_frequencies(BOX), *arguments)
    half = ctf.ctf_volume(half_frequencies(BOX), *arguments)
    np.testing.assert_allclose(half, half_ctf(cube, BOX), atol=1e-6)
    assert np.abs(cube).max() <= 1.0
    assert cube.min() < -0.3
    assert np.all(cube[BOX // 2 + 2 :, BOX // 2, BOX // 2] == 0.0)


def test_tilts_are_dose_symmetric_and_dose_only_damps() -> None:
    assert ctf.tilt_angles(6.0, 3.0).tolist() == [0.0, 3.0, -3.0, 6.0, -6.0]
    weights = ctf.dose_weight(np.array([0.0, 0.01, 0.1]), 60.0)
    assert weights[0] == 1.0
    assert 1.0 > weights[1] > weights[2] > 0.0


def test_noise_reaches_the_ratio_asked_for() -> None:
    rng = np.random.default_rng(0)
    transfer = ctf.wedge(half_frequencies(BOX), 60.0)
    amplitude = noise.noise_amplitude(BOX, 1.0)
    signal = density.resolution_envelope(BOX, VOXEL, 10.0) * density.points_rft(
        density.blob_model(60.0), BOX, VOXEL, np.eye(3), np.zeros(3)
    )
    scale = noise.noise_scale(noise.shell_power(signal), transfer, amplitude, 0.5)
    band = (squared_radius(BOX) > 0) & (squared_radius(BOX) < (BOX // 2) ** 2)

    def power(rft: np.ndarray) -> float:
        return float(np.sum((noise.multiplicity(BOX) * np.abs(transfer * rft) ** 2)[band]))

    poses = Rotation.random(20, random_state=1).as_matrix()
    envelope = density.resolution_envelope(BOX, VOXEL, 10.0)
    signals = [
        power(envelope * density.points_rft(density.blob_model(60.0), BOX, VOXEL, p, np.zeros(3))) for p in poses
    ]
    noises = [power(scale * amplitude * noise.white_noise_rft(BOX, rng)) for _ in range(20)]
    assert np.mean(signals) / np.mean(noises) == pytest.approx(0.5, rel=0.05)


def test_white_noise_coefficients_have_unit_power() -> None:
    rft = noise.white_noise_rft(BOX, np.random.default_rng(2))
    assert np.mean(np.abs(rft) ** 2) == pytest.approx(1.0, rel=0.02)


def test_background_is_normalised_outside_the_sphere_only() -> None:
    rng = np.random.default_rng(1)
    volume = 3.0 + 2.0 * rng.standard_normal((BOX,) * 3)
    volume[14:18, 14:18, 14:18] += 500.0
    normalised, deviation = noise.normalise_background(volume, 10.0)
    assert deviation == pytest.approx(2.0, rel=0.02)
    assert np.abs(np.median(normalised)) < 0.02
    with pytest.raises(ValueError, match="nothing varies"):
        noise.normalise_background(np.zeros((8, 8, 8)), 3.0)
