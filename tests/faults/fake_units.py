"""Units of work that need no data: each leaves a file for every time it is done, and fails as its spec says."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from runner.errors import InputError, StorageError
from runner.store.retry import retrying


def square(spec: dict[str, Any]) -> dict[str, Any]:
    return {"square": spec["item"] ** 2}


def echo(spec: dict[str, Any]) -> dict[str, Any]:
    return spec


def touch(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave a file that names item and process, ``seconds`` after the start."""
    time.sleep(spec.get("seconds", 0.0))
    name = f"{spec['item']}-{os.getpid()}-{uuid.uuid4().hex}"
    (Path(spec["folder"]) / name).touch()
    return {"item": spec["item"], "pid": os.getpid()}


def fail(spec: dict[str, Any]) -> dict[str, Any]:
    """Fail in the way ``error`` names: always, or the first ``times`` times."""
    touch(spec)
    done = len([path for path in Path(spec["folder"]).iterdir() if path.name.startswith(f"{spec['item']}-")])
    if done > spec.get("times", 10**9):
        return {"item": spec["item"]}
    if spec["error"] == "input":
        raise InputError("particle 7: NaN; leave it out")
    if spec["error"] == "storage":
        raise StorageError("s3://bucket: no answer; try again later")
    raise ZeroDivisionError("surprise")


def stumble(spec: dict[str, Any]) -> dict[str, Any]:
    """Make a request of a store that fails twice before it is answered."""
    answers = iter([ConnectionError("reset"), ConnectionError("reset"), None])

    def ask() -> None:
        error = next(answers)
        if error is not None:
            raise error

    retrying(ask, lambda: False, spec["url"])
    return {}


def die(spec: dict[str, Any]) -> dict[str, Any]:
    """Leave a file and take the process away at once."""
    touch(spec)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def slow_once(spec: dict[str, Any]) -> dict[str, Any]:
    """Take very long where it is done first, and no time anywhere else."""
    first = not any(path.name.startswith(f"{spec['item']}-") for path in Path(spec["folder"]).iterdir())
    result = touch(spec)
    if first:
        time.sleep(120)
    return result


def visible_gpu(spec: dict[str, Any]) -> dict[str, Any]:
    """Tell which GPU this process may see, and leave others time to take a unit too."""
    time.sleep(0.5)
    return {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}


def hoard(spec: dict[str, Any]) -> dict[str, Any]:
    """Take more and more memory, for ``seconds``."""
    hoarded = []
    end = time.monotonic() + spec["seconds"]
    while time.monotonic() < end:
        hoarded.append(b"x" * 2**20)
        time.sleep(0.001)
    return {"hoarded": len(hoarded)}
