"""``tomoburst simulate``: files, conventions, levels and reproducibility."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile

from runner.errors import InputError, UsageError
from runner.formats.particles import read_particles
from runner.formats.structure import parse_atoms
from runner.plan.simulate_config import DemoConfig, SimulateConfig
from runner.simulate import run_simulate

BOX = 16
ATOM = "ATOM  {:5d}  {:<3s} ALA A   1    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           {:s}"
PDB = "\n".join(
    [
        ATOM.format(1, "CA", 10.0, 0.0, 0.0, "C"),
        ATOM.format(2, "N", 0.0, 20.0, 0.0, "N"),
        ATOM.format(3, "O", 0.0, 0.0, 30.0, "O"),
        ATOM.format(4, "P", -5.0, -5.0, -5.0, "P"),
        "HETATM    5  O   HOH A   2      90.000  90.000  90.000  1.00  0.00           O",
        "END",
        "",
    ]
)


def small(folder: Path, **changes: object) -> SimulateConfig:
    return replace(SimulateConfig(o=str(folder), n=4, box=BOX, angpix=10.0), **changes)  # type: ignore[arg-type]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_writes_what_the_reader_and_other_programs_expect(tmp_path: Path) -> None:
    run_simulate(small(tmp_path, n=6, n_micrographs=2))
    table = read_particles(str(tmp_path / "particles.star"))
    tables = starfile.read(tmp_path / "particles.star", always_dict=True)
    assert len(table) == 6
    assert table.micrograph_names == ["tomogram_001"] * 3 + ["tomogram_002"] * 3
    assert table.optics[0].pixel_size_angst == 10.0
    assert table.optics[0].image_size == BOX
    assert tables["optics"]["rlnImageDimensionality"].tolist() == [3]
    assert {"rlnCoordinateX", "rlnMicrographName", "rlnCtfImage", "rlnOriginZAngst"} <= set(tables["particles"].columns)
    with mrcfile.open(tmp_path / "subtomo" / "000006.mrc") as volume:
        assert volume.data.shape == (BOX,) * 3
        assert volume.voxel_size.x == pytest.approx(10.0)
    np.testing.assert_array_equal(table.origins_angst, 0.0)


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_simulate(small(tmp_path / name, random_seed=seed, ctf=True))
    first, second, third = (digest(tmp_path / name) for name in "abc")
    assert first == second
    assert all(first[name] != third[name] for name in first if name.startswith("subtomo"))


def test_truth_and_start_differ_by_the_angle_error(tmp_path: Path) -> None:
    from kernels.orientations import euler_to_matrix
    from kernels.poses import rotation_angle_deg

    run_simulate(small(tmp_path, n=200, box=8, angle_error=10.0, offset_sigma=1.5))
    truth, start = (read_particles(str(tmp_path / name)) for name in ("truth.star", "particles.star"))
    turns = np.swapaxes(euler_to_matrix(truth.angles_deg), 1, 2) @ euler_to_matrix(start.angles_deg)
    assert np.sqrt(np.mean(rotation_angle_deg(turns) ** 2)) == pytest.approx(10.0, rel=0.1)
    assert truth.origins_angst.std() == pytest.approx(15.0, rel=0.1)


def test_particles_are_normalised_and_empty_in_the_wedge(tmp_path: Path) -> None:
    run_simulate(small(tmp_path, particle_diameter=100.0))
    wedge = mrcfile.read(tmp_path / "ctf" / "wedge.mrc")
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    assert set(np.unique(wedge)) == {0.0, 1.0}
    for number in range(1, 5):
        volume = mrcfile.read(tmp_path / "subtomo" / f"00000{number}.mrc").astype(np.float64)
        outside = volume[radius > 5.0]
        assert outside.mean() == pytest.approx(0.0, abs=1e-5)
        assert outside.std() == pytest.approx(1.0, abs=1e-5)
        power = np.abs(np.fft.fftshift(np.fft.fftn(volume))) ** 2
        inner = (slice(1, None),) * 3
        empty = wedge[inner] == 0.0
        assert power[inner][empty].max() < 1e-8 * power[inner][~empty].mean()


def test_signal_to_noise_ratio_is_the_one_asked_for(tmp_path: Path) -> None:
    """The same seed with and without noise worth mentioning: the difference is the noise."""
    run_simulate(small(tmp_path / "noisy", n=30, snr=0.2))
    run_simulate(small(tmp_path / "clean", n=30, snr=1e8))
    axis = np.arange(BOX) - BOX // 2
    r2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    band = (r2 > 0) & (r2 < (BOX // 2) ** 2)
    ratios = []
    for number in range(1, 31):
        noisy, clean = (
            np.fft.fftshift(np.fft.fftn(mrcfile.read(tmp_path / name / "subtomo" / f"{number:06d}.mrc")))[band]
            for name in ("noisy", "clean")
        )
        signal = clean * np.vdot(clean, noisy) / np.vdot(clean, clean)
        ratios.append([np.sum(np.abs(signal) ** 2), np.sum(np.abs(noisy - signal) ** 2)])
    totals = np.sum(ratios, axis=0)
    assert totals[0] / totals[1] == pytest.approx(0.2, rel=0.1)


def test_noise_free_particles_back_in_place_are_the_truth(tmp_path: Path) -> None:
    """Undo offset and rotation by an independent interpolation, and compare with the true map."""
    from scipy.ndimage import map_coordinates
    from scipy.spatial.transform import Rotation

    run_simulate(small(tmp_path, n=3, box=32, angpix=5.0, snr=1e8, tilt_range=90.0, resolution=25.0, offset_sigma=1.0))
    truth = mrcfile.read(tmp_path / "truth.mrc").astype(np.float64)
    table = read_particles(str(tmp_path / "truth.star"))
    z, y, x = np.meshgrid(*(np.arange(32) - 16,) * 3, indexing="ij")
    for i in range(3):
        matrix = Rotation.from_euler("ZYZ", table.angles_deg[i], degrees=True).inv().as_matrix()
        places = (
            np.einsum("ab,bzyx->azyx", matrix, np.stack([x, y, z]))
            - (table.origins_angst[i] / 5.0)[:, None, None, None]
        )
        particle = mrcfile.read(tmp_path / "subtomo" / f"{i + 1:06d}.mrc").astype(np.float64)
        back = map_coordinates(particle, places[::-1] + 16, order=3)
        assert np.corrcoef(back[8:-8, 8:-8, 8:-8].ravel(), truth[8:-8, 8:-8, 8:-8].ravel())[0, 1] > 0.995


@pytest.mark.parametrize("half", [False, True])
def test_ctf_volumes_in_both_layouts(tmp_path: Path, half: bool) -> None:
    run_simulate(small(tmp_path, ctf=True, half_ctf=half))
    table = read_particles(str(tmp_path / "particles.star"))
    assert table.ctf_names == [f"ctf/{number:06d}.mrc" for number in range(1, 5)]
    volumes = [mrcfile.read(tmp_path / name) for name in table.ctf_names]
    assert volumes[0].shape == ((BOX, BOX, BOX // 2 + 1) if half else (BOX,) * 3)
    assert not np.array_equal(volumes[0], volumes[1])
    assert volumes[0].min() < 0.0


def test_classes_are_shared_evenly_and_have_maps(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(PDB)
    (tmp_path / "b.pdb.gz").write_bytes(gzip.compress(PDB.replace("30.000", "60.000").encode()))
    result = run_simulate(small(tmp_path / "out", n=10, model=f"{tmp_path}/a.pdb,{tmp_path}/b.pdb.gz"))
    table = read_particles(result.truth)
    assert sorted(table.class_number.tolist()) == [1] * 5 + [2] * 5
    assert [Path(name).name for name in result.maps] == ["truth_class1.mrc", "truth_class2.mrc"]
    first, second = (mrcfile.read(name) for name in result.maps)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.999


def test_map_input_gives_the_map_back_as_truth(tmp_path: Path) -> None:
    run_simulate(small(tmp_path / "first", resolution=40.0))
    run_simulate(small(tmp_path / "second", resolution=0.0, map=str(tmp_path / "first" / "truth.mrc")))
    first, second = (mrcfile.read(tmp_path / name / "truth.mrc").ravel() for name in ("first", "second"))
    assert np.corrcoef(first, second)[0, 1] > 0.999


def test_atoms_are_read_with_their_scattering_and_without_water() -> None:
    positions, weights = parse_atoms(PDB.encode(), "a.pdb")
    assert positions.tolist() == [[10, 0, 0], [0, 20, 0], [0, 0, 30], [-5, -5, -5]]
    np.testing.assert_allclose(weights, [2.51, 2.21, 1.98, 5.49], atol=0.01)


@pytest.mark.parametrize(
    "content", [b"", b"not atoms at all\n", b"data_x\n_cell.length_a 1\n", gzip.compress(b"x" * 99)[:20]]
)
def test_files_without_atoms_are_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"^bad\.pdb: "):
        parse_atoms(content, "bad.pdb")


def test_an_object_larger_than_the_box_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdb").write_text(PDB.replace("30.000", "900.00"))
    with pytest.raises(InputError, match="beyond half of the box"):
        run_simulate(small(tmp_path / "out", model=str(tmp_path / "a.pdb")))
    assert not (tmp_path / "out").exists()


def test_a_map_of_odd_size_is_refused(tmp_path: Path) -> None:
    mrcfile.write(tmp_path / "odd.mrc", np.zeros((15, 15, 15), np.float32), voxel_size=10.0)
    with pytest.raises(InputError, match="cubic map of even size"):
        run_simulate(small(tmp_path / "out", map=str(tmp_path / "odd.mrc")))


def test_an_earlier_simulation_is_replaced_only_when_asked(tmp_path: Path) -> None:
    run_simulate(small(tmp_path))
    with pytest.raises(UsageError, match="--overwrite"):
        run_simulate(small(tmp_path))
    run_simulate(small(tmp_path, overwrite=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("o", ""),
        ("shape", "cube"),
        ("sym", "X9"),
        ("n", 0),
        ("box", 15),
        ("angpix", 0.0),
        ("particle_diameter", 1000.0),
        ("snr", 0.0),
        ("offset_sigma", -1.0),
        ("angle_error", 200.0),
        ("n_micrographs", 99),
        ("random_seed", -1),
        ("noise_colour", -1.0),
        ("tilt_range", 0.0),
        ("tilt_step", 0.0),
        ("defocus_min", 9.0),
        ("voltage", 0.0),
        ("Cs", -1.0),
        ("Q0", 2.0),
        ("dose", -1.0),
    ],
)
def test_impossible_flags_are_named(tmp_path: Path, field: str, value: object) -> None:
    flag = {"random_seed": "seed"}.get(field, field)
    with pytest.raises(UsageError, match=f"--{flag}"):
        run_simulate(small(tmp_path / "out", **{field: value}))


@pytest.mark.parametrize("config", [DemoConfig(o=""), DemoConfig(j=0), DemoConfig(random_seed=-1)])
def test_impossible_demo_flags_are_refused(config: DemoConfig) -> None:
    with pytest.raises(UsageError, match="--"):
        config.validate()


def test_output_may_be_any_store() -> None:
    result = run_simulate(small(Path("memory:"), o="memory://simulated/set", n=2))
    table = read_particles(result.truth)
    assert result.particles == "memory://simulated/set/particles.star"
    assert len(table) == 2
