"""The script for a machine with a GPU, on the stand-in: a whole run there agrees with one on the CPU."""

from __future__ import annotations

import pytest

from tests.gpu import run_all
from tests.gpu.whole_run import Agreement


def test_everything_is_run_and_printed(capsys: pytest.CaptureFixture[str]):
    assert run_all.main(["--dry-run"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["| search", "| global, order 0", "| local, order 2", "| particles", "| 8"]
    assert all(float(row[3]) > 0 for row in rows[1:3])
    assert rows[4][-2:] == ["100.0%", "yes |"]


@pytest.mark.parametrize(
    "found", [Agreement(0.99, 1.0, True, ()), Agreement(1.0, 0.99, True, ()), Agreement(1.0, 1.0, False, ())]
)
def test_runs_that_do_not_agree_are_a_failure(found: Agreement, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_all, "rates", lambda *_: iter([]))
    monkeypatch.setattr(run_all, "compare", lambda *_: found)
    assert run_all.main(["--dry-run"]) == 1
