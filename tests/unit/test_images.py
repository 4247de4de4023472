"""Particle and CTF volumes: what is refused and what is read only once."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from runner.errors import InputError
from runner.execute import images
from runner.execute.images import CtfVolumes, read_particle_volume
from runner.formats.particles import read_particles

SIZE = 8


def write_table(folder, volumes, ctfs=None, premultiplied=0, header="# version 30001"):
    """Write particles of box 8 (and their CTFs by name) with a STAR file, and read it."""
    rows = []
    for index, volume in enumerate(volumes):
        mrcfile.write(folder / f"p{index}.mrc", np.asarray(volume, dtype=np.float32), voxel_size=5.0, overwrite=True)
        rows.append(f"p{index}.mrc 1 0 0 0" + ("" if ctfs is None else f" {ctfs[index][0]}"))
    for name, ctf in ctfs or []:
        if ctf is not None:
            mrcfile.write(folder / name, np.asarray(ctf, dtype=np.float32), overwrite=True)
    labels = ["rlnImageName", "rlnOpticsGroup", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"] + ["rlnCtfImage"] * bool(
        ctfs
    )
    lines = ["", header, "", "data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnVoltage #2"]
    lines += ["_rlnSphericalAberration #3", "_rlnImagePixelSize #4", "_rlnImageSize #5", "_rlnImageDimensionality #6"]
    lines += ["_rlnCtfDataAreCtfPremultiplied #7", f"1 300 2.7 5.0 {SIZE} 3 {premultiplied}", "", header, ""]
    lines += ["data_particles", "", "loop_", *(f"_{label} #{n}" for n, label in enumerate(labels, 1)), *rows, ""]
    (folder / "particles.star").write_text("\n".join(lines))
    return read_particles(str(folder / "particles.star"))


@pytest.fixture
def noise():
    return np.random.default_rng(1).normal(size=(3, SIZE, SIZE, SIZE)).astype(np.float32)


def test_a_particle_is_read_as_stored(tmp_path, noise):
    table = write_table(tmp_path, noise)
    volume = read_particle_volume(table, 2)
    assert volume.dtype == np.float32
    assert np.array_equal(volume, noise[2])


def replace(path, volume):
    """Overwrite the voxels of a map, whatever they are."""
    data = np.asarray(volume, dtype=np.float32)
    header = bytearray(path.read_bytes()[:1024])
    for offset in (0, 28):  # sizes and sampling
        header[offset : offset + 12] = np.array(data.shape[::-1], dtype="<i4").tobytes()
    header[40:52] = (5.0 * np.array(data.shape[::-1], dtype="<f4")).tobytes()
    path.write_bytes(bytes(header) + data.tobytes())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((SIZE,) * 3), "every voxel of the volume is 0"),
        (np.arange(6 * 6 * 6.0).reshape(6, 6, 6), "a box of 6 voxels, .* is 8"),
        (np.arange(4 * 8 * 8.0).reshape(4, 8, 8), "8 x 8 x 4 voxels"),
        (np.full((SIZE,) * 3, np.nan), "NaN"),
    ],
)
def test_an_unusable_particle_is_named(tmp_path, noise, bad, message):
    table = write_table(tmp_path, noise)
    replace(tmp_path / "p1.mrc", bad)
    with pytest.raises(InputError, match=rf"particles\.star row 2 \(p1\.mrc\).*{message}"):
        read_particle_volume(table, 1)


def test_a_missing_or_truncated_particle_is_named(tmp_path, noise):
    table = write_table(tmp_path, noise)
    content = (tmp_path / "p1.mrc").read_bytes()
    (tmp_path / "p1.mrc").write_bytes(content[:-10])
    with pytest.raises(InputError, match=r"row 2 \(p1\.mrc\).*truncated"):
        read_particle_volume(table, 1)
    (tmp_path / "p1.mrc").unlink()
    with pytest.raises(InputError, match=r"row 2 \(p1\.mrc\).*no such file"):
        read_particle_volume(table, 1)


def test_shared_ctf_volumes_are_read_once(tmp_path, noise, monkeypatch):
    cube = np.ones((SIZE,) * 3)
    table = write_table(tmp_path, noise, [("shared.mrc", cube), ("shared.mrc", cube), ("own.mrc", 0.5 * cube)])
    read = []
    monkeypatch.setattr(images, "read_mrc", lambda url, original=images.read_mrc: (read.append(url), original(url))[1])
    ctfs = CtfVolumes(table)
    first, second, third = (ctfs.read(particle) for particle in range(3))
    assert len(read) == 2
    assert second is first
    assert first.shape == (SIZE, SIZE, SIZE // 2 + 1)
    assert first.dtype == np.float32
    assert not first.flags.writeable
    assert np.all(third == 0.5)


def test_the_cache_is_bounded(tmp_path, noise, monkeypatch):
    cube = np.ones((SIZE,) * 3)
    table = write_table(tmp_path, noise, [(f"c{i}.mrc", (i + 1) * cube) for i in range(3)])
    read = []
    monkeypatch.setattr(images, "read_mrc", lambda url, original=images.read_mrc: (read.append(url), original(url))[1])
    ctfs = CtfVolumes(table, cache_bytes=2 * SIZE * SIZE * (SIZE // 2 + 1) * 4)
    for particle in (0, 1, 0, 2, 0, 1):  # 1 is the least recently used when 2 comes
        assert np.all(ctfs.read(particle) == particle + 1)
    assert len(read) == 4


def test_squared_ctf_volumes_give_their_root(tmp_path, noise):
    cube = np.full((SIZE,) * 3, 0.25)
    table = write_table(tmp_path, noise[:1], [("c.mrc", cube)], premultiplied=1)
    assert np.all(CtfVolumes(table).read(0) == 0.25)
    version_4 = write_table(tmp_path, noise[:1], [("c.mrc", cube)], premultiplied=1, header="# version 40001")
    assert version_4.optics[0].ctf_squared
    assert np.all(CtfVolumes(version_4).read(0) == 0.5)


@pytest.mark.parametrize(
    ("ctf", "message"),
    [
        (np.zeros((SIZE,) * 3), "zero everywhere"),
        (np.ones((6, 6, 6)), "6 x 6 x 6 voxels .* a cube of 8"),
        (np.ones((16, 8, 5)), "multiplicity"),
        (np.full((SIZE,) * 3, np.inf), "NaN or infinite"),
    ],
)
def test_an_unusable_ctf_is_named(tmp_path, noise, ctf, message):
    table = write_table(tmp_path, noise[:1], [("c.mrc", np.ones((SIZE,) * 3))])
    replace(tmp_path / "c.mrc", ctf)
    with pytest.raises(InputError, match=rf"particles\.star row 1 \(p0\.mrc\), rlnCtfImage.*c\.mrc: .*{message}"):
        CtfVolumes(table).read(0)


def test_missing_ctf_column_is_refused(tmp_path, noise):
    with pytest.raises(InputError, match="rlnCtfImage"):
        CtfVolumes(write_table(tmp_path, noise))
