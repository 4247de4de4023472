"""Every test marked ``relion`` needs the installed RELION."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture(autouse=True)
def _relion(request: pytest.FixtureRequest, requires: Callable[[str], str]) -> None:
    if request.node.get_closest_marker("relion"):
        for program in ("relion_refine", "relion_refine_mpi", "relion_reconstruct", "relion_postprocess", "mpirun"):
            requires(program)
