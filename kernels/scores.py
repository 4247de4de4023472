"""Comparing particles with rotated references: all orientations times all translations as matrix products.

With ``A`` the rotated reference, ``g`` the factor that predicts the particle from it (CTF and scale), ``X`` the
masked particle and ``s2`` the noise variance, the squared difference is, but for a constant of the particle,

    diff2(r, t) = 1/2 sum_k |A_r|^2 g^2/s2  -  sum_k Re[ conj(A_r) (g X / s2) phase_t ]

so that the cross term is one product of ``(orientations, 2 n_f)`` with ``(2 n_f, translations)`` and the norm a
product of ``(orientations, n_f)`` with ``(n_f, particles)``.  Source: Scheres, J. Mol. Biol. 415, 406 (2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend
from kernels.fourier import crop
from kernels.geometry import likelihood_shells
from kernels.likelihood import FloatArray, Model
from kernels.preparation import PreparedParticle
from kernels.projection import sample
from kernels.sphere import Sphere, shifted, sphere

IntArray = npt.NDArray[np.int64]

CACHED_VALUES = 1 << 22
"""Rotated references are taken in blocks of about this many numbers, which stay in cache between sampling and
product.
"""


@dataclass(frozen=True)
class Terms:
    """The particle's side of the comparison at one image size.

    Attributes
    ----------
    cross : (n_f,) complex ``g X / s2``; norm : (n_f,) real ``g^2 / s2``.
    constant : what has to be added to a score to get RELION's squared difference.
    """

    cross: Any
    norm: Any
    constant: float


def predicted_gain(particle: PreparedParticle, model: Model, size: int, flat: Any, backend: Backend) -> Any:
    """(n_f,) factor from the rotated reference to the predicted particle: scale times CTF, squared if premultiplied.

    ``flat`` are the coefficients' indices (n_f,), on the backend's device.
    """
    if particle.ctf_rft is None or not model.ctf_in_reference:
        return backend.xp.full(len(flat), particle.scale, dtype=backend.real)
    ctf = crop(particle.ctf_rft, size, backend.xp).ravel()[flat]
    if particle.source.ctf_premultiplied:
        ctf = ctf * ctf
    return ctf * backend.real.type(particle.scale)


def inverse_noise(sigma2_noise: FloatArray, shell: IntArray, counted: npt.NDArray[np.bool_]) -> FloatArray:
    """``1 / sigma2`` of the group's spectrum (S,) at the given shells, 0 where not counted or unknown."""
    sigma2 = sigma2_noise[np.where(counted, shell, 0)]
    known = counted & (sigma2 > 0)
    return np.where(known, 1.0 / np.where(known, sigma2, 1.0), 0.0)


def likelihood_terms(particle: PreparedParticle, model: Model, size: int, backend: Backend) -> Terms:
    """Terms of the Gaussian likelihood at image ``size``; DC is not compared."""
    points = sphere(size)
    flat = backend.xp.asarray(points.flat)
    masked = crop(particle.masked_rft, size, backend.xp).ravel()
    sigma2 = model.sigma2_noise[particle.source.group]
    inverse = backend.xp.asarray(inverse_noise(sigma2, points.shell, points.likelihood & (points.shell > 0)))
    gain = predicted_gain(particle, model, size, flat, backend)
    weighted = gain * inverse.astype(backend.real)
    shell = likelihood_shells(size).ravel()
    everywhere = backend.xp.asarray(inverse_noise(sigma2, shell, shell > 0))
    constant = 0.5 * float(
        (everywhere * (masked.real.astype(np.float64) ** 2 + masked.imag.astype(np.float64) ** 2)).sum()
    )
    beyond = 0.5 * float(particle.power[model.current_size // 2 + 1 :].sum())
    return Terms(weighted * masked[flat], gain * weighted, constant + beyond)


def correlation_terms(particle: PreparedParticle, model: Model, size: int, backend: Backend) -> Terms:
    """Terms of the normalised cross-correlation at image ``size``, over all stored coefficients."""
    flat = backend.xp.asarray(sphere(size).flat)
    masked = crop(particle.masked_rft, size, backend.xp).ravel()
    length = math.sqrt(float((masked.real.astype(np.float64) ** 2 + masked.imag.astype(np.float64) ** 2).sum()))
    gain = predicted_gain(particle, model, size, flat, backend)
    return Terms(gain * masked[flat] / backend.real.type(length or 1.0), gain * gain, 0.0)


def _score(norm: Any, cross: Any, cross_correlation: bool, xp: Any) -> Any:
    """Scores to be minimised from the two products; norm (...), cross (..., T)."""
    if cross_correlation:
        return -cross / xp.sqrt(xp.maximum(norm, np.finfo(norm.dtype).tiny))[..., None]
    return norm[..., None] * norm.dtype.type(0.5) - cross


def coarse_scores(
    terms: list[Terms],
    matrices: FloatArray,
    shifts_px: FloatArray,
    size: int,
    cross_correlation: bool,
    model: Model,
    backend: Backend,
) -> Any:
    """Scores of every particle, class, orientation and translation at one image size.

    Parameters
    ----------
    terms : one per particle; matrices : (R, 3, 3); shifts_px : (T, 3).

    Returns
    -------
    (n_p, K, R, T) array of the backend's real dtype, to be minimised; constants of the particles are left out.
    """
    xp, points = backend.xp, sphere(size)
    shape = (len(terms), len(model.references_rft), len(matrices), len(shifts_px))
    scores = xp.empty(shape, dtype=backend.real)
    length = 2 * len(points)
    particles = _fitting(len(terms), len(shifts_px) * length, backend)
    rows = max(1, min(_fitting(len(matrices), 2 * length, backend), CACHED_VALUES // length))
    norms = xp.stack([term.norm for term in terms])
    for p in _slices(len(terms), particles):
        images = xp.concatenate([shifted(term.cross, shifts_px, points, model.box, backend) for term in terms[p]])
        images = images.reshape(-1, length)
        for k, reference in enumerate(model.references_rft):
            for r in _slices(len(matrices), rows):
                rotated = sample(reference, matrices[r], points.frequencies_xyz, model.pad, backend)
                norm = xp.square(rotated).sum(axis=1) @ norms[p].T
                backend.clock.count("gemm_flops", 2 * len(rotated) * length * len(images))
                backend.clock.count("comparisons", len(rotated) * len(images))
                cross = (rotated.reshape(-1, length) @ images.T).reshape(len(rotated), -1, len(shifts_px))
                scores[p, k, r] = _score(norm, cross, cross_correlation, xp).swapaxes(0, 1)
    return scores


@dataclass(frozen=True)
class FinePoints:
    """The evaluated children of the significant coarse points of one particle, as parallel (m,) arrays.

    Attributes
    ----------
    parent : index of the coarse point; row : index into the fine orientations; column : into the fine translations.
    score : to be minimised, without the particle's constant.
    """

    parent: IntArray
    row: IntArray
    column: IntArray
    score: FloatArray


def fine_scores(
    terms: Terms,
    reference: Any,
    matrices: FloatArray,
    shifts_px: FloatArray,
    pairs: tuple[IntArray, IntArray],
    size: int,
    cross_correlation: bool,
    model: Model,
    backend: Backend,
) -> FinePoints:
    """Scores of the children of significant coarse points of one class.

    Parameters
    ----------
    matrices : (U, 8**q, 3, 3) children of the coarse orientations that occur; shifts_px : (V, 8**q, 3) of the
        translations.
    pairs : (m,) indices into U and into V, one entry per significant coarse point.

    Notes
    -----
    The points fill a (U, V) table sparsely.  Orientations are sorted by their first translation and taken in blocks;
    each block is one product with the union of its translations, of which the asked entries are kept.
    """
    orientation, translation = pairs
    rows_per_block = max(1, min(16, _fitting(len(matrices), 2 * matrices.shape[1] * len(sphere(size)), backend)))
    order = np.lexsort((translation, orientation))
    first_translation = np.full(len(matrices), len(shifts_px))
    np.minimum.at(first_translation, orientation, translation)
    rank = np.empty(len(matrices), dtype=np.int64)
    sequence = np.argsort(first_translation, kind="stable")
    rank[sequence] = np.arange(len(matrices))
    block_of_point = rank[orientation] // rows_per_block
    parts = []
    for block in range(-(-len(matrices) // rows_per_block)):
        points = order[block_of_point[order] == block]
        chosen = sequence[block * rows_per_block : (block + 1) * rows_per_block]
        columns, column = np.unique(translation[points], return_inverse=True)
        table = _block_scores(
            terms, reference, matrices[chosen], shifts_px[columns], size, cross_correlation, model, backend
        )
        row = backend.xp.asarray(rank[orientation[points]] - block * rows_per_block)
        score = backend.to_host(table[row, :, backend.xp.asarray(column), :])
        backend.clock.count("comparisons", score.size)
        parts.append(_expand(points, orientation[points], translation[points], score))
    return FinePoints(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _expand(points: IntArray, orientation: IntArray, translation: IntArray, score: Any) -> tuple[Any, Any, Any, Any]:
    """Flatten (m, 8**q, 8**q) scores of children into parallel arrays."""
    rows, columns = score.shape[1:]
    row = np.broadcast_to((orientation[:, None] * rows + np.arange(rows))[:, :, None], score.shape)
    column = np.broadcast_to((translation[:, None] * columns + np.arange(columns))[:, None, :], score.shape)
    parent = np.broadcast_to(points[:, None, None], score.shape)
    return parent.ravel(), row.ravel(), column.ravel(), score.ravel().astype(np.float64)


def _block_scores(
    terms: Terms,
    reference: Any,
    matrices: FloatArray,
    shifts_px: FloatArray,
    size: int,
    cross_correlation: bool,
    model: Model,
    backend: Backend,
) -> Any:
    """(U, 8**q, V, 8**q) scores of a block of orientations with a block of translations."""
    xp, points = backend.xp, sphere(size)
    shape = (*matrices.shape[:2], *shifts_px.shape[:2])
    turned, moves = matrices.reshape(-1, 3, 3), shifts_px.reshape(-1, 3)
    norm = xp.zeros(len(turned), dtype=backend.real)
    cross = xp.zeros((len(turned), len(moves)), dtype=backend.real)
    for chosen, lines in coefficient_blocks(points, len(turned) + len(moves), backend):
        rotated = sample(reference, turned, points.frequencies_xyz[:, chosen], model.pad, backend)
        images = shifted(terms.cross[chosen], moves, points, model.box, backend, lines)
        norm += xp.square(rotated).sum(axis=1) @ terms.norm[chosen]
        backend.clock.count("fine_flops", 2 * rotated.size * len(moves))
        cross += rotated.reshape(len(turned), -1) @ images.reshape(len(moves), -1).T
    return _score(norm, cross, cross_correlation, xp).reshape(shape)


def coefficient_blocks(points: Sphere, rows: int, backend: Backend) -> Iterator[tuple[slice, slice]]:
    """Blocks of whole lines such that ``rows`` rows of stacked coefficients fit the memory budget."""
    return points.blocks(_fitting(len(points), 4 * rows, backend))


def _fitting(count: int, values_each: int, backend: Backend) -> int:
    """How many of ``count`` items of ``values_each`` real numbers fit a quarter of the memory budget, at least one."""
    return int(np.clip(backend.memory_bytes // (4 * backend.real.itemsize * max(1, values_each)), 1, max(1, count)))


def _slices(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))
