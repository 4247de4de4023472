"""Dataclasses of arrays and numbers <-> bytes: exact to the last bit, the same bytes for the same content, no pickle.

The bytes are a NumPy archive (``np.load`` opens it): one member for each array, named by its place (``halves/0/tau2``),
and ``tree``, a JSON text in which numbers, texts and the order of things stand.
"""

from __future__ import annotations

import dataclasses
import io
import json
import types
import zipfile
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from runner.errors import InputError

T = TypeVar("T")
Arrays = dict[str, npt.NDArray[Any]]

TREE = "tree"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a ZIP member; the present one would differ in every run


def pack(value: Any) -> bytes:
    """Bytes of a dataclass of arrays, numbers, texts, None, and lists, dictionaries or dataclasses of them.

    The keys of dictionaries are texts or integers; they come back sorted as texts.

    Arrays keep shape, dtype and order of axes in memory, numbers their type: a NumPy scalar comes back as one.
    """
    arrays: Arrays = {}
    tree = json.dumps(_node(value, "", arrays), sort_keys=True).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in [(TREE, np.frombuffer(tree, dtype=np.uint8)), *arrays.items()]:
            member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def unpack(kind: type[T], data: bytes, source: str) -> T:
    """The dataclass of type ``kind`` that `pack` made ``data`` of.

    Raises
    ------
    InputError
        Naming ``source`` when the bytes are damaged or of something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        tree = json.loads(arrays[TREE].tobytes())
        value: T = _value(kind, tree, arrays)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"{source}: is damaged or not of this version ({reason}); remove it") from error
    return value


def _node(value: Any, path: str, arrays: Arrays) -> Any:
    """JSON of a value whose arrays are put into ``arrays``."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {each.name: _node(getattr(value, each.name), _below(path, each.name), arrays) for each in fields}
    if isinstance(value, list):
        return [_node(each, _below(path, str(index)), arrays) for index, each in enumerate(value)]
    if isinstance(value, dict):
        return {
            "items": {str(key): _node(value[key], _below(path, str(key)), arrays) for key in sorted(value, key=str)}
        }
    if isinstance(value, np.ndarray | np.generic):
        arrays[path] = np.asarray(value)
        return {"array": path, "scalar": isinstance(value, np.generic)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be kept")


def _below(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _value(kind: Any, node: Any, arrays: Arrays) -> Any:
    """The value of type ``kind`` that `_node` made ``node`` of."""
    if isinstance(node, dict) and node.keys() == {"array", "scalar"}:
        array = arrays[node["array"]]
        return array[()] if node["scalar"] else array
    if get_origin(kind) in (Union, types.UnionType) and node is not None:
        kind = next(each for each in get_args(kind) if each is not type(None))
    if get_origin(kind) is dict:
        key, each = get_args(kind)
        return {key(name): _value(each, below, arrays) for name, below in node["items"].items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        expected = {each.name for each in dataclasses.fields(kind)}
        if node.keys() != expected:
            raise ValueError(f"{kind.__name__} with {', '.join(sorted(node.keys() ^ expected))}")
        return kind(**{name: _value(hints[name], each, arrays) for name, each in node.items()})
    if isinstance(node, list):
        return [_value(get_args(kind)[0], each, arrays) for each in node]
    return node
