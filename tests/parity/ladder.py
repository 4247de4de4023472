"""Compare whole runs in the order in which a deviation spreads: iteration by iteration, data, model, maps, the rest.

``python -m tests.parity.ladder [part of a case's name]`` prints the first differing fields of every matching case.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from tests.parity.cases import CASES, Case
from tests.parity.compare import Difference, compare_file, report
from tests.parity.programs import relion_refine, tomoburst

KINDS = ("_data.star", "_model.star", ".mrc", "_angdist.bild", "_sampling.star", "_optimiser.star")


def _rank(path: Path) -> tuple[int, int, str]:
    iteration = re.match(r"run_it(\d+)_", path.name)
    kind = next((index for index, ending in enumerate(KINDS) if path.name.endswith(ending)), len(KINDS))
    return int(iteration[1]) if iteration else 1000, kind, path.name


def oracle_files(out: Path, case: Case) -> list[Path]:
    """RELION's files to compare, earliest first."""
    files = [path for path in out.iterdir() if path.name.endswith(KINDS)]
    return sorted((path for path in files if _rank(path)[0] >= case.first), key=_rank)


def compare_runs(ours: Path, theirs: Path, case: Case) -> list[Difference]:
    """All differences between two output folders, the earliest first."""
    return [
        difference
        for path in oracle_files(theirs, case)
        for difference in compare_file(ours / path.name, path, case.ignored)
    ]


def run_case(case: Case, folder: Path) -> list[Difference]:
    """Run both programs on one case and compare what they wrote."""
    theirs = relion_refine(case.arguments(), case.flavour, case.halves)
    ours = tomoburst(["refine", "--o", "out/run", *case.arguments(), "--parity", "relion-3.1"], case.flavour, folder)
    return compare_runs(ours / "out", theirs / "out", case)


def main(pattern: str) -> int:
    """Print the report of every case whose name contains ``pattern``; returns the number of failing cases."""
    failing = 0
    for case in (case for case in CASES if pattern in case.name):
        with tempfile.TemporaryDirectory() as folder:
            try:
                differences = run_case(case, Path(folder) / "run")
                text = report(differences)
            except AssertionError as error:
                differences, text = [Difference(case.name, "failed", "", float("inf"))], str(error)
        failing += bool(differences)
        print(f"== {case.name}: {'FAIL' if differences else 'ok'}\n{text if differences else ''}", flush=True)
    return failing


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1] if len(sys.argv) > 1 else "") else 0)
