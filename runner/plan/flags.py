"""Command-line flags as metadata of configuration dataclasses.

A configuration is a frozen dataclass whose fields are made by `flag`; the command line, its help and the table in the
documentation are all read from those fields, so a flag is written down once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def flag(
    default: Any,
    text: str,
    *,
    section: str = "Options",
    name: str | None = None,
    bare_value: str | None = None,
    results: bool = True,
) -> Any:
    """Declare one configuration field and the flag that sets it.

    Parameters
    ----------
    default : value of a run that does not give the flag. For texts, "" means "not given".
    text : one line of help, units included.
    section : heading under which the help lists the flag.
    name : the flag, when it is not ``--`` and the field's name.
    bare_value : value of the flag when it is given without one, like RELION's ``--gpu``; None: it always takes a value.
    results : whether any byte of the results may depend on it. Flags of which none does (threads, workers, caches) may
        be changed when a run is resumed, and stand in no file of the run.
    """
    metadata = {"flag": name, "help": text, "section": section, "bare_value": bare_value, "results": results}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Flag:
    """One flag of a command: the field it sets, its type, default and help."""

    field: str
    name: str
    type: Any
    default: Any
    text: str
    section: str
    bare_value: str | None
    results: bool = True

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone, without a value."""
        return self.type is bool


def flags_of(config: type[DataclassInstance]) -> tuple[Flag, ...]:
    """Read the flags of a configuration class in the order of its fields."""
    types = get_type_hints(config)
    return tuple(
        Flag(
            field=field.name,
            name=field.metadata.get("flag") or f"--{field.name}",
            type=types[field.name],
            default=field.default,
            text=field.metadata["help"],
            section=field.metadata.get("section", "Options"),
            bare_value=field.metadata.get("bare_value"),
            results=field.metadata.get("results", True),
        )
        for field in dataclasses.fields(config)
        if "flag" in field.metadata
    )


def given_fields(config: DataclassInstance) -> frozenset[str]:
    """The fields whose flags were given: values that are no defaults, and what the command line adds to ``given``."""
    changed = {each.field for each in flags_of(type(config)) if getattr(config, each.field) != each.default}
    return frozenset(changed | getattr(config, "given", frozenset()))


def changed_flags(config: DataclassInstance, *, results_only: bool = False) -> list[str]:
    """Spell a configuration as the shortest list of arguments that gives it, or that gives its results."""
    words: list[str] = []
    for flag_ in flags_of(type(config)):
        value = getattr(config, flag_.field)
        if value == flag_.default or (results_only and not flag_.results):
            continue
        words.append(flag_.name)
        if not flag_.is_switch and value != flag_.bare_value:
            words.append(str(value))
    return words
