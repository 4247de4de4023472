"""A command of tomoburst whose units need no data: ``python -m tests.faults.driver fake --folder F --tasks T.json``.

It goes the way of all commands: flags, executor, records on standard error, exit codes. Outcomes are written to
``F/outcomes.jsonl`` one by one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from runner import cli
from runner.execute import dask_link
from runner.execute.protocol import Outcome, Task
from runner.execution import open_executor
from runner.plan.execution_config import check_execution
from runner.plan.flags import flag
from runner.report.events import Events


@dataclass(frozen=True)
class FakeConfig:
    """Tasks are those of a file, and then touches of ``seconds`` each until there is a file F/enough."""

    folder: str = flag("", "folder of outcomes")
    tasks: str = flag("", "JSON file with tasks: [[id, function, spec], ...]")
    seconds: float = flag(0.0, "seconds of each touch")
    endless: bool = flag(False, "go on with touches until F/enough is there")
    patience: float = flag(60.0, "seconds to wait for a lost scheduler")
    metrics_port: int = flag(0, "port of metrics")
    j: int = flag(1, "threads")
    gpu: str = flag("", "GPUs")
    workers: int = flag(0, "processes")
    scheduler: str = flag("", "URL")
    tls_ca: str = flag("", "PEM file")
    tls_cert: str = flag("", "PEM file")
    tls_key: str = flag("", "PEM file")

    def validate(self) -> None:
        check_execution(self)


def run_fake(config: FakeConfig, events: Events) -> None:
    dask_link.SCHEDULER_TIMEOUT_SECONDS = config.patience
    with open_executor(config, events) as executor, (Path(config.folder) / "outcomes.jsonl").open("a") as log:
        for outcome in executor.run(tasks(config)):
            log.write(json.dumps(spelt(outcome)) + "\n")
            log.flush()


def tasks(config: FakeConfig) -> Iterator[Task]:
    for name, function, spec in json.loads(Path(config.tasks).read_text()) if config.tasks else []:
        yield Task(name, f"tests.faults.fake_units:{function}", spec)
    if config.endless:
        folder = Path(config.folder)
        for item in count():
            if (folder / "enough").exists():
                return
            spec = {"item": f"e{item}", "folder": str(folder / "done"), "seconds": config.seconds}
            yield Task(f"e{item}", "tests.faults.fake_units:touch", spec, locality=f"chunk {item % 7}")


def spelt(outcome: Outcome) -> dict[str, object]:
    return {
        "id": outcome.task.id,
        "result": outcome.result,
        "error": type(outcome.error).__name__ if outcome.error else None,
        "message": str(outcome.error) if outcome.error else None,
        "attempts": outcome.attempts,
        "worker": outcome.worker,
    }


if __name__ == "__main__":
    sys.modules["runner.fake"] = sys.modules["__main__"]
    cli.add_command(FakeConfig, "fake", "Units that need no data.")
    cli.main()
