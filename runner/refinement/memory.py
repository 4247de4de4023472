"""What a process remembers between units, so that it reads and prepares nothing twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The values that were used last, as many as fit into a limit on the sum of their sizes; safe for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = threading.RLock()

    def put(self, key: str, value: T, size: int = 1, limit: int | None = None) -> None:
        """Keep one value; those that were not used for longest make room. A value larger than the limit is not kept.

        ``limit`` replaces the limit from now on.
        """
        with self._lock:
            self._limit = self._limit if limit is None else limit
            self._kept.pop(key, None)
            self._kept[key] = (value, size)
            while sum(size for _, size in self._kept.values()) > self._limit:
                self._kept.popitem(last=False)

    def get(self, key: str, make: Callable[[], T]) -> T:
        """The value of a key, made and kept with size 1 when there is none; threads that want the same wait for it."""
        with self._lock:
            if key not in self._kept:
                self.put(key, make())
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def pop(self, key: str) -> T | None:
        """Take one value out; None when there is none."""
        with self._lock:
            value, _ = self._kept.pop(key, (None, 0))
            return value
