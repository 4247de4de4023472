"""RELION's model.star: one half model, or the model of the whole set, written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from runner.errors import InputError
from runner.formats.relion_tables import Table, cell, column_matrix, floats, integers, listing
from runner.formats.star import StarBlock, format_star, parse_star
from runner.model.state import FloatArray, HalfModel

_SPECTRA = {
    "rlnSsnrMap": "ssnr",
    "rlnGoldStandardFsc": "fsc",
    "rlnFourierCompleteness": "fourier_coverage",
    "rlnReferenceSigma2": "sigma2_ref",
    "rlnReferenceTau2": "tau2",
}
_ORIENTABILITY = "rlnSpectralOrientabilityContribution"
_UNRESOLVED_ANGST = 999.0


@dataclass(frozen=True)
class ModelFile:
    """What a model.star holds.

    Attributes
    ----------
    half : the model; its ``references`` are (K, 0, 0, 0), to be read from ``reference_names``.
    reference_names : the map of each class as written; group_names : the noise groups.
    settings : RELION flag -> value for what the file repeats of them (pad, NN, r_min_nn, tau2_fudge, K).
    """

    half: HalfModel
    reference_names: list[str]
    group_names: list[str]
    box_size: int
    pixel_size_angst: float
    settings: dict[str, object] = field(default_factory=dict)


def model_text(
    half: HalfModel,
    settings: Mapping[str, object],
    *,
    pixel_size_angst: float,
    reference_names: Sequence[str],
    group_names: Sequence[str],
) -> str:
    """The model.star of ``half``.

    Parameters
    ----------
    settings : RELION flag -> value; pad, NN, r_min_nn and tau2_fudge are used, with RELION's defaults where missing.
    pixel_size_angst : voxel of the references.
    reference_names : (K,) file names of the maps.  group_names : (G,).
    """
    shells = half.tau2.shape[1]
    frequencies = np.arange(shells) / (2 * (shells - 1) * pixel_size_angst)
    blocks = [_general(half, settings, pixel_size_angst), _classes(half, reference_names)]
    blocks += [_spectra(half, index, frequencies) for index in range(len(half.tau2))]
    blocks.append(_groups(half, group_names))
    blocks += [
        _noise(half, group, frequencies) for group in range(len(half.group_scale)) if half.sigma2_noise[group].any()
    ]
    blocks += [
        StarBlock(f"model_pdf_orient_class_{index}", {"rlnOrientationDistribution": floats(row)})
        for index, row in enumerate(half.pdf_direction, start=1)
    ]
    return format_star(blocks)


def _general(half: HalfModel, settings: Mapping[str, object], pixel_size_angst: float) -> StarBlock:
    resolution = 1.0 / half.current_resolution if half.current_resolution > 0 else float("inf")
    return listing(
        "model_general",
        {
            "rlnReferenceDimensionality": 3,
            "rlnDataDimensionality": 3,
            "rlnOriginalImageSize": 2 * (half.tau2.shape[1] - 1),
            "rlnCurrentResolution": resolution,
            "rlnCurrentImageSize": half.current_size,
            "rlnPaddingFactor": float(str(settings.get("pad", 2))),
            "rlnIsHelix": False,
            "rlnFourierSpaceInterpolator": not settings.get("NN", False),
            "rlnMinRadiusNnInterpolation": int(str(settings.get("r_min_nn", 10))),
            "rlnPixelSize": pixel_size_angst,
            "rlnNrClasses": len(half.pdf_class),
            "rlnNrBodies": 1,
            "rlnNrGroups": len(half.group_scale),
            "rlnTau2FudgeFactor": float(str(settings.get("tau2_fudge", 1.0))),
            "rlnNormCorrectionAverage": 1.0,
            "rlnSigmaOffsetsAngst": float(np.sqrt(half.sigma2_offset_angst2)),
            "rlnOrientationalPriorMode": half.orientational_prior_mode,
            "rlnSigmaPriorRotAngle": float(np.sqrt(half.sigma2_rot_deg2)),
            "rlnSigmaPriorTiltAngle": float(np.sqrt(half.sigma2_tilt_deg2)),
            "rlnSigmaPriorPsiAngle": float(np.sqrt(half.sigma2_psi_deg2)),
            "rlnLogLikelihood": half.log_likelihood,
            "rlnAveragePmax": half.average_pmax,
        },
    )


def _classes(half: HalfModel, reference_names: Sequence[str]) -> StarBlock:
    count = len(half.pdf_class)
    return StarBlock(
        "model_classes",
        {
            "rlnReferenceImage": [cell(name) for name in reference_names],
            "rlnClassDistribution": floats(half.pdf_class),
            "rlnAccuracyRotations": floats(np.broadcast_to(half.accuracy_rotation_deg, count)),
            "rlnAccuracyTranslationsAngst": floats(np.broadcast_to(half.accuracy_translation_angst, count)),
            "rlnEstimatedResolution": floats(np.broadcast_to(half.estimated_resolution_angst, count)),
            "rlnOverallFourierCompleteness": floats(np.broadcast_to(half.fourier_completeness, count)),
        },
    )


def _spectra(half: HalfModel, index: int, frequencies: FloatArray) -> StarBlock:
    resolutions = [_UNRESOLVED_ANGST, *(1.0 / frequencies[1:])]
    columns = {
        "rlnSpectralIndex": integers(np.arange(len(frequencies))),
        "rlnResolution": floats(frequencies),
        "rlnAngstromResolution": floats(resolutions),
    }
    columns |= {label: floats(getattr(half, name)[index]) for label, name in _SPECTRA.items()}
    if half.orientability is not None:
        columns[_ORIENTABILITY] = floats(half.orientability[index])
    return StarBlock(f"model_class_{index + 1}", columns)


def _groups(half: HalfModel, group_names: Sequence[str]) -> StarBlock:
    return StarBlock(
        "model_groups",
        {
            "rlnGroupNumber": integers(np.arange(1, len(half.group_scale) + 1)),
            "rlnGroupName": [cell(name) for name in group_names],
            "rlnGroupNrParticles": integers(half.group_particles),
            "rlnGroupScaleCorrection": floats(half.group_scale),
        },
    )


def _noise(half: HalfModel, group: int, frequencies: FloatArray) -> StarBlock:
    return StarBlock(
        f"model_group_{group + 1}",
        {
            "rlnSpectralIndex": integers(np.arange(len(frequencies))),
            "rlnResolution": floats(frequencies),
            "rlnSigma2Noise": floats(half.sigma2_noise[group]),
        },
    )


def parse_model(text: str, source: str) -> ModelFile:
    """Read a model.star; ``source`` names it in errors.

    Raises
    ------
    InputError
        For missing blocks or labels, malformed numbers and models of 2D, helical or multi-body refinements.
    """
    star = parse_star(text, source)
    general = Table.of(star, "model_general", source)
    _check_kind(general)
    classes = Table.of(star, "model_classes", source)
    groups = Table.of(star, "model_groups", source)
    count = general.integer("rlnNrClasses")
    box = general.integer("rlnOriginalImageSize")
    spectra = [Table.of(star, f"model_class_{index}", source) for index in range(1, count + 1)]
    directions = [Table.of(star, f"model_pdf_orient_class_{index}", source) for index in range(1, count + 1)]
    particles = groups.integers("rlnGroupNrParticles")
    noise = np.zeros((len(particles), box // 2 + 1))
    for group in np.flatnonzero(particles > 0):
        _read_noise(Table.of(star, f"model_group_{group + 1}", source), noise[group])
    half = HalfModel(
        references=np.zeros((count, 0, 0, 0)),
        **{name: column_matrix(spectra, label) for label, name in _SPECTRA.items()},
        sigma2_noise=noise,
        group_scale=groups.floats("rlnGroupScaleCorrection"),
        group_particles=particles,
        pdf_class=classes.floats("rlnClassDistribution"),
        pdf_direction=column_matrix(directions, "rlnOrientationDistribution"),
        sigma2_offset_angst2=general.number("rlnSigmaOffsetsAngst") ** 2,
        orientational_prior_mode=general.integer("rlnOrientationalPriorMode"),
        sigma2_rot_deg2=general.number("rlnSigmaPriorRotAngle") ** 2,
        sigma2_tilt_deg2=general.number("rlnSigmaPriorTiltAngle") ** 2,
        sigma2_psi_deg2=general.number("rlnSigmaPriorPsiAngle") ** 2,
        average_pmax=general.number("rlnAveragePmax"),
        log_likelihood=general.number("rlnLogLikelihood"),
        current_resolution=1.0 / general.number("rlnCurrentResolution"),
        current_size=general.integer("rlnCurrentImageSize"),
        orientability=column_matrix(spectra, _ORIENTABILITY) if spectra[0].has(_ORIENTABILITY) else None,
        accuracy_rotation_deg=classes.floats("rlnAccuracyRotations"),
        accuracy_translation_angst=classes.floats("rlnAccuracyTranslationsAngst"),
        estimated_resolution_angst=classes.floats("rlnEstimatedResolution"),
        fourier_completeness=classes.floats("rlnOverallFourierCompleteness"),
    )
    return ModelFile(
        half=half,
        reference_names=classes.texts("rlnReferenceImage"),
        group_names=groups.texts("rlnGroupName"),
        box_size=box,
        pixel_size_angst=general.number("rlnPixelSize"),
        settings={
            "pad": round(general.number("rlnPaddingFactor")),
            "NN": general.integer("rlnFourierSpaceInterpolator") == 0,
            "r_min_nn": general.integer("rlnMinRadiusNnInterpolation"),
            "tau2_fudge": general.number("rlnTau2FudgeFactor"),
            "K": count,
        },
    )


def _check_kind(general: Table) -> None:
    found = [general.integer("rlnReferenceDimensionality"), general.like("rlnDataDimensionality", 2)]
    if found != [3, 3]:
        raise InputError(f"{general.source}: a model of {found[1]}D images in {found[0]}D; 3D subtomograms are needed")
    for label, kind, usual in (("rlnIsHelix", "helical", 0), ("rlnNrBodies", "multi-body", 1)):
        if general.like(label, usual) != usual:
            raise InputError(f"{general.source}: a {kind} model ({label}); continue it with RELION")


def _read_noise(table: Table, spectrum: FloatArray) -> None:
    """Fill ``spectrum`` by shell; rows without a positive value are placeholders of RELION's."""
    indices, values = table.integers("rlnSpectralIndex"), table.floats("rlnSigma2Noise")
    wrong = (indices < 0) | (indices >= len(spectrum))
    if wrong.any():
        place = f"{table.source}: data_{table.block.name} row {int(np.flatnonzero(wrong)[0]) + 1}"
        raise InputError(f"{place}: rlnSpectralIndex is beyond the {len(spectrum)} shells of the box")
    spectrum[indices[values > 0]] = values[values > 0]
