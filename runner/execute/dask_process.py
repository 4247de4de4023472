"""The processes of a Dask cluster, with exit codes that tell a batch system whether to start them again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
import uuid
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

import dask.config
from distributed import Nanny, Scheduler, Status
from distributed.system import MEMORY_LIMIT

from runner.errors import Preempted, SchedulerLost, StorageError
from runner.execute.dask_link import ALLOWED_FAILURES, WORKER_MEMORY, WORKER_MODULE, TlsFiles, forward_log, ignore_leaks
from runner.execute.protocol import Happening, Report, describe

GOOD_ORDER = "scheduler-"  # how Dask's reasons begin when the scheduler told a worker to go
LEAVE_SECONDS = 5.0
STOP_SECONDS = 3.0
RETRY_SECONDS = 0.5
IDLE_POLL_SECONDS = 2.0
LEAST_START_SECONDS = 10.0

_HEALTH = ["distributed.http.health"]
_PAGES = ["distributed.http.health", "distributed.http.scheduler.info", "distributed.http.statics"]


@dataclass(frozen=True)
class SchedulerOptions:
    """Where a scheduler listens; ``health_port`` serves /health, and Dask's pages too with ``dashboard``."""

    host: str
    port: int
    health_port: int
    dashboard: bool
    idle_timeout_seconds: float
    tls: TlsFiles


@dataclass(frozen=True)
class WorkerOptions:
    """Which scheduler a worker serves, and with what.

    ``memory_limit`` in bytes, "auto" for all that machine or container have, 0 for none; ``gpu`` is what
    CUDA_VISIBLE_DEVICES is set to, "" leaves it; 0 seconds of ``idle_timeout_seconds``: it stays. The ``dask_setup`` of
    the modules ``preload`` is called in the process that computes.
    """

    scheduler: str
    name: str
    threads: int
    memory_limit: int | str
    gpu: str
    death_timeout_seconds: float
    idle_timeout_seconds: float
    health_port: int
    tls: TlsFiles
    preload: tuple[str, ...] = ()


def run_scheduler_process(options: SchedulerOptions, report: Report) -> None:
    """Serve until told to stop, or until there was no work for ``idle_timeout_seconds``.

    Raises
    ------
    Preempted
        On SIGTERM. Workers and drivers are told nothing: they wait for the scheduler to come back.
    KeyboardInterrupt
        On SIGINT. Workers are told to go.
    StorageError
        When it cannot listen there.
    """
    pages = _PAGES if options.dashboard else _HEALTH
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
            "distributed.scheduler.http.routes": pages,
        }
    )
    _check_free("--health_port", options.health_port)
    forward_log(report)
    _run(_serve(options, report))


async def _serve(options: SchedulerOptions, report: Report) -> None:
    stop = _stop_signal()
    scheduler = Scheduler(
        host=options.host or None,
        port=options.port,
        protocol="tls" if options.tls.ca else "tcp",
        security=options.tls.security("scheduler"),
        dashboard=options.dashboard,
        dashboard_address=f":{options.health_port}",
        idle_timeout=options.idle_timeout_seconds or None,
    )
    try:
        await scheduler
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"--port {options.port}: cannot listen there ({describe(error.__cause__ or error)}); choose another one"
        ) from error
    _note(report, f"scheduler at {scheduler.address}")
    await _first(scheduler.finished(), stop)
    if not stop.done():
        _note(report, "nothing was asked for during --idle_timeout: the scheduler ends, and its workers with it")
    elif stop.result() == signal.SIGINT:
        await scheduler.close(reason="scheduler-close")
        raise KeyboardInterrupt
    else:
        raise Preempted("stopped (SIGTERM): workers and drivers wait for a scheduler to come back at the same address")


def run_worker_process(options: WorkerOptions, report: Report) -> None:
    """Do what drivers send through the scheduler; return when the scheduler says that it is over.

    A worker that dies is started again, and one whose scheduler vanished looks for it with a new process.

    Raises
    ------
    Preempted
        On SIGTERM, after the worker took its leave. Its unit is dropped, for another worker to do.
    SchedulerLost
        When there is no scheduler for ``death_timeout_seconds``.
    StorageError
        When the health port is taken.
    """
    _check_free("--health_port", options.health_port)
    dask.config.set({**WORKER_MEMORY, "distributed.worker.http.routes": _HEALTH})
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"  # of the worker's own process
    if options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu
    forward_log(report)
    ignore_leaks()
    _run(_work(options, report))


async def _work(options: WorkerOptions, report: Report) -> None:
    stop = _stop_signal()
    name = options.name or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    while True:
        nanny = await _started(options, name, stop)
        _note(report, f"worker {name} serves {options.scheduler}")
        idle = asyncio.ensure_future(_idle(nanny, options.idle_timeout_seconds))
        finished = asyncio.ensure_future(nanny.finished())  # type: ignore[no-untyped-call]
        await _first(finished, idle, stop)
        if finished.done() and not stop.done():
            idle.cancel()
            if nanny.reason.startswith(GOOD_ORDER):
                _note(report, f"worker {name}: the scheduler ended")
                return
            waits = f"worker {name} looks for it for {options.death_timeout_seconds:g} s"
            report(Happening("scheduler_lost", {"reason": waits}))
            continue
        await _leave(nanny)
        if stop.done():
            raise Preempted(f"stopped (SIGTERM): worker {name} took its leave, another one does its unit again")
        _note(report, f"worker {name}: nothing to do during --idle_timeout")
        return


class _Watch(Nanny):
    """Watches the process of a worker, and keeps the reason for which the worker wanted to end."""

    reason = ""

    def close_gracefully(self, reason: str = "") -> None:
        """Take note that the worker ends and is not to be started again."""
        self.reason = reason
        super().close_gracefully(reason=reason)


async def _started(options: WorkerOptions, name: str, stop: asyncio.Future[int]) -> _Watch:
    """A worker that the scheduler knows."""
    deadline = time.monotonic() + options.death_timeout_seconds
    while True:
        watch = _watch(options, name, max(deadline - time.monotonic(), LEAST_START_SECONDS))
        start = asyncio.ensure_future(watch.start())  # type: ignore[no-untyped-call]
        await _first(start, stop)
        if stop.done():
            raise Preempted(f"stopped (SIGTERM): worker {name} had not found its scheduler yet")
        error = start.exception()
        if error is None:
            return watch
        if time.monotonic() > deadline:
            raise SchedulerLost(
                f"no scheduler at {options.scheduler} for {options.death_timeout_seconds:g} s "
                f"({describe(error.__cause__ or error)}); start one with tomoburst scheduler, or correct the address "
                "or the certificates"
            ) from error
        await asyncio.sleep(RETRY_SECONDS)


def _watch(options: WorkerOptions, name: str, timeout: float) -> _Watch:
    return _Watch(
        options.scheduler,
        name=name,
        nthreads=options.threads,
        memory_limit=MEMORY_LIMIT if options.memory_limit == "auto" else options.memory_limit or None,
        death_timeout=timeout,
        security=options.tls.security("worker"),
        preload=[WORKER_MODULE, *options.preload],
        dashboard=False,
        dashboard_address=f":{options.health_port}" if options.health_port else None,
    )


async def _idle(watch: _Watch, seconds: float) -> None:
    """Come back when the worker had nothing to do for so long; never when ``seconds`` is 0."""
    busy = time.monotonic()
    while not seconds or time.monotonic() - busy < seconds:
        await asyncio.sleep(IDLE_POLL_SECONDS)
        if not seconds or watch.status != Status.running:
            continue
        processing = await watch.scheduler.processing(workers=[watch.worker_address])
        if any(processing.values()):
            busy = time.monotonic()


async def _leave(watch: _Watch) -> None:
    """Take leave from the scheduler, so that it knows that the unit was no fault, and stop the worker."""
    try:
        await asyncio.wait_for(
            watch.scheduler.retire_workers(
                workers=[watch.worker_address], close_workers=False, remove=True, stimulus_id="worker-leaves"
            ),
            LEAVE_SECONDS,
        )
    except (OSError, TimeoutError):  # it is gone itself
        return
    await watch.close(timeout=STOP_SECONDS, reason="worker-leaves")


def _check_free(name: str, port: int) -> None:
    """Raise StorageError for a port that is taken, for which Dask would take another one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise StorageError(f"{name} {port}: cannot listen there ({error.strerror}); choose another one") from error


def _stop_signal() -> asyncio.Future[int]:
    """A future that SIGTERM or SIGINT makes done."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def set_stop(number: int) -> None:
        if not stop.done():
            stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, set_stop, number)
    return stop


async def _first(*awaitables: Awaitable[Any]) -> None:
    """Wait for one of several."""
    await asyncio.wait({asyncio.ensure_future(each) for each in awaitables}, return_when=asyncio.FIRST_COMPLETED)


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end and take nothing down: what is taken down would tell workers to go."""
    asyncio.new_event_loop().run_until_complete(work)


def _note(report: Report, message: str) -> None:
    report(Happening("noted", {"message": message}))
