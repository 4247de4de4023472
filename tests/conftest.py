"""Fixtures shared by all tests: external programs, test data and the hypothesis profile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile(
    "tomoburst", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("tomoburst")


def in_ci() -> bool:
    """Whether every external program has to be there."""
    return os.environ.get("TOMOBURST_CI") == "1"


def find_program(program: str) -> str:
    """Path of an external program; skips the test when it is missing, fails it when TOMOBURST_CI=1."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed: `apt-get install relion openmpi-bin` provides RELION on Debian"
        if in_ci():
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def requires() -> Callable[[str], str]:
    """``requires("relion_refine")``: the program's path, or the test is skipped (fails when TOMOBURST_CI=1)."""
    return find_program


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the independent test data: TOMOBURST_DATA, else ../shared/data beside the repository."""
    folder = Path(os.environ.get("TOMOBURST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data in {folder}: set TOMOBURST_DATA to their folder")
    return folder
