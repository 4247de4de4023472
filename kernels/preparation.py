"""From a particle volume to the Fourier coefficients that the E-step compares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kernels.backend import Backend
from kernels.cuda.upload import uploaded
from kernels.fourier import centre_signs, crop, forward, shift
from kernels.geometry import likelihood_shells, relion_round, shells
from kernels.likelihood import FloatArray, Mask, Model, Particle, Rules
from kernels.masks import fill_background, soft_sphere


@dataclass(frozen=True)
class PreparedParticle:
    """A particle centred on its old offset.

    Attributes
    ----------
    source : the particle as read.
    centre_px : (3,) offset x, y, z in voxels that was applied already.
    image_rft, masked_rft : (n, n, n//2 + 1) complex at the current size, without and with the spherical mask.
    ctf_rft : (n, n, n//2 + 1) real, or None without CTF correction.
    power : (S,) float64, sum of ``|F|^2`` of the whole masked particle per shell (rule R1, shell 0 left out).
    scale : intensity scale of the particle's group.
    """

    source: Particle
    centre_px: FloatArray
    image_rft: Any
    masked_rft: Any
    ctf_rft: Any
    power: FloatArray
    scale: float


def prepare(
    particle: Particle, model: Model, mask: Mask, rules: Rules, keep_offset: bool, backend: Backend
) -> PreparedParticle:
    """Centre, mask, transform and crop one particle.

    The volume is moved by the old offset rounded to whole voxels, with zeros entering from outside.  The fraction
    that remains is applied as a phase where ``rules.keep_offset_fraction`` or ``keep_offset`` (poses are not
    searched) asks for it.
    """
    return prepare_all([particle], model, mask, rules, keep_offset, backend)[0]


def prepare_all(
    particles: list[Particle], model: Model, mask: Mask, rules: Rules, keep_offset: bool, backend: Backend
) -> list[PreparedParticle]:
    """:func:`prepare` of several particles, of which one travels to the device while another is transformed there."""
    centred = (
        translate_whole(np.asarray(each.volume, dtype=backend.real), relion_round(_offset_px(each, model)))
        for each in particles
    )
    return [
        _prepare(particle, volume, model, mask, keep_offset or rules.keep_offset_fraction, backend)
        for particle, volume in zip(particles, uploaded(centred, backend), strict=True)
    ]


def _offset_px(particle: Particle, model: Model) -> FloatArray:
    return particle.origin_angst / model.voxel_size_angst


def _prepare(
    particle: Particle, centred: Any, model: Model, mask: Mask, keep_fraction: bool, backend: Backend
) -> PreparedParticle:
    """From the volume moved by whole voxels, on the backend's device."""
    xp, offset_px = backend.xp, _offset_px(particle, model)
    masked = mask_particle(centred, particle, model.sigma2_noise, mask, backend)
    image_rft, masked_rft = (forward(volume, backend.fft) for volume in (centred, masked.astype(backend.real)))
    power = _power(backend.to_host(masked_rft))
    image_rft, masked_rft = (crop(rft, model.current_size, xp) for rft in (image_rft, masked_rft))
    fraction_px = offset_px - relion_round(offset_px)
    if not keep_fraction:
        offset_px = relion_round(offset_px).astype(np.float64)
    elif np.any(fraction_px != 0):
        phases = xp.asarray(shift(np.ones(image_rft.shape, dtype=image_rft.dtype), fraction_px, model.box))
        image_rft, masked_rft = image_rft * phases, masked_rft * phases
    ctf = crop(particle.ctf_rft, model.current_size) if model.use_ctf else None
    return PreparedParticle(
        source=particle,
        centre_px=offset_px,
        image_rft=image_rft,
        masked_rft=masked_rft,
        ctf_rft=None if ctf is None else xp.asarray(ctf, dtype=backend.real),
        power=power,
        scale=max(0.001, float(model.group_scale[particle.group])) if model.use_scale else 1.0,
    )


def translate_whole(volume: Any, offset_xyz_px: Any) -> Any:
    """Move a volume by whole voxels; what enters from outside is zero."""
    moved = np.zeros_like(volume)
    target, origin = [], []
    for step, size in zip(reversed([int(step) for step in offset_xyz_px]), volume.shape, strict=True):
        target.append(slice(max(step, 0), max(min(size, size + step), 0)))
        origin.append(slice(max(-step, 0), max(min(size, size - step), 0)))
    moved[tuple(target)] = volume[tuple(origin)]
    return moved


def mask_particle(volume: Any, particle: Particle, sigma2_noise: FloatArray, mask: Mask, backend: Backend) -> Any:
    """Fill the outside of the soft sphere with the mean background or with noise of the group's spectrum."""
    size = volume.shape[-1]
    inside = partial(soft_sphere, size, mask.radius_px, mask.edge_px)
    sphere = inside() if backend.is_cpu else backend.scratch.kept("soft sphere", lambda: backend.xp.asarray(inside()))
    if mask.zero_fill:
        return fill_background(volume, sphere)
    noise = coloured_noise(size, sigma2_noise[particle.group], np.random.default_rng([mask.seed, particle.index]))
    return fill_background(volume, sphere, backend.xp.asarray(noise))


def coloured_noise(size: int, sigma2: FloatArray, rng: np.random.Generator) -> Any:
    """Gaussian noise volume whose real and imaginary parts have the variance ``sigma2`` (S,) per shell; float64."""
    white = np.fft.rfftn(rng.standard_normal((size,) * 3), norm="ortho")
    amplitude = np.sqrt(2.0 * sigma2[np.minimum(shells(size), size // 2)]) * (shells(size) <= size // 2)
    return np.fft.irfftn(white * amplitude * centre_signs(size), s=(size,) * 3, norm="forward", axes=(0, 1, 2))


def _power(rft: Any) -> FloatArray:
    shell = likelihood_shells(rft.shape[-2]).ravel()
    counted = shell > 0
    squared = rft.real.ravel()[counted].astype(np.float64) ** 2 + rft.imag.ravel()[counted].astype(np.float64) ** 2
    return np.asarray(np.bincount(shell[counted], weights=squared, minlength=rft.shape[-1]), dtype=np.float64)
