"""Particles on their way to the device while it computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.backend import Backend


def uploaded(volumes: Iterable[npt.NDArray[Any]], backend: Backend) -> Iterator[Any]:
    """Volumes of one shape on the device; the next one travels, on a stream of its own, while one is worked on.

    A volume is to be used before the next one is asked for: its memory is filled again then.
    """
    if backend.is_cpu:
        yield from volumes
        return
    stream = backend.xp.cuda.Stream(non_blocking=True)
    places = (_Place(stream, backend), _Place(stream, backend))
    waiting = None
    try:
        for number, volume in enumerate(volumes):
            place = places[number % 2]
            place.send(volume)
            if waiting is not None:
                yield from waiting.lent()
            waiting = place
        if waiting is not None:
            yield from waiting.lent()
    finally:
        stream.synchronize()  # nothing may be under way to memory that is given back


class _Place:
    """Memory for one volume on the device, and page-locked memory on the host from which it is copied there."""

    def __init__(self, stream: Any, backend: Backend) -> None:
        self._xp, self._real, self._stream = backend.xp, backend.real, stream
        self._copied, self._used = (backend.xp.cuda.Event(disable_timing=True) for _ in range(2))
        self._device: Any = None

    def send(self, volume: npt.NDArray[Any]) -> None:
        """Begin to copy a volume, once nobody uses the last one any more."""
        if self._device is None:
            pinned = self._xp.cuda.alloc_pinned_memory(volume.size * self._real.itemsize)
            self._host = np.frombuffer(pinned, dtype=self._real, count=volume.size).reshape(volume.shape)
            self._device = self._xp.empty(volume.shape, dtype=self._real)
            self._used.record()  # the memory may be that of arrays on which work is still waiting
        else:
            self._copied.synchronize()
        self._host[...] = volume
        self._stream.wait_event(self._used)
        self._device.set(self._host, stream=self._stream)
        self._copied.record(self._stream)

    def lent(self) -> Iterator[Any]:
        """The volume, which work that is given to the current stream from now on finds in its place."""
        self._xp.cuda.get_current_stream().wait_event(self._copied)
        yield self._device
        self._used.record()
