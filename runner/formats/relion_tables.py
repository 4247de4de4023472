"""Cells of RELION's run files: printed the way RELION prints them, read back with errors that name the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.errors import InputError
from runner.formats.star import StarBlock, StarFile, format_float, format_int

NO_FILE = "None"


def cell(value: object) -> str:
    """One STAR value: booleans as 0 and 1, an empty text as RELION's "None"."""
    if isinstance(value, bool | int | np.integer | np.bool_):
        return format_int(int(value))
    if isinstance(value, float | np.floating):
        return format_float(float(value))
    return str(value) or NO_FILE


def floats(values: npt.ArrayLike) -> list[str]:
    """A column of floats."""
    return [format_float(value) for value in np.asarray(values, dtype=np.float64).tolist()]


def integers(values: npt.ArrayLike) -> list[str]:
    """A column of integers."""
    return [format_int(value) for value in np.asarray(values).tolist()]


def listing(name: str, values: dict[str, object]) -> StarBlock:
    """A block of label-value pairs."""
    return StarBlock(name, {label: [cell(value)] for label, value in values.items()}, loop=False)


@dataclass(frozen=True)
class Table:
    """One block of a STAR file, read cell by cell.

    Every method raises `runner.errors.InputError` with the file, the block and the label that is missing or malformed.
    """

    block: StarBlock
    source: str

    @classmethod
    def of(cls, star: StarFile, name: str, source: str) -> Table:
        """The block ``data_<name>``."""
        if name not in star.blocks:
            found = ", ".join(f"data_{block}" for block in star.blocks)
            raise InputError(f"{source}: block data_{name} is missing (found {found}); a file written by RELION has it")
        return cls(star.blocks[name], source)

    def has(self, label: str) -> bool:
        """Whether the block has a column ``label``."""
        return label in self.block.columns

    def texts(self, label: str) -> list[str]:
        """A column as it stands."""
        if not self.has(label):
            raise InputError(f"{self.source}: {label} is missing in data_{self.block.name}; a RELION 3.1 file has it")
        return self.block.columns[label]

    def floats(self, label: str) -> npt.NDArray[np.float64]:
        """A column of floats."""
        return np.array([self._number(label, row, text) for row, text in enumerate(self.texts(label), start=1)])

    def integers(self, label: str) -> npt.NDArray[np.int64]:
        """A column of integers."""
        values = self.floats(label)
        for row in np.flatnonzero(values != np.rint(values))[:1]:
            raise self._error(label, int(row) + 1, self.texts(label)[row], "an integer")
        return values.astype(np.int64)

    def text(self, label: str) -> str:
        """The only value of ``label``; RELION's "None" becomes the empty text."""
        values = self.texts(label)
        if len(values) != 1:
            raise InputError(
                f"{self.source}: {label} has {len(values)} values in data_{self.block.name}, 1 was expected"
            )
        return "" if values[0] == NO_FILE else values[0]

    def number(self, label: str) -> float:
        """The only value of ``label``, as a float."""
        return self._number(label, 1, self.text(label))

    def integer(self, label: str) -> int:
        """The only value of ``label``, as an integer."""
        value = self.number(label)
        if not value.is_integer():
            raise self._error(label, 1, self.text(label), "an integer")
        return int(value)

    def like(self, label: str, default: object) -> object:
        """The only value of ``label``, of the type of ``default``; ``default`` itself where the label is missing."""
        if not self.has(label):
            return default
        if isinstance(default, bool):
            return self.integer(label) != 0
        if isinstance(default, int):
            return self.integer(label)
        return self.number(label) if isinstance(default, float) else self.text(label)

    def _number(self, label: str, row: int, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._error(label, row, text, "a number") from None

    def _error(self, label: str, row: int, text: str, expected: str) -> InputError:
        place = f"{self.source}: data_{self.block.name} row {row}"
        return InputError(f"{place}: {label} is '{text}', {expected} was expected")


def column_matrix(tables: Sequence[Table], label: str) -> npt.NDArray[np.float64]:
    """The same column of several blocks, one row a block; the blocks must be equally long."""
    columns = [table.floats(label) for table in tables]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise InputError(f"{tables[0].source}: {label} has columns of different lengths {sorted(lengths)}")
    return np.stack(columns)
