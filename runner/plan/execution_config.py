"""Flags that say who computes: threads, processes of this machine, or the workers of a scheduler. No result depends on
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runner.errors import UsageError
from runner.plan.flags import flag

_COMPUTE = "Computation"
_NETWORK = "Network"
_PROCESS = "Process"

SCHEMES = ("tcp://", "tls://")
MAX_PORT = 65535


def workers_flag() -> Any:
    """Declare ``--workers``."""
    return flag(0, "worker processes on this machine (0: threads of this process)", section=_COMPUTE, results=False)


def scheduler_flag() -> Any:
    """Declare ``--scheduler``."""
    text = "use the workers of this scheduler: tcp://HOST:8786 or tls://HOST:8786, see `tomoburst scheduler`"
    return flag("", text, section=_COMPUTE, results=False)


def tls_flag(what: str) -> Any:
    """Declare one of the flags that name the files of a tls:// connection."""
    return flag("", f"PEM file: {what}", section=_COMPUTE, results=False)


def metrics_port_flag(section: str = _COMPUTE) -> Any:
    """Declare ``--metrics_port``."""
    text = "serve metrics for Prometheus at http://HOST:PORT/metrics (0: none; needs tomoburst[metrics])"
    return flag(0, text, section=section, results=False)


TLS_CA = "certificate of the authority that signed all others (tls://)"
TLS_CERT = "certificate of this process (tls://)"
TLS_KEY = "key of that certificate (tls://)"


class WithTls(Protocol):
    """A configuration that names the files of an encrypted connection."""

    @property
    def tls_ca(self) -> str:
        """Certificate of the authority."""

    @property
    def tls_cert(self) -> str:
        """Certificate of this process."""

    @property
    def tls_key(self) -> str:
        """Key of that certificate."""


class WithExecution(WithTls, Protocol):
    """A configuration that says who computes."""

    @property
    def j(self) -> int:
        """Threads of this process."""

    @property
    def workers(self) -> int:
        """Worker processes on this machine."""

    @property
    def scheduler(self) -> str:
        """URL of a scheduler."""

    @property
    def metrics_port(self) -> int:
        """Port of the metrics."""


def check_execution(config: WithExecution) -> None:
    """Raise `UsageError` when the flags cannot work together."""
    _require(config.workers >= 0, f"--workers {config.workers}: give a number of processes, or 0 for none")
    _require(
        not (config.workers and config.scheduler),
        f"--workers {config.workers} with --scheduler: give one of them: start workers, or use those of a scheduler",
    )
    if config.scheduler:
        check_url(config.scheduler)
    check_tls(config, config.scheduler.startswith("tls://"))
    _check_metrics_port(config.metrics_port)


def check_url(url: str) -> None:
    """Raise `UsageError` when this is no address of a scheduler."""
    _require(
        url.startswith(SCHEMES) and ":" in url[6:] and url.rpartition(":")[2].isdigit(),
        f"--scheduler {url}: write tcp://HOST:PORT, or tls://HOST:PORT with certificates",
    )


def check_tls(config: WithTls, needed: bool) -> None:
    """Raise `UsageError` when files of an encrypted connection are missing, or given for one that is not."""
    files = {"--tls_ca": config.tls_ca, "--tls_cert": config.tls_cert, "--tls_key": config.tls_key}
    missing = [name for name, file in files.items() if not file]
    if needed or len(missing) < len(files):
        _require(not missing, f"{', '.join(missing)}: missing; an encrypted connection needs all of {', '.join(files)}")
        _require(needed, "--tls_ca, --tls_cert and --tls_key belong to a scheduler at tls://HOST:PORT")
    for name, file in files.items():
        _require(not file or Path(file).is_file(), f"{name} {file}: no such file")


@dataclass(frozen=True)
class SchedulerConfig:
    """What ``tomoburst scheduler`` is asked to do."""

    host: str = flag("", "address to listen on (default: every interface)", section=_NETWORK)
    port: int = flag(8786, "port for drivers and workers", section=_NETWORK)
    health_port: int = flag(8787, "port of http://HOST:PORT/health (0: a free one)", section=_NETWORK)
    dashboard: bool = flag(False, "serve Dask's pages there too", section=_NETWORK)
    tls_ca: str = flag("", f"PEM file: {TLS_CA}", section=_NETWORK)
    tls_cert: str = flag("", f"PEM file: {TLS_CERT}", section=_NETWORK)
    tls_key: str = flag("", f"PEM file: {TLS_KEY}", section=_NETWORK)
    idle_timeout: float = flag(
        0.0, "end, and end the workers, after so many seconds without work (0: never)", section=_PROCESS
    )

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _check_port("--port", self.port)
        _check_port("--health_port", self.health_port)
        _check_seconds("--idle_timeout", self.idle_timeout)
        check_tls(self, bool(self.tls_ca or self.tls_cert or self.tls_key))


@dataclass(frozen=True)
class WorkerConfig:
    """What ``tomoburst worker`` is asked to do."""

    scheduler: str = flag("", "scheduler to serve: tcp://HOST:8786 or tls://HOST:8786", section=_NETWORK)
    health_port: int = flag(0, "port of http://HOST:PORT/health (0: a free one)", section=_NETWORK)
    metrics_port: int = metrics_port_flag(_NETWORK)
    tls_ca: str = flag("", f"PEM file: {TLS_CA}", section=_NETWORK)
    tls_cert: str = flag("", f"PEM file: {TLS_CERT}", section=_NETWORK)
    tls_key: str = flag("", f"PEM file: {TLS_KEY}", section=_NETWORK)
    name: str = flag("", "name in logs; keep it when the worker is started again (default: made up)", section=_PROCESS)
    gpu: str = flag("", "number of the GPU that the worker may see (default: all)", section=_PROCESS)
    nthreads: int = flag(1, "units at a time", section=_PROCESS)
    memory_limit: str = flag(
        "auto",
        "GB at which it is started anew (auto: all that machine or container have, 0: none)",
        section=_PROCESS,
    )
    death_timeout: float = flag(60.0, "end after so many seconds without a scheduler", section=_PROCESS)
    idle_timeout: float = flag(0.0, "end after so many seconds without work (0: never)", section=_PROCESS)

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _require(bool(self.scheduler), "--scheduler is missing: give its address: --scheduler tcp://HOST:8786")
        check_url(self.scheduler)
        check_tls(self, self.scheduler.startswith("tls://"))
        _check_port("--health_port", self.health_port)
        _check_metrics_port(self.metrics_port)
        _require(self.nthreads >= 1, f"--nthreads {self.nthreads}: at least 1 is needed")
        _require(
            not self.gpu or all(part.isalnum() or part.startswith(("GPU-", "MIG-")) for part in self.gpu.split(",")),
            f"--gpu {self.gpu}: give the number or the UUID of a GPU",
        )
        _check_seconds("--death_timeout", self.death_timeout)
        _check_seconds("--idle_timeout", self.idle_timeout)
        self.memory_limit_bytes()

    def memory_limit_bytes(self) -> int | str:
        """Limit in bytes, or "auto"."""
        if self.memory_limit == "auto":
            return "auto"
        try:
            limit = float(self.memory_limit)
        except ValueError:
            limit = -1.0
        _require(
            0 <= limit < float("inf"), f"--memory_limit {self.memory_limit}: give a number of GB, auto, or 0 for none"
        )
        return int(limit * 1e9)


def _check_port(name: str, port: int) -> None:
    _require(0 <= port <= MAX_PORT, f"{name} {port}: give a port up to {MAX_PORT}, or 0 for a free one")


def _check_metrics_port(port: int) -> None:
    _require(0 <= port <= MAX_PORT, f"--metrics_port {port}: give a port up to {MAX_PORT}, or 0 for no metrics")


def _check_seconds(name: str, seconds: float) -> None:
    _require(0 <= seconds < float("inf"), f"{name} {seconds:g}: give a number of seconds")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
