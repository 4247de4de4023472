"""Real schedulers, workers and drivers in processes of their own, over TCP on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
TOMOBURST = [sys.executable, "-c", "from runner.cli import main; main()"]
PATIENCE_SECONDS = 90.0


class Process:
    """One process, with its records; it is the leader of a session, so that nothing of it can outlive the test."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with log.open("w") as stream:
            self.popen = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )

    def records(self, name: str = "") -> list[dict[str, Any]]:
        """Records so far, or those of one name."""
        lines = [line for line in self.log.read_text().splitlines(keepends=True) if line.startswith("{")]
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in found if name in ("", record["event"])]

    def wait(self) -> int:
        """Exit code; the test fails when the process does not end."""
        return self.popen.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """SIGKILL for it and all that it started."""
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.popen.wait(PATIENCE_SECONDS)

    def worker_processes(self) -> list[psutil.Process]:
        """The processes in which units are computed."""
        try:
            children = psutil.Process(self.popen.pid).children()
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            return []


class Cluster:
    """Starts processes, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "done").mkdir()
        self.port = free_port()
        self.started: list[Process] = []
        self.tls: list[str] = []

    @property
    def url(self) -> str:
        return f"{'tls' if self.tls else 'tcp'}://127.0.0.1:{self.port}"

    def start(self, command: list[str], kind: str) -> Process:
        """Start any process, whose records go to a log of this kind."""
        process = Process(command, self.folder / f"{kind}{len(self.started)}.log")
        self.started.append(process)
        return process

    def scheduler(self, *flags: str) -> Process:
        words = ["scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--health_port", "0", *self.tls]
        process = self.start([*TOMOBURST, *words, *flags], "scheduler")
        wait_for(lambda: process.records("noted"), process)
        return process

    def worker(self, *flags: str, ready: bool = True) -> Process:
        words = ["worker", "--scheduler", self.url, *self.tls, *flags]
        process = self.start([*TOMOBURST, *words], "worker")
        if ready:
            wait_for(lambda: process.records("noted"), process)
        return process

    def driver(self, *flags: str, tasks: list[Any] | None = None) -> Process:
        command = [sys.executable, "-m", "tests.faults.driver", "fake", "--folder", str(self.folder), *flags]
        if tasks is not None:
            (self.folder / "tasks.json").write_text(json.dumps(tasks))
            command += ["--tasks", str(self.folder / "tasks.json")]
        return self.start(command, "driver")

    def attached(self, *flags: str, tasks: list[Any] | None = None) -> Process:
        return self.driver("--scheduler", self.url, *self.tls, *flags, tasks=tasks)

    def outcomes(self) -> list[dict[str, Any]]:
        """What drivers have got so far."""
        path = self.folder / "outcomes.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def touches(self, item: object = None) -> list[str]:
        """Names of the files that units left, of all or of one."""
        names = [path.name for path in (self.folder / "done").iterdir()]
        return names if item is None else [name for name in names if name.startswith(f"{item}-")]

    def touch_tasks(self, count: int, seconds: float = 0.0) -> list[Any]:
        spec = {"folder": str(self.folder / "done"), "seconds": seconds}
        return [[f"u{item}", "touch", {"item": item, **spec}] for item in range(count)]

    def enough(self) -> None:
        """Let endless drivers end."""
        (self.folder / "enough").touch()

    def close(self) -> None:
        for process in self.started:
            process.kill()


def wait_for(condition: Callable[[], Any], process: Process) -> None:
    """Wait until something is so; the test fails when it never is, or when the process has ended."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.popen.poll() is None, process.log.read_text()
        assert time.monotonic() < end, process.log.read_text()
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
