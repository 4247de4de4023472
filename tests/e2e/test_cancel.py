"""A run that is watched, cancelled and gone on with: the same bytes as without a break."""

from __future__ import annotations

import json
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from runner import cli
from runner.plan.simulate_config import SimulateConfig
from runner.refinement import record
from runner.simulate import run_simulate
from runner.store.lease import claim

pytestmark = pytest.mark.e2e

COMMAND = (
    "refine --i set/particles.star --ref set/truth.mrc --o out/run --ctf --healpix_order 1 --offset_range 2 "
    "--offset_step 1 --particle_diameter 110 --ini_high 60 --flatten_solvent --zero_mask --K 1 --iter 6 --random_seed 3"
)


def files_of_run() -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in Path("out").iterdir()
        if path.is_file() and path.name != "run_events.jsonl"
    }


def state_of(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert cli.run(["status", "out/run", "--json"]) == 0
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def cancel_in_iteration(number: int) -> None:
    """Cancel the run as soon as it is there."""
    while not Path(f"out/run_work/it{number:03d}/input.npz").exists():
        time.sleep(0.001)
    assert cli.run(["cancel", "out/run"]) == 0


def test_cancelled_run_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "claim", partial(claim, beat=0.005))
    run_simulate(SimulateConfig(o="set", n=40, box=16, angpix=10.0, particle_diameter=110.0, snr=1.0, random_seed=3))
    assert cli.run(COMMAND.split()) == 0
    expected = files_of_run()
    assert state_of(capsys)["state"] == "finished"
    shutil.rmtree("out")

    onlooker = threading.Thread(target=cancel_in_iteration, args=(2,))
    onlooker.start()
    code = cli.run(COMMAND.split())
    onlooker.join()
    assert code == 75
    assert "stopped by tomoburst cancel" in capsys.readouterr().err.splitlines()[-1]
    told = state_of(capsys)
    assert (told["state"], told["units_total"]) == ("cancelled", 4)
    assert 1 <= told["iteration"] < 6

    assert cli.run(COMMAND.split()) == 0
    assert "the run was cancelled before; it goes on" in capsys.readouterr().err
    assert files_of_run() == expected
    assert state_of(capsys)["state"] == "finished"
    names = [json.loads(line)["event"] for line in Path("out/run_events.jsonl").read_text().splitlines()]
    assert names[names.index("run_failed") + 1] == "run_resumed"
    assert (names.count("iteration_finished"), names[-1]) == (6, "run_finished")
