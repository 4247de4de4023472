"""The angular distribution of a reference as a BILD file: one cylinder a direction, as RELION draws it for Chimera."""

from __future__ import annotations

import numpy as np

from runner.model.state import FloatArray

_LONGEST = 0.3  # of the radius
_SHORTEST_ANGST = 0.01  # cylinders of no length upset Chimera
_UNIFORM = 1e-9  # spread relative to the mean below which all directions are alike


def angular_distribution(
    pdf_direction: FloatArray, directions_deg: FloatArray, radius_angst: float, coarse_step_deg: float
) -> str:
    """BILD text of the distribution: cylinders on a sphere, longer and redder where more particles look.

    RELION's rule: the length is 0.3 of the radius for the most probable direction and proportional to the probability,
    the colour goes from blue to red between one standard deviation below the mean and five above it.

    Parameters
    ----------
    pdf_direction : (D,) probability of each direction; directions with 0 are left out.
    directions_deg : (D, 2) rot, tilt.
    radius_angst : half the edge of the box, also the position of its centre on each axis.
    coarse_step_deg : distance of the directions, which gives the width of the cylinders.
    """
    rot, tilt = np.radians(directions_deg).T
    vectors = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=1)
    lengths = _LONGEST * radius_angst * pdf_direction / max(float(pdf_direction.max()), np.finfo(float).tiny)
    shown = (pdf_direction > 0) & (np.abs(lengths[:, None] * vectors) > _SHORTEST_ANGST).any(axis=1)
    bottoms = radius_angst * vectors + radius_angst
    tops = (radius_angst + lengths)[:, None] * vectors + radius_angst
    width = 0.5 * np.pi * radius_angst * coarse_step_deg / 360.0
    lines = []
    for red, bottom, top in zip(_redness(pdf_direction)[shown], bottoms[shown], tops[shown], strict=True):
        corners = " ".join(f"{value:g}" for value in (*bottom, *top, width))
        lines.append(f".color {red:g} 0 {1 - red:g}\n.cylinder {corners}\n")
    return "".join(lines)


def _redness(pdf_direction: FloatArray) -> FloatArray:
    mean, spread = pdf_direction.mean(), pdf_direction.std()
    if spread <= _UNIFORM * mean:
        return np.full(len(pdf_direction), 1.0 / 6.0)
    scaled: FloatArray = np.clip((pdf_direction - mean) / spread, -1.0, 5.0)
    return scaled / 6.0 + 1.0 / 6.0
