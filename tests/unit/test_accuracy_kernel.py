"""The accuracy of poses: less of it in more noise, within RELION's steps and bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels.accuracy import DETECTED, ROTATION_BOUND_DEG, TRANSLATION_BOUND_PX, pose_accuracy
from kernels.backend import cpu_backend
from kernels.geometry import distance_from_centre, likelihood_shells
from kernels.likelihood import Model, Particle
from kernels.orientations import euler_to_matrix
from kernels.projection import reference_rft, sample
from kernels.sphere import sphere

BOX, PAD = 12, 2
DOUBLE = cpu_backend("float64")
NOISE = 1e-4


def smooth_map() -> np.ndarray:
    """Random density within a sphere."""
    return np.random.default_rng(1).normal(size=(BOX,) * 3) * np.exp(-((distance_from_centre(BOX) / 3.0) ** 2))


def model(noise: float = NOISE, **changes: object) -> Model:
    """One class in white noise."""
    shells = BOX // 2 + 1
    result = Model(
        box=BOX,
        voxel_size_angst=2.0,
        pad=PAD,
        current_size=BOX,
        coarse_size=BOX,
        fine_size=BOX,
        references_rft=[reference_rft(smooth_map(), PAD, BOX // 2)],
        sigma2_noise=np.full((1, shells), noise),
        group_scale=np.ones(1),
        ssnr=np.zeros((1, shells)),
        pdf_class=np.ones(1),
        pdf_direction=np.ones((1, 1)),
        sigma2_offset_angst2=1.0,
        use_ctf=False,
        ctf_in_reference=False,
        use_scale=False,
    )
    return replace(result, **changes)


def particle(
    ctf: float = 1.0, premultiplied: bool = False, angles: tuple[float, ...] = (20.0, 60.0, -40.0)
) -> Particle:
    """A pose with a constant CTF and no volume, which is not needed."""
    return Particle(
        index=0,
        volume=None,
        ctf_rft=np.full((BOX, BOX, BOX // 2 + 1), ctf),
        ctf_premultiplied=premultiplied,
        group=0,
        angles_deg=np.array(angles),
        origin_angst=np.zeros(3),
        prior_angles_deg=np.zeros(3),
        prior_origin_angst=np.zeros(3),
    )


def accuracy(model_: Model, one: Particle | None = None, axis: int = 1) -> tuple[float, float, np.ndarray]:
    """Accuracy for a single particle."""
    return pose_accuracy([one or particle()], [axis], model_, 0, True, DOUBLE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_more_noise_makes_poses_less_accurate(axis: int):
    results = [accuracy(model(NOISE * factor), axis=axis) for factor in (0.01, 0.1, 1.0, 10.0, 100.0)]
    for number in (0, 1):
        numbers = [result[number] for result in results]
        assert numbers == sorted(numbers)
        assert numbers[0] < numbers[-1]


def test_without_noise_the_first_step_is_noticed():
    rotation, translation, orientability = accuracy(model(1e-12))
    assert rotation == pytest.approx(0.05)
    assert translation == pytest.approx(0.1)
    assert orientability.sum() == pytest.approx(1.0)


def test_in_endless_noise_the_search_ends_at_its_bounds():
    rotation, translation, orientability = accuracy(model(1e12))
    assert ROTATION_BOUND_DEG < rotation <= ROTATION_BOUND_DEG + 5.0
    assert TRANSLATION_BOUND_PX < translation <= TRANSLATION_BOUND_PX + 2.0
    assert not orientability.any()


def test_the_accuracy_is_the_first_step_whose_squared_difference_is_detected():
    rotation, _, _ = accuracy(model(), axis=1)
    points, reference = sphere(BOX), model().references_rft[0]
    counted = likelihood_shells(BOX).ravel()[points.flat] > 0

    def difference(angle: float) -> float:
        poses = euler_to_matrix(np.array([[20.0, 60.0, -40.0], [20.0, 60.0 + angle, -40.0]]))
        one, other = sample(reference, poses, points.frequencies_xyz, PAD, DOUBLE)
        return float(((one - other) ** 2).sum(axis=0)[counted].sum() / (2 * NOISE))

    steps = [0.2, 1.0, 2.0, 5.0, 10.0, 20.0]
    sizes = [0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
    before = rotation - sizes[int(np.searchsorted(steps, rotation - 1e-9))]
    assert 0.2 < rotation < ROTATION_BOUND_DEG
    assert difference(rotation) > DETECTED
    assert difference(before) <= DETECTED


def test_a_weaker_ctf_counts_like_noise_with_its_square_or_fourth_power():
    plain = accuracy(model(4 * NOISE))
    weak = accuracy(model(use_ctf=True), particle(ctf=0.5))
    assert weak[:2] == pytest.approx(plain[:2])
    plain = accuracy(model(16 * NOISE))
    premultiplied = accuracy(model(use_ctf=True), particle(ctf=0.5, premultiplied=True))
    assert premultiplied[:2] == pytest.approx(plain[:2])


def test_the_mean_is_taken_over_particles():
    poses = [particle(), particle(angles=(100.0, 10.0, 0.0))]
    single = [pose_accuracy([one], [axis], model(), 0, True, DOUBLE) for one, axis in zip(poses, (0, 2), strict=True)]
    both = pose_accuracy(poses, [0, 2], model(), 0, True, DOUBLE)
    assert both[0] == pytest.approx(np.mean([one[0] for one in single]))
    assert both[1] == pytest.approx(np.mean([one[1] for one in single]))
    assert both[2].shape == (BOX // 2 + 1,)
    assert both[2].sum() == pytest.approx(1.0)
    assert both[2][0] == 0.0


def test_fixed_orientations_have_no_accuracy_of_rotation():
    rotation, translation, orientability = pose_accuracy([particle()], [1], model(), 0, False, DOUBLE)
    assert rotation == 0.0
    assert translation == accuracy(model())[1]
    assert not orientability.any()


def test_the_precision_of_the_backend_hardly_matters():
    narrow = model(references_rft=[model().references_rft[0].astype(np.complex64)])
    single = pose_accuracy([particle()], [1], narrow, 0, True, cpu_backend("float32"))
    assert single[0] == pytest.approx(accuracy(model())[0])
    assert single[2] == pytest.approx(accuracy(model())[2], abs=1e-5)
