"""A2: ``reconstruct`` gives RELION's map."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.parity.cases import ASYMMETRIC, HALF_LAYOUT, PLAIN, PREMULTIPLIED
from tests.parity.compare import compare_maps, report
from tests.parity.dataset import Flavour
from tests.parity.programs import relion, tomoburst

pytestmark = pytest.mark.relion

CTF = ["--ctf"]
CASES: list[tuple[str, list[str], Flavour]] = [
    *(
        (f"{sym}{'-ctf' if ctf else ''}", [*ctf, "--sym", sym], PLAIN)
        for sym in ("C1", "C3", "D2", "O", "I1")
        for ctf in ([], CTF)
    ),
    *((sym, [*CTF, "--sym", sym], PLAIN) for sym in ("C2", "C7", "D7", "T", "I2", "I3", "I4")),
    ("pad-1", [*CTF, "--pad", "1"], PLAIN),
    ("maxres", [*CTF, "--maxres", "33"], PLAIN),
    ("half-1", [*CTF, "--subset", "1"], PLAIN),
    ("half-2", [*CTF, "--subset", "2"], PLAIN),
    ("class-2", [*CTF, "--class", "2"], PLAIN),
    ("fsc", [*CTF, "--fsc", "data/fsc.star"], PLAIN),
    ("skip-gridding", [*CTF, "--skip_gridding"], PLAIN),
    ("half-layout", CTF, HALF_LAYOUT),
    ("premultiplied", CTF, PREMULTIPLIED),
    ("asymmetric-ctf", CTF, ASYMMETRIC),
]


@pytest.mark.parametrize(("arguments", "flavour"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_map_agrees_with_relion(arguments: list[str], flavour: Flavour, tmp_path: Path) -> None:
    common = ["--3d_rot", "--i", "data/classified.star", "--o", "out/map.mrc", *arguments]
    theirs = relion("relion_reconstruct", common, flavour)
    ours = tomoburst(["reconstruct", *common], flavour, tmp_path / "run")
    differences = compare_maps(ours / "out" / "map.mrc", theirs / "out" / "map.mrc")
    assert not differences, report(differences)
