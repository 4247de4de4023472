"""Configuration of ``tomoburst ingest``."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.execution_config import (
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    check_execution,
    metrics_port_flag,
    scheduler_flag,
    tls_flag,
    workers_flag,
)
from runner.plan.flags import flag

_IO = "Input and output"
_COMPUTE = "Computation"

POLICIES = ("fail", "skip")


@dataclass(frozen=True)
class IngestConfig:
    """What ``tomoburst ingest`` is asked to do."""

    i: str = flag("", "STAR file with the subtomograms", section=_IO)
    o: str = flag("", "particle store to make, e.g. s3://BUCKET/particles.zarr", section=_IO)
    float16: bool = flag(False, "store half the bytes: voxels as float16", section=_IO)
    on_bad_particle: str = flag(
        "fail", "particles that cannot be used: fail, or skip: set them aside with their reason", section=_IO
    )
    overwrite: bool = flag(False, "remove an earlier particle store at --o and ingest anew", section=_IO, results=False)

    j: int = flag(4, "chunks that are made at a time; the store does not depend on it", section=_COMPUTE, results=False)
    workers: int = workers_flag()
    scheduler: str = scheduler_flag()
    tls_ca: str = tls_flag(TLS_CA)
    tls_cert: str = tls_flag(TLS_CERT)
    tls_key: str = tls_flag(TLS_KEY)
    metrics_port: int = metrics_port_flag()

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        _require(bool(self.i), "--i is missing: give a STAR file with subtomograms: --i particles.star")
        _require(
            not self.i.rstrip("/").endswith(".zarr"), f"--i {self.i}: is a particle store already; use it as it is"
        )
        _require(bool(self.o), "--o is missing: give the particle store to make: --o particles.zarr")
        _require(self.o.endswith(".zarr"), f"--o {self.o}: the name of a particle store ends in .zarr")
        _require(
            self.on_bad_particle in POLICIES,
            f"--on_bad_particle {self.on_bad_particle}: unknown; known: {', '.join(POLICIES)}",
        )
        _require(self.j >= 1, f"--j {self.j}: at least 1 is needed")
        check_execution(self)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
