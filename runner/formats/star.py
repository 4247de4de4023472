"""STAR text, read and written the way RELION 3.1 does; every value stays the string it was.

Numbers are laid out as RELION prints them: width 12, six decimals (five when negative), exponents outside 0.001 … 1e5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.errors import InputError
from runner.store import objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_VERSION = re.compile(r"#\s*version\s+(\d+)", re.IGNORECASE)
_COMMENT = re.compile(r"\s*(#.*)", re.ASCII)
_TOKEN = re.compile(r"""\s*(?:(?P<quote>["'])(?P<quoted>.*?)(?P=quote)(?=\s|$)|(?P<bare>\S+))""", re.ASCII)
_PLAIN = re.compile(r"[!$-&(-~\s]*", re.ASCII)  # neither quotes nor comments
_LINE_END = re.compile(r"\r\n|\n|\r")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_RESERVED = re.compile(r"""data_|loop_|save_|stop_|global_|[_#;"'$]""", re.IGNORECASE)
SLICE = 10_000


@dataclass
class StarBlock:
    """One ``data_`` block: columns by label without the leading underscore, all of the same length, in file order.

    ``loop`` is False for a list of label-value pairs, whose columns have one entry.
    """

    name: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    loop: bool = True

    def __len__(self) -> int:
        return max((len(values) for values in self.columns.values()), default=0)


@dataclass
class StarFile:
    """The blocks of a STAR file by name, its comments without ``#``, and the number of its ``# version`` comment."""

    blocks: dict[str, StarBlock]
    comments: list[str] = field(default_factory=list)
    version: int | None = None


def read_star(url: str) -> StarFile:
    """Read and parse the STAR file at ``url``.

    Raises
    ------
    InputError
        When the file is missing, is not text or is not STAR.
    """
    data = objects.read_bytes(url)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: is not a text file; a STAR file was expected") from error
    return parse_star(text, url)


def parse_star(text: str, source: str = "") -> StarFile:
    """Parse STAR text; ``source`` names it in errors.

    Raises
    ------
    InputError
        With the line: rows of a wrong length, values outside a table, repeated blocks or labels, no block at all.
    """
    result = StarFile({})
    parser = _Parser(result, source or "STAR text")
    for number, line in enumerate(_LINE_END.split(text), start=1):
        parser.feed(number, line)
    if not result.blocks:
        raise InputError(f"{parser.source}: holds no 'data_' block; a STAR file was expected")
    return result


class _Parser:
    def __init__(self, result: StarFile, source: str) -> None:
        self.result = result
        self.source = source
        self.block: StarBlock | None = None

    def feed(self, number: int, line: str) -> None:
        if line.startswith(";"):
            raise self._error(number, "a text field of several lines (';'); put the value on one line")
        tokens = self._tokens(line)
        if not tokens:
            return
        first, quoted = tokens[0]
        if not quoted and first.startswith("data_"):
            self._open(number, first[5:])
        elif self.block is None:
            raise self._error(number, f"'{first}' comes before any 'data_' block; is this a STAR file?")
        elif not quoted and first == "loop_":
            if self.block.columns:
                raise self._error(number, f"a second table in 'data_{self.block.name}'; give each its own block")
            self.block.loop = True
        elif not quoted and first.startswith("_"):
            self._label(number, [value for value, _ in tokens])
        else:
            self._row(number, [value for value, _ in tokens])

    def _tokens(self, line: str) -> list[tuple[str, bool]]:
        if _PLAIN.fullmatch(line):
            return [(token, False) for token in line.split()]
        tokens: list[tuple[str, bool]] = []
        position = 0
        while match := _TOKEN.match(line, position):
            comment = _COMMENT.match(line, position)
            if comment and not self._lacks_values(tokens):
                if not tokens:
                    self._comment(comment[1])
                break
            quoted = match["quote"] is not None
            tokens.append((match["quoted"] if quoted else match["bare"], quoted))
            position = match.end()
        return tokens

    def _lacks_values(self, tokens: list[tuple[str, bool]]) -> bool:
        """Whether a row has begun and is not complete: RELION writes a name that starts with ``#`` without quotes."""
        if self.block is None or not self.block.loop or not tokens:
            return False
        first, quoted = tokens[0]
        return (quoted or not first.startswith(("_", "data_", "loop_"))) and len(tokens) < len(self.block.columns)

    def _comment(self, text: str) -> None:
        self.result.comments.append(text[1:].strip())
        version = _VERSION.match(text)
        if version:
            self.result.version = max(self.result.version or 0, int(version[1]))

    def _open(self, number: int, name: str) -> None:
        if name in self.result.blocks:
            raise self._error(number, f"block 'data_{name}' occurs twice")
        self.block = self.result.blocks[name] = StarBlock(name, {}, loop=False)

    def _label(self, number: int, values: list[str]) -> None:
        assert self.block is not None
        label = values[0][1:]
        if label in self.block.columns:
            raise self._error(number, f"label '_{label}' occurs twice in block 'data_{self.block.name}'")
        if self.block.loop:
            if len(self.block):
                raise self._error(number, f"label '_{label}' after the rows of the table")
            if len(values) > 1:
                raise self._error(number, f"a value behind the column label '_{label}'")
            self.block.columns[label] = []
        else:
            if len(values) > 2:
                raise self._error(number, f"{len(values) - 1} values for '_{label}'; quote a value that holds blanks")
            self.block.columns[label] = [values[1] if len(values) == 2 else ""]

    def _row(self, number: int, values: list[str]) -> None:
        assert self.block is not None
        columns = self.block.columns
        if not self.block.loop or not columns:
            raise self._error(number, f"value '{values[0]}' outside a table; 'loop_' and its labels come first")
        if len(values) != len(columns):
            name = self.block.name
            raise self._error(number, f"{len(values)} values, but 'data_{name}' has {len(columns)} columns")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)

    def _error(self, number: int, what: str) -> InputError:
        return InputError(f"{self.source} line {number}: {what}")


def format_star(blocks: Iterable[StarBlock], comments: Sequence[str] = ()) -> str:
    """STAR text of ``blocks`` in RELION 3.1's layout; ``comments`` come first, one ``#`` line each."""
    parts = [f"# {comment}\n" for comment in comments]
    parts.extend(_format_block(block) for block in blocks)
    return "".join(parts)


def _format_block(block: StarBlock) -> str:
    head = f"\n# version 30001\n\ndata_{block.name}\n\n"
    if not block.loop:
        width = max((len(label) for label in block.columns), default=0) + 12
        lines = "".join(f"_{label.ljust(width)}{_cell(values[0], 0)}\n" for label, values in block.columns.items())
        return f"{head}{lines} \n"
    labels = "".join(f"_{label} #{index} \n" for index, label in enumerate(block.columns, start=1))
    rows = "".join(_rows(block, range(start, start + SLICE)) for start in range(0, len(block), SLICE))
    return f"{head}loop_ \n{labels}{rows} \n"


def _rows(block: StarBlock, rows: range) -> str:
    """Some rows of a loop: the cells of a million rows would take gigabytes."""
    columns = [
        [_cell(value, string_width=10) for value in values[rows.start : rows.stop]] for values in block.columns.values()
    ]
    return "".join(f"{' '.join(row)} \n" for row in zip(*columns, strict=True))


def _cell(value: str, string_width: int) -> str:
    if _NUMBER.fullmatch(value):
        return value.rjust(12)
    return format_text(value).rjust(string_width)


def format_float(value: float) -> str:
    """``value`` as RELION prints it, without padding: ``1.500000``, ``-1.50000``, ``4.500000e-09``."""
    decimals = 5 if value < 0 else 6
    magnitude = abs(value)
    if (0 < magnitude < 0.001) or magnitude > 1e5:
        return f"{value:.{decimals}e}"
    return f"{value:.{decimals}f}"


def format_int(value: int) -> str:
    """``value`` as RELION prints an integer; booleans become 0 and 1."""
    return str(int(value))


def format_text(value: str) -> str:
    """``value`` as one STAR token, quoted where it is empty, holds blanks or would be read as something else."""
    if "\n" in value or "\r" in value:
        raise ValueError(f"a STAR value cannot hold a line break: {value!r}")
    if value and not _RESERVED.match(value) and not re.search(r"\s", value, re.ASCII):
        return value
    for quote in ('"', "'"):
        if not re.search(rf"{quote}(\s|$)", value, re.ASCII):
            return f"{quote}{value}{quote}"
    raise ValueError(f"a STAR value cannot hold both kinds of quotes before a blank: {value!r}")
