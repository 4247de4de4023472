"""Transfer functions of a tilt series around one particle: the missing wedge, and the CTF of every tilt in one volume.

The beam runs along z and the tilt axis along y, so a tilt by t samples the plane ``kx sin(t) + kz cos(t) = 0``.
Everything is evaluated at given frequencies, so that the same formula serves both file layouts.  White protein: the CTF
is positive (equal to the amplitude contrast) at low frequency, RELION's sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Frequencies = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Microscope:
    """Voltage in kV, spherical aberration in mm, amplitude contrast as a fraction."""

    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.07

    def wavelength_angst(self) -> float:
        """Relativistic wavelength of the electrons in Angstrom."""
        volts = self.voltage_kv * 1e3
        return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))


def centred_frequencies(size: int) -> Frequencies:
    """Frequencies kz, ky, kx of a centred cube (zero at voxel ``N//2``), shaped to broadcast to ``(N, N, N)``."""
    axis = np.arange(size) - size // 2
    return axis[:, None, None], axis[None, :, None], axis[None, None, :]


def wedge(frequencies_zyx: Frequencies, tilt_range_deg: float) -> FloatArray:
    """1 where a tilt series of ``-range .. +range`` degrees has data and 0 in the missing wedge."""
    kz, ky, kx = frequencies_zyx
    limit = np.tan(np.radians(tilt_range_deg)) * np.abs(kx) + 1e-9 if tilt_range_deg < 90 else np.inf
    inside = np.abs(kz) <= limit
    return np.broadcast_to(inside, np.broadcast_shapes(kz.shape, ky.shape, kx.shape)).astype(np.float64)


def tilt_angles(tilt_range_deg: float, tilt_step_deg: float) -> FloatArray:
    """The tilts of a series in the order of a dose-symmetric scheme: 0, +step, -step, +2 step, ... up to the range."""
    steps = int(np.floor(tilt_range_deg / tilt_step_deg + 1e-9))
    pairs = [sign * i * tilt_step_deg for i in range(1, steps + 1) for sign in (1.0, -1.0)]
    return np.array([0.0, *pairs])


def contrast_transfer(k_per_angst: FloatArray, defocus_um: float, microscope: Microscope) -> FloatArray:
    """CTF at spatial frequencies in 1/Angstrom, for a positive underfocus in micrometres."""
    wavelength = microscope.wavelength_angst()
    k2 = k_per_angst**2
    aberration = 0.5 * microscope.spherical_aberration_mm * 1e7 * wavelength**3 * k2**2
    phase = np.pi * (defocus_um * 1e4 * wavelength * k2 - aberration)
    return np.asarray(np.sin(phase + np.arcsin(microscope.amplitude_contrast)))


def dose_weight(k_per_angst: FloatArray, dose: float) -> FloatArray:
    """Amplitude left after an exposure in electrons per square Angstrom (Grant & Grigorieff, eLife 4, e06980, 2015)."""
    with np.errstate(divide="ignore"):
        critical = 0.245 * k_per_angst**-1.665 + 2.81
    return np.asarray(np.exp(-dose / (2.0 * critical)))


def ctf_volume(
    frequencies_zyx: Frequencies,
    size: int,
    voxel_size_angst: float,
    tilts_deg: FloatArray,
    defocus_um: float,
    microscope: Microscope,
    dose_per_tilt: float,
) -> FloatArray:
    """3D CTF of a particle: the mean over the tilts that reach a coefficient of their dose-weighted CTFs.

    Parameters
    ----------
    frequencies_zyx : kz, ky, kx in Fourier voxels, of the half grid or of a centred cube.
    size : box N that the frequencies belong to.
    tilts_deg : (n,) in the order of exposure.
    dose_per_tilt : electrons per square Angstrom.

    Returns
    -------
    float64 array of the frequencies' shape, in [-1, 1].  A tilt's plane is one Fourier voxel thick and fades linearly;
    where no tilt passes within one voxel the value is 0.
    """
    kz, ky, kx = frequencies_zyx
    k = np.sqrt(kz**2 + ky**2 + kx**2) / (size * voxel_size_angst)
    transfer = contrast_transfer(k, defocus_um, microscope)
    total, coverage = np.zeros(k.shape), np.zeros(k.shape)
    for exposed, tilt in enumerate(np.radians(tilts_deg), start=1):
        near = np.maximum(0.0, 1.0 - np.abs(kx * np.sin(tilt) + kz * np.cos(tilt)))
        total += near * dose_weight(k, exposed * dose_per_tilt)
        coverage += near
    return np.asarray(transfer * total / np.maximum(coverage, 1.0))
