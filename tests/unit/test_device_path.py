"""The E-step on a device: the array code that serves CuPy, on a stand-in that is as strict as CuPy about its arrays."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from kernels.accumulators import Accumulators
from kernels.accuracy import pose_accuracy
from kernels.backend import Backend, cpu_backend
from kernels.cuda import selection
from kernels.cuda.tf32 import DEFAULT_MATH
from kernels.cuda.upload import uploaded
from kernels.expectation import expectation
from kernels.fourier import centre_signs, crop, forward, inverse
from kernels.likelihood import Assignment, Mask, Model, Particle, Rules, Search
from kernels.orientations import euler_to_matrix
from kernels.posterior import significant_poses, winner
from kernels.preparation import prepare_all
from kernels.scores import coarse_scores, likelihood_terms
from kernels.sphere import shifted, sphere
from tests.unit import strict_device
from tests.unit.strict_device import DeviceArray, strict_backend
from tests.unit.test_expectation import BOX, CASES, MASK, problem, tiny_particles
from tests.unit.test_scores import use_small_blocks

RELATIVE = {"float32": 1e-4, "float64": 1e-9}
"""Of the largest entry of each sum: single precision against itself differs by the order of its sums."""
LOG_LIKELIHOOD = {"float32": 1e-5, "float64": 1e-11}


def placed(model: Model, backend: Backend) -> Model:
    """The model with its references on the backend's device."""
    references = [backend.xp.asarray(reference, dtype=backend.complex) for reference in model.references_rft]
    return replace(model, references_rft=references)


def assert_same_on_device(
    particles: list[Particle], model: Model, search: Search, device: Backend, rules: Rules, mask: Mask = MASK
):
    """The sums and assignments of the device equal those of the compiled kernels in the same precision."""
    precision = device.real.name
    host = cpu_backend(precision)
    sums, assignments = expectation(particles, placed(model, device), search, mask, rules, device)
    expected_sums, expected = expectation(particles, placed(model, host), search, mask, rules, host)
    for name in (field.name for field in fields(Accumulators)):
        here, there = getattr(sums, name), getattr(expected_sums, name)
        assert type(here) is np.ndarray, name
        assert here.dtype == there.dtype
        assert np.abs(here - there).max() <= RELATIVE[precision] * np.abs(there).max(), name
    for one, other in zip(assignments, expected, strict=True):
        assert_same_assignment(one, other, precision)


def assert_same_with_rounded_products(particles: list[Particle], model: Model, search: Search, device: Backend):
    """With TF32 in the first pass as many points are significant, and the poses are the same; the scores are not."""
    rounded = replace(device, tf32=True)
    (_, found), (_, expected) = (
        expectation(particles, placed(model, each), search, MASK, Rules(), each) for each in (rounded, device)
    )
    for one, other in zip(found, expected, strict=True):
        assert_same_assignment(one, other, device.real.name)
    prepared = prepare_all(particles, model, MASK, Rules(), False, device)
    terms = [likelihood_terms(each, model, model.coarse_size, device) for each in prepared]
    matrices = euler_to_matrix(np.random.default_rng(1).uniform(-180, 180, size=(20, 3)))
    exact, near = (
        coarse_scores(terms, matrices, np.zeros((1, 3)), model.coarse_size, False, placed(model, each), each).get()
        for each in (device, rounded)
    )
    assert 0 < np.abs(near - exact).max() < 2e-3 * np.abs(exact).max()


def assert_same_assignment(one: Assignment, other: Assignment, precision: str):
    assert (one.index, one.class_index) == (other.index, other.class_index)
    assert one.significant_samples == other.significant_samples
    assert one.angles_deg == pytest.approx(other.angles_deg, abs=1e-9)
    assert one.origin_angst == pytest.approx(other.origin_angst, abs=1e-9)
    assert one.pmax == pytest.approx(other.pmax, rel=RELATIVE[precision])
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=LOG_LIKELIHOOD[precision])


@pytest.mark.parametrize("precision", RELATIVE)
@pytest.mark.parametrize("case", CASES)
def test_expectation_on_a_device_equals_the_compiled_kernels(case: str, precision: str):
    model, search = problem(case)
    assert_same_on_device(tiny_particles(), model, search, strict_backend(precision), Rules())


@pytest.mark.parametrize("precision", RELATIVE)
@pytest.mark.parametrize("case", ["global", "local"])
def test_relions_rules_on_a_device(case: str, precision: str):
    model, search = problem(case)
    assert_same_on_device(tiny_particles(), model, search, strict_backend(precision), Rules.relion())


@pytest.mark.parametrize("precision", RELATIVE)
def test_premultiplied_particles_on_a_device(precision: str):
    model, search = problem("global")
    assert_same_on_device(tiny_particles(premultiplied=True), model, search, strict_backend(precision), Rules())


def test_the_other_background_of_particles_on_a_device():
    model, search = problem("local")
    other = replace(MASK, zero_fill=not MASK.zero_fill)
    assert_same_on_device(tiny_particles(), model, search, strict_backend(), Rules(), other)


@pytest.mark.parametrize("case", ["global", "local"])
def test_rounded_products_of_the_first_pass_select_the_same_points(case: str):
    model, search = problem(case)
    assert_same_with_rounded_products(tiny_particles(), model, search, strict_backend())
    assert strict_device.cuda.device.get_cublas_handle().mode == DEFAULT_MATH


@pytest.mark.parametrize("case", ["global", "local", "cross-correlation"])
def test_a_device_with_little_memory_works_in_many_blocks(case: str, monkeypatch: pytest.MonkeyPatch):
    use_small_blocks(monkeypatch)
    model, search = problem(case)
    small = strict_backend("float64", memory_bytes=1 << 14)
    assert_same_on_device(tiny_particles(), model, search, small, Rules())


def test_pose_accuracy_takes_references_from_a_device():
    model, device = problem("global")[0], strict_backend("float64")
    particles = tiny_particles()
    here = pose_accuracy(particles, [0, 1, 2], placed(model, device), 0, True, device)
    there = pose_accuracy(particles, [0, 1, 2], model, 0, True, cpu_backend("float64"))
    assert here[:2] == there[:2]
    np.testing.assert_array_equal(here[2], there[2])


@pytest.mark.parametrize("precision", RELATIVE)
def test_centred_transforms_and_cropping_on_a_device(precision: str):
    device = strict_backend(precision)
    volume = np.random.default_rng(1).normal(size=(2, BOX, BOX, BOX)).astype(precision)
    rft = forward(volume)
    signed = np.fft.rfftn(volume, axes=(1, 2, 3), norm="forward") * centre_signs(BOX)
    np.testing.assert_allclose(rft, signed, atol=1e-7 if precision == "float32" else 1e-16)
    on_device = forward(device.xp.asarray(volume), device.fft)
    np.testing.assert_array_equal(on_device.get(), rft)
    np.testing.assert_array_equal(crop(on_device, 6, device.xp).get(), crop(rft, 6))
    np.testing.assert_array_equal(inverse(on_device, device.fft).get(), inverse(rft))
    np.testing.assert_array_equal(on_device.get(), rft)  # the inverse leaves what it was given as it was
    assert rft.dtype == device.complex


def test_phases_of_some_lines_on_a_device():
    points, device = sphere(8), strict_backend("float64")
    rng = np.random.default_rng(3)
    moves = rng.normal(size=(5, 3))
    for chosen, lines in points.blocks(40):
        values = rng.normal(size=chosen.stop - chosen.start) + 1j * rng.normal(size=chosen.stop - chosen.start)
        here = shifted(device.xp.asarray(values), moves, points, BOX, device, lines)
        there = shifted(values, moves, points, BOX, cpu_backend("float64"), lines)
        assert here.get() == pytest.approx(there, abs=1e-14)


@pytest.mark.parametrize("precision", RELATIVE)
@pytest.mark.parametrize("capacity", [1, 10**4])
@pytest.mark.parametrize("lowest", [-1e4, -2.0, 0.0])
def test_significant_poses_on_a_device_are_those_of_the_host(
    precision: str, capacity: int, lowest: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(selection, "CAPACITY", capacity)
    monkeypatch.setattr(selection, "LOOKING", 100)
    assert_same_poses_are_significant(strict_backend(precision), lowest)


def assert_same_poses_are_significant(device: Backend, lowest: float) -> None:
    """Of scores from ``lowest`` to 80, many of them equal."""
    rng = np.random.default_rng(5)
    scores = np.round(rng.uniform(lowest, 80.0, size=(2, 30, 7)), 1).astype(device.real)
    orientation, offset = rng.normal(size=(2, 30)).round(1), rng.normal(size=7).round(1)
    orientation[0, ::3] = -np.inf
    host = cpu_backend("float32" if device.real.itemsize == 4 else "float64")
    here = significant_poses(orientation, offset, device.xp.asarray(scores), 0.99, -1, device)
    there = significant_poses(orientation, offset, scores, 0.99, -1, host)
    np.testing.assert_array_equal(here.index, there.index)
    np.testing.assert_array_equal(here.weight, there.weight)
    assert (here.count, here.best, here.log_sum) == (there.count, there.best, there.log_sum)


@pytest.mark.parametrize(("prior", "score"), [(-np.inf, 0.0), (0.0, np.nan), (0.0, -np.nan), (0.0, -np.inf)])
def test_weights_that_are_no_numbers_are_told_of_on_a_device_too(prior: float, score: float):
    scores = np.full((1, 4, 3), 5.0 if np.isfinite(prior) else score)
    scores[0, 2, 1] = score
    for backend in (strict_backend("float64"), cpu_backend("float64")):
        with pytest.raises(FloatingPointError):
            significant_poses(np.full((1, 4), prior), np.zeros(3), backend.xp.asarray(scores), 0.99, -1, backend)


def test_the_winner_comes_back_from_a_device():
    assert winner(strict_device.asarray(np.array([3.0, 1.0, 2.0]))).best == 1


MIXTURES = {
    "device + host": lambda device, host: device + host,
    "host + device": lambda device, host: host + device,
    "host @ device": lambda device, host: host @ device,
    "in place with host": lambda device, host: device.__iadd__(host),
    "host in place with device": lambda device, host: host.__iadd__(device),
    "NumPy scalar from the left": lambda device, host: host[0] * device,
    "NumPy function": lambda device, host: np.stack([device, device]),
    "NumPy ufunc": lambda device, host: np.exp(device),
    "NumPy ufunc into device": lambda device, host: np.exp(host, out=device),
    "implicit conversion": lambda device, host: np.asarray(device),
    "assignment of host": lambda device, host: device.__setitem__(slice(None), host),
    "assignment to host": lambda device, host: host.__setitem__(slice(None), device),
    "device function of host": lambda device, host: strict_device.square(host),
    "contiguous host": lambda device, host: strict_device.ascontiguousarray(host),
    "condition on the host": lambda device, host: strict_device.where(host > 0, device, 0),
    "index from the host": lambda device, host: device[host.astype(int)],
    "index into host": lambda device, host: host[device.astype(int)],
    "list as index": lambda device, host: device[[0, 1]],
    "device element as bound": lambda device, host: device[: device.argmin()],
}


@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_stand_in_refuses_to_mix_host_and_device(mixture: str):
    device, host = strict_device.asarray(np.arange(3.0)), np.arange(3.0)
    with pytest.raises((TypeError, IndexError)):
        MIXTURES[mixture](device, host)


def test_results_on_the_stand_in_stay_there():
    device = strict_device.asarray(np.arange(6.0).reshape(2, 3))
    for result in (
        device.sum(),
        device[0, 1],
        device.T,
        2 * device,
        -device,
        device > 1,
        device.real,
        next(iter(device)),
    ):
        assert type(result) is DeviceArray
    view = device[:, 1]
    view += 10.0
    assert float(device[1, 1]) == 14.0
    assert type(device.get()) is np.ndarray


def test_the_stand_in_offers_nothing_that_cupy_lacks():
    cupy = pytest.importorskip("cupy")
    fft = pytest.importorskip("cupyx.scipy.fft")
    own = {"annotations", "strict_backend"}
    functions = {
        name: function
        for name, function in vars(strict_device).items()
        if inspect.isfunction(function) and not name.startswith("_") and name not in own
    }
    assert len(functions) > 15
    for name, function in functions.items():
        theirs = getattr(fft if name in {"rfftn", "irfftn"} else cupy, name)
        if isinstance(theirs, cupy.ufunc):
            continue
        parameters = inspect.signature(theirs).parameters
        variable = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters.values())
        assert variable or set(inspect.signature(function).parameters) <= set(parameters), name
    for name in set(vars(DeviceArray)) - {"__module__", "__dict__", "__weakref__", "__doc__", "__hash__", "_values"}:
        assert hasattr(cupy.ndarray, name), name


def test_a_device_is_made_the_threads_own_and_plans_of_transforms_have_their_share_of_the_budget():
    used, plan_bytes = [], []
    plans = SimpleNamespace(set_memsize=plan_bytes.append)
    xp = SimpleNamespace(
        cuda=SimpleNamespace(Device=lambda number: SimpleNamespace(use=lambda: used.append(number))),
        fft=SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: plans)),
    )
    Backend(xp, None, np.dtype("float32"), 1 << 20, 3).activate()
    cpu_backend().activate()
    assert used == [3]
    assert plan_bytes == [1 << 17]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_volumes_reach_the_device_in_order_while_the_next_ones_travel(count: int):
    device, rng = strict_backend("float64"), np.random.default_rng(1)
    volumes = [rng.normal(size=(4, 4, 4)) for _ in range(count)]
    arrived = [(type(volume), volume.get()) for volume in uploaded(iter(volumes), device)]
    assert [kind for kind, _ in arrived] == [DeviceArray] * count
    np.testing.assert_array_equal([volume for _, volume in arrived], volumes)


def test_volumes_stay_where_they_are_on_the_cpu():
    volumes = [np.ones(3), np.zeros(3)]
    assert [id(volume) for volume in uploaded(volumes, cpu_backend())] == [id(volume) for volume in volumes]
