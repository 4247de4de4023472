"""Configuration of ``tomoburst report``."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.flags import flag


@dataclass(frozen=True)
class ReportConfig:
    """What ``tomoburst report`` is asked to do."""

    timing: str = flag("", "where the time of the run with this output prefix went, finished or not")
    json: bool = flag(False, "print the report as JSON")

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work."""
        if not self.timing:
            raise UsageError("--timing is missing: give the output prefix of a run: --timing OUT/run")
