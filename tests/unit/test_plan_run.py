"""`tomoburst plan` from a STAR file: what is read for it, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runner import cli
from runner.errors import InputError
from runner.formats import particle_head
from runner.formats.mrc import write_mrc
from runner.formats.particle_head import ParticleHead, read_particle_head
from runner.model.state import SamplingState
from runner.plan.expected import Assumptions, expected_steps
from runner.plan.schedule import SchedulePolicy
from runner.report.cost_table import duration, size

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 5.0\n\n"
LABELS = "data_particles\n\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnCtfImage\n_rlnOpticsGroup\n"


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """A table of 30 particles in two micrographs with one CTF volume; only the first volume is there."""
    write_mrc(str(tmp_path / "p0.mrc"), np.zeros((16, 16, 16), dtype=np.float32), 5.0)
    rows = "".join(f"p{row}.mrc ts_{row // 20}.mrc ctf.mrc 1\n" for row in range(30))
    path = tmp_path / "particles.star"
    path.write_text(OPTICS + LABELS + rows)
    return path


def head(**changes: object) -> ParticleHead:
    """What the table tells."""
    volume = 4 * 16**3 + 1024
    values: dict[str, object] = {
        "particles": 30, "groups": 2, "box": 16, "voxel_size_angst": 5.0, "volume_bytes": volume,
        "ctf_bytes": volume / 30, "looked_at": 30,
    }  # fmt: skip
    return ParticleHead(**{**values, **changes})  # type: ignore[arg-type]


def test_a_short_table_is_read_whole(star: Path):
    assert read_particle_head(str(star)) == head()


def test_of_a_long_table_the_beginning_is_read_and_the_rest_is_counted(star: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(particle_head, "HEAD_BYTES", len(OPTICS + LABELS) + 100)
    monkeypatch.setattr(particle_head, "RANGE_BYTES", 64)
    found = read_particle_head(str(star))
    assert found.looked_at < 10
    assert found == head(looked_at=found.looked_at, groups=1, ctf_bytes=(4 * 16**3 + 1024) / found.looked_at)


def test_a_table_after_the_particles_is_found(star: Path, monkeypatch: pytest.MonkeyPatch):
    text = star.read_text()
    star.write_text(text.removeprefix(OPTICS) + "\n" + OPTICS)
    monkeypatch.setattr(particle_head, "HEAD_BYTES", len(LABELS) + 100)
    assert read_particle_head(str(star)) == head()


def test_no_volume_but_one_header_is_read(star: Path):
    with (star.parent / "p0.mrc").open("r+b") as file:
        file.truncate(1024)
    assert read_particle_head(str(star)) == head()


def test_a_volume_that_is_no_cube_is_refused(star: Path):
    write_mrc(str(star.parent / "p0.mrc"), np.zeros((4, 16, 16), dtype=np.float32), 5.0)
    with pytest.raises(InputError, match="16 x 16 x 4 voxels"):
        read_particle_head(str(star))


def plan(star: Path, *arguments: str) -> int:
    """Run the command."""
    return cli.run(["plan", "--i", str(star), "--ctf", "--healpix_order", "1", "--ini_high", "20", *arguments])


def test_the_plan_as_json(star: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--auto_refine", "--split_random_halves", "--j", "2", "--price_per_hour", "3.6", "--json"]
    assert plan(star, *flags, "--auto_local_healpix_order", "2", "--resolution", "20", "--rate", "1000") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["particles"] == 30
    assert (found["units"], found["chunk"], found["devices"]) == (3, 10, 2)
    assert found["rate_flops"] == 1e12
    assert found["floors"]["product_flops"] > 0
    assert found["fastest"] < found["seconds"] < found["slowest"]
    assert found["costs"][0] == pytest.approx(3.6 * 2 * found["seconds"] / 3600)
    assert [kind["kind"]["local"] for kind in found["kinds"]][:2] == [False, False]
    assert found["kinds"][-1]["kind"]["final"]
    for kind in found["kinds"]:
        assert kind["seconds"] == pytest.approx(sum(kind["stages"].values()))
        assert min(kind["stages"].values()) >= 0
    assert any("20 A" in line for line in found["assumptions"])


@pytest.mark.parametrize(
    ("flags", "devices"), [(["--workers", "3"], 3), (["--j", "2"], 2), (["--workers", "3", "--devices", "8"], 8)]
)
def test_devices_are_workers_or_threads(star: Path, flags: list[str], devices: int, capsys: pytest.CaptureFixture[str]):
    assert plan(star, "--iter", "1", "--json", *flags) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == devices


def test_the_plan_as_a_table(star: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert plan(star, "--iter", "3") == 0
    printed = capsys.readouterr().out
    assert "30 particles of 16 voxels of 5 A: 3 work units" in printed
    assert "global 30 deg" in printed
    assert "GFLOP/s" in printed
    assert "cost" not in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan"], 2, "--i is missing"),
        (["plan", "--i", "x.star", "--continue", "run_it001_optimiser.star"], 2, "--continue"),
        (["plan", "--i", "x.star", "--devices", "0"], 2, "--devices 0"),
        (["plan", "--i", "x.star", "--rate", "0"], 2, "--rate 0"),
        (["plan", "--i", "x.star", "--price_per_hour", "-1"], 2, "--price_per_hour"),
        (["plan", "--i", "x.star", "--healpix_order", "12"], 2, "--healpix_order"),
        (["plan", "--i", "nowhere.star"], 3, "nowhere.star: no such file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert cli.run(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tomoburst: error")]
    assert len(lines) == 1
    assert message in lines[0]


def test_an_order_without_directions_is_a_mistake(star: Path, capsys: pytest.CaptureFixture[str]):
    assert plan(star, "--sym", "I2") == 2
    assert "--healpix_order, --sym" in capsys.readouterr().err


def test_steps_resolve_as_far_as_their_sampling_allows():
    policy = SchedulePolicy(box_size=64, pixel_size_angst=5.0, particle_diameter_angst=250.0, ini_high_angst=60.0)
    sampling = SamplingState(2, 15.0, 25.0, 10.0, healpix_order_original=2)
    steps = list(expected_steps(policy, sampling, 10, Assumptions(12.0, 4), 99, automatic=True))
    sizes = [step.schedule.current_size for step in steps]
    assert sizes == sorted(sizes)
    assert sizes[0] == 2 * (round(320 / 60) + 10)
    assert sizes[-1] == 64
    orders = [step.sampling.healpix_order for step in steps]
    assert orders == sorted(orders)
    assert steps[2].sampling.offset_step_angst < sampling.offset_step_angst


@pytest.mark.parametrize(("value", "text"), [(12.0, "12 s"), (150.0, "2.5 min"), (7200.0 * 2, "4 h")])
def test_durations(value: float, text: str):
    assert duration(value) == text


@pytest.mark.parametrize(("value", "text"), [(999, "999 B"), (2048, "2.05 kB"), (3e15, "3e+03 TB")])
def test_sizes(value: float, text: str):
    assert size(value) == text
