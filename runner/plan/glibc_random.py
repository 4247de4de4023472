"""The random numbers of the GNU C library, which RELION draws through ``srand`` and ``rand``.

With them a run repeats RELION's half sets, perturbations and first classes from the same ``--random_seed``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RAND_MAX = 2147483647
_LAG, _SHORT_LAG, _DISCARDED = 31, 3, 310


class GlibcRandom:
    """``srand(seed)`` and the ``rand()`` calls after it: glibc's additive feedback generator (TYPE_3, 31 words).

    Parameters
    ----------
    seed : any integer; as in C only its low 32 bits count, and 0 means 1.
    """

    def __init__(self, seed: int) -> None:
        word = (int(seed) & 0xFFFFFFFF) or 1
        word = word - (1 << 32) if word >= 1 << 31 else word
        state = [word]
        for _ in range(1, _LAG):
            word = _park_miller(word)
            state.append(word)
        self._state = [value & 0xFFFFFFFF for value in state]
        self._front, self._rear = _SHORT_LAG, 0
        for _ in range(_DISCARDED):
            self.rand()

    def rand(self) -> int:
        """The next integer, in 0 … ``RAND_MAX``."""
        value = (self._state[self._front] + self._state[self._rear]) & 0xFFFFFFFF
        self._state[self._front] = value
        self._front = (self._front + 1) % _LAG
        self._rear = (self._rear + 1) % _LAG
        return value >> 1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """The next number in [``low``, ``high``], in the single precision that RELION computes it with."""
        a, b = np.float32(low), np.float32(high)
        return float(a + (b - a) * np.float32(self.rand()) / np.float32(RAND_MAX))


def _park_miller(word: int) -> int:
    """16807 · ``word`` modulo 2^31 − 1 as C computes it (truncating division), made non-negative."""
    quotient = abs(word) // 127773
    quotient = -quotient if word < 0 else quotient
    value = 16807 * (word - quotient * 127773) - 2836 * quotient
    return value + RAND_MAX if value < 0 else value


def random_subsets(count: int, seed: int) -> npt.NDArray[np.int64]:
    """The half set, 1 or 2, of each of ``count`` particles (sorted by micrograph), as RELION draws it from ``seed``."""
    generator = GlibcRandom(seed)
    return np.array([generator.rand() % 2 + 1 for _ in range(count)], dtype=np.int64)


def processing_order(
    previous: npt.NDArray[np.int64],
    seed: int,
    iteration: int,
    subsets: npt.NDArray[np.int64] | None = None,
    optics_index: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Row numbers of the particles in the order RELION processes them in ``iteration``, a shuffle of the order before.

    Half 1 comes before half 2, and within them the optics groups stay together.

    Parameters
    ----------
    previous : (n,) the order of the previous iteration; before iteration 1 that of the particle table, ``arange(n)``.
    seed, iteration : ``--random_seed`` and the number of the iteration; the generator is seeded with their sum.
    subsets : (n,) half sets 1 or 2 by row, or None without halves.
    optics_index : (n,) optics groups by row, or None for one group.
    """
    generator = GlibcRandom(seed + iteration)
    parts = [previous] if subsets is None else [previous[subsets[previous] == half] for half in (1, 2)]
    shuffled = [_shuffled(part, generator) for part in parts]
    if optics_index is not None:
        shuffled = [part[np.argsort(optics_index[part], kind="stable")] for part in shuffled]
    return np.concatenate(shuffled)


def _shuffled(rows: npt.NDArray[np.int64], generator: GlibcRandom) -> npt.NDArray[np.int64]:
    """The order that ``std::random_shuffle`` of libstdc++ gives."""
    rows = rows.copy()
    for index in range(1, len(rows)):
        other = generator.rand() % (index + 1)
        rows[index], rows[other] = rows[other], rows[index]
    return rows


def random_classes(order: npt.NDArray[np.int64], classes: int, seed: int) -> npt.NDArray[np.int64]:
    """The 1-based class from which each particle starts when several classes grow from one reference, by row number.

    Each particle has its own generator, seeded with ``seed`` plus its place in ``order`` (`processing_order`).
    """
    drawn = np.empty(len(order), dtype=np.int64)
    for place, row in enumerate(order):
        drawn[row] = GlibcRandom(seed + place).rand() % classes + 1
    return drawn


def initial_perturbation(factor: float) -> float:
    """The perturbation at iteration 0, which RELION draws before it seeds the generator: from seed 1."""
    return GlibcRandom(1).uniform(0.5 * factor, factor) if factor > 0 else 0.0


def next_perturbation(previous: float, factor: float, seed: int, iteration: int) -> float:
    """The perturbation of the sampling in ``iteration``, a fraction of the step in [-``factor``, ``factor``].

    RELION's rule: the generator is seeded with ``seed`` + ``iteration``, and a number between half of ``factor`` and
    ``factor`` is added to the previous value (`initial_perturbation` before iteration 1), wrapping around.  A factor of
    0 switches perturbation off.
    """
    if factor <= 0:
        return 0.0
    value = previous + GlibcRandom(seed + iteration).uniform(0.5 * factor, factor)
    return value - 2 * factor if value > factor else value
