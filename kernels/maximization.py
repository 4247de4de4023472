"""From accumulators to a map: symmetry, joining of the halves, and the (regularised) gridding reconstruction.

An accumulator is a pair of padded half grids ``(P, P, P//2 + 1)``, z and y centred, x from 0: complex128 data and
float64 weights, as :func:`kernels.projection.insert` fills them.  ``pad`` is the oversampling and ``r_max`` the largest
radius in unpadded Fourier voxels.  Source: Scheres, J. Struct. Biol. 180, 519 (2012).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kernels.fourier import inverse_in_place, move_origin
from kernels.geometry import FloatArray, padded_radius, padded_size, padded_squared_radius, relion_round
from kernels.gridding import gridding_weights
from kernels.masks import fill_background, soft_sphere
from kernels.projection import interpolation_correction
from kernels.spectra import PRIOR_WITHOUT_SIGNAL, SMALLEST_WEIGHT, padded_shells

ComplexArray = npt.NDArray[np.complex128]

MAP_EDGE_PX = 3.0


def empty_accumulator(r_max: int, pad: float) -> tuple[ComplexArray, FloatArray]:
    """Zeroed data and weights ``(P, P, P//2 + 1)`` for a radius and an oversampling."""
    size = padded_size(r_max, pad)
    shape = (size, size, size // 2 + 1)
    return np.zeros(shape, dtype=np.complex128), np.zeros(shape)


def enforce_hermitian(data: ComplexArray, weight: FloatArray) -> None:
    """Add up, in place, what Friedel mates on the plane x = 0 received; the origin keeps its value."""
    centre = data.shape[0] // 2
    origin = data[centre, centre, 0], weight[centre, centre, 0]
    data[..., 0] = data[..., 0] + data[::-1, ::-1, 0].conj()
    weight[..., 0] = weight[..., 0] + weight[::-1, ::-1, 0]
    data[centre, centre, 0], weight[centre, centre, 0] = origin


def symmetrise(
    data: ComplexArray, weight: FloatArray, operators: FloatArray, r_max: int, pad: float
) -> tuple[ComplexArray, FloatArray]:
    """Sum of an accumulator over a point group, by trilinear interpolation at the rotated grid points.

    Parameters
    ----------
    data, weight : Hermitian accumulator (:func:`enforce_hermitian`).
    operators : (g, 3, 3) rotation matrices on x, y, z, the identity first.

    Returns
    -------
    New data and weight; the same arrays when the group is trivial. The sum is not divided by the order of the group.
    """
    if len(operators) == 1:
        return data, weight
    summed_data, summed_weight = data.copy(), weight.copy()
    radius2 = padded_radius(r_max, pad) ** 2
    _add_symmetry_copies(data, weight, summed_data, summed_weight, np.ascontiguousarray(operators[1:]), radius2)
    return summed_data, summed_weight


def join_low_resolution(
    one: tuple[ComplexArray, FloatArray], two: tuple[ComplexArray, FloatArray], shell: int, pad: float, r_max: int
) -> None:
    """Replace, in place, two halves by their average up to a shell.

    Raises
    ------
    ValueError : the shell lies beyond ``r_max``.
    """
    if shell > r_max:
        raise ValueError(f"the halves cannot be joined up to shell {shell}, beyond the largest shell {r_max}")
    inside = padded_squared_radius(one[0].shape[0]) <= padded_radius(shell, pad) ** 2
    for first, second in zip(one, two, strict=True):
        average = 0.5 * (first[inside] + second[inside])
        first[inside] = average
        second[inside] = average


def reconstruct(
    data: ComplexArray,
    weight: FloatArray,
    box: int,
    pad: float,
    r_max: int,
    *,
    tau2: FloatArray | None = None,
    tau2_fudge: float = 1.0,
    normalise: float = 1.0,
    minres_map: int = 5,
    gridding: bool = True,
    iterations: int = 10,
) -> FloatArray:
    """Map of a symmetrised accumulator.

    Parameters
    ----------
    data, weight : accumulator after :func:`enforce_hermitian` and :func:`symmetrise`; unchanged.
    box : size N of the map in voxels.
    tau2 : (box//2 + 1,) signal spectrum for the regularised (MAP) estimate; None for the unregularised map.
    normalise : sum of the posterior weights, a numerical scale of data and weights.
    minres_map : first regularised shell.
    gridding : iterate the gridding weights (RELION 3.1); otherwise divide by the weights, limited from below to a
        thousandth of their radial mean (RELION's ``--skip_gridding``).

    Returns
    -------
    (box, box, box) float64, z y x, corners masked and corrected for the interpolation.
    """
    density = weight.copy() if tau2 is None else _regularised(weight, tau2, pad, r_max, tau2_fudge, minres_map)
    density /= normalise
    if gridding:
        factor = gridding_weights(density, box, pad, r_max, iterations)
        del density
        values = data / normalise
        values *= factor
        del factor
    else:
        values = data / normalise / _limited(density, pad, r_max)
    grid = _wrapped(values, box, pad)
    del values
    volume = _real_space(grid, box, pad)
    sphere = soft_sphere(box, box / 2.0, MAP_EDGE_PX)
    corrected: FloatArray = fill_background(volume, sphere) / interpolation_correction(box, pad)
    return corrected


def _regularised(
    weight: FloatArray, tau2: FloatArray, pad: float, r_max: int, tau2_fudge: float, minres_map: int
) -> FloatArray:
    """Weights plus the inverse of the signal spectrum; ``1 / (0.001 weight)`` where there is no signal."""
    size = weight.shape[0]
    shell = np.minimum(padded_shells(size, pad), len(tau2) - 1)
    prior = (pad**3 * tau2_fudge * tau2)[shell]
    inverse = np.zeros_like(weight)
    np.divide(1.0, PRIOR_WITHOUT_SIGNAL * weight, out=inverse, where=(prior <= 0.0) & (weight > SMALLEST_WEIGHT))
    np.divide(1.0, prior, out=inverse, where=prior > 0.0)
    inside = padded_squared_radius(size) < padded_radius(r_max, pad) ** 2
    inverse[~inside | (shell < minres_map)] = 0.0
    inverse += weight
    return inverse


def _limited(density: FloatArray, pad: float, r_max: int) -> FloatArray:
    """Weights, at least a thousandth of their mean in the shell ``FLOOR(|k| / pad)``; infinite where none are."""
    size = density.shape[0]
    radius2 = padded_squared_radius(size)
    shell = np.floor(np.sqrt(radius2) / pad).astype(np.int64)
    inside = radius2 < padded_radius(r_max, pad) ** 2
    counts = np.bincount(shell[inside], minlength=r_max)[:r_max]
    sums = np.bincount(shell[inside], weights=density[inside], minlength=r_max)[:r_max]
    least = np.asarray(sums / np.maximum(counts, 1) / 1000.0)[np.minimum(shell, r_max - 1)]
    limited = np.maximum(density, least)
    return np.where((radius2 <= padded_radius(r_max, pad) ** 2) & (limited > 0.0), limited, np.inf)


def _wrapped(values: ComplexArray, box: int, pad: float) -> ComplexArray:
    """A centred padded half grid in the order of a transform of the padded box, with the phase origin in its centre."""
    size, padded = values.shape[0], int(relion_round(pad * box))
    padded += padded % 2
    radius = min(size // 2, padded // 2)
    kept = np.arange(-radius, radius + 1)
    kept = kept[kept > -(padded // 2)]  # an even grid stores its Nyquist frequency with the positive sign
    grid = np.zeros((padded, padded, padded // 2 + 1), dtype=np.complex128)
    source, x = kept + size // 2, np.arange(radius + 1)
    grid[np.ix_(kept % padded, kept % padded, x)] = values[np.ix_(source, source, x)]
    move_origin(grid)
    return grid


def _real_space(grid: ComplexArray, box: int, pad: float) -> FloatArray:
    """Inverse transform of a padded box, which is overwritten, cut to the box; ``(box, box, box)``."""
    padded = len(grid)
    volume = inverse_in_place(grid)
    start = padded // 2 - box // 2
    return np.asarray(volume[(slice(start, start + box),) * 3] / pad**3, dtype=np.float64)


@numba.njit(cache=True, nogil=True)
def _add_symmetry_copies(
    data: Any, weight: Any, summed_data: Any, summed_weight: Any, operators: Any, radius2: int
) -> None:
    centre = data.shape[0] // 2
    for n in range(operators.shape[0]):
        r = operators[n]
        for iz in range(data.shape[0]):
            z = iz - centre
            for iy in range(data.shape[1]):
                y = iy - centre
                for x in range(data.shape[2]):
                    if x * x + y * y + z * z > radius2:
                        continue
                    px = r[0, 0] * x + r[0, 1] * y + r[0, 2] * z
                    py = r[1, 0] * x + r[1, 1] * y + r[1, 2] * z
                    pz = r[2, 0] * x + r[2, 1] * y + r[2, 2] * z
                    mirrored = px < 0.0
                    if mirrored:
                        px, py, pz = -px, -py, -pz
                    fx, fy, fz = np.floor(px), np.floor(py), np.floor(pz)
                    jx, jy, jz = int(fx), int(fy) + centre, int(fz) + centre
                    dx, dy, dz = px - fx, py - fy, pz - fz
                    value = 0.0j
                    total = 0.0
                    for k in range(2):
                        wz = dz if k else 1.0 - dz
                        for j in range(2):
                            wzy = wz * (dy if j else 1.0 - dy)
                            near, far = wzy * (1.0 - dx), wzy * dx
                            value += near * data[jz + k, jy + j, jx] + far * data[jz + k, jy + j, jx + 1]
                            total += near * weight[jz + k, jy + j, jx] + far * weight[jz + k, jy + j, jx + 1]
                    summed_data[iz, iy, x] += value.conjugate() if mirrored else value
                    summed_weight[iz, iy, x] += total
