"""Particle tables of every dialect, what is refused and how, and the data.star that goes out again."""

from __future__ import annotations

import re

import numpy as np
import pytest

from runner.errors import InputError
from runner.formats.mrc import write_mrc
from runner.formats.particles import data_blocks, read_particles
from runner.formats.star import format_star, parse_star

BOX = 8
OPTICS = {
    "rlnOpticsGroup": "1",
    "rlnOpticsGroupName": "opticsGroup1",
    "rlnSphericalAberration": "2.700000",
    "rlnVoltage": "300.000000",
    "rlnImageSize": str(BOX),
    "rlnImageDimensionality": "3",
    "rlnImagePixelSize": "10.000000",
}


def table_text(name, columns):
    labels = "".join(f"_{label} #{number}\n" for number, label in enumerate(columns, start=1))
    rows = "".join(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))
    return f"data_{name}\n\nloop_\n{labels}{rows}\n"


class Project:
    """A folder with three subtomograms, one shared wedge and a particle table that a test may change."""

    def __init__(self, folder):
        self.folder = folder
        for number in (1, 2, 3):
            write_mrc(f"{folder}/sub/{number}.mrc", np.full((BOX,) * 3, number, dtype=np.float32), 10.0)
        write_mrc(f"{folder}/wedge.mrc", np.ones((BOX,) * 3, dtype=np.float32), 1.0)
        self.optics = {label: [value] for label, value in OPTICS.items()}
        self.particles = {
            "rlnTomoName": ["0045", "0046", "0045"],
            "rlnImageName": ["sub/1.mrc", "sub/2.mrc", "sub/3.mrc"],
            "rlnCtfImage": ["wedge.mrc"] * 3,
            "rlnMicrographName": ["b.mrc", "a.mrc", "b.mrc"],
            "rlnAngleRot": ["10.5", "-20", "3e1"],
            "rlnAngleTilt": ["1", "2", "3"],
            "rlnAnglePsi": ["4", "5", "6"],
            "pytmeScore": ["4.5e-9", "0.50", "1"],
            "rlnOpticsGroup": ["1"] * 3,
        }
        self.head = "# version 30001\n\n"

    def text(self):
        optics = table_text("optics", self.optics) if self.optics else ""
        return self.head + optics + table_text("particles" if self.optics else "", self.particles)

    def read(self, check_files=True):
        path = self.folder / "particles.star"
        path.write_text(self.text())
        return read_particles(str(path), check_files)

    def refused(self, check_files=True):
        with pytest.raises(InputError) as caught:
            self.read(check_files)
        message = str(caught.value)
        assert "\n" not in message
        assert str(self.folder) in message
        return message


@pytest.fixture
def project(tmp_path, monkeypatch):
    working = tmp_path / "elsewhere"
    working.mkdir()
    monkeypatch.chdir(working)
    return Project(tmp_path / "project")


def test_a_table_of_relion_31(project):
    table = project.read()
    assert len(table) == 3
    assert table.dialect == "3.1"
    assert table.image_names == ["sub/2.mrc", "sub/1.mrc", "sub/3.mrc"]
    assert table.image_urls[0] == f"{project.folder}/sub/2.mrc"
    assert table.ctf_names == ["wedge.mrc"] * 3
    assert table.ctf_urls == [f"{project.folder}/wedge.mrc"] * 3
    np.testing.assert_array_equal(table.angles_deg, [[-20, 2, 5], [10.5, 1, 4], [30, 3, 6]])
    np.testing.assert_array_equal(table.origins_angst, np.zeros((3, 3)))
    np.testing.assert_array_equal(table.origin_priors_angst, np.zeros((3, 3)))
    assert np.isnan(table.angle_priors_deg).all()
    assert table.class_number.tolist() == [0, 0, 0]
    assert table.random_subset.tolist() == [0, 0, 0]
    assert table.norm_correction.tolist() == [1, 1, 1]
    assert table.group_names == ["a.mrc", "b.mrc"]
    assert table.group_index.tolist() == [0, 1, 1]
    assert table.row_number.tolist() == [2, 1, 3]
    assert table.describe(1) == f"{project.folder}/particles.star row 1 (sub/1.mrc)"
    assert table.notes == []
    optics = table.optics[0]
    assert (optics.group, optics.name, optics.pixel_size_angst, optics.image_size) == (1, "opticsGroup1", 10.0, BOX)
    assert optics.columns == OPTICS
    assert not optics.ctf_premultiplied


def test_unknown_columns_and_strings_stay(project):
    table = project.read()
    assert list(table.columns) == list(project.particles)
    assert table.columns["rlnTomoName"] == ["0046", "0045", "0045"]
    assert table.columns["pytmeScore"] == ["0.50", "4.5e-9", "1"]


def test_select(project):
    table = project.read()
    part = table.select(np.array([False, True, True])).select([1, 0])
    assert part.image_names == ["sub/3.mrc", "sub/1.mrc"]
    assert part.columns["rlnAngleRot"] == ["3e1", "10.5"]
    np.testing.assert_array_equal(part.angles_deg, [[30, 3, 6], [10.5, 1, 4]])
    assert part.group_names == table.group_names
    assert part.group_index.tolist() == [1, 1]


def test_groups_by_name_then_micrograph_then_tomogram_then_one(project):
    project.particles["rlnMicrographName"] = ["Ts/job004/b.mrc", "Ts/job012/a.mrc", "Ts/job004/b.mrc"]
    assert project.read().group_names == ["b.mrc", "a.mrc"]
    del project.particles["rlnMicrographName"]
    table = project.read()
    assert table.group_names == ["0045", "0046"]
    assert table.image_names == ["sub/1.mrc", "sub/3.mrc", "sub/2.mrc"]
    assert table.micrograph_names is None
    project.particles["rlnGroupName"] = ["g2", "g1", "g1"]
    assert project.read().group_names == ["g2", "g1"]
    del project.particles["rlnGroupName"], project.particles["rlnTomoName"]
    assert project.read().group_names == ["group"]


def test_poses_subsets_priors_and_classes(project):
    project.particles.update(
        rlnOriginXAngst=["1", "2", "3"],
        rlnOriginZAngst=["-4.5", "0", "0"],
        rlnAngleTiltPrior=["999.000000", "90", "90"],
        rlnOriginXPriorAngst=["0", "7", "0"],
        rlnClassNumber=["1.000000", "2", "1"],
        rlnRandomSubset=["1", "2", "1"],
        rlnNormCorrection=["0.9", "1", "1"],
    )
    table = project.read()
    np.testing.assert_array_equal(table.origins_angst, [[2, 0, 0], [1, 0, -4.5], [3, 0, 0]])
    np.testing.assert_array_equal(table.angle_priors_deg[:, 1], [90, np.nan, 90])
    assert np.isnan(table.angle_priors_deg[:, [0, 2]]).all()
    np.testing.assert_array_equal(table.origin_priors_angst[:, 0], [7, 0, 0])
    poses = table.poses()
    assert poses.class_number.tolist() == [2, 1, 1]
    assert poses.random_subset.tolist() == [2, 1, 1]
    assert poses.norm_correction.tolist() == [1, 0.9, 1]
    poses.angles_deg[:] = 0
    assert table.angles_deg[0, 0] == -20


def test_a_table_without_ctf_volumes(project):
    project.particles["rlnCtfImage"] = ["None"] * 3
    assert project.read().ctf_urls is None
    del project.particles["rlnCtfImage"]
    assert project.read().ctf_names is None


def test_a_single_table_of_relion_30(project):
    project.optics = {}
    project.head = ""
    del project.particles["rlnOpticsGroup"]
    project.particles.update(
        rlnMagnification=["10000", "10000.0", "20000"],
        rlnDetectorPixelSize=["10", "10.0", "20"],
        rlnVoltage=["300", "300.0", "200"],
        rlnOriginX=["1", "2", "-3"],
        rlnOriginZPrior=["1", "0", "0"],
    )
    table = project.read()
    assert table.dialect == "3.0"
    assert [optics.pixel_size_angst for optics in table.optics] == [10.0, 10.0]
    assert table.optics[0].columns == {
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnVoltage": "300",
        "rlnImagePixelSize": "10.000000",
        "rlnImageSize": "8",
        "rlnImageDimensionality": "3",
        "rlnSphericalAberration": "2.700000",
    }
    assert [optics.columns["rlnVoltage"] for optics in table.optics] == ["300", "200"]
    assert table.optics_index.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(table.origins_angst[:, 0], [20, 10, -30])
    np.testing.assert_array_equal(table.origin_priors_angst[:, 2], [0, 10, 0])
    gone = {"rlnMagnification", "rlnDetectorPixelSize", "rlnVoltage", "rlnOriginX", "rlnOriginZPrior"}
    assert not gone & table.columns.keys()
    assert table.columns["rlnOriginXAngst"] == ["20.000000", "10.000000", "-30.00000"]
    assert table.columns["rlnOpticsGroup"] == ["1", "1", "2"]
    assert len(table.notes) == 2
    assert "rlnSphericalAberration is missing" in table.notes[0]


def test_a_table_without_optics_takes_the_pixel_size_of_its_volumes(project):
    project.optics = {}
    del project.particles["rlnOpticsGroup"]
    table = project.read()
    assert table.optics[0].pixel_size_angst == 10.0
    assert "10.0000 A is that of its first volume" in table.notes[0]
    write_mrc(f"{project.folder}/sub/1.mrc", np.zeros((BOX,) * 3, dtype=np.float32), 1.0)
    assert "no pixel size" in project.refused()


def test_old_pytme_output(project):
    """Optics, particles without micrographs, one shared CTF volume, tabs."""
    del project.particles["rlnMicrographName"], project.particles["rlnTomoName"]
    project.head = "# Created using pytme\n"
    table = project.read()
    assert set(table.ctf_urls) == {f"{project.folder}/wedge.mrc"}
    assert table.group_names == ["group"]


def test_what_only_the_volumes_know(project):
    del project.optics["rlnImageDimensionality"], project.optics["rlnImageSize"]
    optics = project.read().optics[0]
    assert optics.image_size == BOX
    assert optics.columns["rlnImageDimensionality"] == "3"
    assert project.read(check_files=False).optics[0].image_size == 0


def test_one_optics_group_needs_no_column(project):
    del project.particles["rlnOpticsGroup"]
    table = project.read()
    assert table.columns["rlnOpticsGroup"] == ["1"] * 3
    assert "only group 1" in table.notes[0]


@pytest.mark.parametrize(
    ("head", "label", "dialect"),
    [
        ("# version 30001\n", "rlnTomoParticleName", "4"),
        ("# version 40001\n", "other", "4"),
        ("# version 50001\n", "other", "5"),
        ("", "rlnTomoVisibleFrames", "5"),
        ("", "other", "3.1"),
    ],
)
def test_dialects_and_the_meaning_of_premultiplied_ctf_volumes(project, head, label, dialect):
    project.head = head
    project.particles[label] = ["1", "2", "3"]
    project.optics["rlnCtfDataAreCtfPremultiplied"] = ["1"]
    table = project.read()
    assert table.dialect == dialect
    assert table.optics[0].ctf_premultiplied
    assert table.optics[0].ctf_squared == (dialect != "3.1")


def test_the_frame_of_a_pseudo_subtomogram_stays_in_its_columns(project):
    """RELION 4 cuts volumes in the frame of rlnTomoSubtomogram*: rlnAngle* alone relate them to the reference."""
    frame = {f"rlnTomoSubtomogram{angle}": ["90", "80", "70"] for angle in ("Rot", "Tilt", "Psi")}
    project.particles.update(frame)
    table = project.read()
    np.testing.assert_array_equal(table.angles_deg[0], [-20, 2, 5])
    assert table.columns["rlnTomoSubtomogramRot"] == ["80", "90", "70"]


def test_files_are_found_from_the_working_directory_too(project, monkeypatch):
    (project.folder / "Extract" / "job1").mkdir(parents=True)
    path = project.folder / "Extract" / "job1" / "particles.star"
    path.write_text(project.text())
    monkeypatch.chdir(project.folder)
    assert read_particles(str(path)).image_urls[0] == f"{project.folder}/sub/2.mrc"


def test_a_table_in_another_store(project):
    project.folder = "memory://bucket/set"
    Project.__init__(project, "memory://bucket/set")
    from runner.store.objects import write_bytes

    write_bytes("memory://bucket/set/particles.star", project.text().encode())
    table = read_particles("memory://bucket/set/particles.star")
    assert table.image_urls[0] == "memory://bucket/set/sub/2.mrc"


CHANGES = {
    "no image column": (lambda p: p.particles.pop("rlnImageName"), "column rlnImageName is missing in data_particles"),
    "no particles": (lambda p: [values.clear() for values in p.particles.values()], "holds no particles"),
    "text for a number": (lambda p: p.particles.update(rlnAngleTilt=["1", "x", "3"]), "row 2: rlnAngleTilt is 'x'"),
    "empty number": (lambda p: p.particles.update(rlnAngleTilt=["1", '""', "3"]), "row 2: rlnAngleTilt is ''"),
    "NaN angle": (lambda p: p.particles.update(rlnAnglePsi=["1", "2", "nan"]), "row 3: rlnAnglePsi is 'nan'"),
    "NaN position": (lambda p: p.particles.update(rlnCoordinateY=["1", "inf", "2"]), "row 2: rlnCoordinateY is 'inf'"),
    "half a class": (lambda p: p.particles.update(rlnClassNumber=["1", "1.5", "1"]), "row 2: rlnClassNumber is '1.5'"),
    "third subset": (lambda p: p.particles.update(rlnRandomSubset=["1", "2", "3"]), "row 3: rlnRandomSubset is 3"),
    "subset partly 0": (lambda p: p.particles.update(rlnRandomSubset=["1", "0", "2"]), "row 2: rlnRandomSubset is 0"),
    "twice": (
        lambda p: p.particles["rlnImageName"].__setitem__(2, "sub/1.mrc"),
        "rows 1 and 3: the same particle sub/1.mrc",
    ),
    "unknown group": (
        lambda p: p.particles.update(rlnOpticsGroup=["1", "1", "4"]),
        "row 3: rlnOpticsGroup 4 is not in",
    ),
    "no group number": (
        lambda p: p.optics.pop("rlnOpticsGroup"),
        "data_optics row 1: column rlnOpticsGroup is missing",
    ),
    "bad group number": (
        lambda p: p.optics.update(rlnOpticsGroup=["one"]),
        "data_optics row 1: rlnOpticsGroup is 'one'",
    ),
    "zero pixel": (lambda p: p.optics.update(rlnImagePixelSize=["0"]), "optics group 1: rlnImagePixelSize is 0"),
    "2D": (lambda p: p.optics.update(rlnImageDimensionality=["2"]), "rlnImageDimensionality is 2, but 3D"),
    "odd box": (lambda p: p.optics.update(rlnImageSize=["9"]), "rlnImageSize is 9, an even number"),
    "stack": (
        lambda p: p.particles["rlnImageName"].__setitem__(1, "x/2_stack2d.mrcs"),
        "row 2: rlnImageName x/2_stack2d.mrcs",
    ),
    "slice": (
        lambda p: p.particles["rlnImageName"].__setitem__(0, "1@x.mrc"),
        "row 1: rlnImageName 1@x.mrc is a stack",
    ),
    "part of the CTFs": (lambda p: p.particles["rlnCtfImage"].__setitem__(2, "None"), "row 3: rlnCtfImage is empty"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_bad_tables_are_refused_with_row_and_column(project, case):
    change, message = CHANGES[case]
    change(project)
    assert message in project.refused()


def test_a_missing_file_names_the_row_and_both_places(project):
    project.particles["rlnImageName"][1] = "sub/7.mrc"
    message = project.refused()
    assert "row 2, rlnImageName: cannot find 'sub/7.mrc'" in message
    assert f"{project.folder}/sub/7.mrc and " in message
    assert "elsewhere/sub/7.mrc" in message


def test_groups_without_a_column_to_choose_them(project):
    project.optics = {label: values * 2 for label, values in project.optics.items()}
    assert "optics group 1 occurs twice" in project.refused()
    project.optics["rlnOpticsGroup"] = ["1", "2"]
    del project.particles["rlnOpticsGroup"]
    assert "column rlnOpticsGroup is missing and data_optics has 2 groups" in project.refused()


def test_stacks_of_relion_5_are_refused_with_the_way_out(project):
    project.head = "# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\n"
    assert re.search(r"stacks of 2D images .*relion_tomo_subtomo.*ts_export_particles --3d", project.refused())
    project.head = "# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 0\n\n"
    assert project.read().dialect == "5"


def test_other_star_files_are_recognised(tmp_path):
    path = tmp_path / "optimisation_set.star"
    path.write_text("data_\n_rlnTomoParticlesFile in/p.star\n_rlnTomoTomogramsFile in/t.star\n")
    with pytest.raises(InputError, match=r"optimisation set; give the particle file that it names: in/p\.star"):
        read_particles(str(path))
    path.write_text("data_global\nloop_\n_rlnTomoName\n1\n")
    with pytest.raises(InputError, match="no table 'data_particles' \\(found data_global\\)"):
        read_particles(str(path))


@pytest.mark.parametrize(
    ("shape", "voxel_size", "message"),
    [
        ((1, BOX, BOX), 10.0, "a 2D image of 8 x 8 pixels"),
        ((BOX, BOX, BOX - 2), 10.0, "6 x 8 x 8 voxels .* cubic"),
        ((9, 9, 9), 10.0, "odd box of 9"),
        ((10, 10, 10), 10.0, "box of 10 voxels, but rlnImageSize of group 1 is 8"),
        ((BOX, BOX, BOX), 10.2, r"voxels of 10\.2000 A .* is 10\.0000"),
    ],
)
def test_volumes_that_do_not_fit_the_optics_table(project, shape, voxel_size, message):
    write_mrc(f"{project.folder}/sub/2.mrc", np.ones(shape, dtype=np.float32), voxel_size)
    assert re.search(message, project.refused())


@pytest.mark.parametrize("voxel_size", [0.0, 1.0, 10.004])
def test_voxel_sizes_that_were_never_set_or_rounded(project, voxel_size):
    write_mrc(f"{project.folder}/sub/2.mrc", np.ones((BOX,) * 3, dtype=np.float32), voxel_size)
    assert len(project.read()) == 3


def test_layouts_of_ctf_volumes(project):
    half = BOX // 2 + 1
    write_mrc(f"{project.folder}/wedge.mrc", np.ones((BOX, BOX, half), dtype=np.float32), 1.0)
    assert len(project.read()) == 3
    write_mrc(f"{project.folder}/wedge.mrc", np.ones((2 * BOX, BOX, half), dtype=np.float32), 1.0)
    assert "relion_tomo_subtomo --nrm" in project.refused()
    write_mrc(f"{project.folder}/wedge.mrc", np.ones((half, BOX, BOX), dtype=np.float32), 1.0)
    assert "a cube of 8 or a half volume of 5 x 8 x 8 was expected" in project.refused()


def test_data_star_before_and_after_an_iteration(project):
    project.particles["rlnOriginYAngst"] = ["1", "2", "3"]
    table = project.read()
    poses = table.poses()
    poses.random_subset[:] = [1, 2, 1]
    first = data_blocks(table, poses, scored=False)[1].columns
    assert list(first) == [
        *project.particles,
        "rlnGroupNumber",
        "rlnOriginXAngst",
        "rlnOriginZAngst",
        "rlnClassNumber",
        "rlnNormCorrection",
        "rlnRandomSubset",
    ]
    poses.angles_deg[0] = [1.25, 90, -179.5]
    poses.pmax[:] = [0.5, 1, 1]
    poses.significant_samples[:] = [3, 1, 1]
    poses.log_likelihood[:] = -12345.678
    optics, particles = data_blocks(table, poses)
    assert optics.columns == {label: [value] for label, value in OPTICS.items()}
    assert list(particles.columns)[-3:] == [
        "rlnLogLikeliContribution",
        "rlnMaxValueProbDistribution",
        "rlnNrOfSignificantSamples",
    ]
    assert particles.columns["rlnGroupNumber"] == ["1", "2", "2"]
    assert particles.columns["rlnAnglePsi"][0] == "-179.50000"
    assert particles.columns["rlnOriginYAngst"] == ["2.000000", "1.000000", "3.000000"]
    assert particles.columns["pytmeScore"] == ["0.50", "4.5e-9", "1"]


def test_a_written_table_is_read_again(project):
    table = project.read()
    poses = table.poses()
    poses.origins_angst[:] = [[1.5, -2.5, 3.25]] * 3
    path = project.folder / "run_data.star"
    path.write_text(format_star(data_blocks(table, poses, scored=False)))
    again = read_particles(str(path))
    assert again.image_names == table.image_names
    np.testing.assert_array_equal(again.origins_angst, poses.origins_angst)
    np.testing.assert_array_equal(again.angles_deg, table.angles_deg)
    assert again.optics == table.optics


def test_tables_of_other_programs(data_dir):
    folder = data_dir / "star"
    warp = read_particles(str(folder / "warp_subtomo_example.star"), check_files=False)
    assert (len(warp), warp.dialect, len(warp.optics), warp.optics[0].pixel_size_angst) == (1399, "3.0", 1, 5.0)
    assert len(warp.group_names) == 47
    relion4 = read_particles(str(folder / "cryocat_relion_4.0.star"), check_files=False)
    assert (len(relion4), relion4.dialect, relion4.optics[0].image_size) == (1746, "4", 64)
    assert relion4.optics[0].ctf_squared
    relion5 = read_particles(str(folder / "cryocat_relion5_1_run_it025_data.star"), check_files=False)
    assert (len(relion5), relion5.dialect, relion5.optics[0].pixel_size_angst) == (7488, "5", 4.828)
    assert set(np.unique(relion5.random_subset)) <= {0, 1, 2}
    for name, message in {
        "pytom_match_pick.star": "rlnImageName is missing",
        "pyseg_particles_relion2_subtomo.star": "no pixel size",
        "motl_warp2_b1_TM_nucleo_Trest_99percyto_2Dparticles_R5_optimisation_set.star": "optimisation set",
        "motl_warp2_b1_TM_nucleo_Trest_99percyto_2Dparticles_R5_tomograms.star": "no table 'data_particles'",
    }.items():
        with pytest.raises(InputError, match=message):
            read_particles(str(folder / name), check_files=False)


def test_a_whole_relion_5_table_keeps_every_value(data_dir):
    path = data_dir / "star" / "cryocat_relion5_1_run_it025_data.star"
    table = read_particles(str(path), check_files=False)
    original = parse_star(path.read_text()).blocks["particles"].columns
    order = table.row_number - 1
    assert {label: [values[row] for row in order] for label, values in original.items()} == table.columns
    written = data_blocks(table, table.poses(), scored=False)[1].columns
    assert written["rlnOriginXAngst"] == table.columns["rlnOriginXAngst"]
    assert written["rlnAnglePsi"] == table.columns["rlnAnglePsi"]
