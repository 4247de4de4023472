"""MRC maps: modes, byte orders, damaged files, and the header that RELION writes."""

from __future__ import annotations

import io

import mrcfile
import numpy as np
import pytest
from mrcfile.mrcinterpreter import MrcInterpreter

from runner.errors import InputError, UsageError
from runner.formats.mrc import HEADER_BYTES, format_mrc, parse_mrc, read_header, read_mrc, write_mrc


@pytest.fixture
def volume():
    return np.random.default_rng(3).normal(size=(4, 6, 8)).astype(np.float32)


def altered(content: bytes, offset: int, value: int, dtype: str = "<i4") -> bytes:
    field = np.array(value, dtype).tobytes()
    return content[:offset] + field + content[offset + len(field) :]


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_round_trip_through_any_store(scheme, tmp_path, volume):
    url = f"{scheme}{tmp_path}/new/folder/map.mrc"
    write_mrc(url, volume, 13.5)
    again = read_mrc(url)
    np.testing.assert_array_equal(again.data, volume)
    assert again.data.dtype == np.float32
    assert again.voxel_size_angst == pytest.approx(13.5)
    assert read_header(url) == ((4, 6, 8), pytest.approx(13.5))


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_and_byte_order_that_mrcfile_writes(dtype, order, tmp_path):
    path = tmp_path / "map.mrc"
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(f"{order}{dtype}")
    with mrcfile.new(path) as file:
        file.set_data(data)
        file.voxel_size = 5.0
    if order == ">" and data.dtype.itemsize > 1:
        assert path.read_bytes()[212] == 0x11
    again = read_mrc(str(path))
    np.testing.assert_array_equal(again.data, data.astype(np.float32))
    assert again.voxel_size_angst == pytest.approx(5.0)


def test_extended_header_is_skipped(tmp_path, volume):
    path = tmp_path / "map.mrc"
    with mrcfile.new(path) as file:
        file.set_data(volume)
        file.set_extended_header(np.arange(40, dtype="i4"))
    np.testing.assert_array_equal(read_mrc(str(path)).data, volume)


@pytest.mark.parametrize("float16", [False, True])
def test_mrcfile_reads_what_is_written_without_a_complaint(float16, volume):
    interpreter = MrcInterpreter(iostream=io.BytesIO(format_mrc(volume, 2.5, float16)))
    assert interpreter.header.mode == (12 if float16 else 2)
    np.testing.assert_allclose(interpreter.data, volume, rtol=1e-3 if float16 else 0, atol=1e-4 if float16 else 0)
    assert interpreter.voxel_size.x == pytest.approx(2.5)
    assert float(interpreter.header.dmean) == pytest.approx(float(volume.mean()), rel=1e-2)
    output = io.StringIO()
    interpreter.validate(output)
    assert "density" not in output.getvalue().lower()


def test_header_fields_are_those_of_relion(volume):
    words = np.frombuffer(format_mrc(volume, 10.0)[:HEADER_BYTES], "<i4")
    reals = np.frombuffer(format_mrc(volume, 10.0)[:HEADER_BYTES], "<f4")
    assert words[:10].tolist() == [8, 6, 4, 2, 0, 0, 0, 8, 6, 4]
    assert reals[10:16].tolist() == [80.0, 60.0, 40.0, 90.0, 90.0, 90.0]
    assert words[16:19].tolist() == [1, 2, 3]
    assert reals[19:22] == pytest.approx([volume.min(), volume.max(), volume.mean()], rel=1e-6)
    assert words[22:24].tolist() == [0, 0]
    assert reals[49:52].tolist() == [0.0, 0.0, 0.0]
    assert format_mrc(volume, 10.0)[208:216] == b"MAP DA\0\0"
    assert reals[54] == pytest.approx(volume.std(), rel=1e-6)
    assert format_mrc(volume, 10.0) == format_mrc(volume, 10.0)


def test_a_map_without_a_cell_has_no_voxel_size(volume):
    content = altered(altered(format_mrc(volume, 0.0), 28, 0), 40, 0)
    assert parse_mrc(content, "x.mrc").voxel_size_angst == 0.0


def test_damaged_files(volume):
    content = format_mrc(volume, 1.0)
    cases = {
        "truncated": content[:-1],
        "no MRC file, its header alone": content[:500],
        "is not an MRC file": altered(content, 0, -5),
        "mode 4 is not supported": altered(content, 12, 4),
        "axis order 3, 2, 1": altered(altered(content, 64, 3), 72, 1),
        "two-dimensional image of 8 x 6 pixels": format_mrc(volume[:1], 1.0),
    }
    for message, damaged in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            parse_mrc(damaged, "sub/1.mrc")
        assert str(caught.value).startswith("sub/1.mrc: ")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(value, volume):
    volume[1, 2, 3] = value
    with pytest.raises(InputError, match="1 of 192 voxels are NaN or infinite"):
        parse_mrc(format_mrc(np.nan_to_num(volume, posinf=0, neginf=0), 1.0)[:HEADER_BYTES] + volume.tobytes(), "x.mrc")


def test_a_missing_map(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_mrc(str(tmp_path / "none.mrc"))
    with pytest.raises(InputError, match="folder"):
        read_mrc(str(tmp_path))


def test_what_cannot_be_written(volume):
    with pytest.raises(ValueError, match="three axes"):
        format_mrc(volume[0], 1.0)
    with pytest.raises(UsageError, match="float16"):
        format_mrc(volume * 1e6, 1.0, float16=True)
