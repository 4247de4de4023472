"""Configuration of ``tomoburst extract``."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.execution_config import (
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    check_execution,
    metrics_port_flag,
    scheduler_flag,
    tls_flag,
    workers_flag,
)
from runner.plan.flags import flag

_IO = "Input and output"
_VOLUMES = "Volumes"
_COMPUTE = "Computation"

EDGES = ("skip", "pad", "fail")
SMALLEST_BOX = 8


@dataclass(frozen=True)
class ExtractConfig:
    """What ``tomoburst extract`` is asked to do."""

    i: str = flag("", "STAR file with the positions", section=_IO)
    tomogram: str = flag(
        "", "the tomogram, or the folder of tomograms (default: as the STAR file names them)", section=_IO
    )
    o: str = flag("", "output folder; it is created", section=_IO)
    overwrite: bool = flag(False, "remove an earlier extraction at --o and extract anew", section=_IO, results=False)
    angpix: float = flag(-1.0, "voxel size of the tomograms in A (-1: as their headers say)", section=_IO)
    coords_angpix: float = flag(-1.0, "voxel size in A of rlnCoordinateX/Y/Z (-1: that of the tomogram)", section=_IO)
    centered: bool = flag(
        False, "rlnCoordinateX/Y/Z are A from the centre of the tomogram, as pyTME 0.3 writes for RELION 5", section=_IO
    )

    extract_size: int = flag(0, "box of the subtomograms in voxels, even", section=_VOLUMES)
    invert_contrast: bool = flag(False, "multiply by -1: RELION wants white particles", section=_VOLUMES)
    norm: bool = flag(False, "mean 0 and standard deviation 1 outside of --bg_radius", section=_VOLUMES)
    bg_radius: float = flag(
        -1.0,
        "radius in voxels of the sphere outside of which --norm looks (-1: 3/8 of the box; 0: all voxels)",
        section=_VOLUMES,
    )
    edge: str = flag(
        "skip",
        "boxes that reach beyond the tomogram: skip them, pad them with the voxels at its border, or fail",
        section=_VOLUMES,
    )
    wedge: float = flag(
        -1.0, "write the missing wedge of tilts up to this angle in deg for all (-1: none)", section=_VOLUMES
    )
    ctf_file: str = flag("", "CTF or wedge volume for all", section=_VOLUMES)

    j: int = flag(4, "tasks that are done at a time; the files do not depend on it", section=_COMPUTE, results=False)
    workers: int = workers_flag()
    scheduler: str = scheduler_flag()
    tls_ca: str = tls_flag(TLS_CA)
    tls_cert: str = tls_flag(TLS_CERT)
    tls_key: str = tls_flag(TLS_KEY)
    metrics_port: int = metrics_port_flag()

    def background_radius_px(self) -> float | None:
        """Radius of the sphere outside of which volumes are normalised; None when they are not."""
        if not self.norm:
            return None
        return self.bg_radius if self.bg_radius >= 0 else 0.375 * self.extract_size

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _require(bool(self.i), "--i is missing: give a STAR file with positions: --i picks.star")
        _require(bool(self.o), "--o is missing: give an output folder")
        size = self.extract_size
        _require(size > 0, "--extract_size is missing: give the box of the subtomograms in voxels, even")
        _require(
            size >= SMALLEST_BOX and size % 2 == 0, f"--extract_size {size}: must be even and at least {SMALLEST_BOX}"
        )
        for name, value in (("--angpix", self.angpix), ("--coords_angpix", self.coords_angpix)):
            _require(value == -1 or 0 < value < float("inf"), f"{name} {value:g}: give a positive number of A, or -1")
        _require(
            not (self.centered and self.coords_angpix > 0),
            "--coords_angpix with --centered: centred coordinates are in A; leave out --coords_angpix",
        )
        _require(self.norm or self.bg_radius == -1, f"--bg_radius {self.bg_radius:g}: has an effect with --norm only")
        _require(
            self.bg_radius == -1 or 0 <= self.bg_radius <= size / 2,
            f"--bg_radius {self.bg_radius:g}: must lie between 0 and half of the box, {size // 2}",
        )
        _require(self.edge in EDGES, f"--edge {self.edge}: unknown; known: {', '.join(EDGES)}")
        _require(self.wedge == -1 or 0 < self.wedge <= 90, f"--wedge {self.wedge:g}: must lie above 0 and up to 90 deg")
        _require(self.wedge == -1 or not self.ctf_file, "--wedge with --ctf_file: give one of them")
        _require(self.j >= 1, f"--j {self.j}: at least 1 is needed")
        check_execution(self)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
