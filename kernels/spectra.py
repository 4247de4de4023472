"""Power, noise and signal spectra, Fourier shell correlation, and the low-pass filter of the references.

A spectrum has ``S = N//2 + 1`` entries, one per integer shell of a box of N voxels.  Noise and signal variances are
those of the real or of the imaginary part, hence the factors of two.  Half transforms of volumes are those of
:mod:`kernels.fourier`; accumulators are padded half grids ``(P, P, P//2 + 1)``, z and y centred.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kernels.fourier import forward
from kernels.geometry import (
    FloatArray,
    IntArray,
    padded_radius,
    padded_size,
    padded_squared_radius,
    relion_round,
    shells,
    squared_radius,
)

ComplexArray = npt.NDArray[np.complexfloating]

LOW_PASS_EDGE_SHELLS = 2.0
SMALLEST_WEIGHT = 1e-20
PRIOR_WITHOUT_SIGNAL = 0.001


def power_spectrum(rft: ComplexArray) -> FloatArray:
    """Mean ``|F|^2`` per shell of a half transform ``(N, N, N//2 + 1)``, every stored coefficient counted once.

    Returns
    -------
    (N//2 + 1,) float64.
    """
    size = rft.shape[-2]
    count = size // 2 + 1
    shell = shells(size).ravel()
    power = (rft.real.astype(np.float64) ** 2 + rft.imag.astype(np.float64) ** 2).ravel()
    sums = np.bincount(shell, weights=power, minlength=count)[:count]
    return np.asarray(sums / np.bincount(shell, minlength=count)[:count], dtype=np.float64)


def low_pass_weights(size: int, voxel_size_angst: float, resolution_angst: float) -> FloatArray:
    """Weights of the initial low-pass filter on the half grid: a raised cosine two shells wide at the cut-off.

    Returns
    -------
    (size, size, size//2 + 1) float64.
    """
    return _raised_cosine(np.sqrt(squared_radius(size)), size * voxel_size_angst / resolution_angst)


def low_pass_shell_weights(size: int, voxel_size_angst: float, resolution_angst: float) -> FloatArray:
    """The weights of :func:`low_pass_weights` at the integer shells; ``(size//2 + 1,)`` float64."""
    return _raised_cosine(np.arange(size // 2 + 1, dtype=np.float64), size * voxel_size_angst / resolution_angst)


def _raised_cosine(radius: FloatArray, cutoff_shell: float) -> FloatArray:
    inner = cutoff_shell - LOW_PASS_EDGE_SHELLS / 2.0
    outer = inner + LOW_PASS_EDGE_SHELLS
    edge = 0.5 - 0.5 * np.cos(np.pi * (outer - radius) / LOW_PASS_EDGE_SHELLS)
    return np.where(radius < inner, 1.0, np.where(radius > outer, 0.0, edge))


def initial_sigma2_noise(sum_power: FloatArray, count: IntArray, average_power: FloatArray) -> FloatArray:
    """First estimate of the noise: half of the mean particle power less half of the power of the average particle.

    Parameters
    ----------
    sum_power : (G, S) sum over the particles of a group of their power spectra.
    count : (G,) particles per group.
    average_power : (S,) power spectrum of the average particle.

    Returns
    -------
    (G, S) float64; zeros for a group without particles. A negative shell takes the value of the shell before it when
    that is positive, otherwise that of the next positive shell.
    """
    sigma2 = np.zeros_like(sum_power, dtype=np.float64)
    for group in np.flatnonzero(count > 0):
        estimate = sum_power[group] / (2.0 * count[group]) - average_power / 2.0
        sigma2[group] = _repair_negative(estimate)
    return sigma2


def _repair_negative(spectrum: FloatArray) -> FloatArray:
    repaired = spectrum.copy()
    for shell in range(len(repaired)):
        if repaired[shell] >= 0.0:
            continue
        if shell > 0 and repaired[shell - 1] > 0.0:
            repaired[shell] = repaired[shell - 1]
        else:
            later = repaired[shell + 1 :]
            positive = later[later > 0.0]
            repaired[shell] = positive[0] if len(positive) else 0.0
    return repaired


def initial_tau2(reference_power: FloatArray, tau2_fudge: float = 1.0) -> FloatArray:
    """``tau2_fudge / 2`` times the power spectrum of the low-passed reference; any shape ``(..., S)``."""
    return tau2_fudge * reference_power / 2.0


def initial_ssnr(tau2: FloatArray, sigma2_noise: FloatArray, count: IntArray, class_probability: float) -> FloatArray:
    """Crude first signal-to-noise ratio of the reconstruction: ``tau2 n p / (sigma2 2 i)``.

    Parameters
    ----------
    tau2 : (S,). sigma2_noise : (G, S), averaged over the groups with their particle numbers ``count`` (G,).
    class_probability : the share of the particles in this class.

    Returns
    -------
    (S,) float64.
    """
    particles = float(count.sum())
    average = (sigma2_noise * count[:, None]).sum(axis=0) / particles
    samples = np.maximum(2.0 * np.arange(len(tau2)), 1.0)
    ssnr = np.zeros(len(tau2))
    np.divide(tau2 * particles * class_probability, average * samples, out=ssnr, where=average > 0.0)
    return ssnr


@lru_cache(maxsize=2)
def padded_shells(size: int, pad: float) -> IntArray:
    """Shell ``ROUND(|k| / pad)`` of every coefficient of a padded half grid of odd ``size`` P; ``(P, P, P//2 + 1)``."""
    return relion_round(np.sqrt(padded_squared_radius(size)) / pad)


def tau2_from_reference(reference_rft: ComplexArray, box: int, pad: float, r_max: int) -> FloatArray:
    """Signal spectrum of a padded reference: half of the mean power per shell up to ``r_max``.

    Parameters
    ----------
    reference_rft : (P, P, P//2 + 1) padded reference on the scale of the particles' transforms.

    Returns
    -------
    (box//2 + 1,) float64; zeros beyond ``r_max``.
    """
    size = padded_size(r_max, pad)
    counted = padded_squared_radius(size) <= padded_radius(r_max, pad) ** 2
    nyquist = size // 2 - int(relion_round(pad * box)) // 2
    if nyquist >= 0:  # a transform of even size stores its Nyquist frequency with the positive sign only
        counted = counted.copy()
        counted[nyquist] = False
        counted[:, nyquist] = False
    shell = padded_shells(size, pad)[counted]
    values = reference_rft[counted]
    power = values.real.astype(np.float64) ** 2 + values.imag.astype(np.float64) ** 2
    return 0.5 * _shell_means(shell, power, box // 2 + 1)


def sigma2_ref(weight_rft: FloatArray, box: int, pad: float, r_max: int) -> FloatArray:
    """Noise power left in the reconstruction: number of coefficients over the sum of their weights, per shell.

    Parameters
    ----------
    weight_rft : (P, P, P//2 + 1) symmetrised weights of the accumulator.

    Returns
    -------
    (box//2 + 1,) float64; 0 where no weight was accumulated.
    """
    inside, shell = _inside(pad, r_max)
    count = box // 2 + 1
    sums = np.bincount(shell, weights=pad**3 * weight_rft[inside], minlength=count)[:count]
    counts = np.bincount(shell, minlength=count)[:count].astype(np.float64)
    spectrum = np.zeros(count)
    np.divide(counts, sums, out=spectrum, where=sums > 0.0)
    return spectrum


def gold_standard_ssnr_tau2(
    fsc: FloatArray, sigma2_ref: FloatArray, tau2_fudge: float = 1.0, joined: bool = False
) -> tuple[FloatArray, FloatArray]:
    """Signal-to-noise ratio and signal spectrum from the FSC between two halves.

    Parameters
    ----------
    fsc, sigma2_ref : (S,). joined : the FSC of the halves is converted to that of their sum, ``sqrt(2 f / (1 + f))``.

    Returns
    -------
    ssnr, tau2 : (S,) float64. The fudge factor enters here, and once more where the reconstruction uses tau2 (RELION's
    rule).
    """
    limited = np.maximum(fsc, 0.001)
    if joined:
        limited = np.sqrt(2.0 * limited / (1.0 + limited))
    limited = np.minimum(limited, 0.999)
    ssnr = tau2_fudge * limited / (1.0 - limited)
    return ssnr, ssnr * sigma2_ref


def class3d_ssnr(
    weight_rft: FloatArray, tau2: FloatArray, box: int, pad: float, r_max: int, tau2_fudge: float = 1.0
) -> FloatArray:
    """Signal-to-noise ratio of a reconstruction whose signal spectrum comes from the previous reference.

    Returns
    -------
    (box//2 + 1,) float64: the mean of weight over inverse prior per shell; 0 beyond ``r_max``, 999 in empty shells.
    """
    inside, shell = _inside(pad, r_max)
    count = box // 2 + 1
    sums = np.bincount(shell, weights=_evidence(weight_rft[inside], shell, tau2, pad, tau2_fudge), minlength=count)
    counts = np.bincount(shell, minlength=count)[:count].astype(np.float64)
    ssnr = np.full(count, 999.0)
    np.divide(sums[:count], counts, out=ssnr, where=counts > 0)
    ssnr[r_max + 1 :] = 0.0
    return ssnr


def fourier_coverage(
    weight_rft: FloatArray, tau2: FloatArray, box: int, pad: float, r_max: int, tau2_fudge: float = 1.0
) -> FloatArray:
    """Fraction of the coefficients of a shell whose accumulated evidence is at least that of the prior; ``(S,)``."""
    inside, shell = _inside(pad, r_max)
    covered = _evidence(weight_rft[inside], shell, tau2, pad, tau2_fudge) >= 1.0
    return _shell_means(shell, covered.astype(np.float64), box // 2 + 1)


def fsc_of_accumulators(
    data_one: ComplexArray,
    weight_one: FloatArray,
    data_two: ComplexArray,
    weight_two: FloatArray,
    box: int,
    pad: float,
    r_max: int,
) -> FloatArray:
    """FSC of two half sets from their accumulators, down-sampled to the unpadded grid; no mask, no regularisation.

    Parameters
    ----------
    data_*, weight_* : (P, P, P//2 + 1) symmetrised accumulators, z and y centred.

    Returns
    -------
    (box//2 + 1,) float64: 1 in the zero shell, 0 beyond ``r_max`` and where it is not defined.
    """
    one = _downsampled_average(data_one, weight_one, pad, r_max)
    two = _downsampled_average(data_two, weight_two, pad, r_max)
    radius2 = padded_squared_radius(one.shape[0])
    inside = radius2 <= r_max**2
    fsc = _correlation(one[inside], two[inside], relion_round(np.sqrt(radius2[inside])), box // 2 + 1)
    fsc[0] = 1.0
    return fsc


def fsc_of_maps(one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> FloatArray:
    """FSC of two maps ``(N, N, N)`` over every stored coefficient of their half transforms; ``(N//2 + 1,)`` float64."""
    size = one.shape[-1]
    first = forward(one.astype(np.float64)).ravel()
    second = forward(two.astype(np.float64)).ravel()
    fsc = _correlation(first, second, shells(size).ravel(), size // 2 + 1)
    fsc[0] = 1.0
    return fsc


def resolution_and_completeness(ssnr: FloatArray, coverage: FloatArray, voxel_size_angst: float) -> tuple[float, float]:
    """Estimated resolution in Angstrom and overall Fourier completeness of a class.

    The resolution is that of the last shell before the signal-to-noise ratio first falls below 1 (999 when that is the
    zero shell); the completeness is the mean coverage over the cube of half-width ``shell - 1`` (RELION's rule).
    """
    below = np.flatnonzero(ssnr < 1.0)
    shell = max(int(below[0]) - 1, 0) if len(below) else len(ssnr) - 1
    if shell == 0:
        return 999.0, 0.0
    box = 2 * (len(ssnr) - 1)
    axis = np.arange(1 - shell, shell)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2).astype(np.int64)
    return box * voxel_size_angst / shell, float(coverage[radius[radius <= shell]].mean())


def _inside(pad: float, r_max: int) -> tuple[npt.NDArray[np.bool_], IntArray]:
    """Coefficients strictly inside the padded radius, and their shells."""
    size = padded_size(r_max, pad)
    inside = padded_squared_radius(size) < padded_radius(r_max, pad) ** 2
    return inside, padded_shells(size, pad)[inside]


def _evidence(weights: FloatArray, shell: IntArray, tau2: FloatArray, pad: float, tau2_fudge: float) -> FloatArray:
    """Accumulated weight over the inverse prior; without any signal the inverse prior is ``1 / (0.001 weight)``."""
    prior = pad**3 * tau2_fudge * tau2[shell]
    without_signal = np.where(weights > SMALLEST_WEIGHT, PRIOR_WITHOUT_SIGNAL * weights**2, 0.0)
    return np.where(prior > 0.0, weights * prior, without_signal)


def _shell_means(shell: IntArray, values: FloatArray, count: int) -> FloatArray:
    """Mean of ``values`` per shell, 0 in empty shells; ``(count,)``."""
    sums = np.bincount(shell, weights=values, minlength=count)[:count]
    counts = np.bincount(shell, minlength=count)[:count].astype(np.float64)
    means = np.zeros(count)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _downsampled_average(data: ComplexArray, weight: FloatArray, pad: float, r_max: int) -> ComplexArray:
    """Weighted average on the unpadded half grid of size ``2 r_max + 3``: every index goes to ``ROUND(i / pad)``."""
    padded = data.shape[0]
    size = 2 * (r_max + 1) + 1
    half = size // 2 + 1
    centred = relion_round((np.arange(padded) - padded // 2) / pad) + size // 2
    along_x = relion_round(np.arange(padded // 2 + 1) / pad)
    target = (centred[:, None, None] * size + centred[None, :, None]) * half + along_x[None, None, :]
    flat = target.ravel()
    sums = np.bincount(flat, weights=data.real.ravel(), minlength=size * size * half).astype(np.complex128)
    sums += 1j * np.bincount(flat, weights=data.imag.ravel(), minlength=size * size * half)
    weights = np.bincount(flat, weights=weight.ravel(), minlength=size * size * half)
    average = np.zeros_like(sums)
    np.divide(sums, weights, out=average, where=weights > 0.0)
    return average.reshape(size, size, half)


def _correlation(one: ComplexArray, two: ComplexArray, shell: IntArray, count: int) -> FloatArray:
    def summed(values: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(shell, weights=values, minlength=count)[:count], dtype=np.float64)

    cross = summed((one * two.conj()).real)
    norm = np.sqrt(summed(np.abs(one) ** 2) * summed(np.abs(two) ** 2))
    fsc = np.zeros(count)
    np.divide(cross, norm, out=fsc, where=norm > 0.0)
    return fsc
