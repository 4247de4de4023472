"""RELION continues from our files as from its own, and its files survive being read and written, byte for byte."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernels.orientations import angular_grid
from runner.formats.bild import angular_distribution
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import data_blocks, read_particles
from runner.formats.relion_model import model_text, parse_model
from runner.formats.relion_optimiser import optimiser_text, parse_optimiser
from runner.formats.relion_run import ResumedRun, RunNames, read_run, run_texts
from runner.formats.relion_sampling import parse_sampling, sampling_text
from runner.formats.star import format_star, parse_star
from runner.model.state import RunState
from tests.parity import programs
from tests.parity.cases import AUTO, COMMON, LOCAL, PLAIN, TWO_PASS, TWO_REFERENCES, TWO_STATES, Case

pytestmark = pytest.mark.relion

CLASSES = Case("continue-classes", COMMON | LOCAL | TWO_REFERENCES | {"--scale": "", "--iter": "2"}, TWO_STATES)
GLOBAL = Case("continue-global", COMMON | TWO_PASS | {"--K": "1", "--perturb": "0.5"}, PLAIN)
HALVES = Case(
    "continue-halves",
    COMMON
    | AUTO
    | {
        "--firstiter_cc": "",
        "--healpix_order": "3",
        "--auto_local_healpix_order": "3",
        "--scale": "",
        "--perturb": "0.5",
    },
    PLAIN,
    halves=True,
)
CASES = pytest.mark.parametrize("case", [CLASSES, GLOBAL, HALVES], ids=lambda case: case.name)


def relion_run(case: Case) -> Path:
    return programs.relion_refine(
        [word for pair in case.changes.items() for word in pair if word], case.flavour, case.halves
    )


@CASES
def test_relions_files_are_written_to_the_byte(case: Case) -> None:
    out = relion_run(case) / "out"
    for path in sorted(out.glob("*_model.star")):
        model = parse_model(path.read_text(), str(path))
        assert path.read_text() == model_text(
            model.half,
            model.settings,
            pixel_size_angst=model.pixel_size_angst,
            reference_names=model.reference_names,
            group_names=model.group_names,
        )
    for path in sorted(out.glob("*_sampling.star")):
        assert path.read_text() == sampling_text(*parse_sampling(path.read_text(), str(path)))
    for path in sorted(out.glob("*_optimiser.star")):
        optimiser = parse_optimiser(path.read_text(), str(path))
        title, command = parse_star(path.read_text()).comments[:2]
        sampling, _ = parse_sampling(next(out.glob("*_sampling.star")).read_text(), "")
        state = RunState(
            optimiser.iteration,
            [parse_model(next(out.glob("*_model.star")).read_text(), "").half],
            None,  # type: ignore[arg-type]
            sampling,
            optimiser.schedule,
            optimiser.references_are_ctf_corrected,
        )
        program = title.removeprefix("RELION optimiser; ")
        text = optimiser_text(state, optimiser.settings, optimiser.files, program=program, command=command + " ")
        assert path.read_text() == text


def rewritten(run: ResumedRun, halves: bool) -> RunNames:
    """Write every file of ``run`` anew, under another name, from what was read of it."""
    names = RunNames("out/ours", run.iteration, halves)
    pixel_size = run.models[0].pixel_size_angst
    table = read_particles(run.data_url)
    models = [
        replace(model.half, references=np.stack([read_mrc(url).data for url in urls]))
        for model, urls in zip(run.models, run.reference_urls, strict=True)
    ]
    state = RunState(run.iteration, models, table.poses(), run.sampling, run.schedule, run.references_are_ctf_corrected)
    for half, model in enumerate(models):
        for index, reference in enumerate(model.references):
            write_mrc(names.reference(half, index), reference, pixel_size)
    Path(names.data).write_text(format_star(data_blocks(table, state.poses)))
    texts = run_texts(
        state,
        run.settings,
        names,
        pixel_size_angst=pixel_size,
        group_names=run.models[0].group_names,
        directions_deg=run.directions_deg,
    )
    for name, text in texts.items():
        Path(name).write_text(text)
    return names


def continued(folder: Path, optimiser: str, halves: bool) -> Path:
    program = [*programs.MPI, "relion_refine_mpi"] if halves else ["relion_refine"]
    programs.execute([*program, "--continue", optimiser, "--o", "out/again", "--auto_iter_max", "2"], folder)
    return folder / "out"


@CASES
def test_relion_continues_from_our_files(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = relion_run(case)
    for name in ("relion", "ours"):
        shutil.copytree(source, tmp_path / name, symlinks=True)
        for path in (tmp_path / name / "out").glob("run_it002*"):
            path.unlink()
    expected = continued(tmp_path / "relion", "out/run_it001_optimiser.star", case.halves)
    monkeypatch.chdir(tmp_path / "ours")
    names = rewritten(read_run("out/run_it001_optimiser.star"), case.halves)
    found = continued(tmp_path / "ours", names.optimiser, case.halves)
    results = sorted(path.name for path in expected.glob("again_it002*"))
    assert any(name.endswith("_model.star") for name in results)
    assert results == sorted(path.name for path in found.glob("again_it002*"))
    for name in results:
        if name.endswith((".star", ".bild")):
            theirs, ours = ((folder / name).read_text().splitlines() for folder in (expected, found))
            assert [line for line in ours if "--continue" not in line] == [
                line for line in theirs if "--continue" not in line
            ], name
        else:
            assert np.array_equal(read_mrc(str(found / name)).data, read_mrc(str(expected / name)).data), name


@CASES
def test_angular_distributions_are_relions(case: Case) -> None:
    out = relion_run(case) / "out"
    compared = 0
    for path in sorted(out.glob("*_angdist.bild")):
        prefix, index = path.name.removesuffix("_angdist.bild").rsplit("_class", 1)
        sampling_file = out / f"{prefix.split('_half')[0]}_sampling.star"
        if not sampling_file.exists():
            continue
        sampling, _ = parse_sampling(sampling_file.read_text(), "")
        model = parse_model((out / f"{prefix}_model.star").read_text(), "")
        pdf = model.half.pdf_direction[int(index) - 1]
        directions = angular_grid(sampling.healpix_order, sampling.symmetry).directions_deg
        radius = model.box_size * model.pixel_size_angst / 2
        expected = path.read_text().split()
        found = angular_distribution(pdf, directions, radius, sampling.psi_step_deg).split()
        assert [word for word in found if word[0] == "."] == [word for word in expected if word[0] == "."]
        # model.star keeps 6 decimals of the probabilities, the drawing 6 significant digits of the corners
        tolerance = 0.3 * radius * 1.0e-6 / pdf.max() + 1.1e-3
        for ours, theirs in zip(found, expected, strict=True):
            if theirs[0] != ".":
                assert float(ours) == pytest.approx(float(theirs), abs=tolerance)
        compared += 1
    assert compared
