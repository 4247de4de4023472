"""The same command again: resumed from wherever the driver was killed, to the same bytes; finished, changed, afresh."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.simulate import run_simulate

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[2]
PREEMPTED, USAGE, INPUT = 75, 2, 3
KILLS, LONGEST = 5, 25

FLAGS = (
    "--i particles.star --ref truth.mrc --o out/run --ctf --healpix_order 1 --offset_range 2 --offset_step 1 "
    "--particle_diameter 110 --ini_high 60 --flatten_solvent --zero_mask --firstiter_cc --scale"
)
COMMAND = ["refine", *FLAGS.split()]
CLASSES = [*COMMAND, "--K", "2", "--iter", "3", "--random_seed", "3"]
HALVES = [*COMMAND, "--auto_refine", "--split_random_halves", "--auto_iter_max", "3", "--random_seed", "3"]

MAIN = "from runner.cli import main; main()"
KILLED_AT_A_WRITE = f"""
import os, signal, sys
from runner.store import backend
left = int(sys.argv.pop(1))
def write_beside(path, data, write=backend._write_beside):
    global left
    temporary = write(path, data)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return temporary
backend._write_beside = write_beside
{MAIN}
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 particles of 16 voxels."""
    folder = tmp_path_factory.mktemp("simulated")
    run_simulate(
        SimulateConfig(o=str(folder), n=24, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3)
    )
    return folder


@pytest.fixture
def folder(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the set, which is the working directory too."""
    shutil.copytree(simulated, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written() -> dict[str, bytes]:
    """Every file below ``out`` but the log, which holds times."""
    files = (path for path in Path("out").rglob("*") if path.is_file() and not path.name.endswith("_events.jsonl"))
    return {str(path): path.read_bytes() for path in files}


def uninterrupted(command: list[str]) -> dict[str, bytes]:
    """What the command writes without a break; nothing of it is left."""
    assert cli.run(command) == 0
    files = written()
    shutil.rmtree("out")
    return files


def assert_same(files: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert files.keys() == expected.keys()
    assert [name for name in files if files[name] != expected[name]] == []


def events(name: str) -> list[dict[str, object]]:
    """All records of one kind in the log."""
    lines = (json.loads(line) for line in Path("out/run_events.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def start(program: str, words: list[str]) -> subprocess.Popen[str]:
    """A driver of its own process."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen([sys.executable, "-c", program, *words], env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(path: str, process: subprocess.Popen[str]) -> None:
    """Until a file is there, or the process has ended."""
    deadline = time.monotonic() + 300
    while not Path(path).exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_a_classification_killed_at_random_writes_gives_the_same_bytes(folder: Path) -> None:
    expected = uninterrupted(CLASSES)
    moments, codes = random.Random(1), list[int]()
    while not codes or codes[-1] != 0:
        process = start(KILLED_AT_A_WRITE, [str(moments.randint(3, LONGEST)), *CLASSES])
        _, error = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), error
        codes.append(process.returncode)
    assert len(codes) > KILLS
    assert_same(written(), expected)


@pytest.mark.parametrize(
    "seen",
    [
        "out/run_manifest.json",
        "out/run_work/it000/state.npz",
        "out/run_it001_half2_class001.mrc",
        "out/run_work/it002/input.npz",
        "out/run_work/it002/state.npz",
        "out/run_work/it002/commit.json",
    ],
)
def test_half_sets_killed_when_a_file_appears_give_the_same_bytes(seen: str, folder: Path) -> None:
    expected = uninterrupted(HALVES)
    process = start(MAIN, HALVES)
    wait_for(seen, process)
    process.kill()
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    assert cli.run(HALVES) == 0
    assert_same(written(), expected)
    assert len(events("run_resumed")) <= 1
    assert len(events("run_finished")) == 1


def test_a_refinement_that_converges_is_resumed_before_and_after_its_last_iteration(folder: Path) -> None:
    forced = ["refine", "--continue", "out/run_it003_optimiser.star", "--o", "out/last", "--force_converge"]
    assert cli.run(HALVES) == 0
    assert cli.run(forced) == 0
    expected = {name: data for name, data in written().items() if "/last" in name}
    for seen in ("out/last_work/it003/commit.json", "out/last_work/it004/commit.json"):
        for name in ["out/last_events.jsonl", *expected]:
            Path(name).unlink()
        process = start(MAIN, forced)
        wait_for(seen, process)
        process.kill()
        process.communicate()
        assert cli.run(forced) == 0
        assert_same({name: data for name, data in written().items() if "/last" in name}, expected)


def test_a_stopped_driver_is_released_and_resumed(folder: Path) -> None:
    expected = uninterrupted(CLASSES)
    process = start(MAIN, CLASSES)
    wait_for("out/run_work/it001/commit.json", process)
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED
    assert "run the same command again" in error.splitlines()[-1]
    assert Path("out/run_work/driver/000001.released").exists()
    assert cli.run([*CLASSES, "--j", "2"]) == 0
    assert_same(written(), expected)
    (resumed,) = events("run_resumed")
    assert resumed["iteration"] in (1, 2)


def test_a_second_driver_goes_while_the_first_one_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(MAIN, [*CLASSES, "--iter", "500"])
    try:
        wait_for("out/run_work/it001/commit.json", process)
        assert cli.run([*CLASSES, "--iter", "500"]) == PREEMPTED
        assert f"process {process.pid}) works on this run; wait for it" in capsys.readouterr().err
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_driver_that_stood_still_is_followed_and_does_no_harm_when_it_wakes(folder: Path) -> None:
    expected = uninterrupted(CLASSES)
    process = start(MAIN, CLASSES)
    wait_for("out/run_work/it001/commit.json", process)
    process.send_signal(signal.SIGSTOP)
    try:
        assert cli.run(CLASSES) == 0
    finally:
        process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, error
    assert "another driver has taken this run over" in error
    assert_same(written(), expected)


def test_a_finished_run_says_so_and_names_its_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CLASSES) == 0
    before = written() | {"log": Path("out/run_events.jsonl").read_bytes()}
    capsys.readouterr()
    assert cli.run(CLASSES) == 0
    said = capsys.readouterr().err
    assert "this run is finished" in said
    assert "out/run_it003_class002.mrc" in said
    assert written() | {"log": Path("out/run_events.jsonl").read_bytes()} == before


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line by which a command is refused; it changes nothing."""
    before = written()
    capsys.readouterr()
    assert cli.run(words) == USAGE
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith('{"time"'))
    assert written() == before
    return line


def test_what_has_changed_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CLASSES) == 0
    line = refused([*CLASSES, "--tau2_fudge", "2", "--K", "3"], capsys)
    assert "--K: was 2, is 3" in line
    assert "--tau2_fudge: was 1, is 2" in line
    assert "--overwrite" in line
    assert "--firstiter_cc: was given, is not given" in refused([w for w in CLASSES if w != "--firstiter_cc"], capsys)
    Path("truth.mrc").write_bytes(Path("truth.mrc").read_bytes()[:-4] + b"\1\2\3\4")
    assert "--ref truth.mrc: content was" in refused(CLASSES, capsys)


def test_another_version_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CLASSES) == 0
    manifest = Path("out/run_manifest.json")
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"version": "0.0.0"}))
    assert "version of tomoburst: was 0.0.0, is" in refused(CLASSES, capsys)


def test_what_changes_no_byte_may_change(folder: Path) -> None:
    assert cli.run(CLASSES) == 0
    assert cli.run([*CLASSES, "--j", "2"]) == 0


def test_a_seed_that_was_drawn_is_kept(folder: Path) -> None:
    drawn = [*COMMAND, "--iter", "1"]
    assert cli.run(drawn) == 0
    seed = json.loads(Path("out/run_manifest.json").read_text())["seed"]
    expected = written()
    Path("out/run_work/finished.json").unlink()
    assert cli.run(drawn) == 0
    assert written() == expected
    assert cli.run([*drawn, "--random_seed", str(seed)]) == 0


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(folder: Path) -> None:
    expected = uninterrupted(HALVES)
    assert cli.run(CLASSES) == 0
    others = ["out/notes.txt", "out/run_ct1_it002_data.star", "out/run_it001_mask.mrc", "out/run2_it001_data.star"]
    for name in others:
        Path(name).write_text(name)
    Path("out/run_work/it002").mkdir()
    Path("out/run_work/it002/unit_00000_0.npz").write_bytes(b"of another run")
    assert cli.run([*HALVES, "--overwrite"]) == 0
    assert_same({name: data for name, data in written().items() if name not in others}, expected)
    assert [Path(name).read_text() for name in others] == others
    assert len(events("run_started")) == 1


def test_overwrite_spares_the_files_that_the_run_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CLASSES) == 0
    again = [word.replace("truth.mrc", "out/run_it003_class001.mrc") for word in CLASSES]
    assert "would remove --ref out/run_it003_class001.mrc" in refused([*again, "--overwrite"], capsys)
    Path("particles.star").rename("moved.star")
    before = written()
    assert cli.run([*CLASSES, "--overwrite"]) == INPUT
    assert written() == before


def test_files_of_a_run_without_a_record_are_not_mixed_with_new_ones(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = uninterrupted(CLASSES)
    Path("out").mkdir()
    for name in ("out/run_it000_optimiser.star", "out/run_it004_data.star"):
        Path(name).write_text("of RELION")
    assert "out/run_it000_optimiser.star is there" in refused(CLASSES, capsys)
    assert cli.run([*CLASSES, "--overwrite"]) == 0
    assert_same(written(), expected)


def test_a_result_that_is_gone_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CLASSES) == 0
    Path("out/run_it003_class001.mrc").unlink()
    assert "its result out/run_it003_class001.mrc is gone" in refused(CLASSES, capsys)


def test_a_damaged_state_costs_one_iteration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = uninterrupted(CLASSES)
    process = start(MAIN, CLASSES)
    wait_for("out/run_work/it002/commit.json", process)
    process.kill()
    process.communicate()
    last = max(Path("out/run_work").glob("it*/commit.json"))
    state = last.with_name("state.npz")
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert cli.run(CLASSES) == 0
    assert "is damaged" in capsys.readouterr().err
    assert_same(written(), expected)
