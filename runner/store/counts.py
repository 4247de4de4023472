"""How many requests this process made to its stores, and how many bytes went each way."""

from __future__ import annotations

import threading

KINDS = ("GET", "PUT", "LIST", "HEAD", "DELETE", "retries", "bytes_read", "bytes_written")

_lock = threading.Lock()
_counts = dict.fromkeys(KINDS, 0)


def count(kind: str, amount: int = 1) -> None:
    """Add to one counter; any thread may call it."""
    with _lock:
        _counts[kind] += amount


def request_counts() -> dict[str, int]:
    """Requests of this process since its start or the last reset.

    ``GET``, ``PUT``, ``LIST``, ``HEAD``, ``DELETE`` as sent (one that was sent again counts again), ``retries`` of
    operations, and ``bytes_read`` and ``bytes_written`` of whole objects or ranges.

    A local or memory store counts one request for each operation.
    """
    with _lock:
        return dict(_counts)


def reset_request_counts() -> None:
    """Set all counters to zero."""
    with _lock:
        _counts.update(dict.fromkeys(KINDS, 0))


class RequestMeter:
    """Counts the requests of this process from one look to the next."""

    def __init__(self) -> None:
        self._seen = request_counts()

    def since(self) -> dict[str, int]:
        """What was counted since the last call, or since the meter was made; kinds without any are left out."""
        seen, self._seen = self._seen, request_counts()
        return {kind: amount - seen[kind] for kind, amount in self._seen.items() if amount != seen[kind]}
