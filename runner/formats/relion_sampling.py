"""RELION's sampling.star: the coarse sampling of poses, written and read."""

from __future__ import annotations

import numpy as np

from runner.errors import InputError
from runner.formats.relion_tables import Table, floats, listing
from runner.formats.star import StarBlock, format_star, parse_star
from runner.model.state import FloatArray, SamplingState

_LABELS = {
    "rlnHealpixOrder": "healpix_order",
    "rlnSymmetryGroup": "symmetry",
    "rlnTiltAngleLimit": "limit_tilt_deg",
    "rlnPsiStep": "psi_step_deg",
    "rlnOffsetRange": "offset_range_angst",
    "rlnOffsetStep": "offset_step_angst",
    "rlnHelicalOffsetStep": None,
    "rlnSamplingPerturbInstance": "perturbation",
    "rlnSamplingPerturbFactor": "perturbation_factor",
    "rlnHealpixOrderOriginal": "healpix_order_original",
    "rlnPsiStepOriginal": "psi_step_original_deg",
    "rlnOffsetRangeOriginal": "offset_range_original_angst",
    "rlnOffsetStepOriginal": "offset_step_original_angst",
}
_INTEGERS = ("healpix_order", "healpix_order_original")


def sampling_text(sampling: SamplingState, directions_deg: FloatArray) -> str:
    """The sampling.star of ``sampling`` with its coarse directions (D, 2): rot, tilt."""
    values: dict[str, object] = {"rlnIs3DSampling": True, "rlnIs3DTranslationalSampling": True}
    for label, name in _LABELS.items():
        value = -1.0 if name is None else getattr(sampling, name)
        values[label] = value if name in _INTEGERS or isinstance(value, str) else float(value)
    directions = StarBlock(
        "sampling_directions",
        {"rlnAngleRot": floats(directions_deg[:, 0]), "rlnAngleTilt": floats(directions_deg[:, 1])},
    )
    return format_star([listing("sampling_general", values), directions])


def parse_sampling(text: str, source: str) -> tuple[SamplingState, FloatArray]:
    """Read a sampling.star; ``source`` names it in errors.

    Returns
    -------
    The sampling, and its coarse directions (D, 2): rot, tilt in degrees, as printed.

    Raises
    ------
    InputError
        For missing labels, malformed numbers and samplings of 2D references or offsets.
    """
    star = parse_star(text, source)
    general = Table.of(star, "sampling_general", source)
    for label in ("rlnIs3DSampling", "rlnIs3DTranslationalSampling"):
        if general.integer(label) != 1:
            raise InputError(f"{source}: {label} is 0; the sampling of a 3D refinement of subtomograms is needed")
    current = {"healpix_order_original": "rlnHealpixOrder", "psi_step_original_deg": "rlnPsiStep"}
    current |= {"offset_range_original_angst": "rlnOffsetRange", "offset_step_original_angst": "rlnOffsetStep"}
    values: dict[str, object] = {}
    for label, name in _LABELS.items():
        if name is None:
            continue
        if name == "symmetry":
            values[name] = general.text(label)
            continue
        here = label if general.has(label) else current.get(name, label)
        values[name] = general.integer(here) if name in _INTEGERS else general.number(here)
    directions = Table.of(star, "sampling_directions", source)
    angles = np.stack([directions.floats("rlnAngleRot"), directions.floats("rlnAngleTilt")], axis=1)
    return SamplingState(**values), angles  # type: ignore[arg-type]
