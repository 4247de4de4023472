"""A3: every rung of the ladder agrees with RELION 3.1.3, file by file and field by field."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.cases import CASES, Case
from tests.parity.compare import report
from tests.parity.ladder import run_case

pytestmark = pytest.mark.relion


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_agrees_with_relion(case: Case, tmp_path: Path) -> None:
    differences = run_case(case, tmp_path / "run")
    assert not differences, report(differences)
