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
from kernels.backend import Backend
from kernels.geometry import likelihood_shells
from kernels.likelihood import FloatArray, Model, Search
from kernels.preparation import PreparedParticle
from kernels.projection import insert, sample
from kernels.scores import coefficient_blocks, inverse_noise, predicted_gain
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
    """

    class_index: int
    matrices: FloatArray
    shifts_px: FloatArray
    direction: IntArray
    row: IntArray
    column: IntArray
    weight: FloatArray
    best: int


def accumulate(
    sums: Accumulators,
    particle: PreparedParticle,
    points: list[ClassPoints],
    model: Model,
    search: Search,
    backend: Backend,
) -> None:
    """Add the contributions of one particle to ``sums`` in place."""
    group = particle.source.group
    image = _Image.of(particle, model, backend)
    total = 0.0
    for part in points:
        weight = float(part.weight.sum())
        total += weight
        power, cross = _back_project(sums, part, image, model, backend)
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
    sums: Accumulators, part: ClassPoints, image: _Image, model: Model, backend: Backend
) -> tuple[FloatArray, npt.NDArray[np.complex128]]:
    """Insert the particle, weighted, and return ``sum w |A_r|^2`` and ``sum conj(A_r) G_r`` per coefficient, (n_f,)."""
    xp, points = backend.xp, image.points
    rows, row = np.unique(part.row, return_inverse=True)
    columns, column = np.unique(part.column, return_inverse=True)
    shape = (len(rows), len(columns))
    weights = backend.sparse.csr_matrix(
        (xp.asarray(part.weight, dtype=backend.real), (xp.asarray(row), xp.asarray(column))), shape=shape
    )
    row_weight = xp.asarray(np.bincount(row, weights=part.weight), dtype=backend.real)
    matrices, shifts = part.matrices[rows], part.shifts_px[columns]
    reference = model.references_rft[part.class_index]
    power = np.empty(len(points))
    cross = np.empty(len(points), dtype=np.complex128)
    data, weight = sums.data_rft[part.class_index], sums.weight_rft[part.class_index]
    for chosen, lines in coefficient_blocks(points, len(columns) + 3 * ROWS_PER_BLOCK, backend):
        frequencies = points.frequencies_xyz[:, chosen]
        ones = xp.ones(frequencies.shape[1], dtype=backend.complex)
        phases = shifted(ones, shifts, points, model.box, backend, lines).reshape(len(columns), -1)
        block_power, block_cross = np.zeros(frequencies.shape[1]), np.zeros(frequencies.shape[1], dtype=np.complex128)
        for first in range(0, len(rows), ROWS_PER_BLOCK):
            block = slice(first, first + ROWS_PER_BLOCK)
            moved = (weights[block] @ phases).reshape(-1, 2, frequencies.shape[1])
            rotated = sample(reference, matrices[block], frequencies, model.pad, backend)
            block_power += backend.to_host(row_weight[block] @ xp.square(rotated).sum(axis=1))
            block_cross += backend.to_host((rotated * moved).sum(axis=(0, 1)))
            block_cross += 1j * backend.to_host((rotated[:, 0] * moved[:, 1] - rotated[:, 1] * moved[:, 0]).sum(axis=0))
            values = xp.empty_like(moved)
            re, im = image.data[chosen].real, image.data[chosen].imag
            values[:, 0] = re * moved[:, 0] - im * moved[:, 1]
            values[:, 1] = re * moved[:, 1] + im * moved[:, 0]
            each = row_weight[block, None] * image.weight[chosen][None, :]
            with backend.clock.stage("insert"):
                backend.clock.count("insertions", each.size)
                values, each = backend.to_host(values), backend.to_host(each)
                insert(data, weight, matrices[block], frequencies, values, each, model.pad)
        power[chosen], cross[chosen] = block_power, block_cross
    return power, cross


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
