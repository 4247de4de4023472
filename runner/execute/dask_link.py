"""The connection of a driver to a Dask scheduler: who works there, what they tell, and what to do when it breaks."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from runner.errors import SchedulerLost
from runner.execute.protocol import Happening, Report, Task
from runner.execute.remote import GPUS, attempt
from runner.store.options import options_in_use

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster, Nanny
    from distributed.security import Security

SCHEDULER_TIMEOUT_SECONDS = 60.0
CLOSE_SECONDS = 8.0
STOP_SECONDS = 1.0
WAIT_STEP_SECONDS = 0.2


@dataclass(frozen=True)
class TlsFiles:
    """Certificates of a connection that is encrypted and known on both sides; all "" for none."""

    ca: str = ""
    cert: str = ""
    key: str = ""

    def security(self, role: str) -> Security | None:
        """Dask's settings for a "client", "worker" or "scheduler" with these certificates."""
        from distributed.security import Security

        if not self.ca:
            return None
        files = {"tls_ca_file": self.ca, f"tls_{role}_cert": self.cert, f"tls_{role}_key": self.key}
        return Security(require_encryption=True, **files)


@dataclass(frozen=True)
class Told:
    """A worker told what became of attempt ``serial``: a message of `runner.execute.remote`."""

    serial: int
    message: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """Dask is done with attempt ``serial``: "finished", "error" or "cancelled"; ``error`` only with the second."""

    serial: int
    status: str
    error: Exception | None


@dataclass(frozen=True)
class Left:
    """A worker is gone; it was ``expected`` when it took its leave."""

    worker: str
    expected: bool
    name: str = ""


@dataclass(frozen=True)
class _Joined:
    worker: str


@dataclass(frozen=True)
class _Worker:
    name: str
    threads: int


class Link:
    """A client of one scheduler. Everything that comes from there waits in one inbox, in the order of the scheduler.

    Parameters
    ----------
    client : connected client.
    cluster : the cluster of this process, when the scheduler is its own.
    report : told of workers that come and of the scheduler's absence.
    """

    def __init__(self, client: Client, cluster: LocalCluster | None, report: Report) -> None:
        self._client = client
        self._cluster = cluster
        self._report = report
        self._topic = f"tomoburst-{uuid.uuid4().hex[:12]}"
        self._inbox: SimpleQueue[Told | Ended | Left | _Joined] = SimpleQueue()
        self._workers: dict[str, _Worker] = {}
        self._listen()

    def _listen(self) -> None:
        self._connection = self._client.scheduler_comm
        self._client.subscribe_topic(self._topic, self._take_message)
        self._client.subscribe_topic("all", self._take_event)
        self._refresh()

    def _take_message(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        self._inbox.put(Told(message["serial"], message))

    def _take_event(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        if message["action"] == "add-worker":
            self._inbox.put(_Joined(message["worker"]))
        elif message["action"] == "remove-worker":
            self._inbox.put(Left(message["worker"], message["expected"]))

    def _refresh(self) -> None:
        """Ask who works there now."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        before = self._workers
        self._workers = {address: _Worker(str(each["name"]), int(each["nthreads"])) for address, each in known.items()}
        for address in self._workers.keys() - before.keys():
            self._tell("worker_joined", worker=self.name(address), workers=len(self._workers))

    def _tell(self, what: str, **details: Any) -> None:
        self._report(Happening(what, details))

    def next_message(self, seconds: float) -> Told | Ended | Left | None:
        """Wait for what comes next; None when nothing does within ``seconds``."""
        try:
            message = self._inbox.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(message, _Joined):
            if message.worker not in self._workers and self.is_up():
                self._refresh()
            return None
        if isinstance(message, Left):
            message = replace(message, name=self.name(message.worker))
            self._workers.pop(message.worker, None)
        return message

    def name(self, worker: str) -> str:
        """Name of the worker at an address, as people know it."""
        known = self._workers.get(worker)
        return known.name if known is not None else worker

    def threads(self) -> int:
        """Return how many tasks all workers compute at a time."""
        return sum(worker.threads for worker in self._workers.values())

    def worker_count(self) -> int:
        """Return the number of workers."""
        return len(self._workers)

    def others(self, worker: str) -> list[str]:
        """Addresses of all workers but one."""
        return sorted(address for address in self._workers if address != worker)

    def preferred(self, locality: str) -> list[str] | None:
        """The worker that tasks of this key go to; None for any."""
        if not locality or not self._workers:
            return None
        chosen = rendezvous((worker.name for worker in self._workers.values()), locality)
        return [address for address, worker in self._workers.items() if worker.name == chosen]

    def submit(self, task: Task, serial: int, workers: list[str] | None) -> Future[None]:
        """Hand one attempt of a task to the scheduler, for one of ``workers`` preferably."""
        function = task.kind.rpartition(":")[2]
        future: Future[None] = self._client.submit(
            attempt,
            task.kind,
            json.dumps(task.spec),
            serial,
            self._topic,
            asdict(options_in_use()),
            key=(function, f"{task.id} {serial} {self._topic}"),
            workers=workers,
            allow_other_workers=workers is not None,
            priority=task.priority,
            pure=False,
        )
        future.add_done_callback(self._callback(serial))
        return future

    def _callback(self, serial: int) -> Callable[[Future[None]], None]:
        def done(future: Future[None]) -> None:
            status = str(future.status)
            error = future.exception() if status == "error" else None
            self._inbox.put(Ended(serial, status, error))

        return done

    def is_up(self) -> bool:
        """Whether the scheduler answers, as far as is known, by the connection on which it is listened to."""
        return self._is_connected() and self._client.scheduler_comm is self._connection

    def _is_connected(self) -> bool:
        return bool(self._client.status == "running")

    def wait_until_up(self) -> None:
        """Wait for a scheduler that went away; all futures are cancelled then, and its workers are new.

        What was submitted meanwhile may be kept for a worker of before for ever.

        Raises
        ------
        SchedulerLost
            When it does not come back within `SCHEDULER_TIMEOUT_SECONDS`.
        """
        self._tell("scheduler_lost", reason=f"waiting up to {SCHEDULER_TIMEOUT_SECONDS:g} s for it")
        while not self._is_connected():
            if self._client.status not in ("connecting", "running"):
                raise SchedulerLost(
                    f"the Dask scheduler went away and did not come back within {SCHEDULER_TIMEOUT_SECONDS:g} s; "
                    "finished units are kept, start the scheduler and run the same command again"
                )
            time.sleep(WAIT_STEP_SECONDS)
        self._workers = {}
        self._tell("scheduler_back")
        self._listen()

    def close(self) -> None:
        """Let client and cluster go, within `CLOSE_SECONDS` whatever state they are in."""
        silence(logging.CRITICAL + 1)
        thread = threading.Thread(target=self._close, daemon=True)
        thread.start()
        thread.join(CLOSE_SECONDS)

    def _close(self) -> None:
        self._client.close(timeout=2)
        if self._cluster is not None:
            self._cluster.sync(_stop, self._cluster.workers.values())
            self._cluster.close(timeout=4)


async def _stop(nannies: Iterable[Nanny]) -> None:
    """End processes soon, also those that compute what nobody waits for any more."""
    stops = (nanny.close(timeout=STOP_SECONDS, reason="driver-ends") for nanny in nannies)
    await asyncio.gather(*stops, return_exceptions=True)


def rendezvous(names: Iterable[str], key: str) -> str:
    """The name whose hash with ``key`` is the greatest: it stays the same when others come and go."""
    return max(names, key=lambda name: blake2b(f"{name}|{key}".encode(), digest_size=8).digest())


def connect(url: str, tls: TlsFiles, report: Report) -> Link:
    """Connect to a running scheduler.

    Raises
    ------
    SchedulerLost
        When there is none at this URL within `SCHEDULER_TIMEOUT_SECONDS`.
    """
    from distributed import Client

    forward_log(report)
    security = tls.security("client")
    try:
        client = Client(url, timeout=SCHEDULER_TIMEOUT_SECONDS, security=security, set_as_default=False)
    except OSError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise SchedulerLost(
            f"--scheduler {url}: no Dask scheduler answers there ({reason}); start one with tomoburst scheduler, or "
            "correct the address or the certificates"
        ) from error
    return Link(client, None, report)


def start_local(workers: int, report: Report, gpus: tuple[str, ...] = ()) -> Link:
    """Start a scheduler in this process and ``workers`` processes of one thread each, watched by nannies.

    Each process sees one of ``gpus``, in turn; all of them when none is named.
    """
    import dask.config
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    forward_log(report)
    ignore_leaks()
    os.environ[GPUS] = " ".join(gpus)
    dask.config.set(
        {
            **WORKER_MEMORY,
            "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
            "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
        }
    )
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=MEMORY_LIMIT // workers,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        preload=[WORKER_MODULE],
    )
    client = Client(cluster, timeout=SCHEDULER_TIMEOUT_SECONDS, set_as_default=False)
    return Link(client, cluster, report)


WORKER_MEMORY = {f"distributed.worker.memory.{name}": False for name in ("target", "spill", "pause")}
"""A worker keeps no results that it could spill, and one that pauses because its unit is large would pause for ever; at
its limit it is started anew, before the machine kills something else."""

WORKER_MODULE = "runner.execute.remote"

ALLOWED_FAILURES = 10
"""Deaths of workers after which Dask gives a task up. It counts those of tasks that only waited on the worker; the
driver, which knows what a worker was computing, counts with a lower cap."""

_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application")


def forward_log(report: Report) -> None:
    """Turn what Dask logs in this process into notes: errors only, the rest is in the records of workers and units."""
    handler = _ForwardErrors(report)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.ERROR)


def ignore_leaks() -> None:
    """Let the processes that are started say nothing of semaphores of a process that ended at once: they clean up."""
    rules = [os.environ.get("PYTHONWARNINGS", ""), "ignore::UserWarning:multiprocessing.resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, rules))


def silence(level: int) -> None:
    """Log nothing below ``level``: what Dask says while it is taken down is of no use."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(level)


class _ForwardErrors(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        self._report(Happening("noted", {"message": f"{record.name}: {text}"}))
