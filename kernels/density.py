"""Densities with a known pose: from points (atoms, blobs) that are rotated themselves, or from a map that is resampled.

Points are exact: they are moved first and painted afterwards, so no interpolation of a map enters the particles.
Painting uses Gaussians on a grid of half the voxel size; their known damping is divided out again in Fourier space,
and the result is cut at Nyquist as a sphere, so that a rotated particle is the rotated map up to about 1e-4 of its
amplitude.
Poses follow RELION: ``x_particle = A x_reference - origin``, the origin being the shift that centres the particle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import scipy.ndimage

from kernels import fourier
from kernels.geometry import squared_radius

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

_OVERSAMPLING = 2
_CUTOFF_SIGMAS = 4.5


@dataclass(frozen=True)
class PointModel:
    """Points that carry Gaussian density.

    Attributes
    ----------
    points_xyz_angst : (n, 3) float64 positions relative to the centre of the box.
    weights : (n,) integrated density of each point.
    sigma_angst : (n,) width of each point; 0 for atoms, whose width is left to the resolution of the map.
    """

    points_xyz_angst: FloatArray
    weights: FloatArray
    sigma_angst: FloatArray

    def centred(self) -> PointModel:
        """The model with its centre of density at the origin."""
        centre = self.weights @ self.points_xyz_angst / self.weights.sum()
        return PointModel(self.points_xyz_angst - centre, self.weights, self.sigma_angst)

    def symmetrised(self, operators: FloatArray) -> PointModel:
        """All copies of the points under ``operators (g, 3, 3)``; the total density is kept."""
        copies = len(operators)
        points = np.einsum("gab,nb->gna", operators, self.points_xyz_angst).reshape(-1, 3)
        return PointModel(points, np.tile(self.weights / copies, copies), np.tile(self.sigma_angst, copies))

    def radius_angst(self) -> float:
        """Distance of the farthest point from the origin, with one sigma of its width."""
        return float(np.max(np.linalg.norm(self.points_xyz_angst, axis=1) + self.sigma_angst))


def blob_model(radius_angst: float, asymmetric_unit: bool = False) -> PointModel:
    """The built-in object: five lobes of different sizes filled with grains, of no symmetry and of one hand.

    Parameters
    ----------
    radius_angst : radius of the sphere that holds the object.
    asymmetric_unit : a smaller copy away from every symmetry axis, to be repeated by a point group.
    """
    lobes = np.array(  # x, y, z, radius in units of the object's radius; grains
        [
            [-0.10, 0.00, -0.25, 0.45, 90.0],
            [0.42, 0.10, 0.20, 0.30, 40.0],
            [-0.35, 0.45, 0.25, 0.25, 25.0],
            [-0.05, -0.50, 0.30, 0.20, 15.0],
            [0.10, 0.05, 0.68, 0.18, 10.0],
        ]
    )
    grains = [
        lobe[:3] + lobe[3] * _ball_points(int(lobe[4]), first)
        for lobe, first in zip(lobes, range(1, 500, 100), strict=True)
    ]
    points = np.concatenate(grains)
    if asymmetric_unit:
        points = 0.40 * points + np.array([0.50, 0.17, 0.25])
    count = len(points)
    width = 0.05 * (0.5 if asymmetric_unit else 1.0) * radius_angst
    return PointModel(points * radius_angst, np.full(count, 1.0 / count), np.full(count, width))


def _ball_points(count: int, first: int) -> FloatArray:
    """``count`` points of a fixed quasi-random sequence in the unit ball, from index ``first`` on."""
    golden = np.array([0.8191725133961645, 0.6710436067037893, 0.5497004779019703])  # powers of the 3D golden ratio
    u = (0.5 + golden * np.arange(first, first + count)[:, None]) % 1.0
    radius, cosine, azimuth = np.cbrt(u[:, 0]), 2.0 * u[:, 1] - 1.0, 2.0 * np.pi * u[:, 2]
    sine = np.sqrt(1.0 - cosine**2)
    return np.asarray(radius[:, None] * np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=1))


def resolution_envelope(size: int, voxel_size_angst: float, resolution_angst: float) -> FloatArray:
    """Amplitude envelope on the half grid: ``exp(-(resolution k)^2)`` (1/e at the resolution), zero beyond Nyquist.

    Returns
    -------
    (N, N, N//2 + 1) float64; all ones within Nyquist when ``resolution_angst`` is 0.
    """
    k2 = squared_radius(size)
    damping = np.exp(-k2 * (resolution_angst / (size * voxel_size_angst)) ** 2)
    return np.where(k2 < (size // 2) ** 2, damping, 0.0)


def points_rft(
    model: PointModel, size: int, voxel_size_angst: float, matrix: FloatArray, origin_angst: npt.ArrayLike
) -> ComplexArray:
    """Centred half transform of a point model in a pose, undamped, up to Nyquist.

    Parameters
    ----------
    size : box N, even.
    matrix : (3, 3) pose matrix A of x, y, z columns.
    origin_angst : (3,) x, y, z: the shift that would centre the particle.

    Returns
    -------
    (N, N, N//2 + 1) complex128, scaled so that the map's voxels sum to the model's weights.
    """
    fine = _OVERSAMPLING * size
    step = voxel_size_angst / _OVERSAMPLING
    positions = (model.points_xyz_angst @ matrix.T - np.asarray(origin_angst, dtype=np.float64)) / step + fine // 2
    sigma = np.sqrt((model.sigma_angst / step) ** 2 + 1.0)
    grid = np.zeros((fine, fine, fine))
    _paint(grid, positions, model.weights, sigma, _CUTOFF_SIGMAS)
    cropped = fourier.crop(fourier.forward(grid), size) * float(_OVERSAMPLING) ** 3
    unpaint = np.exp(2.0 * np.pi**2 * squared_radius(size) / fine**2)
    return np.asarray(np.where(squared_radius(size) < (size // 2) ** 2, cropped * unpaint, 0.0))


@numba.njit(cache=True)
def _paint(grid: FloatArray, positions: FloatArray, weights: FloatArray, sigma: FloatArray, cutoff: float) -> None:
    """Add Gaussians at ``positions (n, 3)`` x, y, z in voxels of ``grid`` z, y, x; what leaves the grid is lost."""
    size = grid.shape[0]
    profile = np.empty((3, size))
    first = np.empty(3, np.int64)
    last = np.empty(3, np.int64)
    for i in range(positions.shape[0]):
        reach = cutoff * sigma[i]
        for axis in range(3):
            centre = positions[i, axis]
            first[axis] = max(0, int(np.ceil(centre - reach)))
            last[axis] = min(size - 1, int(np.floor(centre + reach)))
            for j in range(first[axis], last[axis] + 1):
                profile[axis, j] = np.exp(-0.5 * ((j - centre) / sigma[i]) ** 2) / (np.sqrt(2.0 * np.pi) * sigma[i])
        for z in range(first[2], last[2] + 1):
            for y in range(first[1], last[1] + 1):
                factor = weights[i] * profile[2, z] * profile[1, y]
                for x in range(first[0], last[0] + 1):
                    grid[z, y, x] += factor * profile[0, x]


@dataclass(frozen=True)
class MapModel:
    """A map prepared for rotation: cubic spline coefficients of its band-limited twofold interpolation.

    Attributes
    ----------
    coefficients : (2M, 2M, 2M) float64 spline coefficients for a map of box M.
    voxel_size_angst : voxel size of the finer grid, half of the map's.
    """

    coefficients: FloatArray
    voxel_size_angst: float


def map_model(volume: npt.ArrayLike, voxel_size_angst: float, band_limit_angst: float = 0.0) -> MapModel:
    """Prepare an even cubic map for :func:`map_rft`.

    Parameters
    ----------
    volume : (M, M, M) real map, z y x.
    band_limit_angst : finest spacing that the particles will hold (twice their voxel size); finer detail is removed
        first, or it would alias.
    """
    array = np.asarray(volume, dtype=np.float64)
    size = array.shape[0]
    rft = fourier.forward(array)
    if band_limit_angst > 0:
        rft = np.where(squared_radius(size) < (size * voxel_size_angst / band_limit_angst) ** 2, rft, 0.0)
    fine = fourier.inverse(fourier.enlarge(rft, _OVERSAMPLING * size))
    return MapModel(scipy.ndimage.spline_filter(fine, order=3, mode="mirror"), voxel_size_angst / _OVERSAMPLING)


def map_rft(
    model: MapModel, size: int, voxel_size_angst: float, matrix: FloatArray, origin_angst: npt.ArrayLike
) -> ComplexArray:
    """Centred half transform of a map in a pose, up to Nyquist; arguments and result as :func:`points_rft`."""
    axis = (np.arange(size) - size // 2) * voxel_size_angst
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    origin = np.asarray(origin_angst, dtype=np.float64)
    particle_xyz = np.stack([x, y, z]) + origin[:, None, None, None]
    reference_xyz = np.einsum("ba,bzyx->azyx", matrix, particle_xyz) / model.voxel_size_angst
    centre = model.coefficients.shape[0] // 2
    values = scipy.ndimage.map_coordinates(
        model.coefficients, reference_xyz[::-1] + centre, order=3, mode="constant", prefilter=False
    )
    return np.asarray(np.where(squared_radius(size) < (size // 2) ** 2, fourier.forward(values), 0.0))


def symmetrise_map(volume: npt.ArrayLike, operators: FloatArray) -> FloatArray:
    """Average of an even cubic map (M, M, M) over its copies under ``operators (g, 3, 3)``."""
    array = np.asarray(volume, dtype=np.float64)
    model = map_model(array, 1.0)
    copies = [map_rft(model, array.shape[0], 1.0, operator, np.zeros(3)) for operator in operators]
    return np.asarray(fourier.inverse(np.mean(copies, axis=0)))
