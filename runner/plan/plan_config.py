"""Configuration of ``tomoburst plan``: the flags of the run that is planned, and what the plan takes for granted."""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import UsageError
from runner.plan.config import RefineConfig
from runner.plan.flags import flag
from runner.plan.validation import check_settings

_PLAN = "Plan"


@dataclass(frozen=True)
class PlanConfig(RefineConfig):
    """What ``tomoburst plan`` is asked to do."""

    devices: int = flag(-1, "GPUs, or threads, that compute at once (-1: --workers, or --j)", section=_PLAN)
    price_per_hour: float = flag(0.0, "price of one device for an hour, in any currency (0: no cost)", section=_PLAN)
    rate: float = flag(
        -1.0, "single-precision rate of a device's matrix products in GFLOP/s (-1: measured here)", section=_PLAN
    )
    bandwidth: float = flag(-1.0, "MB/s at which a device reads particles (-1: 1000 local, 100 other)", section=_PLAN)
    resolution: float = flag(-1.0, "resolution in A that the run is taken to reach (-1: 3 voxels)", section=_PLAN)
    iterations_per_order: int = flag(
        6, "iterations of an auto-refine at one angular sampling; half of it to twice in the range", section=_PLAN
    )
    json: bool = flag(False, "print the plan as JSON", section=_PLAN)

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work whatever the data are."""
        if self.continue_:
            raise UsageError("--continue: a plan is made of a new run; leave it out and give the flags of the run")
        if not self.i:
            raise UsageError("--i is missing: give the particles of the run: --i particles.star")
        check_settings(self)
        _require(self.devices >= 1 or self.devices == -1, f"--devices {self.devices}: give 1 or more, or -1")
        _require(self.price_per_hour >= 0, f"--price_per_hour {self.price_per_hour:g}: give 0 or more")
        _require(self.iterations_per_order >= 1, f"--iterations_per_order {self.iterations_per_order}: give 1 or more")
        for name, value in (("--rate", self.rate), ("--bandwidth", self.bandwidth), ("--resolution", self.resolution)):
            _require(value > 0 or value == -1, f"{name} {value:g}: give a positive number, or -1")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)
