"""The direction of imports: cli -> use cases -> {execute, plan, report} -> formats -> store -> model; kernels apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

RANK = {
    "cli": 0,
    "use case": 1,
    "execute": 2,
    "plan": 2,
    "report": 2,
    "formats": 3,
    "store": 4,
    "model": 5,
    "errors": 6,
}
WITH_KERNELS = {"use case", "execute"}
ALONE = {  # third-party packages and the only places that may import them
    "fsspec": {"runner.store"},
    "obstore": {"runner.store"},
    "botocore": {"runner.store"},
    "zarr": {"runner.store"},
    "dask": {"runner.execute"},
    "distributed": {"runner.execute"},
    "typer": {"runner.cli"},
    "rich": {"runner.report", "runner.cli"},
    "mrcfile": {"runner.formats"},
    "gemmi": {"runner.formats"},
}
KERNEL_PACKAGES = {"numpy", "scipy", "numba", "llvmlite", "cupy", "cupyx", "healpix"}  # llvmlite is part of numba


def layer_of(module: str) -> str:
    """Layer of a module of the runner: its sub-package, or "use case" for the modules beside them."""
    part = module.split(".")[1] if "." in module else ""
    return part if part in RANK else "use case"


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module:
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_allowed(module: str, imported: str) -> bool:
    """Whether ``module`` may import ``imported``."""
    top = imported.partition(".")[0]
    if top in ("", "tests"):
        return False
    for package, places in ALONE.items():
        if top == package and not any(module == place or module.startswith(f"{place}.") for place in places):
            return False
    if module.partition(".")[0] == "kernels":
        return top == "kernels" or top in KERNEL_PACKAGES or top in sys.stdlib_module_names
    layer = layer_of(module)
    if top == "kernels":
        return layer in WITH_KERNELS
    if top != "runner" or layer_of(imported) == layer:
        return True
    return RANK[layer_of(imported)] > RANK[layer]


def wrong_imports(root: Path) -> list[str]:
    """Every import under ``root`` that goes the wrong way."""
    found = []
    for package in ("kernels", "runner"):
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            found += [
                f"{path.relative_to(root)}:{line}: imports {name}"
                for line, name in imports_of(path.read_text())
                if not is_allowed(module, name)
            ]
    return found


def test_imports_go_one_way() -> None:
    assert wrong_imports(REPOSITORY) == []


def test_packages_are_found() -> None:
    assert len(list((REPOSITORY / "kernels").glob("*.py"))) > 3
    assert (REPOSITORY / "runner" / "cli.py").exists()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/fourier.py", "import runner"),
        ("kernels/fourier.py", "from runner.model import state"),
        ("kernels/fourier.py", "import typer"),
        ("kernels/fourier.py", "import fsspec"),
        ("kernels/fourier.py", "from . import geometry"),
        ("runner/model/state.py", "from runner.formats import star"),
        ("runner/store/objects.py", "from runner.formats import star"),
        ("runner/formats/star.py", "from runner import refine"),
        ("runner/formats/star.py", "import kernels.fourier"),
        ("runner/store/objects.py", "from runner.plan.config import RefineConfig"),
        ("runner/plan/config.py", "from kernels import symmetry"),
        ("runner/plan/config.py", "from runner.refine import run_refine"),
        ("runner/report/progress.py", "import fsspec"),
        ("runner/execute/local.py", "from runner.reconstruct import run_reconstruct"),
        ("runner/execute/local.py", "import typer"),
        ("runner/refine.py", "from runner.cli import main"),
        ("runner/refine.py", "from rich.progress import Progress"),
        ("runner/refine.py", "import dask.distributed"),
        ("runner/refine.py", "def run():\n    import fsspec"),
        ("runner/cli.py", "from kernels import geometry"),
        ("runner/errors.py", "from runner.model import state"),
        ("runner/refine.py", "from tests import conftest"),
    ],
)
def test_wrong_arrow_is_found(tmp_path: Path, path: str, line: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f"{line}\n")
    assert len(wrong_imports(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/projection.py", "import numba\nfrom kernels.geometry import padded_size"),
        ("runner/store/objects.py", "import fsspec\nfrom runner.errors import StorageError"),
        ("runner/formats/star.py", "from runner.model.particles import Optics"),
        ("runner/plan/schedule.py", "from runner.model.state import ScheduleState"),
        ("runner/execute/local.py", "from kernels import expectation\nfrom runner.store import objects"),
        ("runner/refine.py", "from kernels import spectra\nfrom runner.reconstruct import run_reconstruct"),
        ("runner/cli.py", "import typer\nfrom runner.plan.config import RefineConfig"),
    ],
)
def test_right_arrow_passes(tmp_path: Path, path: str, line: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(f"{line}\n")
    assert wrong_imports(tmp_path) == []
