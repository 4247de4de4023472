"""The grid of three-dimensional translations, its oversampling and its random perturbation.

Translations are offsets x, y, z in Angstrom added to a particle's current offset.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def translation_grid(range_angst: float, step_angst: float) -> FloatArray:
    """All points of a cubic grid inside a sphere.

    Parameters
    ----------
    range_angst : radius of the sphere; points on it belong to the grid as far as ``(i*step)^2 + ... <= range*range`` in
        double precision (RELION's rule, without tolerance).
    step_angst : spacing.

    Returns
    -------
    float64 (T, 3) x, y, z; x is the slowest axis. The origin is always there.

    Raises
    ------
    ValueError : negative range or a step that is not positive.
    """
    if not step_angst > 0 or not range_angst >= 0:
        raise ValueError(f"offset step must be positive and range not negative, got {step_angst} and {range_angst}")
    extent = int(np.ceil(range_angst / step_angst))
    axis = np.arange(-extent, extent + 1) * step_angst
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = x * x + y * y + z * z <= range_angst * range_angst
    return np.stack([x[inside], y[inside], z[inside]], axis=-1)


def children_translations(translations_angst: npt.ArrayLike, step_angst: float, oversampling: int) -> FloatArray:
    """The fine translations inside the coarse cells.

    Parameters
    ----------
    translations_angst : (..., 3) coarse translations x, y, z.
    step_angst : coarse spacing.
    oversampling : q; every cell has ``8**q`` children at ``t - step/2 + (i + 0.5) * step / 2**q`` on each axis.

    Returns
    -------
    float64 (..., 8**q, 3), x slowest; for q = 0 the translations themselves.
    """
    count = 2**oversampling
    shifts = ((0.5 + np.arange(count)) / count - 0.5) * step_angst
    x, y, z = np.meshgrid(shifts, shifts, shifts, indexing="ij")
    cell = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=-1)
    children: FloatArray = np.asarray(translations_angst, dtype=np.float64)[..., None, :] + cell
    return children


def perturb_translations(translations_angst: npt.ArrayLike, perturbation: float, step_angst: float) -> FloatArray:
    """Translations moved by the random perturbation of an iteration: ``perturbation * step`` (coarse) on x, y and z."""
    return np.asarray(translations_angst, dtype=np.float64) + perturbation * step_angst
