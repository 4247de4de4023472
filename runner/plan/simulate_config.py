"""Configurations of the commands that make their own data: ``simulate`` and ``demo``."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.flags import flag

_OBJECT = "Object"
_PARTICLES = "Particles"
_MICROSCOPE = "Tilt series and noise"
_OUTPUT = "Output"

SHAPES = ("blobs",)


@dataclass(frozen=True)
class SimulateConfig:
    """What ``tomoburst simulate`` is asked to make."""

    o: str = flag("", "output folder; it is created", section=_OUTPUT)
    overwrite: bool = flag(False, "replace the particles of an earlier simulation", section=_OUTPUT)
    half_ctf: bool = flag(False, "CTF volumes in FFTW half layout, not as centred cubes", section=_OUTPUT)

    model: str = flag("", "atomic models (PDB, mmCIF, also .gz), one a class: a.pdb,b.cif.gz", section=_OBJECT)
    map: str = flag("", "maps, one a class, cubic and of even size: a.mrc,b.mrc", section=_OBJECT)
    shape: str = flag("", "built-in shape: blobs (taken when no model or map is given)", section=_OBJECT)
    sym: str = flag("C1", "point group by which the object is symmetrised", section=_OBJECT)
    resolution: float = flag(
        -1.0, "spacing in A at which amplitudes have fallen to 1/e (-1: twice --angpix; 0: no damping)", section=_OBJECT
    )

    n: int = flag(100, "number of particles, shared evenly by the classes", section=_PARTICLES)
    box: int = flag(32, "box in voxels, even", section=_PARTICLES)
    angpix: float = flag(10.0, "voxel size in A", section=_PARTICLES)
    particle_diameter: float = flag(
        -1.0, "particles are normalised outside of this sphere, in A (-1: 3/4 of the box)", section=_PARTICLES
    )
    offset_sigma: float = flag(2.0, "standard deviation of the true offsets in voxels, per axis", section=_PARTICLES)
    angle_error: float = flag(10.0, "RMS error of the angles in particles.star in deg", section=_PARTICLES)
    n_micrographs: int = flag(1, "number of tomograms the particles come from", section=_PARTICLES)
    random_seed: int = flag(1, "seed of the random numbers", section=_PARTICLES, name="--seed")

    snr: float = flag(
        0.1, "power of the signal over power of the noise, up to Nyquist, after wedge or CTF", section=_MICROSCOPE
    )
    noise_colour: float = flag(
        1.0, "power of the noise falls with this power of the frequency (0: white)", section=_MICROSCOPE
    )
    tilt_range: float = flag(60.0, "largest tilt in deg (90: no missing wedge)", section=_MICROSCOPE)
    tilt_step: float = flag(3.0, "tilt step in deg", section=_MICROSCOPE)
    ctf: bool = flag(False, "a 3D CTF for each particle instead of one wedge for all", section=_MICROSCOPE)
    defocus_min: float = flag(2.5, "smallest underfocus in um", section=_MICROSCOPE)
    defocus_max: float = flag(4.5, "largest underfocus in um", section=_MICROSCOPE)
    voltage: float = flag(300.0, "acceleration voltage in kV", section=_MICROSCOPE)
    Cs: float = flag(2.7, "spherical aberration in mm", section=_MICROSCOPE)
    Q0: float = flag(0.07, "amplitude contrast", section=_MICROSCOPE)
    dose: float = flag(3.0, "dose of each tilt in electrons per square A", section=_MICROSCOPE)

    def models(self) -> list[tuple[str, str]]:
        """The classes in order, each as its kind ("model", "map" or "shape") and its file or name."""
        named = [
            (kind, name.strip())
            for kind, names in (("model", self.model), ("map", self.map), ("shape", self.shape))
            for name in names.split(",")
            if name.strip()
        ]
        return named or [("shape", SHAPES[0])]

    def diameter_angst(self) -> float:
        """Diameter of the sphere that holds the particle."""
        return self.particle_diameter if self.particle_diameter > 0 else 0.75 * self.box * self.angpix

    def resolution_angst(self) -> float:
        """Spacing at which amplitudes have fallen to 1/e; 0 for none."""
        return self.resolution if self.resolution >= 0 else 2.0 * self.angpix

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _check_simulate(self)


@dataclass(frozen=True)
class DemoConfig:
    """What ``tomoburst demo`` is asked to do."""

    o: str = flag("tomoburst_demo", "output folder; it is created", section=_OUTPUT)
    j: int = flag(-1, "threads (-1: one for each core); the results do not depend on it", section=_OUTPUT)
    random_seed: int = flag(1, "seed of the random numbers", section=_PARTICLES, name="--seed")

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _require(bool(self.o), "--o is empty: give an output folder")
        _require(self.j >= 1 or self.j == -1, f"--j {self.j}: at least one thread is needed, or -1 for every core")
        _require(self.random_seed >= 0, f"--seed {self.random_seed}: must not be negative")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


def _check_simulate(config: SimulateConfig) -> None:
    _require(bool(config.o), "--o is missing: give an output folder")
    for kind, name in config.models():
        _require(kind != "shape" or name in SHAPES, f"--shape {name}: unknown; known shapes: {', '.join(SHAPES)}")
    _require(config.n >= len(config.models()), f"--n {config.n}: at least one particle for each class is needed")
    _require(config.box >= 8 and config.box % 2 == 0, f"--box {config.box}: must be even and at least 8")
    _require(config.angpix > 0, f"--angpix {config.angpix:g}: must be positive")
    width = config.box * config.angpix
    _require(
        config.diameter_angst() < width,
        f"--particle_diameter {config.diameter_angst():g}: must be smaller than the box of {width:g} A",
    )
    _require(config.snr > 0, f"--snr {config.snr:g}: must be positive")
    _require(config.offset_sigma >= 0, f"--offset_sigma {config.offset_sigma:g}: must not be negative")
    _require(0 <= config.angle_error <= 180, f"--angle_error {config.angle_error:g}: must lie between 0 and 180 deg")
    _require(
        1 <= config.n_micrographs <= config.n,
        f"--n_micrographs {config.n_micrographs}: must lie between 1 and the number of particles, {config.n}",
    )
    _require(config.random_seed >= 0, f"--seed {config.random_seed}: must not be negative")
    _require(0 <= config.noise_colour <= 4, f"--noise_colour {config.noise_colour:g}: must lie between 0 and 4")
    _require(0 < config.tilt_range <= 90, f"--tilt_range {config.tilt_range:g}: must lie above 0 and up to 90 deg")
    _check_microscope(config)


def _check_microscope(config: SimulateConfig) -> None:
    _require(
        0 < config.tilt_step <= config.tilt_range,
        f"--tilt_step {config.tilt_step:g}: must lie above 0 and up to --tilt_range {config.tilt_range:g}",
    )
    _require(
        0 <= config.defocus_min <= config.defocus_max,
        f"--defocus_min {config.defocus_min:g}: must lie between 0 and --defocus_max {config.defocus_max:g}",
    )
    _require(config.voltage > 0, f"--voltage {config.voltage:g}: must be positive, in kV")
    _require(config.Cs >= 0, f"--Cs {config.Cs:g}: must not be negative")
    _require(0 <= config.Q0 <= 1, f"--Q0 {config.Q0:g}: must lie between 0 and 1")
    _require(config.dose >= 0, f"--dose {config.dose:g}: must not be negative")
