"""Whole objects under URLs, and where the files named in a STAR file are looked for."""

from __future__ import annotations

import os

import pytest

from runner.errors import InputError, StorageError
from runner.store import objects


@pytest.mark.parametrize(
    ("base", "name", "joined"),
    [
        ("s3://bucket/run", "x.mrc", "s3://bucket/run/x.mrc"),
        ("s3://bucket/run/", "a/x.mrc", "s3://bucket/run/a/x.mrc"),
        ("", "x.mrc", "x.mrc"),
        ("/", "x.mrc", "/x.mrc"),
        ("run", "/abs/x.mrc", "/abs/x.mrc"),
        ("run", "s3://other/x.mrc", "s3://other/x.mrc"),
    ],
)
def test_join(base, name, joined):
    assert objects.join(base, name) == joined


@pytest.mark.parametrize(
    ("url", "folder", "name"),
    [
        ("s3://bucket/run/x.star", "s3://bucket/run", "x.star"),
        ("s3://bucket", "s3://", "bucket"),
        ("run/x.star", "run", "x.star"),
        ("x.star", "", "x.star"),
        ("/x.star", "/", "x.star"),
        ("file:///data/x.star", "file:///data", "x.star"),
    ],
)
def test_parent_and_basename(url, folder, name):
    assert objects.parent(url) == folder
    assert objects.basename(url) == name


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_write_and_read(scheme, tmp_path):
    url = f"{scheme}{tmp_path}/a/b/x.bin"
    assert not objects.exists(url)
    objects.write_bytes(url, b"first")
    objects.write_bytes(url, b"0123456789")
    assert objects.exists(url)
    assert objects.read_bytes(url) == b"0123456789"
    assert objects.read_bytes(url, 2, 5) == b"234"


def test_nothing_is_left_beside_a_written_file(tmp_path):
    objects.write_bytes(str(tmp_path / "x.bin"), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    url = str(tmp_path / "x.bin")
    objects.write_bytes(url, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        objects.write_bytes(url, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]
    assert objects.read_bytes(url) == b"old"


def test_unwritable_and_unknown_places(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        objects.write_bytes(f"{tmp_path}/file/x.bin", b"1")
    with pytest.raises(StorageError, match="no storage driver"):
        objects.read_bytes("nosuchscheme://x")


def test_whatever_a_driver_raises_becomes_one_line(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Unable to locate\ncredentials")

    for method in ("exists", "cat_file", "pipe_file", "ls"):
        monkeypatch.setattr(f"fsspec.implementations.memory.MemoryFileSystem.{method}", refuse)
    calls = [
        lambda: objects.exists("memory://b/x"),
        lambda: objects.read_bytes("memory://b/x"),
        lambda: objects.write_bytes("memory://b/x", b""),
        lambda: objects.resolve_all(["x"], "memory://b/y.star", str),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="Unable to locate credentials"):
            call()


def test_files_are_found_beside_the_star_first(tmp_path, monkeypatch):
    project, folder = tmp_path / "project", tmp_path / "project" / "Extract"
    folder.mkdir(parents=True)
    monkeypatch.chdir(project)
    star = str(folder / "particles.star")
    (project / "both.mrc").touch()
    (folder / "both.mrc").touch()
    (project / "here.mrc").touch()
    assert objects.resolve("both.mrc", star) == str(folder / "both.mrc")
    assert objects.resolve("here.mrc", star) == str(project / "here.mrc")
    assert objects.resolve("both.mrc", "Extract/particles.star") == "Extract/both.mrc"
    assert objects.resolve(str(project / "here.mrc"), star) == str(project / "here.mrc")
    assert objects.resolve("../here.mrc", star) == f"{folder}/../here.mrc"


def test_both_places_are_named_when_a_file_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        objects.resolve("sub/none.mrc", "memory://bucket/particles.star")
    assert "memory://bucket/sub/none.mrc" in str(caught.value)
    assert str(tmp_path / "sub/none.mrc") in str(caught.value)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_many_names_are_resolved_with_one_listing_a_folder(scheme, tmp_path, monkeypatch):
    base = f"{scheme}{tmp_path}"
    names = [f"sub/{index}.mrc" for index in range(5)] * 2
    for name in names[:5]:
        objects.write_bytes(f"{base}/{name}", b"1")

    def never(url):
        raise AssertionError(f"one request for {url}")

    monkeypatch.setattr(objects, "exists", never)
    star = f"{base}/particles.star"
    assert objects.resolve_all(names, star, str) == [f"{base}/{name}" for name in names]
    with pytest.raises(InputError, match=r"^row 1: cannot find 'sub/9.mrc'"):
        objects.resolve_all(["sub/1.mrc", "sub/9.mrc"], star, lambda index: f"row {index}")


def test_a_name_found_in_two_places_and_folders_that_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.mrc").touch()
    assert objects.resolve_all(["sub/1.mrc"], str(tmp_path / "gone" / "x.star"), str) == [str(tmp_path / "sub/1.mrc")]
