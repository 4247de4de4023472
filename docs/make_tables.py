"""Write the tables of flags into the pages of this folder: ``python docs/make_tables.py``.

A page holds its table between ``<!-- flags of refine -->`` and ``<!-- end -->``; a test fails when the two differ.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from runner.plan.config import ReconstructConfig, RefineConfig
from runner.plan.execution_config import SchedulerConfig, WorkerConfig
from runner.plan.extract_config import ExtractConfig
from runner.plan.flags import Flag, flags_of
from runner.plan.ingest_config import IngestConfig
from runner.plan.plan_config import PlanConfig
from runner.plan.relion_flags import (
    RECONSTRUCT_IGNORED,
    RECONSTRUCT_REFUSED,
    REFINE_IGNORED,
    REFINE_REFUSED,
    Ignored,
)
from runner.plan.report_config import ReportConfig
from runner.plan.simulate_config import DemoConfig, SimulateConfig
from runner.plan.store_config import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

DOCS = Path(__file__).resolve().parent
MARKED = re.compile(r"(<!-- (?P<title>[a-z ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def default_of(flag: Flag) -> str:
    """Spell the default of a flag."""
    if flag.is_switch or flag.default in ("", None):
        return ""
    return f"{flag.default:g}" if isinstance(flag.default, float) else str(flag.default)


def flag_table(flags: Iterable[Flag]) -> str:
    """Return the flags as one table a section."""
    sections: dict[str, list[str]] = {}
    for flag in flags:
        row = f"| `{flag.name}` | {default_of(flag)} | {flag.text} |\n"
        sections.setdefault(flag.section, []).append(row)
    head = "| flag | default | meaning |\n|---|---|---|\n"
    return "\n".join(f"**{section}**\n\n{head}{''.join(rows)}" for section, rows in sections.items())


def ignored_table(ignored: Mapping[str, Ignored]) -> str:
    """Return RELION's flags that are accepted without effect."""
    rows = [f"| `{name}` | {entry.reason} |\n" for name, entry in ignored.items()]
    return "| flag | why it has no effect |\n|---|---|\n" + "".join(rows)


def refused_table(refused: Mapping[str, str]) -> str:
    """Return RELION's flags that are refused; a name stands for all flags that begin with it and ``_`` too."""
    rows = [f"| `{name}` | {reason} |\n" for name, reason in refused.items()]
    return "| flag | answer |\n|---|---|\n" + "".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "flags of refine": lambda: flag_table(flags_of(RefineConfig)),
    "ignored by refine": lambda: ignored_table(REFINE_IGNORED),
    "refused by refine": lambda: refused_table(REFINE_REFUSED),
    "flags of plan": lambda: flag_table(flag for flag in flags_of(PlanConfig) if flag not in flags_of(RefineConfig)),
    "flags of report": lambda: flag_table(flags_of(ReportConfig)),
    "flags of reconstruct": lambda: flag_table(flags_of(ReconstructConfig)),
    "ignored by reconstruct": lambda: ignored_table(RECONSTRUCT_IGNORED),
    "refused by reconstruct": lambda: refused_table(RECONSTRUCT_REFUSED),
    "flags of extract": lambda: flag_table(flags_of(ExtractConfig)),
    "flags of ingest": lambda: flag_table(flags_of(IngestConfig)),
    "flags of simulate": lambda: flag_table(flags_of(SimulateConfig)),
    "flags of demo": lambda: flag_table(flags_of(DemoConfig)),
    "flags of storage": lambda: flag_table(flags_of(StoreConfig)),
    "flags of scheduler": lambda: flag_table(flags_of(SchedulerConfig)),
    "flags of worker": lambda: flag_table(flags_of(WorkerConfig)),
}


def filled(page: str) -> str:
    """Return a page with all its tables written anew."""
    return MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found['title']]()}\n{found[3]}", page)


if __name__ == "__main__":
    for path in sorted(DOCS.glob("*.md")):
        path.write_text(filled(path.read_text()))
