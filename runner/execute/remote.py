"""What a worker does with a task: imported by name there, so it imports little.

A worker tells the driver through the scheduler when it starts a task and what became of it, and waits until the
scheduler has the message. So no result lies in the memory of a worker, where it would be lost with it, and of a worker
that died the driver knows which task it was computing.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from distributed import get_worker
from distributed.utils import sync
from threadpoolctl import threadpool_limits

from runner import errors
from runner.execute.protocol import RemoteFailure, describe, perform
from runner.store.options import StoreOptions, options_in_use, use
from runner.store.retry import listen

GPUS = "TOMOBURST_GPUS"
STARTED = "started"
FINISHED = "finished"
FAILED = "failed"

observers: list[Callable[[dict[str, Any], float], None]] = []
"""Called in the worker with the spec of each task that was done, and the seconds that it took."""

_retries: deque[tuple[str, int, str]] = deque()
"""Requests to stores that were made again and of which no driver has heard yet, see `runner.store.retry.listen`."""


def dask_setup(worker: Any) -> None:
    """Leave signals to the process that watches this one, and see one of the GPUs that local workers share.

    The watching process takes leave of the scheduler before it ends this one.
    """
    gpus = os.environ.get(GPUS, "").split()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen(lambda *retry: _retries.append(retry))


def attempt(kind: str, spec: str, serial: int, topic: str, store: dict[str, Any]) -> None:
    """Do one task, with one thread of BLAS, and tell what became of it.

    Parameters
    ----------
    kind, spec : see `runner.execute.protocol.Task`; the spec as JSON text.
    serial : names this attempt in the messages to the driver.
    topic : where the driver listens.
    store : fields of `runner.store.options.StoreOptions`; credentials are not among them, each worker finds its own.
    """
    options = StoreOptions(**store)
    if options != options_in_use():
        use(options)
    tell(topic, {"what": STARTED, "serial": serial})
    begin = time.perf_counter()
    try:
        with threadpool_limits(1):
            result = perform(kind, json.loads(spec))
    except Exception as error:  # noqa: BLE001 - whatever a task raises is for the driver to judge
        tell(topic, {"what": FAILED, "serial": serial, "error": error_as_json(error), "retries": _taken_retries()})
    else:
        for observe in observers:
            observe(json.loads(spec), time.perf_counter() - begin)
        tell(topic, {"what": FINISHED, "serial": serial, "result": json.dumps(result), "retries": _taken_retries()})


def _taken_retries() -> list[tuple[str, int, str]]:
    """Take what nobody was told of yet; with several threads some of it may be of another task."""
    taken = []
    with suppress(IndexError):
        while True:
            taken.append(_retries.popleft())
    return taken


def tell(topic: str, message: dict[str, Any]) -> None:
    """Hand a message to the scheduler, and come back when it has it."""
    worker = get_worker()
    message = {**message, "worker": worker.address, "name": str(worker.name)}
    sync(worker.loop, worker.scheduler.log_event, topic=topic, msg=message)


def error_as_json(error: Exception) -> dict[str, str]:
    """Spell an error such that the driver can raise it without the classes of this process."""
    if isinstance(error, errors.TomoburstError):
        return {"class": type(error).__name__, "text": str(error)}
    return {"class": "", "text": describe(error)}


def error_from_json(spelt: dict[str, str]) -> Exception:
    """Return the error that a worker met: of its class when it is one of ours."""
    kind = getattr(errors, spelt["class"], None) if spelt["class"] else None
    return kind(spelt["text"]) if kind is not None else RemoteFailure(spelt["text"])
