"""Results for people on standard output: a table and the lines below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    lines: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Print rows of texts under their columns, then lines that are never wrapped (default: on standard output)."""
    console = Console(file=stream)
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
