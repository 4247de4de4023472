"""The M-step on its own: RELION's poses go in, RELION's spectra and maps come out.

With given poses (``--skip_align``), or after a cross-correlation iteration, every particle has one pose of weight 1, so
that the accumulators follow from data.star without any search. What fails here cannot be the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from kernels import masks, maximization, projection, spectra
from kernels.fourier import crop, forward, inverse, shift
from kernels.geometry import half_frequencies, likelihood_shells, relion_round, shells, squared_radius
from kernels.orientations import euler_to_matrix
from kernels.preparation import translate_whole
from kernels.symmetry import operators
from kernels.wedge import half_ctf
from tests.parity.cases import CASES, Case
from tests.parity.compare import Block, printed_unit, read_map, read_star, relative_l2
from tests.parity.dataset import BOX, PIXEL_ANGST
from tests.parity.programs import relion_refine

pytestmark = pytest.mark.relion

Array = npt.NDArray[np.float64]
PAD = 2
DIAMETER_ANGST, EDGE_PX, INI_HIGH_ANGST = 110.0, 3.0, 60.0  # of the ladder's common flags
SPHERE = masks.soft_sphere(BOX, DIAMETER_ANGST / 2.0 / PIXEL_ANGST, EDGE_PX)


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def column(block: Block, label: str) -> Array:
    return np.array([float(value) for value in block.columns[label]])


def columns(block: Block, *labels: str) -> Array:
    return np.stack([column(block, label) for label in labels], axis=1)


def check_printed(ours: Array, block: Block, label: str) -> None:
    """Equal to the printed values up to their last digit; what is left of a filtered shell (1e-30) is rounding."""
    unit = np.array([printed_unit(text) for text in block.columns[label]])
    printed = column(block, label)
    excess = np.abs(ours - printed) / (0.51 * unit + 1e-6 * np.abs(printed) + 1e-15 * np.abs(printed).max())
    assert excess.max() <= 1.0, f"{label}: {ours} against {printed}"


@dataclass
class Run:
    """Files of one RELION run and what they say before and after the first iteration."""

    folder: Path
    before: Block
    after: Block
    volumes: list[Array]
    ctfs: list[Array]
    group: npt.NDArray[np.int64]
    power: Array

    def model(self, iteration: int, half: str = "") -> dict[str, Block]:
        return read_star(self.folder / "out" / f"run_it{iteration:03d}{half}_model.star")

    def map(self, iteration: int, half: str = "") -> Array:
        return read_map(self.folder / "out" / f"run_it{iteration:03d}{half}_class001.mrc")


def load(name: str, halves: bool) -> Run:
    case = case_named(name)
    folder = relion_refine(case.arguments(), case.flavour, halves)
    before, after = (read_star(folder / "out" / f"run_it00{iteration}_data.star")["particles"] for iteration in (0, 1))
    assert before.columns["rlnImageName"] == after.columns["rlnImageName"]
    volumes = [read_map(folder / name) for name in after.columns["rlnImageName"]]
    ctfs = [half_ctf(read_map(folder / name), BOX).astype(np.float64) for name in after.columns["rlnCtfImage"]]
    if "--ctf" not in case.arguments():
        ctfs = [np.ones_like(ctf) for ctf in ctfs]
    group = column(after, "rlnGroupNumber").astype(np.int64) - 1
    masked = [masks.fill_background(volume, SPHERE) for volume in volumes]
    power = np.array([spectra.power_spectrum(forward(volume)) for volume in masked])
    return Run(folder, before, after, volumes, ctfs, group, power)


def initial_noise(run: Run, kept: npt.NDArray[np.bool_], share: float) -> Array:
    """First noise spectra of the particles ``kept``; ``share`` of the sum of all particles is subtracted."""
    groups = int(run.group.max()) + 1
    sums = np.array([run.power[(run.group == group) & kept].sum(axis=0) for group in range(groups)])
    average = np.sum([masks.fill_background(volume, SPHERE) for volume in run.volumes], axis=0) * share / kept.sum()
    count = np.bincount(run.group[kept], minlength=groups)
    return spectra.initial_sigma2_noise(sums, count, spectra.power_spectrum(forward(average)))


def check_noise(model: dict[str, Block], noise: Array) -> None:
    for group, spectrum in enumerate(noise, start=1):
        if spectrum.any():
            check_printed(spectrum, model[f"model_group_{group}"], "rlnSigma2Noise")


def accumulate(run: Run, kept: npt.NDArray[np.bool_], noise: Array, size: int, group: str = "C1"):
    """Symmetrised accumulator of single poses of weight 1 at image size ``size``."""
    r_max = size // 2
    sums = maximization.empty_accumulator(r_max, PAD)
    angles = columns(run.after, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    offset_labels = [f"rlnOrigin{axis}Angst" for axis in "XYZ"]
    old_px, new_px = (columns(block, *offset_labels) / PIXEL_ANGST for block in (run.before, run.after))
    kz, ky, kx = np.broadcast_arrays(*half_frequencies(size))
    inserted = (squared_radius(size) <= r_max**2) & ((kx > 0) | (kz >= 0)) & (likelihood_shells(size) >= 0)
    points = np.stack([kx[inserted], ky[inserted], kz[inserted]])
    for particle in np.flatnonzero(kept):
        whole = relion_round(old_px[particle])
        image = crop(forward(translate_whole(run.volumes[particle], whole)), size)
        values = shift(image, new_px[particle] - whole, BOX)[inserted]
        ctf = crop(run.ctfs[particle], size)[inserted]
        precision = 1.0 / noise[run.group[particle]][shells(size)[inserted]]
        values *= ctf * precision
        stacked = np.stack([values.real, values.imag])[None]
        matrix = euler_to_matrix(angles[particle])[None]
        projection.insert(*sums, matrix, points, stacked, (ctf**2 * precision)[None], PAD)
    maximization.enforce_hermitian(*sums)
    return maximization.symmetrise(*sums, operators(group), r_max, PAD)


def low_passed(volume: Array) -> Array:
    return inverse(forward(volume) * spectra.low_pass_weights(BOX, PIXEL_ANGST, INI_HIGH_ANGST))


@pytest.mark.parametrize(("name", "group"), [("skip-align", "C1"), ("skip-align-c3", "C3"), ("skip-align-d2", "D2")])
def test_classification_with_given_poses(name, group):
    run = load(name, halves=False)
    everyone = np.ones(len(run.volumes), dtype=bool)
    noise = initial_noise(run, everyone, 1.0)
    before, after = run.model(0), run.model(1)
    check_noise(before, noise)
    reference = low_passed(read_map(run.folder / "data" / "ref1.mrc"))
    assert relative_l2(reference, run.map(0)) < 1e-6
    tau2 = spectra.initial_tau2(spectra.power_spectrum(forward(reference)))
    check_printed(tau2, before["model_class_1"], "rlnReferenceTau2")
    count = np.bincount(run.group)
    check_printed(spectra.initial_ssnr(tau2, noise, count, 1.0), before["model_class_1"], "rlnSsnrMap")

    spectra_after = after["model_class_1"]
    size = int(after["model_general"].columns["rlnCurrentImageSize"][0])
    r_max = size // 2
    tau2 = spectra.tau2_from_reference(projection.reference_rft(reference, PAD, r_max), BOX, PAD, r_max)
    data, weight = accumulate(run, everyone, noise, size, group)
    check_printed(tau2, spectra_after, "rlnReferenceTau2")
    check_printed(spectra.sigma2_ref(weight, BOX, PAD, r_max), spectra_after, "rlnReferenceSigma2")
    ssnr = spectra.class3d_ssnr(weight, tau2, BOX, PAD, r_max)
    check_printed(ssnr, spectra_after, "rlnSsnrMap")
    coverage = spectra.fourier_coverage(weight, tau2, BOX, PAD, r_max)
    check_printed(coverage, spectra_after, "rlnFourierCompleteness")
    check_class_table(after, ssnr, coverage)
    volume = maximization.reconstruct(data, weight, BOX, PAD, r_max, tau2=tau2, normalise=float(len(everyone)))
    assert relative_l2(masks.flatten_solvent(volume, SPHERE), run.map(1)) < 1e-6


@pytest.mark.parametrize(("name", "group"), [("auto", "C1"), ("auto-c3", "C3"), ("auto-no-ctf", "C1")])
def test_half_sets_after_a_cross_correlation_iteration(name, group):
    run = load(name, halves=True)
    subset = column(run.after, "rlnRandomSubset").astype(int)
    size = int(run.model(1, "_half1")["model_general"].columns["rlnCurrentImageSize"][0])
    r_max = size // 2
    halves = []
    for half in (1, 2):
        noise = initial_noise(run, subset == half, 0.5)
        check_noise(run.model(0, f"_half{half}"), noise)
        halves.append(accumulate(run, subset == half, noise, size, group))
    nominal_shell = BOX * PIXEL_ANGST / INI_HIGH_ANGST
    maximization.join_low_resolution(*halves, int(np.ceil(nominal_shell)), PAD, r_max)
    fsc = spectra.fsc_of_accumulators(*halves[0], *halves[1], BOX, PAD, r_max)
    shell_weights = spectra.low_pass_shell_weights(BOX, PIXEL_ANGST, INI_HIGH_ANGST) ** 2
    for half, (data, weight) in enumerate(halves, start=1):
        after = run.model(1, f"_half{half}")
        table = after["model_class_1"]
        check_printed(fsc, table, "rlnGoldStandardFsc")
        sigma2 = spectra.sigma2_ref(weight, BOX, PAD, r_max)
        check_printed(sigma2, table, "rlnReferenceSigma2")
        ssnr, tau2 = spectra.gold_standard_ssnr_tau2(fsc, sigma2)
        check_printed(ssnr * shell_weights, table, "rlnSsnrMap")
        check_printed(tau2 * shell_weights, table, "rlnReferenceTau2")
        coverage = spectra.fourier_coverage(weight, tau2, BOX, PAD, r_max)
        check_printed(coverage, table, "rlnFourierCompleteness")
        check_class_table(after, ssnr * shell_weights, coverage)
        count = float((subset == half).sum())
        volume = maximization.reconstruct(data, weight, BOX, PAD, r_max, tau2=tau2, normalise=count)
        finished = masks.flatten_solvent(low_passed(volume), SPHERE)
        assert relative_l2(finished, run.map(1, f"_half{half}")) < 1e-6


def check_class_table(model: dict[str, Block], ssnr: Array, coverage: Array) -> None:
    resolution, completeness = spectra.resolution_and_completeness(ssnr, coverage, PIXEL_ANGST)
    table = model["model_classes"]
    assert resolution == pytest.approx(column(table, "rlnEstimatedResolution")[0], rel=1e-6)
    assert completeness == pytest.approx(column(table, "rlnOverallFourierCompleteness")[0], abs=1e-6)
