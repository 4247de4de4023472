"""Run RELION (cached by content) and tomoburst on the same command line, each in a folder of its own."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from tests.parity import dataset
from tests.parity.dataset import Flavour

TIMEOUT_S = 240
CACHE = Path(tempfile.gettempdir()) / f"tomoburst-parity-{getpass.getuser()}"
TOMOBURST = [sys.executable, "-c", "from runner.cli import main; main()"]
MPI = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "3"]


def _commit(built: Path, final: Path) -> None:
    """Move a finished folder into the cache; a concurrent winner's copy is as good as ours."""
    try:
        built.rename(final)
    except OSError:
        if not final.is_dir():
            raise
        shutil.rmtree(built)


def data_folder(flavour: Flavour) -> Path:
    """Folder with the files of one data set, built once per version of the generator."""
    source = Path(dataset.__file__).read_bytes() + repr(flavour).encode()
    final = CACHE / f"data-{flavour.name}-{hashlib.sha256(source).hexdigest()[:16]}"
    if not final.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=CACHE))
        dataset.build(building / "data", flavour)
        _commit(building, final)
    return final / "data"


def execute(command: list[str], folder: Path, timeout_s: float | None = TIMEOUT_S) -> None:
    """Run one command in ``folder``; its output is kept in ``log.txt`` and shown when it fails."""
    environment = os.environ | {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "log.txt").open("w") as log:
        try:
            subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=timeout_s,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            tail = (folder / "log.txt").read_text(errors="replace").replace("\r", "\n").splitlines()[-25:]
            raise AssertionError(f"{' '.join(command)}\n{error}\n" + "\n".join(tail)) from error


def prepare(folder: Path, flavour: Flavour) -> Path:
    """Create a run folder with ``data`` (a link) and an empty ``out``."""
    (folder / "out").mkdir(parents=True)
    (folder / "data").symlink_to(data_folder(flavour))
    return folder


def relion(program: str, arguments: list[str], flavour: Flavour, mpi: bool = False) -> Path:
    """Run a RELION program, or find its earlier run; returns the folder that holds ``out``."""
    command = [*(MPI if mpi else []), program, *arguments]
    content = dataset.digest(data_folder(flavour)) + relion_version() + "\0".join(command)
    final = CACHE / f"relion-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    if not final.is_dir():
        building = Path(tempfile.mkdtemp(dir=CACHE))
        execute(command, prepare(building, flavour))
        _commit(building, final)
    return final


@cache
def relion_version() -> str:
    """Version line of the installed RELION."""
    result = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, timeout=30, check=False)
    return result.stdout.strip()


def tomoburst(arguments: list[str], flavour: Flavour, folder: Path) -> Path:
    """Run the command line of the checkout under test in ``folder``."""
    execute([*TOMOBURST, *arguments], prepare(folder, flavour))
    return folder


def relion_refine(arguments: list[str], flavour: Flavour, halves: bool) -> Path:
    """Run 3D classification (serial) or split halves (MPI)."""
    program = "relion_refine_mpi" if halves else "relion_refine"
    return relion(program, ["--o", "out/run", *arguments], flavour, mpi=halves)
