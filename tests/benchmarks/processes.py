"""Whole processes, measured: wall time, processor time, and a limit after which one is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.parity.programs import MPI

LEADER = "leader.txt"
LEADER_SHELL = ["sh", "-c", f'"$@"; code=$?; times > {LEADER}; exit $code', "sh"]


@dataclass(frozen=True)
class Timing:
    """Wall time and CPU time (user and system, children included) of one process, seconds.

    ``leader_s`` is the part of the CPU time that the leader of an MPI program took, which waits by looking all the
    time; ``stopped`` says that the process was stopped at its limit, so that it would have taken longer.
    """

    wall_s: float
    cpu_s: float
    leader_s: float = 0.0
    stopped: bool = False

    def __sub__(self, other: Timing) -> Timing:
        """What this process took more than another one."""
        return Timing(
            self.wall_s - other.wall_s,
            self.cpu_s - other.cpu_s,
            self.leader_s - other.leader_s,
            self.stopped or other.stopped,
        )


def mpi(program: list[str], workers: int = 2) -> list[str]:
    """Command that runs a program with one leader, whose CPU time is measured, and ``workers`` ranks that work."""
    return [*MPI[:-1], "1", *LEADER_SHELL, *program, ":", "-n", str(workers), *program]


def timed(
    command: list[str], folder: Path, environment: dict[str, str] | None = None, limit_s: float | None = None
) -> Timing:
    """Run one command in ``folder`` and measure it; its output is in ``log.txt``.

    Raises
    ------
    RuntimeError
        When it fails; with the end of its output.
    """
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {})
    (folder / LEADER).unlink(missing_ok=True)
    start = time.perf_counter()
    stopped = threading.Event()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )

        def stop() -> None:
            stopped.set()
            os.killpg(process.pid, signal.SIGTERM)

        timer = threading.Timer(limit_s or threading.TIMEOUT_MAX, stop)
        timer.daemon = True
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - start
    if process.returncode and not stopped.is_set():
        lines = (folder / "log.txt").read_text(errors="replace").replace("\r", "\n").splitlines()
        raise RuntimeError("\n".join([" ".join(command), *lines[-25:]]))
    return Timing(wall_s, usage.ru_utime + usage.ru_stime, leader_cpu_s(folder / LEADER), stopped.is_set())


def leader_cpu_s(path: Path) -> float:
    """CPU seconds of the leader from what its shell wrote: ``times``, its own and those of its children; 0 if none."""
    if not path.exists():
        return 0.0
    parts = re.findall(r"(\d+)m([\d.]+)s", path.read_text())
    return sum(60 * int(minutes) + float(seconds) for minutes, seconds in parts)
