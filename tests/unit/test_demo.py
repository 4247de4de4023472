"""The demonstration's measurement: a drifted frame costs nothing, wrong poses do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kernels import density
from kernels.orientations import euler_to_matrix, matrix_to_euler
from runner.demo import PARTICLES, Simulation, measure, reconstruction_of, refinement_of, simulation_of
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.particles import data_blocks, read_particles
from runner.formats.star import format_star
from runner.plan.simulate_config import DemoConfig
from runner.simulate import run_simulate


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    return run_simulate(replace(simulation_of(DemoConfig(o=str(tmp_path))), n=12))


def test_configurations_of_the_demo_are_valid(tmp_path: Path) -> None:
    config = DemoConfig(o=str(tmp_path), j=2)
    config.validate()
    simulation = Simulation("particles.star", "truth.star", ("truth.mrc",))
    simulation_of(config).validate()
    reconstruction_of(config, simulation, "rec.mrc").validate()
    refinement_of(config, simulation, "rec.mrc").validate()
    assert simulation_of(config).n == PARTICLES


def test_truth_against_itself_is_perfect(simulation: Simulation) -> None:
    quality = measure(simulation, simulation.truth, simulation.maps[0])
    assert quality.poses.angle_deg.max() < 1e-6
    assert quality.resolution_angst == pytest.approx(20.0)


def test_starting_poses_are_measurably_wrong(simulation: Simulation) -> None:
    quality = measure(simulation, simulation.particles, simulation.maps[0])
    assert 3.0 < np.median(quality.poses.angle_deg) < 15.0
    assert np.median(quality.poses.shift_angst) > 10.0


def test_a_drifted_map_frame_is_followed(simulation: Simulation, tmp_path: Path) -> None:
    """Poses A R with origins o + A v belong to the map that holds truth(R x - v) at x."""
    rotation = Rotation.from_rotvec([0.1, -0.25, 0.2]).as_matrix()
    vector = np.array([12.0, -7.0, 5.0])
    table = read_particles(simulation.truth)
    poses, matrices = table.poses(), euler_to_matrix(table.angles_deg)
    poses.angles_deg = matrix_to_euler(matrices @ rotation)
    poses.origins_angst = poses.origins_angst + matrices @ vector
    star = tmp_path / "drifted.star"
    star.write_text(format_star(data_blocks(table, poses, scored=False)))
    truth = read_mrc(simulation.maps[0])
    model = density.map_model(truth.data, truth.voxel_size_angst)
    size, voxel = truth.data.shape[0], truth.voxel_size_angst
    axis = (np.arange(size) - size // 2) * voxel
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    in_truth = np.einsum("ab,bzyx->azyx", rotation, np.stack([x, y, z])) - vector[:, None, None, None]
    drifted = _values_at(model, in_truth)
    write_mrc(str(tmp_path / "drifted.mrc"), drifted.astype(np.float32), voxel)
    followed = measure(simulation, str(star), str(tmp_path / "drifted.mrc"))
    not_followed = measure(simulation, simulation.truth, str(tmp_path / "drifted.mrc"))
    assert followed.poses.angle_deg.max() < 1e-3
    assert followed.poses.shift_angst.max() < 1e-2
    assert followed.resolution_angst < 21.0
    assert not_followed.resolution_angst > 30.0


def _values_at(model: density.MapModel, places_xyz_angst: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    centre = model.coefficients.shape[0] // 2
    places = places_xyz_angst[::-1] / model.voxel_size_angst + centre
    sampled = map_coordinates(model.coefficients, places, order=3, prefilter=False)
    return np.asarray(sampled)
