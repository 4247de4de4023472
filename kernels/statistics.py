"""The weighted sums of one particle: back-projection, noise, scale, offsets and distributions.

Translations are summed first, as one sparse matrix product of weights and phases, ``G_r = sum_t w(r, t) phase_t``;
everything else follows from ``G_r`` and the rotated references, once per retained orientation.  Source:
Scheres, J. Struct. Biol. 180, 519 (2012).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.accumulators import Accumulators
from kernels.back_projection import Inserted, PoseWeights, back_project
from kernels.backend import Backend
from kernels.geometry import likelihood_shells
from kernels.likelihood import FloatArray, Model, Search
from kernels.preparation import PreparedParticle
from kernels.projection import sample
from kernels.scores import COEFFICIENTS_PER_BLOCK, inverse_noise, predicted_gain, slices
from kernels.sphere import Sphere, shifted, sphere

IntArray = npt.NDArray[np.int64]

ROWS_PER_BLOCK = 64
SCALE_MIN_SSNR = 3.0
"""Shells above this signal-to-noise ratio determine the intensity scale of a group."""


@dataclass(frozen=True)
class ClassPoints:
    """The retained points of one particle in one class.

    Attributes
    ----------
    matrices : (n_r, 3, 3) fine orientations; direction : (n_r,) their coarse direction, -1 where the orientation is
        fixed.
    shifts_px : (n_t, 3) fine translations, relative to the particle's centre.
    row, column, weight : (m,) parallel arrays: orientation, translation and posterior probability of each point.
    best : position of the particle's most probable point in these arrays, -1 when it is in another class.
    rotated : rotated references (n_r, 2, n_b) of every block of coefficients at the current size, where they were kept.
    """

    class_index: int
    matrices: FloatArray
    shifts_px: FloatArray
    direction: IntArray
    row: IntArray
    column: IntArray
    weight: FloatArray
    best: int
    rotated: list[Any] | None = None


def accumulate(
    sums: Accumulators,
    inserted: list[Inserted],
    particle: PreparedParticle,
    points: list[ClassPoints],
    model: Model,
    search: Search,
    backend: Backend,
) -> None:
    """Add the contributions of one particle to ``sums`` in place, and to what is ``inserted`` into each class."""
    group = particle.source.group
    image = _Image.of(particle, model, backend)
    total = 0.0
    for part in points:
        weight = float(part.weight.sum())
        total += weight
        target = inserted[part.class_index]
        with target.particle(image.data, image.weight):
            power, cross = _back_project(target, part, image, model, backend)
        if not search.cross_correlation:
            _add_noise_and_scale(sums, group, part.class_index, image, power, cross, particle.scale, model, backend)
        sums.pdf_class[part.class_index] += weight
        if not search.fixed_orientation:
            np.add.at(sums.pdf_direction[part.class_index], part.direction[part.row], part.weight)
        _add_offsets(sums, particle, part, model)
    sums.weight += total
    sums.group_weight[group] += total
    if not search.cross_correlation:
        _add_image_power(sums, particle, total, model, backend)


@dataclass(frozen=True)
class _Image:
    """The particle's coefficients at the current size, in the order of ``points``.

    ``data`` is ``X s C / sigma2`` and ``weight`` ``(s C)^2 / sigma2``: what is inserted, with ``sigma2`` of 1 unless it
    is weighted by the noise; ``masked`` and ``gain`` predict the noise.
    """

    points: Sphere
    masked: Any
    gain: Any
    data: Any
    weight: Any

    @classmethod
    def of(cls, particle: PreparedParticle, model: Model, backend: Backend) -> _Image:
        points = sphere(model.current_size)
        flat = backend.xp.asarray(points.flat)
        sigma2 = model.sigma2_noise[particle.source.group]
        counted = points.likelihood & points.inserted
        importance = inverse_noise(sigma2, points.shell, counted)
        if not model.weight_by_noise:
            importance = points.inserted.astype(np.float64)
        inverse = backend.xp.asarray(importance, dtype=backend.real)
        ctf = backend.xp.full(len(points), particle.scale, dtype=backend.real)
        if particle.ctf_rft is not None:
            ctf = ctf * particle.ctf_rft.ravel()[flat]
        factor = inverse if particle.source.ctf_premultiplied else inverse * ctf
        return cls(
            points=points,
            masked=particle.masked_rft.ravel()[flat],
            gain=predicted_gain(particle, model, model.current_size, flat, backend),
            data=particle.image_rft.ravel()[flat] * factor,
            weight=inverse * ctf * ctf,
        )


def _back_project(
    inserted: Inserted, part: ClassPoints, image: _Image, model: Model, backend: Backend
) -> tuple[FloatArray, npt.NDArray[np.complex128]]:
    """Insert the particle, weighted, and return ``sum w |A_r|^2`` and ``sum conj(A_r) G_r`` per coefficient, (n_f,)."""
    points = image.points
    rows, row = np.unique(part.row, return_inverse=True)
    columns, column = np.unique(part.column, return_inverse=True)
    weights = PoseWeights.of(row, column, part.weight.astype(backend.real), len(rows))
    totals = np.zeros((3, len(points)))
    for number, (chosen, lines) in enumerate(points.blocks(COEFFICIENTS_PER_BLOCK)):
        frequencies = points.frequencies_xyz[:, chosen]
        ones = backend.xp.ones(frequencies.shape[1], dtype=backend.complex)
        phases = backend.reused("images", len(columns), 2, frequencies.shape[1])
        shifted(ones, part.shifts_px[columns], points, model.box, backend, lines, phases)
        for block in slices(len(rows), ROWS_PER_BLOCK):
            matrices = part.matrices[rows[block]]
            if part.rotated is None:
                reference, which = model.references_rft[part.class_index], np.arange(len(matrices))
                rotated = backend.reused("rotated", len(matrices), 2, frequencies.shape[1])
                sample(reference, matrices, frequencies, model.pad, backend, rotated)
            else:
                rotated, which = part.rotated[number], rows[block]
            with backend.clock.stage("insert"):
                backend.clock.count("insertions", len(matrices) * frequencies.shape[1])
                back_project(
                    inserted,
                    matrices,
                    frequencies,
                    model.pad,
                    (image.data[chosen], image.weight[chosen]),
                    weights[block],
                    phases,
                    rotated,
                    which,
                    totals[:, chosen],
                    backend,
                )
    return totals[0], totals[1] + 1j * totals[2]


def _add_noise_and_scale(
    sums: Accumulators,
    group: int,
    class_index: int,
    image: _Image,
    power: FloatArray,
    cross: npt.NDArray[np.complex128],
    scale: float,
    model: Model,
    backend: Backend,
) -> None:
    """Add what depends on the reference: the residual's power per shell, and signal and power for the group's scale."""
    points, shells = image.points, model.box // 2 + 1
    gain, masked = backend.to_host(image.gain), backend.to_host(image.masked)
    counted = points.likelihood
    signal = np.where(counted, gain * (masked * cross).real, 0.0)
    predicted = np.where(counted, gain.astype(np.float64) ** 2 * power, 0.0)
    sums.sigma2_noise[group] += np.bincount(points.shell, weights=predicted - 2.0 * signal, minlength=shells)
    if model.use_scale:
        strong = model.ssnr[class_index][points.shell] > SCALE_MIN_SSNR
        sums.scale_signal[group] += float(signal[strong].sum()) / scale
        sums.scale_power[group] += float(predicted[strong].sum()) / scale**2


def _add_image_power(
    sums: Accumulators, particle: PreparedParticle, total: float, model: Model, backend: Backend
) -> None:
    """Add the particle's own power: weighted up to the current size, once per particle beyond it."""
    group, edge = particle.source.group, model.current_size // 2 + 1
    shell = likelihood_shells(model.current_size).ravel()
    masked = backend.to_host(particle.masked_rft).ravel()[shell >= 0]
    squared = masked.real.astype(np.float64) ** 2 + masked.imag.astype(np.float64) ** 2
    sums.sigma2_noise[group, :edge] += total * np.bincount(shell[shell >= 0], weights=squared, minlength=edge)
    sums.sigma2_noise[group, edge:] += particle.power[edge:]


def _add_offsets(sums: Accumulators, particle: PreparedParticle, part: ClassPoints, model: Model) -> None:
    prior_px = particle.source.prior_origin_angst / model.voxel_size_angst
    distance = ((prior_px - particle.centre_px - part.shifts_px) ** 2).sum(axis=1)
    sums.sigma2_offset_angst2 += model.voxel_size_angst**2 * float((part.weight * distance[part.column]).sum())
