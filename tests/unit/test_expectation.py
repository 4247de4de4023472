"""The whole E-step against the same formulas written out point by point, for every kind of search."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from kernels.backend import cpu_backend
from kernels.ctf import wedge
from kernels.expectation import DegenerateParticleError, expectation
from kernels.fourier import forward, inverse, shift
from kernels.geometry import half_frequencies, squared_radius
from kernels.likelihood import Mask, Model, Particle, Rules, Search
from kernels.orientations import angular_grid, euler_to_matrix
from kernels.projection import reference_rft, sample
from kernels.sphere import sphere
from kernels.translations import translation_grid
from tests.unit.estep_reference import Result, brute_force
from tests.unit.test_scores import use_small_blocks

BOX, VOXEL_ANGST, PAD = 10, 4.0, 2
CURRENT_SIZE, COARSE_SIZE = 8, 6
MASK = Mask(radius_px=3.5, edge_px=1.5, zero_fill=True)
SUMS = [field.name for field in fields(Accumulators)]


def smooth_map(seed: int) -> np.ndarray:
    """A random map without high frequencies."""
    rft = forward(np.random.default_rng(seed).normal(size=(BOX,) * 3))
    return 30.0 * inverse(rft * np.exp(-squared_radius(BOX) / 8.0))


def tiny_model(oversampling: int = 1, **changes: object) -> Model:
    """Two classes, two groups with a scale each, noise that falls with frequency, some directions without weight."""
    shells, rng = BOX // 2 + 1, np.random.default_rng(5)
    grid = angular_grid(0)
    pdf_direction = rng.uniform(0.2, 1.0, size=(2, len(grid.directions_deg)))
    pdf_direction[:, 3] = 0.0
    pdf_direction[1, 7] = 0.0
    model = Model(
        box=BOX,
        voxel_size_angst=VOXEL_ANGST,
        pad=PAD,
        current_size=CURRENT_SIZE,
        coarse_size=COARSE_SIZE if oversampling else CURRENT_SIZE,
        fine_size=CURRENT_SIZE,
        references_rft=[reference_rft(smooth_map(seed), PAD, CURRENT_SIZE // 2) for seed in (1, 2)],
        sigma2_noise=np.stack([0.16 / (1.0 + np.arange(shells)), 0.1 / (1.5 + np.arange(shells))]),
        group_scale=np.array([1.0, 0.8]),
        ssnr=np.array([[9.0, 8.0, 7.0, 2.0, 4.0, 0.0], [9.0, 5.0, 2.0, 2.0, 1.0, 0.0]]),
        pdf_class=np.array([0.6, 0.4]),
        pdf_direction=pdf_direction / pdf_direction.sum(),
        sigma2_offset_angst2=25.0,
        use_ctf=True,
        ctf_in_reference=True,
        use_scale=True,
    )
    return replace(model, **changes)


def tiny_search(**changes: object) -> Search:
    """All orientations of order 0 and seven translations."""
    search = Search(
        grid=angular_grid(0),
        translations_angst=translation_grid(5.0, 5.0),
        offset_step_angst=5.0,
        perturbation=0.3,
        oversampling=1,
    )
    return replace(search, **changes)


def tiny_particles(premultiplied: bool = False, noise: float = 1.0) -> list[Particle]:
    """Three noisy particles of both groups and classes behind a wedge that also dampens high frequencies."""
    ctf = wedge(half_frequencies(BOX), 50.0) * (1.0 - 0.015 * squared_radius(BOX))
    angles = np.array([[20.0, 50.0, -80.0], [-120.0, 100.0, 10.0], [75.0, 30.0, 140.0]])
    origins = np.array([[2.0, -3.0, 0.5], [-9.0, 4.0, 1.0], [0.0, 0.0, 0.0]])
    particles = []
    points = sphere(BOX)
    for index, (pose, origin, class_index) in enumerate(zip(angles, origins, (0, 1, 0), strict=True)):
        rng = np.random.default_rng(100 + index)
        reference = reference_rft(smooth_map(1 + class_index), PAD, BOX // 2)
        real, imaginary = sample(
            reference, euler_to_matrix(pose)[None], points.frequencies_xyz, PAD, cpu_backend("float64")
        )[0]
        rft = np.zeros(BOX * BOX * (BOX // 2 + 1), dtype=np.complex128)
        rft[points.flat] = real + 1j * imaginary
        rft = shift(rft.reshape(BOX, BOX, BOX // 2 + 1), -origin / VOXEL_ANGST)
        volume = inverse(ctf * (ctf if premultiplied else 1.0) * rft) + noise * rng.normal(size=(BOX,) * 3)
        particles.append(
            Particle(
                index=10 + index,
                volume=volume,
                ctf_rft=ctf,
                ctf_premultiplied=premultiplied,
                group=index % 2,
                angles_deg=pose + 4.0,
                origin_angst=origin + np.array([1.0, -0.5, 0.7]),
                prior_angles_deg=pose - 5.0,
                prior_origin_angst=np.array([0.5, -1.0, 2.0]) * index,
            )
        )
    return particles


CASES = {
    "global": ({}, {}),
    "global without second pass": ({"oversampling": 0}, {}),
    "two levels of oversampling": ({"oversampling": 2, "adaptive_fraction": 0.5, "max_significant": 1}, {}),
    "few significant": ({"max_significant": 2}, {}),
    "local": ({"local": True, "sigma_rot_deg": 15.0, "sigma_tilt_deg": 15.0, "sigma_psi_deg": 25.0}, {}),
    "local psi only": ({"local": True, "sigma_psi_deg": 25.0, "oversampling": 0}, {}),
    "fixed orientation": ({"fixed_orientation": True}, {}),
    "fixed orientation without second pass": ({"fixed_orientation": True, "oversampling": 0}, {}),
    "fixed pose": ({"fixed_orientation": True, "fixed_offset": True, "oversampling": 0, "perturbation": 0.0}, {}),
    "cross-correlation": ({"cross_correlation": True}, {}),
    "cross-correlation without second pass": ({"cross_correlation": True, "oversampling": 0}, {}),
    "reference without ctf": ({}, {"ctf_in_reference": False}),
    "no ctf at all": ({}, {"ctf_in_reference": False, "use_ctf": False}),
    "no scale": ({}, {"use_scale": False}),
    "whole box": ({"oversampling": 0}, {"current_size": BOX, "fine_size": BOX, "coarse_size": BOX}),
    "no weighting by noise": ({}, {"weight_by_noise": False}),
    "strictly limited resolution": ({}, {"fine_size": COARSE_SIZE}),
}


def problem(case: str) -> tuple[Model, Search]:
    """Model and search of a case."""
    search_changes, model_changes = CASES[case]
    search = tiny_search(**search_changes)
    model = tiny_model(search.oversampling, **model_changes)
    if model.current_size == BOX:
        references = [reference_rft(smooth_map(seed), PAD, BOX // 2) for seed in (1, 2)]
        model = replace(model, references_rft=references)
    return model, search


def assert_same(
    result: tuple[Accumulators, list], expected: Result, relative: float, likelihood: float, angles: float
) -> None:
    """Sums equal relative to their largest entry; assignments equal."""
    sums, assignments = result
    for name in SUMS:
        here, there = getattr(sums, name), getattr(expected.sums, name)
        assert here.shape == there.shape
        assert np.abs(here - there).max() <= relative * max(np.abs(there).max(), 1e-12), name
    for one, (pose, origin, class_index, log_likelihood, pmax, count) in zip(
        assignments, expected.assignments, strict=True
    ):
        assert one.class_index == class_index
        assert one.significant_samples == count
        assert one.angles_deg == pytest.approx(pose, abs=angles)
        assert one.origin_angst == pytest.approx(origin, abs=1e-9)
        assert one.log_likelihood == pytest.approx(log_likelihood, abs=likelihood)
        assert one.pmax == pytest.approx(pmax, rel=relative)


RULES = [(case, Rules()) for case in CASES] + [(case, Rules.relion()) for case in ("global", "local", "fixed pose")]


@pytest.mark.parametrize(
    ("case", "rules"), RULES, ids=[case + (" as in RELION" if rules == Rules.relion() else "") for case, rules in RULES]
)
def test_expectation_equals_the_formulas_written_out(case: str, rules: Rules):
    particles, (model, search) = tiny_particles(), problem(case)
    result = expectation(particles, model, search, MASK, rules, cpu_backend("float64"))
    expected = brute_force(particles, model, search, MASK, rules)
    assert_same(result, expected, relative=1e-9, likelihood=1e-9, angles=1e-9)


@pytest.mark.parametrize("case", ["global", "local", "fixed orientation", "cross-correlation"])
def test_single_precision_gives_the_same_assignments_and_nearly_the_same_sums(case: str):
    particles, (model, search) = tiny_particles(), problem(case)
    double = expectation(particles, model, search, MASK, Rules(), cpu_backend("float64"))
    references = [reference.astype(np.complex64) for reference in model.references_rft]
    model = replace(model, references_rft=references)
    sums, assignments = expectation(particles, model, search, MASK, Rules(), cpu_backend("float32"))
    for name in SUMS:
        here, there = getattr(sums, name), getattr(double[0], name)
        assert np.abs(here - there).max() <= 1e-4 * max(np.abs(there).max(), 1e-12), name
    for one, other in zip(assignments, double[1], strict=True):
        assert one.class_index == other.class_index
        assert one.angles_deg == pytest.approx(other.angles_deg, abs=1e-9)
        assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-5)


@pytest.mark.parametrize("oversampling", [0, 1])
def test_premultiplied_particles_are_compared_with_the_squared_ctf(oversampling: int):
    particles, model = tiny_particles(premultiplied=True), tiny_model(oversampling)
    search = tiny_search(oversampling=oversampling)
    result = expectation(particles, model, search, MASK, Rules(), cpu_backend("float64"))
    expected = brute_force(particles, model, search, MASK, Rules())
    assert_same(result, expected, relative=1e-9, likelihood=1e-9, angles=1e-9)


def test_a_restricted_class_is_the_only_one_tried():
    particles = [replace(particle, only_class=only) for particle, only in zip(tiny_particles(), (1, 0, 1), strict=True)]
    model, search = problem("global")
    result = expectation(particles, model, search, MASK, Rules(), cpu_backend("float64"))
    assert [one.class_index for one in result[1]] == [1, 0, 1]
    expected = brute_force(particles, model, search, MASK, Rules())
    assert_same(result, expected, relative=1e-9, likelihood=1e-9, angles=1e-9)


def test_the_tiny_problem_has_several_retained_points():
    """The comparisons above would mean little if a single point took all the weight."""
    particles, (model, search) = tiny_particles(), problem("global")
    expected = brute_force(particles, model, search, MASK, Rules())
    assert min(expected.significant) > 3
    assert min(expected.retained) > 10
    assert (expected.sums.pdf_class > 0.01).all()


@pytest.mark.parametrize("case", ["global", "local", "cross-correlation", "global without second pass"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_memory_budget_changes_not_a_bit_and_blocks_nothing_but_rounding(
    case: str, precision: str, monkeypatch: pytest.MonkeyPatch
):
    particles, (model, search) = tiny_particles(), problem(case)
    complex_type = cpu_backend(precision).complex
    model = replace(model, references_rft=[reference.astype(complex_type) for reference in model.references_rft])
    plenty = expectation(particles, model, search, MASK, Rules(), cpu_backend(precision, 1 << 30))
    for memory_bytes in (1, 200_000):
        scarce = expectation(particles, model, search, MASK, Rules(), cpu_backend(precision, memory_bytes))
        assert_nearly_same(scarce, plenty, 0.0)
    use_small_blocks(monkeypatch)
    blocks = expectation(particles, model, search, MASK, Rules(), cpu_backend(precision, 1 << 30))
    assert_nearly_same(blocks, plenty, 1e-12 if precision == "float64" else 1e-4)
    for memory_bytes in (1, 200_000):
        scarce = expectation(particles, model, search, MASK, Rules(), cpu_backend(precision, memory_bytes))
        assert_nearly_same(scarce, blocks, 0.0)


def assert_nearly_same(result: tuple[Accumulators, list], other: tuple[Accumulators, list], rounding: float) -> None:
    """The same poses, and sums within rounding."""
    for name in SUMS:
        here, there = getattr(result[0], name), getattr(other[0], name)
        assert np.abs(here - there).max() <= rounding * max(np.abs(there).max(), 1e-12), name
    for one, two in zip(result[1], other[1], strict=True):
        assert np.array_equal(one.angles_deg, two.angles_deg)
        assert np.array_equal(one.origin_angst, two.origin_angst)
        assert (one.class_index, one.significant_samples) == (two.class_index, two.significant_samples)


def test_particles_together_are_particles_one_by_one():
    particles, (model, search) = tiny_particles(), problem("global")
    backend = cpu_backend("float64")
    together, assigned = expectation(particles, model, search, MASK, Rules(), backend)
    single = [expectation([particle], model, search, MASK, Rules(), backend) for particle in particles]
    merged = single[0][0].merge(single[1][0]).merge(single[2][0])
    for name in SUMS:
        assert getattr(merged, name) == pytest.approx(getattr(together, name), rel=1e-9, abs=1e-9), name
    for one, (_, [other]) in zip(assigned, single, strict=True):
        assert one.index == other.index
        assert np.array_equal(one.angles_deg, other.angles_deg)
        assert one.log_likelihood == pytest.approx(other.log_likelihood)


@pytest.mark.parametrize("cross_correlation", [False, True])
def test_the_true_class_and_pose_are_found_without_noise(cross_correlation: bool):
    particles = tiny_particles(noise=0.0)
    truth = [(pose.angles_deg - 4.0, pose.origin_angst - np.array([1.0, -0.5, 0.7])) for pose in particles]
    model = tiny_model()
    grid = angular_grid(2)
    uniform = np.full((2, len(grid.directions_deg)), 0.5 / len(grid.directions_deg))
    model = replace(model, sigma2_noise=0.01 * model.sigma2_noise, pdf_direction=uniform, coarse_size=CURRENT_SIZE)
    search = tiny_search(
        grid=grid,
        local=True,
        sigma_rot_deg=10.0,
        sigma_tilt_deg=10.0,
        sigma_psi_deg=10.0,
        cross_correlation=cross_correlation,
    )
    whole = Mask(radius_px=6.0, edge_px=1.0, zero_fill=True)
    _, assignments = expectation(particles, model, search, whole, Rules(), cpu_backend("float64"))
    assert [one.class_index for one in assignments] == [0, 1, 0]
    for one, (angles, origin) in zip(assignments, truth, strict=True):
        turn = euler_to_matrix(one.angles_deg) @ euler_to_matrix(angles).T
        assert np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 8.0
        assert np.abs(one.origin_angst - origin).max() < 2.0


@pytest.mark.parametrize("cross_correlation", [False, True])
def test_a_particle_without_finite_scores_is_named(cross_correlation: bool):
    particles, model = tiny_particles(), tiny_model()
    particles[1] = replace(particles[1], volume=np.full((BOX,) * 3, np.nan))
    search = tiny_search(cross_correlation=cross_correlation)
    with pytest.raises(DegenerateParticleError, match="particle 11") as raised, np.errstate(invalid="ignore"):
        expectation(particles, model, search, MASK, Rules(), cpu_backend("float64"))
    assert raised.value.index == 11
