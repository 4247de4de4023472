"""Three-dimensional CTF and missing-wedge volumes in one convention: the half layout of a half transform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.geometry import half_frequencies, half_shape


def half_ctf(volume: npt.NDArray[np.floating], size: int) -> npt.NDArray[np.float32]:
    """Bring a CTF or wedge volume to the half layout of :func:`kernels.fourier.forward`.

    Parameters
    ----------
    volume : either a centred cube ``(size, size, size)``, zero frequency at voxel ``size//2``, or a half volume
        ``(size, size, size//2 + 1)``, zero frequency at index (0, 0, 0). The cube is read at negated indices, because
        an even box stores the frequency ``-size/2`` only (RELION's rule; it matters on the Nyquist planes alone when
        the volume is centro-symmetric).
    size : box size of the particles in voxels.

    Returns
    -------
    (size, size, size//2 + 1) float32, zero frequency at (0, 0, 0). A missing wedge is zeros in this volume.

    Raises
    ------
    ValueError : the shape is neither of the two.
    """
    if volume.shape == half_shape(size):
        return np.ascontiguousarray(volume, dtype=np.float32)
    if volume.shape != (size, size, size):
        raise ValueError(
            f"a CTF volume of shape (z y x) {volume.shape} fits neither the cube {(size,) * 3} nor the half volume "
            f"{half_shape(size)} of particles with a box of {size} voxels"
        )
    centre = size // 2
    kz, ky, kx = half_frequencies(size)
    return np.ascontiguousarray(volume[centre - kz, centre - ky, centre - kx], dtype=np.float32)
