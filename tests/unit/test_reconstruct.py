"""``tomoburst reconstruct`` as a function: selection, target, FSC files, independence of threads, errors."""

from __future__ import annotations

import dataclasses

import mrcfile
import numpy as np
import pytest

from runner.errors import InputError, StorageError, UsageError
from runner.formats.mrc import read_mrc
from runner.formats.particles import read_particles
from runner.plan.config import ReconstructConfig
from runner.reconstruct import plan_target, read_fsc, run_reconstruct, select_particles
from runner.report.events import Events

SIZE, COUNT, PIXEL = 12, 40, 4.0


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """Folder with 40 noise particles in random poses, half sets, classes, and two CTF volumes."""
    folder = tmp_path_factory.mktemp("particles")
    rng = np.random.default_rng(1)
    rows = []
    for index in range(COUNT):
        volume = rng.normal(size=(SIZE,) * 3).astype(np.float32)
        mrcfile.write(folder / f"p{index:02d}.mrc", volume, voxel_size=PIXEL)
        pose = " ".join(f"{value:.4f}" for value in (*rng.uniform(-90, 90, 3), *rng.normal(0, 4, 3)))
        rows.append(f"p{index:02d}.mrc c{index % 2}.mrc 1 {pose} {1 + index % 2} {1 + index // 30}")
    for index in range(2):
        mrcfile.write(folder / f"c{index}.mrc", rng.uniform(0.2, 1.0, (SIZE,) * 3).astype(np.float32), voxel_size=PIXEL)
    labels = "ImageName CtfImage OpticsGroup AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst OriginZAngst "
    labels += "RandomSubset ClassNumber"
    lines = ["", "# version 30001", "", "data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnVoltage #2"]
    lines += ["_rlnSphericalAberration #3", "_rlnImagePixelSize #4", "_rlnImageSize #5", "_rlnImageDimensionality #6"]
    lines += [f"1 300 2.7 {PIXEL} {SIZE} 3", "", "# version 30001", "", "data_particles", "", "loop_"]
    lines += [*(f"_rln{label} #{number}" for number, label in enumerate(labels.split(), 1)), *rows, ""]
    (folder / "particles.star").write_text("\n".join(lines))
    return folder


def reconstruct(folder, output, **flags):
    config = ReconstructConfig(i=str(folder / "particles.star"), o=str(output), **flags)
    run_reconstruct(config, Events())
    return output


@pytest.mark.parametrize("ctf", [True, False])
def test_the_bytes_do_not_depend_on_the_number_of_threads(particles, tmp_path, ctf):
    maps = [reconstruct(particles, tmp_path / f"{j}.mrc", ctf=ctf, j=j).read_bytes() for j in (1, 2, 5)]
    assert maps[0] == maps[1] == maps[2]


def test_the_map_has_the_particles_box_and_voxel_size_and_its_folder_is_made(particles, tmp_path):
    made = read_mrc(str(reconstruct(particles, tmp_path / "new" / "folder" / "map.mrc")))
    assert made.data.shape == (SIZE,) * 3
    assert made.voxel_size_angst == pytest.approx(PIXEL)
    assert made.data.std() > 0.0


def test_half_sets_and_classes_are_selected(particles):
    table = read_particles(str(particles / "particles.star"))
    assert len(select_particles(table, -1, -1)) == COUNT
    assert np.all(select_particles(table, 2, -1).random_subset == 2)
    both = select_particles(table, 1, 2)
    assert len(both) == 5
    assert np.all(both.class_number == 2)


def test_an_empty_selection_is_refused(particles):
    table = read_particles(str(particles / "particles.star"))
    with pytest.raises(InputError, match=r"none of 40 particles"):
        select_particles(table, -1, 7)
    del table.columns["rlnRandomSubset"]
    with pytest.raises(InputError, match=r"column rlnRandomSubset is missing"):
        select_particles(table, 1, -1)


@pytest.mark.parametrize(
    ("flags", "r_max", "voxel"),
    [
        ({}, 6, 4.0),
        ({"maxres": 12.0}, 4, 4.0),
        ({"maxres": 11.0}, 5, 4.0),  # rounded up
        ({"maxres": 1.0}, 6, 4.0),  # Nyquist is the limit
        ({"angpix": 2.0, "maxres": 8.0}, 3, 2.0),
    ],
)
def test_resolution_limit_and_voxel_size(particles, flags, r_max, voxel):
    table = read_particles(str(particles / "particles.star"))
    target = plan_target(table, ReconstructConfig(**flags))
    assert (target.box, target.voxel_size_angst, target.r_max) == (SIZE, voxel, r_max)


def write_fsc(path, rows, labels=("rlnSpectralIndex", "rlnGoldStandardFsc")):
    lines = ["data_model_general", "", "_rlnNrClasses 1", "", "data_model_class_1", "", "loop_"]
    lines += [*(f"_{label} #{number}" for number, label in enumerate(labels, 1)), *rows, ""]
    path.write_text("\n".join(lines))
    return str(path)


def test_an_fsc_is_found_in_a_model_file(tmp_path):
    url = write_fsc(tmp_path / "model.star", ["0 1.0", "1 0.8", "3 0.25", "9 0.1"])
    assert read_fsc(url, 8) == pytest.approx([1.0, 0.8, 0.0, 0.25, 0.0])


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (["0 1.0"], ("rlnSpectralIndex", "rlnSsnrMap"), "no table with rlnSpectralIndex"),
        (["0 1.0", "1 high"], ("rlnSpectralIndex", "rlnGoldStandardFsc"), "data_model_class_1 row 2: '1' and 'high'"),
        (["0 nan"], ("rlnSpectralIndex", "rlnGoldStandardFsc"), "row 1: shell 0 has the FSC nan"),
        (["-1 0.5"], ("rlnSpectralIndex", "rlnGoldStandardFsc"), "shell -1"),
    ],
)
def test_a_damaged_fsc_file_is_refused(tmp_path, rows, labels, message):
    with pytest.raises(InputError, match=message):
        read_fsc(write_fsc(tmp_path / "model.star", rows, labels), 8)


def test_an_fsc_regularises_the_map(particles, tmp_path):
    plain = read_mrc(str(reconstruct(particles, tmp_path / "plain.mrc"))).data
    url = write_fsc(tmp_path / "fsc.star", [f"{shell} {0.9**shell:.4f}" for shell in range(7)])
    damped = read_mrc(str(reconstruct(particles, tmp_path / "damped.mrc", fsc=url))).data
    assert 0.0 < damped.std() < plain.std()


def test_a_symmetric_map_is_symmetric(particles, tmp_path):
    made = read_mrc(str(reconstruct(particles, tmp_path / "c2.mrc", ctf=True, sym="C2"))).data
    inner = made[1:, 1:, 1:]
    assert inner == pytest.approx(inner[:, ::-1, ::-1], abs=2e-6 * float(np.abs(made).max()))


def test_errors_leave_no_file_behind(particles, tmp_path):
    output = tmp_path / "map.mrc"
    with pytest.raises(UsageError, match="C0"):
        reconstruct(particles, output, sym="C0")
    with pytest.raises(UsageError, match="--pad"):
        reconstruct(particles, output, pad=0)
    with pytest.raises(InputError, match=r"absent\.star"):
        run_reconstruct(ReconstructConfig(i=str(tmp_path / "absent.star"), o=str(output)), Events())
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_particle_stops_the_run_whatever_the_threads(particles, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in particles.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "p37.mrc").write_bytes((folder / "p37.mrc").read_bytes()[:-4])
    for threads in (1, 3):
        with pytest.raises(InputError, match=r"row 38 \(p37\.mrc\).*truncated"):
            reconstruct(folder, tmp_path / "map.mrc", j=threads)
    assert not (tmp_path / "map.mrc").exists()


def test_an_unwritable_output_is_refused(particles, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        reconstruct(particles, tmp_path / "file" / "map.mrc")


def test_progress_counts_every_particle(particles, tmp_path):
    class Record:
        def __init__(self):
            self.names, self.done = [], []

        def write(self, event):
            self.names.append(event.name)
            if event.name == "unit_finished":
                self.done.append((event.done, event.total))

        def close(self):
            self.names.append("closed")

    record = Record()
    config = ReconstructConfig(i=str(particles / "particles.star"), o=str(tmp_path / "map.mrc"))
    with Events(record) as events:
        run_reconstruct(dataclasses.replace(config, subset=1), events)
    assert record.done == [(16, 20), (20, 20)]
    assert record.names[0] == "run_started"
    assert record.names[-2:] == ["run_finished", "closed"]
