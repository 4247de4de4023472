"""``tomoburst simulate``: subtomograms whose poses, classes and map are known.

The object is rotated as atoms or points (maps: by cubic splines), seen through a missing wedge or a 3D CTF, and buried
in coloured noise that went through the same wedge or CTF.  Every random number comes from the seed and the particle's
number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from kernels import ctf, density, fourier, noise, symmetry
from kernels.geometry import half_frequencies
from kernels.orientations import matrix_to_euler
from runner.errors import InputError, UsageError
from runner.formats.mrc import read_mrc, write_mrc
from runner.formats.star import StarBlock, format_float, format_int, format_star
from runner.formats.structure import read_atoms
from runner.plan.simulate_config import SimulateConfig
from runner.report.events import Events, RunFinished, RunStarted, StageStarted, UnitFinished
from runner.store import objects

FloatArray = npt.NDArray[np.float64]
Body = Callable[[FloatArray, FloatArray], npt.NDArray[np.complex128]]

TOMOGRAM_SHAPE_XYZ = (928, 928, 256)
BLOB_FILLING = 0.9


@dataclass(frozen=True)
class Simulation:
    """Where a simulation lies: the STAR files with perturbed and with true poses, and the true map of every class."""

    particles: str
    truth: str
    maps: tuple[str, ...]


@dataclass(frozen=True)
class _Poses:
    """True and perturbed matrices (n, 3, 3), true origins (n, 3) in Angstrom, classes (n,) from 0."""

    matrices: FloatArray
    origins_angst: FloatArray
    classes: npt.NDArray[np.int64]
    perturbed: FloatArray
    coordinates: npt.NDArray[np.int64]


def run_simulate(config: SimulateConfig, events: Events | None = None) -> Simulation:
    """Make the particles, CTF volumes, STAR files and true maps that ``config`` asks for.

    Raises
    ------
    UsageError
        For flags that cannot work, and when the folder already holds a simulation and ``--overwrite`` is not given.
    InputError
        When a model or map cannot be read or does not fit into the box.
    """
    config.validate()
    events = events or Events()
    result = _result(config)
    if objects.exists(result.particles) and not config.overwrite:
        raise UsageError(f"{result.particles} exists already: give --overwrite to replace it, or another --o")
    objects.check_writable(result.particles)
    bodies = _bodies(config, events)
    poses = _draw_poses(config, len(bodies))
    events.emit(RunStarted("simulate", config.o, config.n, {"box": config.box, "SNR": config.snr}))
    events.emit(StageStarted("simulate particles", config.n))
    deviations = _write_particles(config, bodies, poses, events)
    for body, url in zip(bodies, result.maps, strict=True):
        true_map = fourier.inverse(body(np.eye(3), np.zeros(3))) / np.median(deviations)
        write_mrc(url, true_map.astype(np.float32), config.angpix)
    _write_stars(config, result, poses)
    events.emit(RunFinished("simulate", files=(result.particles, result.truth, *result.maps)))
    return result


def _result(config: SimulateConfig) -> Simulation:
    count = len(config.models())
    names = ["truth.mrc"] if count == 1 else [f"truth_class{number}.mrc" for number in range(1, count + 1)]
    return Simulation(
        objects.join(config.o, "particles.star"),
        objects.join(config.o, "truth.star"),
        tuple(objects.join(config.o, name) for name in names),
    )


def _bodies(config: SimulateConfig, events: Events) -> list[Body]:
    """One function for each class: pose matrix and origin in Angstrom to the damped half transform of the object."""
    try:
        operators = symmetry.operators(config.sym)
    except ValueError as error:
        raise UsageError(f"--sym {config.sym}: {error}") from error
    envelope = density.resolution_envelope(config.box, config.angpix, config.resolution_angst())
    return [_body(config, kind, name, operators, envelope, events) for kind, name in config.models()]


def _body(
    config: SimulateConfig, kind: str, name: str, operators: FloatArray, envelope: FloatArray, events: Events
) -> Body:
    if kind == "map":
        volume = _map_model(config, name, operators)
        return lambda matrix, origin: envelope * density.map_rft(volume, config.box, config.angpix, matrix, origin)
    points = _point_model(config, kind, name, operators)
    radius, half_box = points.radius_angst(), 0.5 * config.box * config.angpix
    if radius > half_box:
        raise InputError(
            f"{name}: reaches {radius:.0f} A from its centre, beyond half of the box, {half_box:.0f} A; "
            f"use --box {2 * int(np.ceil(1.3 * radius / config.angpix))} or more"
        )
    if 2 * radius > config.diameter_angst():
        events.warn(
            f"{name}: is {2 * radius:.0f} A wide, wider than the sphere of {config.diameter_angst():.0f} A outside of "
            "which particles are normalised; give a larger --particle_diameter"
        )
    return lambda matrix, origin: envelope * density.points_rft(points, config.box, config.angpix, matrix, origin)


def _point_model(config: SimulateConfig, kind: str, name: str, operators: FloatArray) -> density.PointModel:
    if kind == "shape":
        model = density.blob_model(BLOB_FILLING * 0.5 * config.diameter_angst(), asymmetric_unit=len(operators) > 1)
        return model.symmetrised(operators) if len(operators) > 1 else model.centred()
    positions, weights = read_atoms(name)
    atoms = density.PointModel(positions, weights, np.zeros(len(weights)))
    return atoms.symmetrised(operators).centred()


def _map_model(config: SimulateConfig, name: str, operators: FloatArray) -> density.MapModel:
    volume = read_mrc(name)
    shape = volume.data.shape
    if len(set(shape)) != 1 or shape[0] % 2:
        raise InputError(f"{name}: is {shape[2]} x {shape[1]} x {shape[0]} voxels; a cubic map of even size is needed")
    if volume.voxel_size_angst <= 0:
        raise InputError(f"{name}: its header holds no voxel size; set the cell of the MRC header")
    data = volume.data if len(operators) == 1 else density.symmetrise_map(volume.data, operators)
    return density.map_model(data, volume.voxel_size_angst, band_limit_angst=2.0 * config.angpix)


def _draw_poses(config: SimulateConfig, classes: int) -> _Poses:
    rng = np.random.default_rng([config.random_seed, 0])
    count = config.n
    matrices = Rotation.from_quat(rng.standard_normal((count, 4))).as_matrix()
    origins = rng.standard_normal((count, 3)) * config.offset_sigma * config.angpix
    rotation_vectors = rng.standard_normal((count, 3)) * np.radians(config.angle_error) / np.sqrt(3.0)
    margin = config.box // 2
    highest = np.maximum(np.array(TOMOGRAM_SHAPE_XYZ) - margin, margin + 1)
    return _Poses(
        matrices=matrices,
        origins_angst=origins,
        classes=rng.permutation(count) % classes,
        perturbed=matrices @ Rotation.from_rotvec(rotation_vectors).as_matrix(),
        coordinates=rng.integers(margin, highest, size=(count, 3)),
    )


def _write_particles(config: SimulateConfig, bodies: list[Body], poses: _Poses, events: Events) -> FloatArray:
    """Write all particles and CTF volumes; returns the noise deviations (n,) the particles were divided by."""
    truths = [noise.shell_power(body(np.eye(3), np.zeros(3))) for body in bodies]
    amplitude = noise.noise_amplitude(config.box, config.noise_colour)
    transfer = _shared_wedge(config)
    deviations = np.empty(config.n)
    for i in range(config.n):
        rng = np.random.default_rng([config.random_seed, 1, i])
        if config.ctf:
            transfer = _particle_ctf(config, i, rng)
        scale = noise.noise_scale(truths[poses.classes[i]], transfer, amplitude, config.snr)
        signal = bodies[poses.classes[i]](poses.matrices[i], poses.origins_angst[i])
        rft = transfer * (signal + scale * amplitude * noise.white_noise_rft(config.box, rng))
        radius_px = 0.5 * config.diameter_angst() / config.angpix
        volume, deviations[i] = noise.normalise_background(fourier.inverse(rft), radius_px)
        write_mrc(objects.join(config.o, _image_name(i)), volume.astype(np.float32), config.angpix)
        events.emit(UnitFinished(i + 1, config.n))
    return deviations


def _shared_wedge(config: SimulateConfig) -> FloatArray:
    """The wedge on the half grid; written to its file unless every particle gets a CTF of its own."""
    if not config.ctf:
        frequencies = half_frequencies(config.box) if config.half_ctf else ctf.centred_frequencies(config.box)
        volume = ctf.wedge(frequencies, config.tilt_range)
        write_mrc(objects.join(config.o, _ctf_name(config, 0)), volume.astype(np.float32), config.angpix)
    return ctf.wedge(half_frequencies(config.box), config.tilt_range)


def _particle_ctf(config: SimulateConfig, particle: int, rng: np.random.Generator) -> FloatArray:
    """The 3D CTF of a particle on the half grid, after writing it in the layout asked for."""
    defocus_um = float(rng.uniform(config.defocus_min, config.defocus_max))
    microscope = ctf.Microscope(config.voltage, config.Cs, config.Q0)
    tilts = ctf.tilt_angles(config.tilt_range, config.tilt_step)

    def evaluate(frequencies: ctf.Frequencies) -> FloatArray:
        return ctf.ctf_volume(frequencies, config.box, config.angpix, tilts, defocus_um, microscope, config.dose)

    half = evaluate(half_frequencies(config.box))
    volume = half if config.half_ctf else evaluate(ctf.centred_frequencies(config.box))
    write_mrc(objects.join(config.o, _ctf_name(config, particle)), volume.astype(np.float32), config.angpix)
    return half


def _image_name(particle: int) -> str:
    return f"subtomo/{particle + 1:06d}.mrc"


def _ctf_name(config: SimulateConfig, particle: int) -> str:
    return f"ctf/{particle + 1:06d}.mrc" if config.ctf else "ctf/wedge.mrc"


def _write_stars(config: SimulateConfig, result: Simulation, poses: _Poses) -> None:
    optics = _optics_block(config)
    true = _particles_block(config, poses, poses.matrices, poses.origins_angst)
    true.columns["rlnClassNumber"] = [format_int(number + 1) for number in poses.classes]
    start = _particles_block(config, poses, poses.perturbed, np.zeros((config.n, 3)))
    objects.write_bytes(result.truth, format_star([optics, true]).encode())
    objects.write_bytes(result.particles, format_star([optics, start]).encode())


def _optics_block(config: SimulateConfig) -> StarBlock:
    return StarBlock(
        "optics",
        {
            "rlnOpticsGroup": ["1"],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnSphericalAberration": [format_float(config.Cs)],
            "rlnVoltage": [format_float(config.voltage)],
            "rlnAmplitudeContrast": [format_float(config.Q0)],
            "rlnImageSize": [format_int(config.box)],
            "rlnImageDimensionality": ["3"],
            "rlnImagePixelSize": [format_float(config.angpix)],
        },
    )


def _particles_block(
    config: SimulateConfig, poses: _Poses, matrices: FloatArray, origins_angst: FloatArray
) -> StarBlock:
    count = config.n
    columns = {
        f"rlnCoordinate{axis}": [format_float(float(value)) for value in poses.coordinates[:, i]]
        for i, axis in enumerate("XYZ")
    }
    columns["rlnMicrographName"] = [f"tomogram_{i * config.n_micrographs // count + 1:03d}" for i in range(count)]
    columns["rlnImageName"] = [_image_name(i) for i in range(count)]
    columns["rlnCtfImage"] = [_ctf_name(config, i) for i in range(count)]
    angles = matrix_to_euler(matrices)
    for i, name in enumerate(("Rot", "Tilt", "Psi")):
        columns[f"rlnAngle{name}"] = [format_float(float(value)) for value in angles[:, i]]
    for i, axis in enumerate("XYZ"):
        columns[f"rlnOrigin{axis}Angst"] = [format_float(float(value)) for value in origins_angst[:, i]]
    columns["rlnOpticsGroup"] = ["1"] * count
    return StarBlock("particles", columns)
