"""Noise of simulated subtomograms: its colour, its level against the signal, and the normalisation of the sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels import fourier
from kernels.geometry import distance_from_centre, half_frequencies, shells, squared_radius

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


def noise_amplitude(size: int, colour: float) -> FloatArray:
    """Amplitude of noise whose power falls as ``shell**-colour``; (N, N, N//2 + 1), 1 at the first shell and below."""
    return np.asarray(np.maximum(shells(size), 1) ** (-0.5 * colour))


def white_noise_rft(size: int, rng: np.random.Generator) -> ComplexArray:
    """Half transform of white noise whose coefficients have a mean power of 1; (N, N, N//2 + 1) complex128."""
    return np.asarray(fourier.forward(rng.standard_normal((size, size, size))) * size**1.5)


def noise_scale(signal_power: FloatArray, transfer: FloatArray, amplitude: FloatArray, snr: float) -> float:
    """Factor for the noise that gives a signal-to-noise ratio, on average over orientations.

    Parameters
    ----------
    signal_power : (N, N, N//2 + 1) spherically averaged ``|F|^2`` of the object (:func:`shell_power`).
    transfer : (N, N, N//2 + 1) wedge or CTF, which acts on signal and noise alike.
    amplitude : (N, N, N//2 + 1) colour of the noise (:func:`noise_amplitude`).
    snr : power of the signal over power of the noise, both summed up to Nyquist without the mean of the box.
    """
    size = transfer.shape[0]
    counted = (squared_radius(size) > 0) & (squared_radius(size) < (size // 2) ** 2)
    weight = np.where(counted, multiplicity(size) * transfer**2, 0.0)
    return float(np.sqrt(np.sum(weight * signal_power) / (snr * np.sum(weight * amplitude**2))))


def shell_power(rft: ComplexArray) -> FloatArray:
    """``|F|^2`` of a half transform (N, N, N//2 + 1), replaced by its mean over each shell of the full transform."""
    size = rft.shape[-2]
    shell, counts = shells(size).ravel(), multiplicity(size).ravel()
    total = np.bincount(shell, weights=counts * np.abs(rft.ravel()) ** 2)
    number = np.bincount(shell, weights=counts)
    return np.asarray((total / number)[shells(size)])


def multiplicity(size: int) -> FloatArray:
    """How many coefficients of the full transform each stored one stands for, 1 or 2; (N, N, N//2 + 1)."""
    kx = half_frequencies(size)[2]
    once = (kx == 0) | (kx == size // 2)
    return np.broadcast_to(np.where(once, 1.0, 2.0), (size, size, size // 2 + 1))


def normalise_background(volume: FloatArray, radius_px: float) -> tuple[FloatArray, float]:
    """Volume (N, N, N) with zero mean and unit standard deviation outside a sphere, and the deviation divided by.

    Raises
    ------
    ValueError
        When there is nothing outside the sphere, or it is constant.
    """
    outside = volume[distance_from_centre(volume.shape[0]) > radius_px]
    deviation = float(outside.std()) if outside.size else 0.0
    if deviation == 0.0:
        raise ValueError(f"nothing varies outside a sphere of {radius_px:g} voxels in a box of {volume.shape[0]}")
    return (volume - outside.mean()) / deviation, deviation
