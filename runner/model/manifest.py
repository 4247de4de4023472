"""What a run computes from what: the record by which the same command finds its run again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from runner.errors import InputError

NOT_GIVEN = "not given"


@dataclass(frozen=True)
class RunManifest:
    """Everything on which the bytes of a run depend, but for the particles' volumes themselves.

    Attributes
    ----------
    settings : flag -> value, of all flags that may change results.
    seed : the random seed in force, drawn where the flag leaves it open.
    inputs : flag and name of each input file -> digest of its content.
    version : of this program.
    units : how the particles are cut into units of work; follows from their number.
    """

    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str]
    version: str
    units: dict[str, int]

    def to_bytes(self) -> bytes:
        """JSON, the same for the same content."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> RunManifest:
        """Read what `to_bytes` wrote.

        Raises
        ------
        InputError
            Naming ``source`` when it is something else.
        """
        try:
            values = json.loads(data)
            return cls(**{each.name: values[each.name] for each in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{source}: is no manifest of a run ({type(error).__name__}: {error}); "
                "start afresh with --overwrite, or give another --o"
            ) from error

    def differences(self, now: RunManifest) -> list[str]:
        """One text for each thing that is different ``now``: what it is, what it was, what it is."""
        found = []
        for flag in sorted(self.settings.keys() | now.settings.keys()):
            was, is_ = self.settings.get(flag), now.settings.get(flag)
            same = was == is_ or {_spelt(was), _spelt(is_)} == {NOT_GIVEN}
            if not same and not (flag == "--random_seed" and is_ == self.seed):
                found.append(f"{flag}: was {_spelt(was)}, is {_spelt(is_)}")
        found += [
            f"{name}: content was {self.inputs[name][:12]}, is {now.inputs[name][:12]}"
            for name in sorted(self.inputs.keys() & now.inputs.keys())
            if self.inputs[name] != now.inputs[name]
        ]
        if self.version != now.version:
            found.append(f"version of tomoburst: was {self.version}, is {now.version}")
        return found


def _spelt(value: Any) -> str:
    if value in ("", None, False):
        return NOT_GIVEN
    return "given" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
