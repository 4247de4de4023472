"""CTF volumes in either layout become the same half volume."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.geometry import frequencies
from kernels.wedge import half_ctf


def test_a_cube_is_read_at_negated_frequencies():
    size = 8
    cube = np.random.default_rng(1).normal(size=(size,) * 3)
    half = half_ctf(cube, size)
    assert half.shape == (size, size, size // 2 + 1)
    assert half.dtype == np.float32
    for iz, kz in enumerate(frequencies(size)):
        for iy, ky in enumerate(frequencies(size)):
            for kx in range(size // 2 + 1):
                assert half[iz, iy, kx] == np.float32(cube[4 - kz, 4 - ky, 4 - kx])


def test_both_layouts_of_a_centrosymmetric_volume_agree():
    size = 8
    axis = np.fft.fftfreq(size)
    radius2 = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    ctf = np.cos(40.0 * radius2)
    from_half = half_ctf(ctf[..., : size // 2 + 1], size)
    assert np.array_equal(from_half, half_ctf(np.fft.fftshift(ctf), size))
    assert from_half[0, 0, 0] == 1.0


@pytest.mark.parametrize("shape", [(8, 8, 8), (6, 6, 6), (8, 5, 8), (16, 8, 5), (8, 8)])
def test_other_shapes_are_refused_with_both_sizes(shape):
    size = 10 if shape == (8, 8, 8) else 8
    with pytest.raises(ValueError, match=f"fits neither.*box of {size} voxels"):
        half_ctf(np.ones(shape), size)
