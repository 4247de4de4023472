"""Bad input: the documented exit code, one clear line on standard error, no traceback, and nothing written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runner import cli
from runner.formats.mrc import read_mrc
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate
from runner.store import backend
from tests.conftest import REPOSITORY
from tests.e2e.bad_inputs import (
    BOX,
    PARTICLES,
    REFERENCE,
    STAR,
    THIRD,
    VOXEL_ANGST,
    WEDGE,
    Case,
    both,
    cell,
    column,
    content,
    copied,
    cut,
    filled,
    first_rows,
    gone,
    star,
    truncated,
    two_groups,
    volume,
    with_value,
    without,
)

USAGE, INPUT, STORAGE = 2, 3, 4
WORKING = {
    "refine": f"--i {STAR} --ref {REFERENCE} --o out/run --ctf --iter 1 --healpix_order 0 --oversampling 0 "
    "--offset_range 1 --offset_step 1 --particle_diameter 120 --random_seed 1",
    "reconstruct": f"--i {STAR} --o out/rec.mrc --ctf",
    "simulate": f"--o out --n 2 --box {BOX}",
}
HALVES = "--auto_refine --split_random_halves"
ROW_3 = f"{STAR} row 3 ({THIRD})"

STAR_CASES = [
    Case("missing STAR", "refine", INPUT, ("nosuch.star", "no such file", "correct"), "--i nosuch.star"),
    Case("STAR is a folder", "reconstruct", INPUT, ("subtomo", "is a folder"), "--i subtomo"),
    Case("empty STAR", "refine", INPUT, (STAR, "no 'data_' block"), spoil=content(STAR, "")),
    Case("text that is no STAR", "refine", INPUT, (f"{STAR} line 1", "STAR file"), spoil=content(STAR, "a,b\n1,2\n")),
    Case("map in place of a STAR", "reconstruct", INPUT, (REFERENCE, "not a text file"), f"--i {REFERENCE}"),
    Case("no particles", "refine", INPUT, (STAR, "data_particles holds no particles"), spoil=first_rows(0)),
    Case(
        "short row", "refine", INPUT, (f"{STAR} line", "3 values", "13 columns"),
        spoil=lambda folder: append_row(folder, "1 2 3"),
    ),
    Case("no image column", "refine", INPUT, (STAR, "column rlnImageName is missing"), spoil=without("rlnImageName")),
    Case("no CTF column", "refine", INPUT, (STAR, "--ctf", "rlnCtfImage", "leave out"), spoil=without("rlnCtfImage")),
    Case("one angle of three", "reconstruct", INPUT, (STAR, "rlnAngleTilt is missing"), spoil=without("rlnAngleTilt")),
    Case("no pixel size", "refine", INPUT, ("optics group 1", "rlnImagePixelSize"),
         spoil=both(without("rlnImagePixelSize", block="optics"), volume("subtomo/000001.mrc", lambda data: data,
         0.0))),
    Case("group not in the optics table", "refine", INPUT, (f"{STAR} row 3", "rlnOpticsGroup 7", "(1)"),
         spoil=cell("rlnOpticsGroup", "7")),
    Case("two groups, no group column", "refine", INPUT, (STAR, "rlnOpticsGroup is missing", "2 groups"),
         spoil=both(star(two_groups), without("rlnOpticsGroup"))),
    Case("groups of different pixel size", "refine", INPUT, (STAR, "12 A", "10 A", "alike"),
         spoil=both(star(two_groups), cell("rlnImagePixelSize", "12", 2, "optics"), cell("rlnOpticsGroup", "2"),
                    volume(THIRD, lambda data: data, 0.0))),
    Case("word in a cell", "refine", INPUT, (f"{STAR} row 3", "rlnAngleTilt", "'steep'", "a number"),
         spoil=cell("rlnAngleTilt", "steep")),
    Case("NaN in a cell", "reconstruct", INPUT, (f"{STAR} row 3", "rlnOriginXAngst", "finite"),
         spoil=cell("rlnOriginXAngst", "nan")),
    Case("fraction in an integer column", "refine", INPUT, (f"{STAR} row 3", "rlnClassNumber", "integer"),
         spoil=cell("rlnClassNumber", "1.5")),
    Case("same particle twice", "refine", INPUT, (f"{STAR} rows 2 and 3", "subtomo/000002.mrc", "remove"),
         spoil=cell("rlnImageName", "subtomo/000002.mrc")),
    Case("integer that is too large", "refine", INPUT, (f"{STAR} row 3", "rlnOpticsGroup", "integer"),
         spoil=cell("rlnOpticsGroup", "1e30")),
    Case("offset beyond the box", "refine", INPUT, (ROW_3, "rlnOriginYAngst is 500 A", "160 A", "correct it"),
         spoil=cell("rlnOriginYAngst", "500")),
    Case("missing particle file", "refine", INPUT, (f"{STAR} row 3", "rlnImageName", THIRD, "tried"),
         spoil=gone(THIRD)),
    Case("missing wedge file", "refine", INPUT, (f"{STAR} row 1", "rlnCtfImage", WEDGE, "tried"), spoil=gone(WEDGE)),
    Case("wedge not named in one row", "refine", INPUT, (f"{STAR} row 3", "rlnCtfImage is empty"),
         spoil=cell("rlnCtfImage", "None")),
    Case("images declared 2D", "refine", INPUT, ("optics group 1", "rlnImageDimensionality is 2", "3D"),
         spoil=cell("rlnImageDimensionality", "2", 1, "optics")),
    Case("stack of 2D images", "refine", INPUT, (f"{STAR} row 3", "2D images", "extract"),
         spoil=cell("rlnImageName", "000003@stack.mrcs")),
    Case("RELION 5 stacks", "refine", INPUT, (STAR, "RELION 5", "2D images", "relion_tomo_subtomo"),
         spoil=lambda folder: content(STAR, "data_general\n_rlnTomoSubTomosAre2DStacks 1\n"
                                      + (folder / STAR).read_text())(folder)),
    Case("odd box in the table", "refine", INPUT, ("optics group 1", "rlnImageSize is 15", "even"),
         spoil=cell("rlnImageSize", "15", 1, "optics")),
]  # fmt: skip

HALF_CASES = [
    Case("half set of some particles only", "refine", INPUT, (f"{STAR} row 3", "rlnRandomSubset is 0"), HALVES,
         cell("rlnRandomSubset", "0")),
    Case("half set 3", "refine", INPUT, (f"{STAR} row 3", "rlnRandomSubset is 3", "1 or 2"), HALVES,
         cell("rlnRandomSubset", "3")),
    Case("one half set without particles", "refine", INPUT, (STAR, "half 2 has no particles", "drop the column"),
         HALVES,
         column("rlnRandomSubset", "1 " * PARTICLES)),
    Case("one particle for two halves", "refine", INPUT, (STAR, "1 particle", "2"), HALVES, first_rows(1)),
    Case("half set of a table without", "reconstruct", INPUT, (STAR, "rlnRandomSubset is missing"), "--subset 1"),
    Case("class that nothing has", "reconstruct", INPUT, (STAR, "none of 6 particles"), "--class 4",
         column("rlnClassNumber", "1 " * PARTICLES)),
]  # fmt: skip

VOLUME_CASES = [
    Case("another box in one particle", "refine", INPUT, (ROW_3, "12 voxels", "16"), spoil=volume(THIRD, cut(12))),
    Case("odd box", "reconstruct", INPUT, (ROW_3, "odd box of 15", "even"), spoil=volume(THIRD, cut(15))),
    Case("no cube", "refine", INPUT, (ROW_3, "16 x 16 x 8", "cubic"), spoil=volume(THIRD, lambda data: data[:8])),
    Case("2D image", "refine", INPUT, (ROW_3, "two-dimensional image of 16 x 16"),
         spoil=volume(THIRD, lambda data: data[:1])),
    Case("pixel size of a particle", "refine", INPUT, (ROW_3, "13.0000 A", "rlnImagePixelSize", "10.0000"),
         spoil=volume(THIRD, lambda data: data, 13.0)),
    Case("NaN particle", "refine", INPUT, (ROW_3, "1 of 4096 voxels are NaN"), spoil=volume(THIRD, with_value(np.nan))),
    Case("infinite voxel", "reconstruct", INPUT, (ROW_3, "infinite"), spoil=volume(THIRD, with_value(np.inf))),
    Case("constant particle", "refine", INPUT, (ROW_3, "every voxel", "is 3", "leave it out"),
         spoil=volume(THIRD, filled(3.0))),
    Case("truncated particle", "refine", INPUT, (ROW_3, "truncated", "copy it again"), spoil=truncated(THIRD)),
    Case("truncated particle, threads", "refine", INPUT, (ROW_3, "truncated"), "--j 2", truncated(THIRD)),
    Case("truncated particle, average", "reconstruct", INPUT, (ROW_3, "truncated"), "--j 2", truncated(THIRD)),
    Case("particle that is no map", "refine", INPUT, (ROW_3, "no MRC file"), spoil=content(THIRD, "hello")),
    Case("all-zero wedge", "refine", INPUT, (f"{STAR} row 1", WEDGE, "zero everywhere"),
         spoil=volume(WEDGE, filled(0.0))),
    Case("all-zero wedge of one particle", "refine", INPUT, (ROW_3, "zero.mrc", "zero everywhere"),
         spoil=both(copied(WEDGE, "zero.mrc"), volume("zero.mrc", filled(0.0)), cell("rlnCtfImage", "zero.mrc"))),
    Case("all-zero wedge, average", "reconstruct", INPUT, (f"{STAR} row 1", "zero everywhere"),
         spoil=volume(WEDGE, filled(0.0))),
    Case("wedge of another box", "refine", INPUT, (ROW_3, "small.mrc", "12 x 12 x 12", "cube of 16", "9 x 16 x 16"),
         spoil=both(copied(WEDGE, "small.mrc"), volume("small.mrc", cut(12)), cell("rlnCtfImage", "small.mrc"))),
    Case("truncated wedge", "refine", INPUT, (f"{STAR} row 1", WEDGE, "truncated"), spoil=truncated(WEDGE)),
    Case("NaN wedge", "reconstruct", INPUT, (f"{STAR} row 1", WEDGE, "NaN"), spoil=volume(WEDGE, with_value(np.nan))),
]  # fmt: skip

REFERENCE_CASES = [
    Case("missing reference", "refine", INPUT, ("--ref", "nosuch.mrc", "no such file"), "--ref nosuch.mrc"),
    Case("truncated reference", "refine", INPUT, ("--ref", REFERENCE, "truncated"), spoil=truncated(REFERENCE)),
    Case("NaN reference", "refine", INPUT, ("--ref", REFERENCE, "NaN"), spoil=volume(REFERENCE, with_value(np.nan))),
    Case("empty reference", "refine", INPUT, ("--ref", REFERENCE, "every voxel", "is 0"),
         spoil=volume(REFERENCE, filled(0.0))),
    Case("reference on another grey scale", "refine", INPUT, ("--ref", REFERENCE, "grey scale", "--firstiter_cc"),
         spoil=volume(REFERENCE, lambda data: 1e4 * data)),
    Case("reference of another box", "refine", INPUT, ("--ref", REFERENCE, "(12, 12, 12)", "16"),
         spoil=volume(REFERENCE, cut(12))),
    Case("pixel size of the reference", "refine", INPUT, ("--ref", REFERENCE, "11 A", "10 A", "--ref_angpix 10"),
         spoil=volume(REFERENCE, lambda data: data, 11.0)),
    Case("STAR without references", "refine", INPUT, ("--ref", STAR, "rlnReferenceImage"), f"--ref {STAR}"),
    Case("table of references without rows", "refine", INPUT, ("--ref refs.star", "data_ lists no maps"),
         "--ref refs.star",
         content("refs.star", "data_\nloop_\n_rlnReferenceImage\n")),
    Case("mask above 1", "refine", INPUT, ("--solvent_mask", "mask.mrc", "from 1 to 2", "0 and 1"),
         "--solvent_mask mask.mrc", both(copied(REFERENCE, "mask.mrc"), volume("mask.mrc",
         lambda data: 1 + (data > 0)))),
    Case("mask of another box", "refine", INPUT, ("--solvent_mask", "mask.mrc", "(12, 12, 12)", "16"),
         "--solvent_mask mask.mrc", both(copied(REFERENCE, "mask.mrc"), volume("mask.mrc", cut(12)))),
    Case("empty mask", "refine", INPUT, ("--solvent_mask", "mask.mrc", "zero everywhere"),
         "--solvent_mask mask.mrc", both(copied(REFERENCE, "mask.mrc"), volume("mask.mrc", filled(0.0)))),
    Case("missing mask", "refine", INPUT, ("--solvent_mask", "nosuch.mrc", "no such file"),
         "--solvent_mask nosuch.mrc"),
    Case("word in a tau2 spectrum", "refine", INPUT, ("--tau", "tau.star", "'much'", "number"), "--tau tau.star",
         content("tau.star", "data_m\nloop_\n_rlnSpectralIndex\n_rlnReferenceTau2\n0 much\n")),
    Case("no FSC in the file", "reconstruct", INPUT, (STAR, "rlnGoldStandardFsc", "model STAR"), f"--fsc {STAR}"),
]  # fmt: skip

FLAG_CASES = [
    Case("unknown flag", "refine", USAGE, ("unknown flag --particle_diametre", "--particle_diameter?"),
         "--particle_diametre 100"),
    Case("flag for helices", "refine", USAGE, ("--helix", "not available"), "--helix"),
    Case("flag for initial models", "refine", USAGE, ("--sgd_ini_iter", "tomoburst reconstruct"), "--sgd_ini_iter 50"),
    Case("flag for 2D images", "reconstruct", USAGE, ("--ewald", "2D images"), "--ewald"),
    Case("flag without value", "reconstruct", USAGE, ("--pad", "needs a value"), "--pad"),
    Case("word for a number", "refine", USAGE, ("--ini_high", "'low'", "a number"), "--ini_high low"),
    Case("several classes in half sets", "refine", USAGE, ("--K 2", "--split_random_halves"), f"{HALVES} --K 2"),
    Case("auto-refine without half sets", "refine", USAGE, ("--auto_refine needs --split_random_halves",),
         "--auto_refine"),
    Case("half sets without auto-refine", "refine", USAGE, ("--split_random_halves needs",), "--split_random_halves"),
    Case("GPU for no search", "refine", USAGE, ("--skip_align with --gpu",), "--skip_align --gpu"),
    Case("both flags for correlation", "refine", USAGE, ("--always_cc", "--firstiter_cc"),
         "--always_cc --firstiter_cc"),
    Case("two maps in place of three", "refine", USAGE, ("--K 3", "2 maps"), "--ref refs.star --K 3",
         content("refs.star", f"data_\nloop_\n_rlnReferenceImage\n{REFERENCE}\n{REFERENCE}\n")),
    Case("sphere beyond the box", "refine", USAGE, ("--particle_diameter 200", "160 A", "at most"),
         "--particle_diameter 200"),
    Case("start filter beyond the box", "refine", USAGE, ("--ini_high 500", "160 A", "give less"), "--ini_high 500"),
    Case("limit beyond the box", "refine", USAGE, ("--strict_highres_exp 500", "160 A"), "--strict_highres_exp 500"),
    Case("resolution beyond the box", "reconstruct", USAGE, ("--maxres 500", "160 A"), "--maxres 500"),
    Case("flag without effect", "refine", USAGE, ("--trust_ref_size", "not available", "bring"), "--trust_ref_size"),
    Case("unknown symmetry", "refine", USAGE, ("--sym", "X9", "Cn"), "--sym X9"),
    Case("unknown symmetry, average", "reconstruct", USAGE, ("--sym", "X9", "Cn"), "--sym X9"),
    Case("unknown symmetry, simulation", "simulate", USAGE, ("--sym", "X9", "Cn"), "--sym X9"),
    Case("symmetries of two classes", "refine", USAGE, ("--sym C1,C2", "2 point groups for 1"), "--sym C1,C2"),
    Case("no direction left by symmetry", "refine", USAGE, ("HEALPix order 0", "symmetry I2", "higher order"),
         "--sym I2"),
    Case("no direction left by tilt", "refine", USAGE, ("--limit_tilt", "HEALPix order 0", "tilt limit -1"),
         "--limit_tilt -1"),
    Case("order out of range", "refine", USAGE, ("--healpix_order 12", "0 to 8"), "--healpix_order 12"),
    Case("half set out of range", "reconstruct", USAGE, ("--subset 3", "1, 2"), "--subset 3"),
    Case("odd box to simulate", "simulate", USAGE, ("--box 15", "even"), "--box 15"),
    Case("model that is missing", "simulate", INPUT, ("nosuch.pdb", "no such file"), "--model nosuch.pdb"),
    Case("model that is none", "simulate", INPUT, (STAR,), f"--model {STAR}"),
    Case("map that is no cube", "simulate", INPUT, (REFERENCE, "16 x 16 x 8", "cubic"), f"--map {REFERENCE}",
         volume(REFERENCE, lambda data: data[:8])),
]  # fmt: skip

OUTPUT_CASES = [
    Case("output below a file", "refine", STORAGE, (f"{STAR}/run", "is a file", "another --o"), f"--o {STAR}/run"),
    Case("map below a file", "reconstruct", STORAGE, (f"{STAR}/sub/rec.mrc", "is a file"), f"--o {STAR}/sub/rec.mrc"),
    Case("simulation below a file", "simulate", STORAGE, (STAR, "is a file"), f"--o {STAR}"),
    Case("folder in place of a prefix", "refine", USAGE, ("--o out/", "--o out/run"), "--o out/"),
    Case("folder in place of a map", "reconstruct", STORAGE, ("subtomo", "is a folder"), "--o subtomo"),
    Case("simulation that exists", "simulate", USAGE, (STAR, "--overwrite"), "--o ."),
]  # fmt: skip

CASES = [*STAR_CASES, *HALF_CASES, *VOLUME_CASES, *REFERENCE_CASES, *FLAG_CASES, *OUTPUT_CASES]


def append_row(folder: Path, row: str) -> None:
    """Add a line to the particle STAR file."""
    (folder / STAR).write_text((folder / STAR).read_text().rstrip() + f"\n{row}\n")


@pytest.fixture(scope="session")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with which the commands work."""
    folder = tmp_path_factory.mktemp("valid")
    run_simulate(SimulateConfig(o=str(folder), n=PARTICLES, box=BOX, angpix=VOXEL_ANGST, snr=1.0))
    return folder


@pytest.fixture
def folder(valid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data set, which is the working directory too."""
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    shutil.copytree(valid, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listing(folder: Path) -> dict[str, bytes | None]:
    """All files with what they hold, and all folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def error_line(text: str) -> str:
    """The line of standard error that is no progress."""
    lines = [line for line in text.splitlines() if not line.startswith('{"time"')]
    assert len(lines) == 1, text
    assert lines[0].startswith("tomoburst: error: ")
    return lines[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command}: {case.name}")
def test_a_mistake_is_named_in_one_line(case: Case, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.spoil(folder)
    before = listing(folder)
    code = cli.run([case.command, *WORKING[case.command].split(), *case.flags.split()])
    printed = capsys.readouterr()
    assert code == case.code, printed.err
    line = error_line(printed.err)
    assert [words for words in case.says if words not in line] == [], line
    assert len(line) < 400, line
    assert listing(folder) == before
    assert printed.out == ""


@pytest.mark.parametrize("command", WORKING)
def test_the_commands_work_when_nothing_is_spoilt(command: str, folder: Path) -> None:
    assert cli.run([command, *WORKING[command].split()]) == 0
    assert any((folder / "out").iterdir())


@pytest.mark.parametrize(
    "name", ["truncated particle, threads", "all-zero wedge", "unknown flag", "map below a file", "odd box to simulate"]
)
def test_a_process_ends_the_same_way(name: str, folder: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    case.spoil(folder)
    before = listing(folder)
    words = [case.command, *WORKING[case.command].split(), *case.flags.split()]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", "from runner.cli import main; main()", *words],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == case.code
    line = error_line(done.stderr)
    assert [words for words in case.says if words not in line] == [], line
    assert listing(folder) == before


@pytest.mark.parametrize(
    "name", ["manifest.json", "it000_optimiser.star", "state.npz", "commit.json", "it001_data.star"]
)
def test_a_full_disk_leaves_whole_files_and_a_run_to_go_on_with(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["refine", *WORKING["refine"].split()]
    assert cli.run(words) == 0
    whole = listing((folder / "out").rename("whole"))
    is_full = False

    def write_beside(path: Path, data: bytes, original: Callable[..., Path] = backend._write_beside) -> Path:
        nonlocal is_full
        is_full |= path.name.endswith(name)
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_write_beside", write_beside)
        assert cli.run(words) == STORAGE
    assert "No space left on device" in error_line(capsys.readouterr().err)
    assert not any(file.name.endswith(name) for file in (folder / "out").rglob("*"))
    assert cli.run(words) == 0
    written = listing(folder / "out")
    assert written.keys() == whole.keys()
    assert [each for each in written if not each.endswith("_events.jsonl") and written[each] != whole[each]] == []


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_leaves_whole_files(sent: signal.Signals, code: int, folder: Path) -> None:
    words = ["refine", *WORKING["refine"].split(), "--iter", "5000"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from runner.cli import main; main()", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if '"iteration_finished"' in line:
            process.send_signal(sent)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(120) == code
    assert error_line(rest)
    files = sorted(file for file in (folder / "out").iterdir() if file.is_file())
    others = [file.name for file in files if file.suffix not in (".mrc", ".star", ".bild")]
    assert others == ["run_events.jsonl", "run_manifest.json"]
    assert {file.suffix for file in (folder / "out" / "run_work").rglob("*") if file.is_file()} <= {
        ".npz", ".json", ".alive", ".released"
    }  # fmt: skip
    assert (folder / "out" / "run_work" / "driver" / "000001.released").exists()
    assert all(read_mrc(str(file)).data.shape == (BOX,) * 3 for file in files if file.suffix == ".mrc")


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 25
