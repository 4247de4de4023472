"""The E-step of particles that do not fit into the memory of the device together."""

from __future__ import annotations

from kernels.accumulators import Accumulators
from kernels.backend import Backend
from kernels.clock import Clock
from kernels.expectation import expectation
from kernels.likelihood import Assignment, Mask, Model, Particle, Rules, Search


def expectation_within_memory(
    particles: list[Particle],
    model: Model,
    search: Search,
    mask: Mask,
    rules: Rules,
    backend: Backend,
    clock: Clock | None = None,
) -> tuple[Accumulators, list[Assignment]]:
    """:func:`kernels.expectation.expectation`, of half the particles at a time when memory runs out.

    Sums of halves differ in their last bits from those of the whole.

    Raises
    ------
    MemoryError
        A single particle does not fit.
    """
    try:
        return expectation(particles, model, search, mask, rules, backend, clock)
    except MemoryError:
        if len(particles) == 1:
            raise
    backend.free_memory()  # no earlier: the exception keeps the arrays of what failed
    if clock is not None:
        clock.count("halvings", 1)
    half = len(particles) // 2
    parts = [
        expectation_within_memory(part, model, search, mask, rules, backend, clock)
        for part in (particles[:half], particles[half:])
    ]
    (sums, assignments), (others, more) = parts
    return sums.merge(others), assignments + more
