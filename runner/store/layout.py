"""Where the objects of a run lie beside RELION's files: the names below an output prefix."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class RunLayout:
    """Names of the objects of the run with the output prefix ``prefix``."""

    prefix: str

    @property
    def manifest(self) -> str:
        """What the run computes from what: settings, seed, inputs, versions. Written once, at the start."""
        return f"{self.prefix}_manifest.json"

    @property
    def events(self) -> str:
        """The log."""
        return f"{self.prefix}_events.jsonl"

    @property
    def bad_particles(self) -> str:
        """The particles that were set aside, with the reasons."""
        return f"{self.prefix}_bad_particles.star"

    @property
    def particles(self) -> str:
        """The particles of the run in chunks, where they are ingested for it."""
        return f"{self.prefix}_particles.zarr"

    @property
    def work(self) -> str:
        """The folder of what is only of use until the run is finished."""
        return f"{self.prefix}_work"

    @property
    def drivers(self) -> str:
        """The folder of the claims of drivers, see `runner.store.lease`."""
        return f"{self.work}/driver"

    @property
    def finished(self) -> str:
        """The last object of a finished run; names its results."""
        return f"{self.work}/finished.json"

    @property
    def cancel(self) -> str:
        """Asks the driver to stop."""
        return f"{self.work}/cancel.json"

    def iteration(self, number: int) -> str:
        """The folder of one iteration."""
        return f"{self.work}/it{number:03d}"

    def state(self, number: int) -> str:
        """The exact state after an iteration."""
        return f"{self.iteration(number)}/state.npz"

    def commit(self, number: int) -> str:
        """The last object of an iteration: it is done, and its state is this one."""
        return f"{self.iteration(number)}/commit.json"

    def iteration_of(self, url: str) -> int | None:
        """Number of the iteration whose folder holds ``url``; None when none does."""
        found = re.match(r"/it(\d{3,})/", url.removeprefix(self.work)) if url.startswith(f"{self.work}/") else None
        return int(found[1]) if found else None

    def is_result(self, url: str) -> bool:
        """Whether ``url`` has the name of one of the files for the user, of this program or RELION."""
        return url.startswith(self.prefix) and _RESULT.fullmatch(url.removeprefix(self.prefix)) is not None


_RESULT = re.compile(
    r"(_it\d{3,})?(_half[12])?"
    r"(_(data|optimiser|sampling|model)\.star|_class\d{3,}(\.mrc|_angdist\.bild|_unfil\.mrc))"
    r"|_bad_particles\.star|_manifest\.json|_events\.jsonl|_report\.html"
)
