"""`tomoburst extract`: simulated particles come back out of a tomogram, real ones too; what is refused, and reruns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from runner import cli
from runner.extract import run_extract
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.star import read_star
from runner.plan.extract_config import ExtractConfig
from runner.plan.simulate_config import SimulateConfig
from runner.report.events import Events
from runner.simulate import run_simulate

COUNT, BOX, VOXEL_ANGST = 10, 16, 10.0
SHAPE = (20, 36, 84)  # z, y, x: two rows of five particles, and two voxels around
CENTRES = [(10 + 16 * (i % 5), 10 + 16 * (i // 5), 10) for i in range(COUNT)]  # x, y, z


@dataclass(frozen=True)
class Tilted:
    """A tomogram of simulated particles: its folder, and the STAR files of the particles before and the picks."""

    folder: Path
    simulated: Path
    picks: Path


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> Tilted:
    folder = tmp_path_factory.mktemp("tomogram")
    config = SimulateConfig(o=f"{folder}/simulated", n=COUNT, box=BOX, angpix=VOXEL_ANGST, angle_error=5, snr=0.5)
    simulated = Path(run_simulate(config).particles)
    volume = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    for number, (x, y, z) in enumerate(CENTRES, start=1):
        particle = read_mrc(f"{folder}/simulated/subtomo/{number:06d}.mrc").data
        volume[z - 8 : z + 8, y - 8 : y + 8, x - 8 : x + 8] = particle
    write_mrc(f"{folder}/tomo.mrc", volume, VOXEL_ANGST)
    angles = read_star(str(simulated)).blocks["particles"].columns
    write_picks(folder / "picks.star", {label: angles[label] for label in angles if label.startswith("rlnAngle")})
    return Tilted(folder, simulated, folder / "picks.star")


def write_picks(
    path: Path, columns: dict[str, list[str]], version: int = 40001, labels: str = "rlnCoordinate{}"
) -> None:
    """A STAR file as pyTME writes it."""
    centres = {labels.format(axis): [str(centre[i]) for centre in CENTRES] for i, axis in enumerate("XYZ")}
    table = {**centres, **columns}
    table.setdefault("rlnMicrographName", ["tomo.mrc"] * COUNT)
    head = "\n".join(f"_{label} #{number}" for number, label in enumerate(table, start=1))
    rows = "\n".join("\t".join(cells) for cells in zip(*table.values(), strict=True))
    path.write_text(f"# version {version}\n\ndata_particles\n\nloop_\n{head}\n{rows}\n")


def test_particles_come_out_as_they_went_in_and_are_averaged_and_refined(tilted: Tilted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.run(["extract", "--i", str(tilted.picks), "--o", str(out), "--extract_size", "16", "--wedge", "60"]) == 0
    for name in [*(f"subtomo/{number:06d}.mrc" for number in range(1, COUNT + 1)), "ctf/wedge.mrc"]:
        assert (out / name).read_bytes() == (tilted.simulated.parent / name).read_bytes()
    maps = []
    for star, name in ((out / "particles.star", "a"), (tilted.simulated, "b")):
        assert cli.run(["reconstruct", "--i", str(star), "--o", f"{tmp_path}/{name}.mrc", "--ctf"]) == 0
        words = (
            f"refine --i {star} --ref {tmp_path}/{name}.mrc --o {tmp_path}/{name}/run --ctf --iter 1 --healpix_order 0"
        )
        words += " --oversampling 0 --offset_range 1 --offset_step 1 --particle_diameter 120 --random_seed 1"
        assert cli.run(words.split()) == 0
        maps.append([(tmp_path / file).read_bytes() for file in (f"{name}.mrc", f"{name}/run_it001_class001.mrc")])
    assert maps[0] == maps[1]


def test_real_ribosomes_are_those_that_were_given(data_dir: Path, tmp_path: Path) -> None:
    """The tomogram was rounded to int16 at a standard deviation of 1000 after they were cut and normalised."""
    given = data_dir / "ribosomes_20A"
    with Events() as events:
        run_extract(
            ExtractConfig(
                i=f"{given}/reference_poses.star",
                tomogram=f"{data_dir}/tomogram_20A",
                o=f"{tmp_path}/out",
                extract_size=24,
                norm=True,
                bg_radius=0,
                ctf_file=f"{given}/wedge.mrc",
            ),
            events,
        )
    columns = read_star(f"{tmp_path}/out/particles.star").blocks["particles"].columns
    before = read_star(f"{given}/reference_poses.star").blocks["particles"].columns
    assert len(columns["rlnImageName"]) == 98  # two reach beyond the tomogram
    for row, name in enumerate(columns["rlnImageName"]):
        number = int(name[-10:-4])
        volume = read_mrc(f"{tmp_path}/out/{name}").data
        assert np.abs(volume - read_mrc(f"{given}/subtomo/p{number:03d}.mrc").data).max() < 6e-4
        for label in (
            "rlnAngleRot",
            "rlnAngleTilt",
            "rlnAnglePsi",
            "rlnOriginXAngst",
            "rlnOriginYAngst",
            "rlnOriginZAngst",
        ):
            assert float(columns[label][row]) == pytest.approx(float(before[label][number - 1]), abs=1e-5)
