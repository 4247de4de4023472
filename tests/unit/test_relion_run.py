"""RELION's model, optimiser and sampling files: its labels in its order, round trips, and errors that say where."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from runner.errors import InputError
from runner.formats.relion_model import model_text, parse_model
from runner.formats.relion_optimiser import RunFiles, optimiser_text, parse_optimiser
from runner.formats.relion_run import RunNames, read_run, run_texts
from runner.formats.relion_sampling import parse_sampling, sampling_text
from runner.formats.star import parse_star
from runner.model.state import HalfModel, PoseState, RunState, SamplingState, ScheduleState
from runner.plan.config import RefineConfig

# what RELION 3.1.3 writes, without "rln"
RELION_LABELS = {
    "optimiser_general": """
        OutputRootName ModelStarFile ModelStarFile2 ExperimentalDataStarFile OrientSamplingStarFile
        CurrentIteration NumberOfIterations DoSplitRandomHalves JoinHalvesUntilThisResolution
        AdaptiveOversampleOrder AdaptiveOversampleFraction RandomSeed ParticleDiameter WidthMaskEdge
        DoZeroMask DoSolventFlattening DoSolventFscCorrection SolventMaskName SolventMask2Name BodyStarFile
        TauSpectrumName MaximumCoarseImageSize HighresLimitExpectation LowresLimitExpectation
        IncrementImageSize DoMapEstimation DoFastSubsetOptimisation DoExternalReconstruct
        DoStochasticGradientDescent DoStochasticEM SgdInitialIterations SgdFinalIterations
        SgdInBetweenIterations SgdInitialResolution SgdFinalResolution SgdInitialSubsetSize SgdFinalSubsetSize
        SgdMuFactor SgdSigma2FudgeInitial SgdSigma2FudgeHalflife SgdSkipAnneal SgdSubsetSize
        SgdWriteEverySubset SgdStepsize DoAutoRefine AutoLocalSearchesHealpixOrder
        NumberOfIterWithoutResolutionGain BestResolutionThusFar NumberOfIterWithoutChangingAssignments
        DoSkipAlign DoSkipRotate OverallAccuracyRotations OverallAccuracyTranslationsAngst
        ChangesOptimalOrientations ChangesOptimalOffsets ChangesOptimalClasses SmallestChangesOrientations
        SmallestChangesOffsets SmallestChangesClasses LocalSymmetryFile DoHelicalRefine IgnoreHelicalSymmetry
        FourierMask HelicalTwistInitial HelicalRiseInitial HelicalCentralProportion NrHelicalNStart
        HelicalMaskTubeInnerDiameter HelicalMaskTubeOuterDiameter HelicalSymmetryLocalRefinement
        HelicalSigmaDistance HelicalKeepTiltPriorFixed HasConverged HasHighFscAtResolLimit
        HasLargeSizeIncreaseIterationsAgo DoCorrectNorm DoCorrectScale DoCorrectCtf DoIgnoreCtfUntilFirstPeak
        CtfDataArePhaseFlipped DoOnlyFlipCtfPhases RefsAreCtfCorrected FixSigmaNoiseEstimates
        FixSigmaOffsetEstimates MaxNumberOfPooledParticles
    """,
    "model_general": """
        ReferenceDimensionality DataDimensionality OriginalImageSize CurrentResolution CurrentImageSize
        PaddingFactor IsHelix FourierSpaceInterpolator MinRadiusNnInterpolation PixelSize NrClasses NrBodies
        NrGroups Tau2FudgeFactor NormCorrectionAverage SigmaOffsetsAngst OrientationalPriorMode
        SigmaPriorRotAngle SigmaPriorTiltAngle SigmaPriorPsiAngle LogLikelihood AveragePmax
    """,
    "model_classes": """
        ReferenceImage ClassDistribution AccuracyRotations AccuracyTranslationsAngst EstimatedResolution
        OverallFourierCompleteness
    """,
    "model_class_1": """
        SpectralIndex Resolution AngstromResolution SsnrMap GoldStandardFsc FourierCompleteness
        ReferenceSigma2 ReferenceTau2 SpectralOrientabilityContribution
    """,
    "model_groups": """
        GroupNumber GroupName GroupNrParticles GroupScaleCorrection
    """,
    "model_group_1": """
        SpectralIndex Resolution Sigma2Noise
    """,
    "model_pdf_orient_class_1": """
        OrientationDistribution
    """,
    "sampling_general": """
        Is3DSampling Is3DTranslationalSampling HealpixOrder SymmetryGroup TiltAngleLimit PsiStep OffsetRange
        OffsetStep HelicalOffsetStep SamplingPerturbInstance SamplingPerturbFactor HealpixOrderOriginal
        PsiStepOriginal OffsetRangeOriginal OffsetStepOriginal
    """,
    "sampling_directions": """
        AngleRot AngleTilt
    """,
}
DIRECTIONS = np.array([[45.0, 41.8], [-135.0, 41.8], [0.0, 90.0], [90.0, 138.2]])
SETTINGS: dict[str, object] = {
    "auto_refine": True,
    "split_random_halves": True,
    "low_resol_join_halves": 40,
    "particle_diameter": 250,
    "random_seed": 7,
    "solvent_mask": "masks/my mask.mrc",
    "ctf": True,
    "scale": True,
    "pad": 1,
    "tau2_fudge": 2,
}


def half_model(classes: int = 1, groups: int = 2, box: int = 16) -> HalfModel:
    random = np.random.default_rng(5)
    shells = box // 2 + 1

    def spectra(rows: int) -> np.ndarray:
        return np.round(random.uniform(0.01, 9.0, (rows, shells)), 6)

    noise = spectra(groups)
    noise[-1] = 0.0
    return HalfModel(
        references=np.zeros((classes, box, box, box)),
        tau2=spectra(classes) * 1e-6,
        sigma2_ref=spectra(classes),
        ssnr=spectra(classes),
        fsc=np.linspace(1.0, -0.25, shells)[None].repeat(classes, axis=0),
        fourier_coverage=spectra(classes),
        sigma2_noise=noise,
        group_scale=np.linspace(0.75, 1.25, groups),
        group_particles=np.array([*range(groups, 1, -1), 0]),
        pdf_class=np.full(classes, 1 / classes),
        pdf_direction=np.full((classes, len(DIRECTIONS)), 0.25 / classes),
        sigma2_offset_angst2=64.0,
        orientational_prior_mode=1,
        sigma2_rot_deg2=14.0625,
        sigma2_tilt_deg2=14.0625,
        sigma2_psi_deg2=14.0625,
        average_pmax=0.75,
        log_likelihood=1.730913e6,
        current_resolution=1 / 32.0,
        current_size=14,
        orientability=spectra(classes),
        accuracy_rotation_deg=np.full(classes, 2.5),
        accuracy_translation_angst=np.full(classes, 3.5),
        estimated_resolution_angst=np.full(classes, 32.0),
        fourier_completeness=np.full(classes, 0.5),
    )


def run_state(halves: int = 2) -> RunState:
    return RunState(
        iteration=3,
        halves=[half_model() for _ in range(halves)],
        poses=PoseState(*(np.zeros((0, 3)),) * 2, *(np.zeros(0, int),) * 2, *(np.zeros(0),) * 3, np.zeros(0, int)),
        sampling=SamplingState(
            3, 7.5, 25.0, 10.0, "C1", perturbation=-0.20176, healpix_order_original=2, psi_step_original_deg=15.0
        ),
        schedule=ScheduleState(
            current_resolution=1 / 32.0,
            best_resolution=1 / 32.0,
            current_size=14,
            incr_size=12,
            has_high_fsc_at_limit=True,
            iterations_without_resolution_gain=1,
            iterations_without_large_changes=2,
            accuracy_rotation_deg=2.5,
            accuracy_translation_angst=3.5,
            changes_orientations_deg=1.25,
            changes_offsets_angst=2.5,
            changes_classes=0.0,
            smallest_changes_orientations_deg=1.0,
            smallest_changes_offsets_angst=2.0,
            smallest_changes_classes=0.0,
        ),
        references_are_ctf_corrected=True,
    )


def texts(state: RunState, names: RunNames) -> dict[str, str]:
    return run_texts(
        state, SETTINGS, names, pixel_size_angst=10.0, group_names=["tomo 1", "tomo2"], directions_deg=DIRECTIONS
    )


def assert_same(found: object, expected: object) -> None:
    for name, value in asdict(expected).items():  # type: ignore[call-overload]
        if name not in ("references", "coarse_size"):
            np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, err_msg=name)


def test_labels_and_their_order_are_relions() -> None:
    written = texts(run_state(), RunNames("out/run", 3, halves=True))
    blocks = {name: block for text in written.values() for name, block in parse_star(text).blocks.items()}
    assert list(blocks) == [
        *(name for name in RELION_LABELS if name.startswith("model")),
        *("sampling_general", "sampling_directions", "optimiser_general"),
    ]
    for name, labels in RELION_LABELS.items():
        assert [label.removeprefix("rln") for label in blocks[name].columns] == labels.split(), name


def test_names_are_relions() -> None:
    halves = RunNames("out/run", 3, halves=True)
    assert halves.data == "out/run_it003_data.star"
    assert halves.model(1) == "out/run_it003_half2_model.star"
    assert halves.reference(0) == "out/run_it003_half1_class001.mrc"
    assert halves.angular_distribution(1) == "out/run_it003_half2_class001_angdist.bild"
    assert halves.unfiltered(0) == "out/run_it003_half1_class001_unfil.mrc"
    classes = RunNames("out/run", 25)
    assert classes.reference(0, 11) == "out/run_it025_class012.mrc"
    final = RunNames("out/run", 12, final=True)
    assert (final.model(), final.reference()) == ("out/run_model.star", "out/run_class001.mrc")
    assert (final.optimiser, final.sampling) == ("out/run_optimiser.star", "out/run_sampling.star")
    assert final.unfiltered(1) == "out/run_half2_class001_unfil.mrc"


def test_numbers_are_printed_as_relion_prints_them() -> None:
    written = texts(run_state(), RunNames("out/run", 3, halves=True))
    model, optimiser = written["out/run_it003_half1_model.star"], written["out/run_it003_optimiser.star"]
    for line in (
        "_rlnCurrentResolution                      32.000000",
        "_rlnOriginalImageSize                             16",
        "_rlnPaddingFactor                           1.000000",
        "_rlnLogLikelihood                       1.730913e+06",
    ):
        assert f"{line}\n" in model
    for line in (
        "_rlnOutputRootName                                    out/run",
        "_rlnNumberOfIterations                                         999",
        "_rlnJoinHalvesUntilThisResolution                        40.000000",
        '_rlnSolventMaskName                                   "masks/my mask.mrc"',
        "_rlnSolventMask2Name                                  None",
        "_rlnSmallestChangesClasses                                       0",
        "_rlnHighresLimitExpectation                               -1.00000",
    ):
        assert f"{line}\n" in optimiser


def test_before_the_first_iteration_the_resolution_is_unknown() -> None:
    half = replace(half_model(), current_resolution=0.0, orientability=None)
    text = model_text(half, {}, pixel_size_angst=10.0, reference_names=["a.mrc"], group_names=["a", "b"])
    assert "_rlnCurrentResolution                            inf\n" in text
    assert "Orientability" not in text
    found = parse_model(text, "m.star").half
    assert found.current_resolution == 0.0
    assert found.orientability is None


@pytest.mark.parametrize("classes", [1, 4])
def test_models_come_back(classes: int) -> None:
    half = half_model(classes)
    names = [f"run_class{index:03d}.mrc" for index in range(1, classes + 1)]
    text = model_text(half, SETTINGS, pixel_size_angst=10.0, reference_names=names, group_names=["tomo 1", "b"])
    assert "data_model_group_1\n" in text
    assert "data_model_group_2\n" not in text, "a group without particles has no spectrum"
    found = parse_model(text, "m.star")
    assert_same(found.half, half)
    assert (found.reference_names, found.group_names) == (names, ["tomo 1", "b"])
    assert (found.box_size, found.pixel_size_angst) == (16, 10.0)
    assert found.settings == {"pad": 1, "NN": False, "r_min_nn": 10, "tau2_fudge": 2.0, "K": classes}


def test_samplings_come_back() -> None:
    sampling = run_state().sampling
    found, directions = parse_sampling(sampling_text(sampling, DIRECTIONS), "s.star")
    assert found == sampling
    np.testing.assert_allclose(directions, DIRECTIONS)


def test_the_first_sampling_is_the_present_one_where_an_old_file_lacks_it() -> None:
    text = sampling_text(run_state().sampling, DIRECTIONS)
    old = "\n".join(line for line in text.splitlines() if "Original" not in line)
    assert parse_sampling(old, "s.star")[0].healpix_order_original == 3


def test_optimisers_come_back() -> None:
    state = run_state()
    files = RunFiles("m1.star", "m2.star", "d.star", "s.star")
    text = optimiser_text(state, SETTINGS | {"o": "out/run", "auto_iter_max": 30}, files, command="--o out/run")
    assert text.startswith("# RELION optimiser; tomoburst\n# --o out/run\n")
    found = parse_optimiser(text, "o.star")
    assert (found.iteration, found.files, found.references_are_ctf_corrected) == (3, files, True)
    assert_same(found.schedule, replace(state.schedule, current_resolution=0.0, current_size=0))
    for flag, value in SETTINGS.items():
        if flag not in ("pad", "tau2_fudge"):
            assert found.settings[flag] == value, flag
    assert found.settings["auto_iter_max"] == 30
    assert "iter" not in found.settings


def test_settings_of_a_classification() -> None:
    state = replace(run_state(1), references_are_ctf_corrected=False)
    files = RunFiles("m.star", "", "d.star", "s.star")
    text = optimiser_text(state, {"iter": 25, "scale": True, "no_map": True}, files)
    assert "ModelStarFile2" not in text
    found = parse_optimiser(text, "o.star")
    assert found.settings["iter"] == 25
    assert found.settings["no_map"] is True
    assert found.settings["solvent_mask"] == ""
    one_group = replace(state, halves=[half_model(groups=1)])
    assert parse_optimiser(optimiser_text(one_group, {"scale": True}, files), "o.star").settings["scale"] is False


def test_settings_read_are_flags_of_a_refinement() -> None:
    config = asdict(RefineConfig())
    text = optimiser_text(run_state(), config | {"o": "out/run"}, RunFiles("m1.star", "m2.star", "d.star", "s.star"))
    for flag, value in parse_optimiser(text, "o.star").settings.items():
        if flag != "pool":
            assert type(value) is type(config[flag]), flag


def test_a_run_is_read_wherever_it_was_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, names = run_state(), RunNames("project/out/run", 3, halves=True)
    copied = tmp_path / "copied"
    copied.mkdir()
    files = texts(state, names) | {names.data: ""} | {names.reference(half): "" for half in (0, 1)}
    for name, text in files.items():
        (copied / Path(name).name).write_text(text)
    run = read_run(str(copied / "run_it003_optimiser.star"))
    assert run.iteration == 3
    assert_same(run.schedule, state.schedule)
    assert run.sampling == state.sampling
    assert [Path(url).name for urls in run.reference_urls for url in urls] == [
        "run_it003_half1_class001.mrc",
        "run_it003_half2_class001.mrc",
    ]
    assert run.settings["o"] == "project/out/run"
    assert run.settings["healpix_order"] == 2
    (copied / "run_it003_data.star").unlink()
    with pytest.raises(InputError, match=r"run_it003_data\.star"):
        read_run(str(copied / "run_it003_optimiser.star"))


def test_model_and_sampling_must_fit(tmp_path: Path) -> None:
    files = run_texts(
        run_state(),
        SETTINGS,
        RunNames(f"{tmp_path}/run", 3, halves=True),
        pixel_size_angst=10.0,
        group_names=["a", "b"],
        directions_deg=DIRECTIONS[:3],
    )
    for name, text in files.items():
        Path(name).write_text(text)
    with pytest.raises(InputError, match=r"4 directions, but .* has 3"):
        read_run(f"{tmp_path}/run_it003_optimiser.star")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_model_classes", "data_classes", "m.star: block data_model_classes is missing"),
        ("_rlnPixelSize ", "_rlnPixels ", r"m\.star: rlnPixelSize is missing in data_model_general"),
        (
            "32.000000",
            "good",
            "m.star: data_model_general row 1: rlnCurrentResolution is 'good', a number was expected",
        ),
        ("_rlnDataDimensionality                             3", "_rlnDataDimensionality 2", "2D images"),
        ("_rlnIsHelix                                        0", "_rlnIsHelix 1", "helical"),
    ],
)
def test_bad_models_are_refused_in_one_line(old: str, new: str, message: str) -> None:
    text = model_text(half_model(), {}, pixel_size_angst=10.0, reference_names=["a.mrc"], group_names=["a", "b"])
    assert old in text
    with pytest.raises(InputError, match=message) as caught:
        parse_model(text.replace(old, new, 1), "m.star")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("rlnDoHelicalRefine", "1", "helical"),
        ("rlnBodyStarFile", "bodies.star", "multi-body"),
        ("rlnModelStarFile2", "None", "before the last"),
        ("rlnRandomSeed", "1.5", r"rlnRandomSeed is '1\.5', an integer was expected"),
    ],
)
def test_bad_optimisers_are_refused_in_one_line(label: str, value: str, message: str) -> None:
    text = optimiser_text(run_state(), SETTINGS, RunFiles("m1.star", "m2.star", "d.star", "s.star"))
    lines = [f"_{label} {value}" if line.startswith(f"_{label} ") else line for line in text.splitlines()]
    with pytest.raises(InputError, match=message):
        parse_optimiser("\n".join(lines), "o.star")


def test_2d_samplings_are_refused() -> None:
    text = sampling_text(run_state().sampling, DIRECTIONS).replace(
        "Is3DSampling                                    1", "Is3DSampling 0"
    )
    with pytest.raises(InputError, match="rlnIs3DSampling is 0"):
        parse_sampling(text, "s.star")
