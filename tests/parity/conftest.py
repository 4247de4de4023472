"""Every test marked ``relion`` needs the installed RELION."""

from __future__ import annotations

import pytest

from tests.conftest import find_program

PROGRAMS = ("relion_refine", "relion_refine_mpi", "relion_reconstruct", "relion_postprocess", "mpirun")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail in CI, before any fixture of a wider scope runs RELION."""
    if item.get_closest_marker("relion"):
        for program in PROGRAMS:
            find_program(program)
