"""The E-step with CuPy on a GPU equals the compiled kernels on the CPU; skipped where there is no GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels.accuracy import pose_accuracy
from kernels.backend import Backend, cpu_backend, cuda_backend
from kernels.calibration import _unit
from kernels.clock import Clock
from kernels.expectation import expectation
from kernels.fourier import crop, forward, inverse
from kernels.halving import expectation_within_memory
from kernels.likelihood import Mask, Rules
from kernels.orientations import euler_to_matrix
from kernels.projection import sample
from kernels.sphere import shifted, sphere
from tests.gpu.run_all import problem as unit_problem
from tests.unit.test_back_projection import TOLERANCE, projected
from tests.unit.test_device_path import (
    RELATIVE,
    assert_same_assignment,
    assert_same_on_device,
    assert_same_poses_are_significant,
    assert_same_with_rounded_products,
    placed,
)
from tests.unit.test_expectation import BOX, CASES, problem, tiny_particles
from tests.unit.test_scores import use_small_blocks

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default::UserWarning")]

ANGLES_DEG = np.array([[0.0, 0.0, 0.0], [10.0, 40.0, -70.0], [-120.0, 180.0, 33.0], [77.0, 90.0, 5.0]])
ABSOLUTE = {"float32": 2e-5, "float64": 1e-12}


@pytest.fixture(scope="module", params=RELATIVE)
def device(request: pytest.FixtureRequest) -> Backend:
    """CuPy in both precisions."""
    try:
        return cuda_backend(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", CASES)
def test_expectation_on_the_gpu_equals_the_compiled_kernels(case: str, device: Backend):
    model, search = problem(case)
    assert_same_on_device(tiny_particles(), model, search, device, Rules())


@pytest.mark.parametrize("case", ["global", "local"])
def test_relions_rules_on_the_gpu(case: str, device: Backend):
    model, search = problem(case)
    assert_same_on_device(tiny_particles(), model, search, device, Rules.relion())


def test_premultiplied_particles_on_the_gpu(device: Backend):
    model, search = problem("global")
    assert_same_on_device(tiny_particles(premultiplied=True), model, search, device, Rules())


@pytest.mark.parametrize("case", ["global", "local", "cross-correlation"])
def test_a_gpu_with_little_memory_works_in_many_blocks(case: str, device: Backend, monkeypatch: pytest.MonkeyPatch):
    use_small_blocks(monkeypatch)
    model, search = problem(case)
    assert_same_on_device(tiny_particles(), model, search, replace(device, memory_bytes=1 << 14), Rules())


@pytest.mark.parametrize("case", ["global", "local"])
def test_rounded_products_of_the_first_pass_select_the_same_points_on_the_gpu(case: str, device: Backend):
    if device.real == np.float32:
        assert_same_with_rounded_products(tiny_particles(), *problem(case), device)


def test_particles_that_do_not_fit_on_the_gpu_are_halved(device: Backend):
    pool = device.xp.get_default_memory_pool()
    particles, model, search = _unit(unit_problem(box=24, order=1, local=False, particles=8), device)
    mask = Mask(10.0, 3.0, True)
    device.free_memory()
    expected, poses = expectation(particles, model, search, mask, Rules(), device)
    limit, clock = pool.total_bytes(), Clock()
    try:
        while not clock.counts.get("halvings"):
            device.free_memory()
            limit = limit * 9 // 10
            pool.set_limit(size=limit)
            sums, found = expectation_within_memory(particles, model, search, mask, Rules(), device, clock)
    finally:
        pool.set_limit(size=0)
    for one, other in zip(found, poses, strict=True):
        assert_same_assignment(one, other, device.real.name)
    largest = np.abs(expected.data_rft).max()
    assert np.abs(sums.data_rft - expected.data_rft).max() <= RELATIVE[device.real.name] * largest


def test_centred_transforms_and_cropping_on_the_gpu(device: Backend):
    volume = np.random.default_rng(1).normal(size=(2, BOX, BOX, BOX)).astype(device.real)
    rft, absolute = forward(volume), ABSOLUTE[device.real.name]
    on_device = forward(device.xp.asarray(volume), device.fft)
    assert on_device.dtype == device.complex
    assert on_device.get() == pytest.approx(rft, abs=absolute)
    np.testing.assert_array_equal(crop(on_device, 6, device.xp).get(), crop(on_device.get(), 6))
    assert inverse(on_device, device.fft).get() == pytest.approx(volume, abs=absolute)


def test_sampling_and_phases_on_the_gpu(device: Backend):
    points, host, absolute = sphere(8), cpu_backend(device.real.name), ABSOLUTE[device.real.name]
    model = problem("global")[0]
    matrices = euler_to_matrix(ANGLES_DEG)
    here, there = (
        sample(placed(model, each).references_rft[0], matrices, points.frequencies_xyz, model.pad, each)
        for each in (device, host)
    )
    assert here.get() == pytest.approx(there, abs=absolute * float(np.abs(there).max()))
    values = (there[0, 0] + 1j * there[0, 1]).astype(device.complex)
    moves = np.random.default_rng(3).normal(size=(5, 3))
    moved = shifted(device.xp.asarray(values), moves, points, BOX, device).get()
    expected = shifted(values, moves, points, BOX, host)
    assert moved == pytest.approx(expected, abs=absolute * float(np.abs(expected).max()))


@pytest.mark.parametrize("lowest", [-1e4, 0.0])
def test_significant_poses_on_the_gpu_are_those_of_the_host(lowest: float, device: Backend):
    assert_same_poses_are_significant(device, lowest)


def test_back_projection_on_the_gpu_equals_the_compiled_kernel_and_is_the_same_twice(device: Backend):
    here, again, there = (projected(each, times=3) for each in (device, device, cpu_backend(device.real.name)))
    for one, same, other in zip(here, again, there, strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() < TOLERANCE[device.real.name] * np.abs(other).max()


def test_pose_accuracy_takes_references_from_the_gpu(device: Backend):
    model = problem("global")[0]
    here = pose_accuracy(tiny_particles(), [0, 1, 2], placed(model, device), 0, True, device)
    host = cpu_backend(device.real.name)
    there = pose_accuracy(tiny_particles(), [0, 1, 2], placed(model, host), 0, True, host)
    assert here[:2] == there[:2]
    assert here[2] == pytest.approx(there[2], abs=1e-12)
