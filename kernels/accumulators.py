"""The sums of the E-step: a commutative monoid, so that units may be computed anywhere and merged in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from kernels.geometry import padded_size
from kernels.likelihood import FloatArray


@dataclass
class Accumulators:
    """Weighted sums over particles; all additive.

    Attributes
    ----------
    data_rft : (K, P, P, P//2 + 1) complex128; weight_rft : the same shape, float64.
    sigma2_noise : (G, S); group_weight, scale_signal, scale_power : (G,).
    sigma2_offset_angst2, weight, log_likelihood, pmax : scalars in arrays of shape (1,).
    pdf_class : (K,); pdf_direction : (K, D).
    """

    data_rft: npt.NDArray[np.complex128]
    weight_rft: FloatArray
    sigma2_noise: FloatArray
    group_weight: FloatArray
    scale_signal: FloatArray
    scale_power: FloatArray
    sigma2_offset_angst2: FloatArray
    weight: FloatArray
    log_likelihood: FloatArray
    pmax: FloatArray
    pdf_class: FloatArray
    pdf_direction: FloatArray

    @classmethod
    def zeros(cls, classes: int, groups: int, directions: int, box: int, r_max: int, pad: float) -> Accumulators:
        """Neutral element of :meth:`merge`."""
        size = padded_size(r_max, pad)
        grid = (classes, size, size, size // 2 + 1)
        shells = box // 2 + 1
        return cls(
            data_rft=np.zeros(grid, dtype=np.complex128),
            weight_rft=np.zeros(grid),
            sigma2_noise=np.zeros((groups, shells)),
            group_weight=np.zeros(groups),
            scale_signal=np.zeros(groups),
            scale_power=np.zeros(groups),
            sigma2_offset_angst2=np.zeros(1),
            weight=np.zeros(1),
            log_likelihood=np.zeros(1),
            pmax=np.zeros(1),
            pdf_class=np.zeros(classes),
            pdf_direction=np.zeros((classes, directions)),
        )

    def merge(self, other: Accumulators) -> Accumulators:
        """Add ``other`` to this one in place and return it."""
        for field in fields(self):
            getattr(self, field.name).__iadd__(getattr(other, field.name))
        return self
