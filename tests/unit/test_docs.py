"""The documentation says what the program does: tables of flags, links and exit codes are current."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from runner import errors
from runner.plan.config import RefineConfig
from runner.plan.flags import flags_of

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_flags_are_current(page: Path) -> None:
    filled = runpy.run_path(str(REPOSITORY / "docs" / "make_tables.py"))["filled"]
    assert filled(page.read_text()) == page.read_text(), "run python docs/make_tables.py"


def test_every_flag_of_refine_is_documented() -> None:
    text = (REPOSITORY / "docs" / "refine.md").read_text()
    assert [flag.name for flag in flags_of(RefineConfig) if f"| `{flag.name}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+\.md)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_on_the_map() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text()
    assert [page.name for page in PAGES if f"{page.name})" not in index and page.name != "index.md"] == []


def test_exit_codes_are_documented() -> None:
    text = (REPOSITORY / "docs" / "exit-codes.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.exit_code for kind in kinds if f"| {kind.exit_code} |" not in text} == set()


def test_readme_holds_the_commands_that_ci_runs() -> None:
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("    python3 -m venv") and line.endswith("/bin/pytest")]) == 1
    assert len([line for line in lines if line.endswith("/bin/tomoburst demo")]) == 1
