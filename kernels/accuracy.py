"""How accurately poses can be determined: the rotation and the shift at which the data would notice the difference.

Source: RELION 3.1's rule; Scheres, J. Struct. Biol. 180, 519 (2012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kernels.backend import Backend, cpu_backend
from kernels.fourier import crop
from kernels.likelihood import FloatArray, Model, Particle
from kernels.orientations import euler_to_matrix
from kernels.projection import sample
from kernels.scores import inverse_noise
from kernels.sphere import shifted, sphere

DETECTED = 4.60517
"""Squared difference, in units of the noise, at which a change is noticed: -ln(0.01)."""

ROTATION_STEPS_DEG = ((0.2, 0.05), (1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (20.0, 2.0), (np.inf, 5.0))
ROTATION_BOUND_DEG = 30.0
TRANSLATION_STEPS_PX = ((1.0, 0.1), (2.0, 0.2), (5.0, 0.5), (10.0, 1.0), (np.inf, 2.0))
TRANSLATION_BOUND_PX = 10.0
CHANGES_AT_ONCE = 8


def pose_accuracy(
    particles: list[Particle], axes: list[int], model: Model, class_index: int, rotations_vary: bool, backend: Backend
) -> tuple[float, float, FloatArray]:
    """Mean accuracy of rotation (degrees) and translation (voxels) over some particles.

    Parameters
    ----------
    particles : their poses, CTFs and groups are used, never their volumes.
    axes : for each particle which angle (0 rot, 1 tilt, 2 psi) and offset (0 x, 1 y, 2 z) is varied.
    rotations_vary : whether orientations are searched at all; their accuracy is 0 otherwise.

    Returns
    -------
    rotation_deg, translation_px, and the spectral orientability (S,): how much each shell contributes to noticing the
    rotation, summing to 1.
    """
    host = cpu_backend("float64")
    reference = np.asarray(backend.to_host(model.references_rft[class_index]), dtype=np.complex128)
    points = sphere(model.fine_size)
    rotations, shifts = [], []
    orientability = np.zeros(model.box // 2 + 1)
    for particle, axis in zip(particles, axes, strict=True):
        sensitivity = _sensitivity(particle, model)
        here = sample(reference, euler_to_matrix(particle.angles_deg)[None], points.frequencies_xyz, model.pad, host)[0]

        def turned(angles: FloatArray, particle: Particle = particle, axis: int = axis, here: Any = here) -> Any:
            matrices = euler_to_matrix(particle.angles_deg + angles[:, None] * np.eye(3)[axis])
            return here - sample(reference, matrices, points.frequencies_xyz, model.pad, host)

        def moved(distances: FloatArray, axis: int = axis, here: Any = here) -> Any:
            values = here[0] + 1j * here[1]
            return here - shifted(values, distances[:, None] * np.eye(3)[axis], points, model.box, host)

        angle, difference = 0.0, np.zeros_like(sensitivity)
        if rotations_vary:
            angle, difference = _first_detected(turned, sensitivity, ROTATION_STEPS_DEG, ROTATION_BOUND_DEG)
        rotations.append(angle)
        orientability += np.bincount(points.shell, weights=difference, minlength=len(orientability))
        shifts.append(_first_detected(moved, sensitivity, TRANSLATION_STEPS_PX, TRANSLATION_BOUND_PX)[0])
    total = orientability.sum()
    return float(np.mean(rotations)), float(np.mean(shifts)), orientability / total if total > 0 else orientability


def _sensitivity(particle: Particle, model: Model) -> FloatArray:
    """(n_f,) factor ``C^2 / (2 sigma2)`` from a difference of references to its significance."""
    points = sphere(model.fine_size)
    counted = points.likelihood & (points.shell > 0)
    weight = inverse_noise(model.sigma2_noise[particle.group], points.shell, counted) / 2.0
    if not model.use_ctf:
        return weight
    ctf = np.asarray(crop(particle.ctf_rft, model.fine_size), dtype=np.float64).ravel()[points.flat]
    return weight * (ctf**4 if particle.ctf_premultiplied else ctf**2)


def _first_detected(
    difference: Callable[[FloatArray], Any],
    sensitivity: FloatArray,
    steps: tuple[tuple[float, float], ...],
    bound: float,
) -> tuple[float, FloatArray]:
    """The first tried change that is noticed and its contributions (n_f,), or the first beyond ``bound`` and zeros.

    ``difference`` is that of some changes at once (n, 2, n_f).
    """
    *changes, beyond = _changes(steps, bound)
    for start in range(0, len(changes), CHANGES_AT_ONCE):
        tried = np.array(changes[start : start + CHANGES_AT_ONCE])
        contributions = np.square(difference(tried)).sum(axis=1) * sensitivity
        noticed = np.flatnonzero(contributions.sum(axis=1) > DETECTED)
        if len(noticed):
            return float(tried[noticed[0]]), contributions[noticed[0]]
    return beyond, np.zeros_like(sensitivity)


def _changes(steps: tuple[tuple[float, float], ...], bound: float) -> Iterator[float]:
    """The changes that are tried, up to the first one beyond ``bound``."""
    change = 0.0
    while change <= bound:
        change += next(step for limit, step in steps if change < limit)
        yield change
