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
from kernels.cuda.tf32 import tf32_product
from kernels.fourier import crop
from kernels.geometry import likelihood_shells
from kernels.likelihood import FloatArray, Model
from kernels.preparation import PreparedParticle
from kernels.projection import sample
from kernels.sphere import shifted, sphere
from kernels.trilinear import summed_power

IntArray = npt.NDArray[np.int64]

COEFFICIENTS_PER_BLOCK, ROWS_PER_BLOCK, COARSE_ROWS_PER_BLOCK = 4096, 128, 512
"""Rotated references are taken in blocks: in the first pass, which has more columns, of as many rows as the product
needs to run at full speed, later of what stays in cache.  The blocks are the same whatever the memory, because sums
change their last bits with their order.
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


def weighted_power(rotated: Any, gains: Any, backend: Backend) -> Any:
    """(n, n_p) squared amplitudes of stacked coefficients (n, 2, n_f), summed with the weights ``gains`` (n_p, n_f)."""
    if backend.is_cpu:
        return summed_power(rotated, gains)
    return backend.xp.square(rotated).sum(axis=1) @ gains.T


def _product(stage: str, rotated: Any, images: Any, backend: Backend) -> Any:
    """(n, m) cross terms of rotated references (n, 2, n_f) and particles (m, 2, n_f), timed as ``stage``."""
    with backend.clock.stage(stage):
        left, right = rotated.reshape(len(rotated), -1), images.reshape(len(images), -1).T
        if backend.tf32 and stage == "first_pass":
            return tf32_product(left, right, backend)
        return left @ right


def _with_norms(scores: Any, norm: Any, cross_correlation: bool, xp: Any) -> Any:
    """Scores to be minimised, in place of the negative cross terms (..., T); norm (...)."""
    if cross_correlation:
        scores /= xp.sqrt(xp.maximum(norm, np.finfo(norm.dtype).tiny))[..., None]
    else:
        scores += norm[..., None] * norm.dtype.type(0.5)
    return scores


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
    scores, norm = xp.zeros(shape, dtype=backend.real), xp.zeros(shape[:3], dtype=backend.real)
    for chosen, lines in points.blocks(COEFFICIENTS_PER_BLOCK):
        frequencies = points.frequencies_xyz[:, chosen]
        length = chosen.stop - chosen.start
        images = backend.reused("images", shape[0], shape[3], 2, length)
        for p, term in enumerate(terms):
            shifted(term.cross[chosen], shifts_px, points, model.box, backend, lines, images[p])
        images = images.reshape(shape[0] * shape[3], 2, length)
        gains = xp.stack([term.norm[chosen] for term in terms])
        for k, reference in enumerate(model.references_rft):
            for r in slices(len(matrices), COARSE_ROWS_PER_BLOCK):
                rotated = backend.reused("rotated", r.stop - r.start, 2, length)
                sample(reference, matrices[r], frequencies, model.pad, backend, rotated)
                norm[:, k, r] += weighted_power(rotated, gains, backend).T
                product = _product("first_pass", rotated, images, backend)
                scores[:, k, r] -= product.reshape(-1, shape[0], shape[3]).swapaxes(0, 1)
                backend.clock.count("gemm_flops", 4 * product.size * length)
                backend.clock.count("comparisons", product.size)
    return _with_norms(scores, norm, cross_correlation, xp)


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
    rotated: list[Any] | None = None,
) -> FinePoints:
    """Scores of the children of significant coarse points of one class.

    Parameters
    ----------
    matrices : (U, 8**q, 3, 3) children of the coarse orientations that occur; shifts_px : (V, 8**q, 3) of the
        translations.
    pairs : (m,) indices into U and into V, one entry per significant coarse point.
    rotated : where the rotated references are kept (:func:`room_for_references`).

    Notes
    -----
    The points fill a (U, V) table sparsely.  Orientations are taken in blocks; each block is one product with the union
    of its translations, of which the asked entries are kept.  Orientations with similar translations should follow
    each other.
    """
    orientation, translation = pairs
    order = np.lexsort((translation, orientation))
    ordered = orientation[order]
    parts = []
    for block in slices(len(matrices), max(1, ROWS_PER_BLOCK // matrices.shape[1])):
        points = order[slice(*np.searchsorted(ordered, (block.start, block.stop)))]
        columns, column = np.unique(translation[points], return_inverse=True)
        table = _block_scores(
            terms,
            reference,
            matrices[block],
            shifts_px[columns],
            size,
            cross_correlation,
            model,
            backend,
            block.start * matrices.shape[1],
            rotated,
        )
        row = backend.xp.asarray(orientation[points] - block.start)
        score = backend.to_host(table[row, :, backend.xp.asarray(column), :])
        backend.clock.count("comparisons", score.size)
        parts.append(_expand(points, orientation[points], translation[points], score))
    return FinePoints(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def room_for_references(purpose: str, matrices: FloatArray, size: int, backend: Backend) -> list[Any] | None:
    """Arrays (U * 8**q, 2, n_b) for every block of coefficients; None when half the memory budget does not hold them.

    Whether the references of a second pass are kept or sampled again changes nothing but the time.
    """
    count, points = len(matrices) * matrices.shape[1], sphere(size)
    if 2 * count * len(points) * backend.real.itemsize > backend.memory_bytes // 2:
        return None
    return [
        backend.reused(f"{purpose}, block {number}", count, 2, chosen.stop - chosen.start)
        for number, (chosen, _) in enumerate(points.blocks(COEFFICIENTS_PER_BLOCK))
    ]


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
    first: int,
    rotated: list[Any] | None,
) -> Any:
    """(U, 8**q, V, 8**q) scores of a block of orientations, ``first`` the index of its first one, and translations."""
    xp, points = backend.xp, sphere(size)
    shape = (*matrices.shape[:2], *shifts_px.shape[:2])
    turned, moves = matrices.reshape(-1, 3, 3), shifts_px.reshape(-1, 3)
    norm = xp.zeros(len(turned), dtype=backend.real)
    scores = xp.zeros((len(turned), len(moves)), dtype=backend.real)
    for number, (chosen, lines) in enumerate(points.blocks(COEFFICIENTS_PER_BLOCK)):
        if rotated is None:
            turned_rft = backend.reused("rotated", len(turned), 2, chosen.stop - chosen.start)
        else:
            turned_rft = rotated[number][first : first + len(turned)]
        sample(reference, turned, points.frequencies_xyz[:, chosen], model.pad, backend, turned_rft)
        images = backend.reused("images", len(moves), 2, chosen.stop - chosen.start)
        shifted(terms.cross[chosen], moves, points, model.box, backend, lines, images)
        norm += weighted_power(turned_rft, terms.norm[chosen][None], backend)[:, 0]
        backend.clock.count("fine_flops", 2 * turned_rft.size * len(moves))
        scores -= _product("second_pass", turned_rft, images, backend)
    return _with_norms(scores, norm, cross_correlation, xp).reshape(shape)


def slices(count: int, step: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of ``step``."""
    for start in range(0, count, step):
        yield slice(start, min(count, start + step))
