"""`tomoburst extract`: simulated particles come back out of a tomogram, real ones too; what is refused, and reruns."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from runner import cli
from runner.errors import InputError
from runner.execute.tomogram import open_tomogram, read_boxes
from runner.extract import CLAIM, WORK, run_extract
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import read_particles
from runner.formats.star import read_star
from runner.plan.extract_config import ExtractConfig
from runner.plan.simulate_config import SimulateConfig
from runner.report.events import Events
from runner.simulate import run_simulate
from runner.store import objects
from runner.store.counts import request_counts, reset_request_counts
from tests.conftest import Bucket

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


def extract(tilted: Tilted, out: str | Path, **flags: Any) -> dict[str, list[str]]:
    """Run the command; returns the columns of the particles."""
    settings: dict[str, Any] = {"i": str(tilted.picks), "extract_size": BOX, "wedge": 60.0, "j": 2, **flags}
    with Events() as events:
        run_extract(ExtractConfig(o=str(out), **settings), events)
    return read_star(f"{out}/particles.star").blocks["particles"].columns


def contents(folder: str | Path) -> dict[str, bytes]:
    found = objects.list_objects(str(folder))
    return {each.url.removeprefix(str(folder)): objects.read_bytes(each.url) for each in found}


@pytest.fixture
def place() -> Iterator[str]:
    """URL of a folder in memory that is not there yet."""
    memory = fsspec.filesystem("memory")
    folder = f"memory://{uuid.uuid4().hex}"
    yield folder
    if memory.exists(folder):
        memory.rm(folder, recursive=True)


@pytest.fixture
def few_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tasks."""
    monkeypatch.setattr("runner.extract.MOST_PARTICLES", 2)


class Killed(BaseException):
    """The process ends."""


def dying(write: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """Let some calls through and end the process then."""

    def call(*args: Any) -> Any:
        if not left[0]:
            raise Killed
        left[0] -= 1
        return write(*args)

    return call


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


def test_nothing_depends_on_threads_workers_or_place(
    tilted: Tilted, tmp_path: Path, s3: Bucket, few_boxes: None
) -> None:
    extract(tilted, tmp_path / "local", j=1)
    expected = contents(tmp_path / "local")
    assert len(expected) == COUNT + 3
    extract(tilted, tmp_path / "workers", workers=2)
    assert contents(tmp_path / "workers") == expected
    for file in (tilted.picks, tilted.folder / "tomo.mrc"):
        objects.write_bytes(f"{s3.url}/in/{file.name}", file.read_bytes())
    extract(tilted, f"{s3.url}/out", i=f"{s3.url}/in/picks.star")
    in_bucket = contents(f"{s3.url}/out")
    assert in_bucket.pop(f"/{CLAIM}") != expected.pop(f"/{CLAIM}")  # names where the tomogram lies
    assert in_bucket == expected


def test_an_extraction_broken_off_anywhere_is_completed(
    tilted: Tilted, place: str, few_boxes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        extract(tilted, place, j=1)

    reset_request_counts()
    run()
    writes, expected = request_counts()["PUT"], contents(place)
    assert [name for name in expected if WORK in name] == [f"/{CLAIM}"]
    probes = 2  # made once for each place, to find out whether it can create an object on condition
    for survived in range(writes - probes):
        fsspec.filesystem("memory").rm(place, recursive=True)
        left = [survived]
        with monkeypatch.context() as patched:
            for name in ("write_bytes", "create_bytes"):
                patched.setattr(objects, name, dying(getattr(objects, name), left))
            with pytest.raises(Killed):
                run()
        assert not objects.exists(f"{place}/particles.star")
        reset_request_counts()
        run()
        assert contents(place) == expected
        assert (
            request_counts()["PUT"] <= writes - probes - survived + 4
        )  # one task of two volumes again, its mark, the CTF


def test_the_second_extraction_finds_the_first_and_another_is_refused(tilted: Tilted, place: str) -> None:
    extract(tilted, place)
    before = contents(place)
    reset_request_counts()
    extract(tilted, place)
    assert request_counts()["PUT"] == 0
    with pytest.raises(InputError, match=r"another extraction \(other flags, ctf\).*--overwrite"):
        extract(tilted, place, wedge=50.0)
    assert contents(place) == before
    extract(tilted, place, wedge=-1.0, overwrite=True)
    assert not objects.exists(f"{place}/ctf/wedge.mrc")


def test_a_folder_with_other_things_is_left_alone(tilted: Tilted, place: str) -> None:
    objects.write_bytes(f"{place}/particles.star", b"precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other things"):
            extract(tilted, place, overwrite=overwrite)
    assert contents(place) == {"/particles.star": b"precious"}


def test_only_the_rows_that_boxes_need_are_read(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(2).integers(-1000, 1000, (40, 200, 100)).astype(np.float32)
    write_mrc(f"{place}/tomo.mrc", data, 10.0)
    tomogram, _ = open_tomogram(f"{place}/tomo.mrc")
    starts = [(3, 10, 20), (3, 150, -4), (30, 100, 96)]
    expected = np.stack([np.pad(data, 8, mode="edge")[z + 8 :, y + 8 :, x + 8 :][:8, :8, :8] for z, y, x in starts])
    rows = 3 * 8 * 8 * 400
    for gap, least, most in ((0, rows, rows), (2**20, rows, (8 + 8) * 200 * 400)):
        monkeypatch.setattr("runner.execute.tomogram.GAP_BYTES", gap)
        reset_request_counts()
        assert np.array_equal(read_boxes(tomogram, starts, 8), expected)
        assert least <= request_counts()["bytes_read"] <= most


@pytest.mark.parametrize(
    ("labels", "version", "unit", "offset_px", "flags"),
    [
        ("rlnCoordinate{}", 40001, VOXEL_ANGST, 0, {}),
        ("rlnCoordinate{}", 40001, 4.0, 0, {"coords_angpix": 4.0}),
        ("rlnCenteredCoordinate{}Angst", 50001, 1.0, 1, {}),
        ("rlnCoordinate{}", 50001, 1.0, 1, {}),
        ("rlnCoordinate{}", 40001, 1.0, 1, {"centered": True}),
    ],
    ids=["voxels", "voxels of another size", "RELION 5", "pyTME 0.3 for RELION 5", "as the user says"],
)
def test_every_kind_of_coordinate(
    tilted: Tilted, tmp_path: Path, labels: str, version: int, unit: float, offset_px: int, flags: dict[str, Any]
) -> None:
    """Positions a fifth of a voxel off their voxels: the rest stays as an offset, whatever the coordinates are."""
    middle = offset_px * np.array(SHAPE[::-1]) // 2
    places = np.array(CENTRES) + np.array([0.2, -0.2, 0.0])
    values = (places - middle) * (VOXEL_ANGST / unit)
    columns = {labels.format(axis): [f"{value:.6f}" for value in values[:, i]] for i, axis in enumerate("XYZ")}
    write_picks(tilted.folder / "other.star", columns, version)
    found = extract(tilted, tmp_path / "out", i=str(tilted.folder / "other.star"), **flags)
    for i, axis in enumerate("XYZ"):
        assert [float(value) for value in found[f"rlnCoordinate{axis}"]] == [centre[i] for centre in CENTRES]
        left = [-2.0, 2.0, 0.0][i]
        assert [float(value) for value in found[f"rlnOrigin{axis}Angst"]] == pytest.approx([left] * COUNT, abs=1e-4)
    assert (tmp_path / "out/subtomo/000001.mrc").read_bytes() == (
        tilted.simulated.parent / "subtomo/000001.mrc"
    ).read_bytes()


def test_offsets_move_the_box_and_other_columns_stay(tilted: Tilted, tmp_path: Path) -> None:
    columns = {
        **{f"rlnCoordinate{axis}": [str(centre[i] + 2) for centre in CENTRES] for i, axis in enumerate("XYZ")},
        **{f"rlnOrigin{axis}Angst": ["21.500000"] * COUNT for axis in "XYZ"},
        "pytmeScore": [f"0.{number}" for number in range(COUNT)],
        "rlnClassNumber": ["-1.0"] * COUNT,
        "rlnTomoName": ["0045"] * COUNT,
    }
    write_picks(tilted.folder / "moved.star", columns)
    found = extract(tilted, tmp_path / "out", i=str(tilted.folder / "moved.star"))
    assert [float(value) for value in found["rlnCoordinateX"]] == [centre[0] for centre in CENTRES]
    assert {float(value) for value in found["rlnOriginZAngst"]} == {1.5}
    assert found["pytmeScore"] == columns["pytmeScore"]
    assert not {"rlnClassNumber", "rlnTomoName"} & found.keys()
    assert len(read_particles(f"{tmp_path}/out/particles.star")) == COUNT


def test_boxes_beyond_the_tomogram(tilted: Tilted, tmp_path: Path) -> None:
    skipped = extract(tilted, tmp_path / "skipped", i=edge_picks(tilted))
    assert [name[-10:-4] for name in skipped["rlnImageName"]] == [f"{number:06d}" for number in range(2, COUNT + 1)]
    padded = extract(tilted, tmp_path / "padded", i=edge_picks(tilted), edge="pad")
    assert len(padded["rlnImageName"]) == COUNT
    volume = read_mrc(f"{tmp_path}/padded/subtomo/000001.mrc").data
    assert np.array_equal(volume[:, :, 0], volume[:, :, 4])


def edge_picks(tilted: Tilted) -> str:
    """The first box reaches four voxels beyond the tomogram."""
    columns = {"rlnCoordinateX": ["4", *(str(centre[0]) for centre in CENTRES[1:])]}
    write_picks(tilted.folder / "edge.star", columns)
    return str(tilted.folder / "edge.star")


@pytest.mark.parametrize(
    ("code", "words", "flags"),
    [
        (2, ("--extract_size 15", "even"), "--extract_size 15"),
        (2, ("--edge wrap", "skip, pad, fail"), "--edge wrap"),
        (2, ("--bg_radius", "--norm"), "--bg_radius 5"),
        (2, ("--wedge", "--ctf_file"), "--wedge 60 --ctf_file tomo.mrc"),
        (3, ("nosuch.star", "no such file"), "--i nosuch.star"),
        (3, ("tomo.mrc", "is not a text file"), "--i tomo.mrc"),
        (3, ("nosuch.mrc", "no such file"), "--tomogram nosuch.mrc"),
        (3, ("cannot find the tomogram 'tomo.mrc'", "--tomogram"), "--tomogram nosuch"),
        (3, ("truncated", "copy it again"), "--tomogram short.mrc"),
        (3, ("edge.star row 1", "reaches beyond", "--edge skip"), "--i edge.star --edge fail"),
        (3, ("picks.star row 1", "and so do all", "--edge pad"), "--extract_size 32"),
        (3, ("outside.star row 2", "lies outside", "84 x 36 x 20"), "--i outside.star"),
        (3, ("nan.star row 1", "rlnCoordinateX", "finite"), "--i nan.star"),
        (3, ("relion5.star", "--centered", "--coords_angpix"), "--i relion5.star"),
        (3, ("half.star", "rlnAnglePsi", "missing"), "--i half.star"),
        (3, ("turned.star", "rlnTomoSubtomogramRot"), "--i turned.star"),
        (3, ("rlnImagePixelSize", "20", "--coords_angpix 20"), "--i binned.star"),
        (3, ("two.star", "2 tomograms", "folder"), "--i two.star --tomogram tomo.mrc"),
        (3, ("--ctf_file tomo.mrc", "84 x 36 x 20", "16"), "--ctf_file tomo.mrc"),
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(
    tilted: Tilted,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    words: tuple[str, ...],
    flags: str,
) -> None:
    monkeypatch.chdir(tilted.folder)
    Path("short.mrc").write_bytes(Path("tomo.mrc").read_bytes()[:-1])
    edge_picks(tilted)
    for name, columns in {
        "outside": {"rlnCoordinateX": ["10", "84", *["10"] * (COUNT - 2)]},
        "nan": {"rlnCoordinateX": ["nan"] * COUNT},
        "half": {"rlnAngleRot": ["0"] * COUNT, "rlnAngleTilt": ["0"] * COUNT},
        "turned": {"rlnTomoSubtomogramRot": ["30"] * COUNT},
        "two": {"rlnMicrographName": ["tomo.mrc", *["other.mrc"] * (COUNT - 1)]},
    }.items():
        write_picks(Path(f"{name}.star"), columns)
    write_picks(Path("relion5.star"), {}, 50001)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 20.0\n\n"
    Path("binned.star").write_text(optics + Path("picks.star").read_text())
    before = set(contents(tilted.folder))
    words_given = ["extract", "--i", "picks.star", "--o", "refused", "--extract_size", "16", *flags.split()]
    assert cli.run(words_given) == code
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("tomoburst: error: ")
    assert [word for word in words if word not in line] == [], line
    assert set(contents(tilted.folder)) == before


def test_a_box_with_nan_is_named(tilted: Tilted, tmp_path: Path) -> None:
    volume = read_mrc(str(tilted.folder / "tomo.mrc")).data.copy()
    volume[10, 10, 26] = np.nan
    write_mrc(f"{tmp_path}/tomo.mrc", volume, VOXEL_ANGST)
    with pytest.raises(InputError, match=r"picks.star row 2: 1 of 4096 voxels of its box are NaN"):
        extract(tilted, tmp_path / "out", tomogram=str(tmp_path))
    assert not (tmp_path / "out/particles.star").exists()


def test_ctf_volumes_of_the_positions_are_kept(tilted: Tilted, tmp_path: Path) -> None:
    columns = {"rlnCtfImage": ["simulated/ctf/wedge.mrc"] * COUNT}
    write_picks(tilted.folder / "with_ctf.star", columns)
    found = extract(tilted, tmp_path / "out", i=str(tilted.folder / "with_ctf.star"), wedge=-1.0)
    assert set(found["rlnCtfImage"]) == {str(tilted.folder / "simulated/ctf/wedge.mrc")}
    write_picks(tilted.folder / "no_ctf.star", {"rlnCtfImage": ["None"] * COUNT})
    assert "rlnCtfImage" not in extract(tilted, tmp_path / "none", i=str(tilted.folder / "no_ctf.star"), wedge=-1.0)
