"""FSC of masked half maps, corrected for what the mask itself correlates.

Two maps with the same mask correlate even where they share nothing. How much is measured on copies whose phases are
random beyond a shell: their correlation is due to the mask alone. Source: Chen et al., Ultramicroscopy 135, 24 (2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.fourier import forward, inverse
from kernels.geometry import FloatArray, squared_radius
from kernels.spectra import fsc_of_maps

RANDOMISE_BELOW_FSC = 0.8
SHELLS_LEFT_UNCORRECTED = 2
"""Shells beyond the first random one whose masked FSC is kept: the edge of the random phases shows in them."""


@dataclass(frozen=True)
class SolventFsc:
    """FSC curves (S,) of two half maps.

    Attributes
    ----------
    unmasked, masked : of the maps without and with the mask; random_masked : of the masked maps with random phases.
    corrected : the masked curve less the mask's own share.
    randomise_from : first shell with random phases; None when the unmasked curve never falls below 0.8, where the
        unmasked
        curve counts (RELION's rule).
    """

    unmasked: FloatArray
    masked: FloatArray
    random_masked: FloatArray
    corrected: FloatArray
    randomise_from: int | None


def solvent_corrected_fsc(
    one: npt.NDArray[np.floating], two: npt.NDArray[np.floating], mask: FloatArray, seed: int
) -> SolventFsc:
    """FSC curves of two unregularised half maps ``(N, N, N)`` within a ``mask`` (N, N, N) of values in [0, 1].

    Parameters
    ----------
    seed : of the random phases, 0 or more.

    Returns
    -------
    SolventFsc, curves of length ``N//2 + 1`` in float64.
    """
    unmasked = fsc_of_maps(one, two)
    masked = fsc_of_maps(one * mask, two * mask)
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW_FSC)
    if not len(below):
        return SolventFsc(unmasked, masked, masked.copy(), unmasked.copy(), None)
    start = int(below[0]) + 1
    rng = np.random.default_rng(seed)
    randomised = [randomise_phases(volume, start, rng) * mask for volume in (one, two)]
    random_masked = fsc_of_maps(*randomised)
    corrected = masked.copy()
    tail = slice(start + SHELLS_LEFT_UNCORRECTED, None)
    corrected[tail] = without_mask_correlation(masked[tail], random_masked[tail])
    return SolventFsc(unmasked, masked, random_masked, corrected, start)


def without_mask_correlation(masked: FloatArray, random_masked: FloatArray) -> FloatArray:
    """``(t - n) / (1 - n)``, and 0 where the random curve ``n`` is above the masked curve ``t``."""
    corrected = np.zeros_like(masked)
    np.divide(masked - random_masked, 1.0 - random_masked, out=corrected, where=masked > random_masked)
    return corrected


def randomise_phases(volume: npt.NDArray[np.floating], shell: int, rng: np.random.Generator) -> FloatArray:
    """Copy of a map ``(N, N, N)`` with uniformly random phases from ``|k| >= shell`` on; moduli are kept."""
    rft = forward(volume.astype(np.float64))
    beyond = squared_radius(volume.shape[-1]) >= shell**2
    phases = rng.uniform(0.0, 2.0 * np.pi, int(beyond.sum()))
    rft[beyond] = np.abs(rft[beyond]) * np.exp(1j * phases)
    randomised: FloatArray = inverse(rft)
    return randomised
