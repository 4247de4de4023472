"""What a device can do at best: its rate of matrix products and its memory bandwidth, measured in a moment.

No part of the E-step can be faster: products are bounded by the first, everything that streams arrays by the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.backend import Backend

ROWS, INNER, COLUMNS = 1024, 2048, 512
REPETITIONS = 3
STREAM_VALUES = 1 << 23
"""Numbers of each array of the bandwidth measurement: 32 MiB in single precision, more than caches hold."""


@dataclass(frozen=True)
class Floors:
    """Rates of one device, or of one thread of a CPU.

    Attributes
    ----------
    product_flops : floating-point operations per second of a product of matrices in the backend's real precision.
    bandwidth_bytes : bytes per second of ``a = b + c`` on arrays beyond the caches, two reads and a write counted.
    """

    product_flops: float
    bandwidth_bytes: float


def measure_floors(backend: Backend, seconds: float = 0.3) -> Floors:
    """Measure the calling thread's device for about ``seconds`` each; the best of the repetitions counts.

    The caller sets the number of threads of BLAS to one, as in a run.
    """
    xp, rng = backend.xp, np.random.default_rng(0)
    left, right = (
        xp.asarray(rng.standard_normal(shape), dtype=backend.real) for shape in ((ROWS, INNER), (INNER, COLUMNS))
    )
    product = xp.empty((ROWS, COLUMNS), dtype=backend.real)
    best = _best(lambda: xp.matmul(left, right, out=product), backend, seconds)
    b, c = (xp.ones(STREAM_VALUES, dtype=backend.real) for _ in range(2))
    a = xp.empty_like(b)
    stream = _best(lambda: xp.add(b, c, out=a), backend, seconds)
    return Floors(2.0 * ROWS * INNER * COLUMNS / best, 3.0 * a.nbytes / stream)


def _best(work: Callable[[], Any], backend: Backend, seconds: float) -> float:
    """Least duration of ``work`` in seconds, after one call that does not count.

    On a CPU the time counts during which this thread had a processor, whatever else is going on.
    """
    clock = time.thread_time if backend.is_cpu else time.perf_counter
    work()
    _wait(backend)
    durations: list[float] = []
    end = time.perf_counter() + seconds
    while len(durations) < REPETITIONS or time.perf_counter() < end:
        start = clock()
        work()
        _wait(backend)
        durations.append(clock() - start)
    return min(durations)


def _wait(backend: Backend) -> None:
    """Wait until the device has done what it was given."""
    if not backend.is_cpu:
        backend.xp.cuda.Device(backend.device).synchronize()
