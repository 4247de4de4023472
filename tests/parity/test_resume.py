"""``--continue``: both programs go on from the same files, RELION's or ours, and write the same files again."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.parity import programs
from tests.parity.cases import AUTO, CASES, COMMON, LOCAL, PLAIN, TWO_PASS, TWO_REFERENCES, TWO_STATES, Case
from tests.parity.compare import compare_file, report
from tests.parity.ladder import KINDS

pytestmark = pytest.mark.relion

GLOBAL = Case("one-class", COMMON | TWO_PASS | {"--K": "1"}, PLAIN)
PERTURBED = Case("perturbed", COMMON | TWO_PASS | {"--K": "1", "--perturb": "0.5"}, PLAIN)
CLASSES = Case("classes", COMMON | LOCAL | TWO_REFERENCES | {"--scale": ""}, TWO_STATES)
FIXED = Case("fixed-poses", COMMON | {"--skip_align": "", "--K": "1", "--iter": "2", "--scale": ""}, PLAIN)
HALVES = Case(
    "halves", COMMON | AUTO | {"--firstiter_cc": "", "--healpix_order": "1", "--scale": ""}, PLAIN, halves=True
)
WHOLE = next(case for case in CASES if case.name == "auto-to-the-end")


@dataclass(frozen=True)
class Continuation:
    """Go on from ``iteration`` of ``case`` with ``flags``; files of iterations before ``first`` are not compared."""

    case: Case
    iteration: int
    flags: str
    first: int = 0

    def __str__(self) -> str:
        return f"{self.case.name} {self.iteration} {self.flags}"

    @property
    def optimiser(self) -> str:
        """The file to go on from."""
        return f"out/run_it{self.iteration:03d}_optimiser.star"


CONTINUATIONS = [
    Continuation(GLOBAL, 1, "--iter 3"),
    Continuation(PERTURBED, 1, "--iter 3"),
    Continuation(CLASSES, 1, "--iter 2"),
    Continuation(CLASSES, 1, "--iter 2 --healpix_order 1 --psi_step 20"),
    Continuation(CLASSES, 1, "--iter 2 --offset_range 3 --offset_step 1.5 --perturb 0.5 --tau2_fudge 3 --sigma_ang 12"),
    Continuation(FIXED, 1, "--iter 2 --skip_align"),
    Continuation(HALVES, 1, "--auto_iter_max 3"),
    Continuation(WHOLE, 4, "--auto_iter_max 6"),  # iteration 6 samples more finely
    Continuation(WHOLE, 7, "--auto_iter_max 9"),  # local searches begin
    # RELION writes the files it starts from as if they were joined already, with the model of the first half.
    Continuation(WHOLE, 4, "--force_converge", first=5),
]


def files(folder: Path, first: int) -> list[str]:
    """Names of the files of a continuation, without those of iterations before ``first``."""
    names = sorted(path.name for path in folder.glob("again*") if path.name.endswith(KINDS))
    early = [name for name in names if (found := re.search(r"_it(\d+)_", name)) and int(found[1]) < first]
    return [name for name in names if name not in early]


def check(source: Path, continuation: Continuation, folder: Path) -> None:
    """Go on with both programs, each in its own copy of ``source``, and compare what they write."""
    case = continuation.case
    for name in ("theirs", "ours"):
        shutil.copytree(source, folder / name, symlinks=True)
    words = ["--continue", continuation.optimiser, "--o", "out/again", *continuation.flags.split()]
    program = [*programs.MPI, "relion_refine_mpi"] if case.halves else ["relion_refine"]
    transport = ["--dont_combine_weights_via_disc"] if case.halves else []
    programs.execute([*program, *words, *transport], folder / "theirs")
    programs.execute([*programs.TOMOBURST, "refine", *words, "--parity", "relion-3.1"], folder / "ours")
    names = files(folder / "theirs" / "out", continuation.first)
    assert any(name.endswith("_model.star") for name in names)
    differences = [
        difference
        for name in names
        for difference in compare_file(folder / "ours" / "out" / name, folder / "theirs" / "out" / name, case.ignored)
    ]
    assert not differences, report(differences)


@pytest.mark.parametrize("continuation", CONTINUATIONS, ids=str)
def test_going_on_from_relions_files(continuation: Continuation, tmp_path: Path) -> None:
    case = continuation.case
    check(programs.relion_refine(case.arguments(), case.flavour, case.halves), continuation, tmp_path)


@pytest.mark.parametrize("case", [PERTURBED, CLASSES, HALVES], ids=lambda case: case.name)
def test_going_on_from_our_files(case: Case, tmp_path: Path) -> None:
    limit = "--auto_iter_max" if case.halves else "--iter"
    once = replace(case, changes=case.changes | {limit: "1"})
    words = ["refine", "--o", "out/run", *once.arguments(), "--parity", "relion-3.1"]
    source = programs.tomoburst(words, case.flavour, tmp_path / "source")
    check(source, Continuation(case, 1, f"{limit} 2"), tmp_path)
