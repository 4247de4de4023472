"""RELION's optimiser.star: the settings of a run and the counters of its schedule, written and read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from runner.errors import InputError
from runner.formats.relion_tables import NO_FILE, Table, cell
from runner.formats.star import StarBlock, format_star, parse_star
from runner.model.state import RunState, ScheduleState

_BLOCK = "optimiser_general"
_DEFAULTS = {field.name: field.default for field in fields(ScheduleState)}


class _Setting(NamedTuple):
    """A RELION flag and its default, which also gives the type."""

    flag: str
    default: object


class _Counter(NamedTuple):
    """A field of `ScheduleState`, and the type it is printed as."""

    name: str
    type: type


# Every label in RELION's order: a flag, a counter, a constant of features that are not used, or None for the rest.
_LABELS: dict[str, object] = {
    "rlnOutputRootName": _Setting("o", ""),
    "rlnModelStarFile": None,
    "rlnModelStarFile2": None,
    "rlnExperimentalDataStarFile": None,
    "rlnOrientSamplingStarFile": None,
    "rlnCurrentIteration": None,
    "rlnNumberOfIterations": _Setting("iter", 50),
    "rlnDoSplitRandomHalves": _Setting("split_random_halves", False),
    "rlnJoinHalvesUntilThisResolution": _Setting("low_resol_join_halves", -1.0),
    "rlnAdaptiveOversampleOrder": _Setting("oversampling", 1),
    "rlnAdaptiveOversampleFraction": _Setting("adaptive_fraction", 0.999),
    "rlnRandomSeed": _Setting("random_seed", -1),
    "rlnParticleDiameter": _Setting("particle_diameter", -1.0),
    "rlnWidthMaskEdge": _Setting("maskedge", 5),
    "rlnDoZeroMask": _Setting("zero_mask", False),
    "rlnDoSolventFlattening": _Setting("flatten_solvent", False),
    "rlnDoSolventFscCorrection": _Setting("solvent_correct_fsc", False),
    "rlnSolventMaskName": _Setting("solvent_mask", ""),
    "rlnSolventMask2Name": _Setting("solvent_mask2", ""),
    "rlnBodyStarFile": NO_FILE,
    "rlnTauSpectrumName": _Setting("tau", ""),
    "rlnMaximumCoarseImageSize": _Setting("coarse_size", -1),
    "rlnHighresLimitExpectation": _Setting("strict_highres_exp", -1.0),
    "rlnLowresLimitExpectation": _Setting("strict_lowres_exp", -1.0),
    "rlnIncrementImageSize": _Counter("incr_size", int),
    "rlnDoMapEstimation": None,
    "rlnDoFastSubsetOptimisation": False,
    "rlnDoExternalReconstruct": False,
    "rlnDoStochasticGradientDescent": False,
    "rlnDoStochasticEM": False,
    "rlnSgdInitialIterations": 50,
    "rlnSgdFinalIterations": 50,
    "rlnSgdInBetweenIterations": 200,
    "rlnSgdInitialResolution": 35.0,
    "rlnSgdFinalResolution": 15.0,
    "rlnSgdInitialSubsetSize": 100,
    "rlnSgdFinalSubsetSize": 500,
    "rlnSgdMuFactor": 0.0,
    "rlnSgdSigma2FudgeInitial": 8.0,
    "rlnSgdSigma2FudgeHalflife": -1,
    "rlnSgdSkipAnneal": False,
    "rlnSgdSubsetSize": -1,
    "rlnSgdWriteEverySubset": 1,
    "rlnSgdStepsize": 0.5,
    "rlnDoAutoRefine": _Setting("auto_refine", False),
    "rlnAutoLocalSearchesHealpixOrder": _Setting("auto_local_healpix_order", 4),
    "rlnNumberOfIterWithoutResolutionGain": _Counter("iterations_without_resolution_gain", int),
    "rlnBestResolutionThusFar": _Counter("best_resolution", float),
    "rlnNumberOfIterWithoutChangingAssignments": _Counter("iterations_without_large_changes", int),
    "rlnDoSkipAlign": _Setting("skip_align", False),
    "rlnDoSkipRotate": _Setting("skip_rotate", False),
    "rlnOverallAccuracyRotations": _Counter("accuracy_rotation_deg", float),
    "rlnOverallAccuracyTranslationsAngst": _Counter("accuracy_translation_angst", float),
    "rlnChangesOptimalOrientations": _Counter("changes_orientations_deg", float),
    "rlnChangesOptimalOffsets": _Counter("changes_offsets_angst", float),
    "rlnChangesOptimalClasses": _Counter("changes_classes", float),
    "rlnSmallestChangesOrientations": _Counter("smallest_changes_orientations_deg", float),
    "rlnSmallestChangesOffsets": _Counter("smallest_changes_offsets_angst", float),
    "rlnSmallestChangesClasses": _Counter("smallest_changes_classes", int),
    "rlnLocalSymmetryFile": NO_FILE,
    "rlnDoHelicalRefine": False,
    "rlnIgnoreHelicalSymmetry": False,
    "rlnFourierMask": NO_FILE,
    "rlnHelicalTwistInitial": 0.0,
    "rlnHelicalRiseInitial": 0.0,
    "rlnHelicalCentralProportion": 0.3,
    "rlnNrHelicalNStart": 1,
    "rlnHelicalMaskTubeInnerDiameter": -1.0,
    "rlnHelicalMaskTubeOuterDiameter": -1.0,
    "rlnHelicalSymmetryLocalRefinement": False,
    "rlnHelicalSigmaDistance": -1.0,
    "rlnHelicalKeepTiltPriorFixed": False,
    "rlnHasConverged": _Counter("has_converged", bool),
    "rlnHasHighFscAtResolLimit": _Counter("has_high_fsc_at_limit", bool),
    "rlnHasLargeSizeIncreaseIterationsAgo": 0,
    "rlnDoCorrectNorm": False,
    "rlnDoCorrectScale": None,
    "rlnDoCorrectCtf": _Setting("ctf", False),
    "rlnDoIgnoreCtfUntilFirstPeak": False,
    "rlnCtfDataArePhaseFlipped": False,
    "rlnDoOnlyFlipCtfPhases": False,
    "rlnRefsAreCtfCorrected": None,
    "rlnFixSigmaNoiseEstimates": _Setting("fix_sigma_noise", False),
    "rlnFixSigmaOffsetEstimates": _Setting("fix_sigma_offset", False),
    "rlnMaxNumberOfPooledParticles": _Setting("pool", 1),
}


@dataclass(frozen=True)
class RunFiles:
    """The STAR files of one iteration, as an optimiser.star names them; ``model2`` is "" without halves."""

    model: str
    model2: str
    data: str
    sampling: str


@dataclass(frozen=True)
class OptimiserFile:
    """What an optimiser.star holds.

    Attributes
    ----------
    settings : RELION flag -> value, typed as in a refinement's configuration; flags that the file lacks are missing.
    schedule : the counters; resolution and image size are in the model.star, the coarse size in none.
    """

    iteration: int
    files: RunFiles
    settings: dict[str, object]
    schedule: ScheduleState
    references_are_ctf_corrected: bool


def optimiser_text(
    state: RunState,
    settings: Mapping[str, object],
    files: RunFiles,
    *,
    program: str = "tomoburst",
    command: str = "",
) -> str:
    """The optimiser.star of ``state``.

    Parameters
    ----------
    settings : RELION flag (without dashes) -> value in use rather than as given: the seed that was drawn, the diameter
        that was derived, ``oversampling`` 0 without alignment.  Missing flags have RELION's default.
    files : names of the other STAR files of the iteration.
    program, command : for the comments at the top.
    """
    values: dict[str, object] = {}
    special = _special_values(state, settings, files)
    for label, origin in _LABELS.items():
        if isinstance(origin, _Setting):
            values[label] = _value(origin, settings)
        elif isinstance(origin, _Counter):
            values[label] = origin.type(getattr(state.schedule, origin.name))
        elif origin is not None:
            values[label] = origin
        elif special[label] != "":
            values[label] = special[label]
    block = StarBlock(_BLOCK, {label: [cell(value)] for label, value in values.items()}, loop=False)
    return format_star([block], [f"RELION optimiser; {program}", command])


def _value(setting: _Setting, settings: Mapping[str, object]) -> object:
    if setting.flag == "iter" and settings.get("auto_refine"):
        return settings.get("auto_iter_max", 999)
    value = settings.get(setting.flag, setting.default)
    return float(str(value)) if isinstance(setting.default, float) else value


def _special_values(state: RunState, settings: Mapping[str, object], files: RunFiles) -> dict[str, object]:
    return {
        "rlnModelStarFile": files.model,
        "rlnModelStarFile2": files.model2,
        "rlnExperimentalDataStarFile": files.data,
        "rlnOrientSamplingStarFile": files.sampling,
        "rlnCurrentIteration": state.iteration,
        "rlnDoMapEstimation": not settings.get("no_map", False),
        "rlnDoCorrectScale": bool(settings.get("scale", False)) and len(state.halves[0].group_scale) > 1,
        "rlnRefsAreCtfCorrected": state.references_are_ctf_corrected,
    }


def parse_optimiser(text: str, source: str) -> OptimiserFile:
    """Read an optimiser.star; ``source`` names it in errors.

    Raises
    ------
    InputError
        For missing labels, malformed values and runs of another kind (2D, helical, gradient descent, multi-body).
    """
    table = Table.of(parse_star(text, source), _BLOCK, source)
    for label, what in (
        ("rlnDoHelicalRefine", "helical refinement"),
        ("rlnDoStochasticGradientDescent", "gradient-descent run"),
        ("rlnBodyStarFile", "multi-body refinement"),
    ):
        if table.like(label, "" if label == "rlnBodyStarFile" else False):
            raise InputError(f"{source}: a {what} ({label}); continue it with RELION")
    settings: dict[str, object] = {}
    counters: dict[str, object] = {}
    for label, origin in _LABELS.items():
        if isinstance(origin, _Setting) and table.has(label):
            settings[origin.flag] = table.like(label, origin.default)
        elif isinstance(origin, _Counter):
            counters[origin.name] = table.like(label, _DEFAULTS[origin.name])
    settings["scale"] = table.integer("rlnDoCorrectScale") != 0
    settings["no_map"] = table.integer("rlnDoMapEstimation") == 0
    if settings.get("auto_refine"):
        settings["auto_iter_max"] = settings.pop("iter")
    return OptimiserFile(
        iteration=table.integer("rlnCurrentIteration"),
        files=_files(table, bool(settings.get("split_random_halves"))),
        settings=settings,
        schedule=ScheduleState(**counters),  # type: ignore[arg-type]
        references_are_ctf_corrected=table.integer("rlnRefsAreCtfCorrected") != 0,
    )


def _files(table: Table, halves: bool) -> RunFiles:
    second = table.text("rlnModelStarFile2") if halves and table.has("rlnModelStarFile2") else ""
    if halves and not second:
        raise InputError(
            f"{table.source}: a finished refinement, its half sets are joined (no rlnModelStarFile2); "
            "take the optimiser of an iteration before the last"
        )
    return RunFiles(
        model=table.text("rlnModelStarFile"),
        model2=second,
        data=table.text("rlnExperimentalDataStarFile"),
        sampling=table.text("rlnOrientSamplingStarFile"),
    )
