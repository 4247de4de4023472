"""The decisions of real RELION 3.1.3 auto-refinements, read from their optimiser, model and sampling files."""

from __future__ import annotations

from typing import NamedTuple


class Iteration(NamedTuple):
    """What one iteration measured (first four), and what RELION decided with it."""

    accuracy: tuple[float, float]
    changes: tuple[float, float, float]
    pmax: float
    fsc: list[float]
    sampling: tuple[int, float, float]
    sigma: float
    size: int
    resolution_angst: float
    counters: tuple[int, int]
    smallest: tuple[float, float, float]
    high_fsc: bool


LOCAL_CTF = [
    Iteration(
        accuracy=(999, 999),
        changes=(8.420331, 24.707801, 1),
        pmax=1,
        fsc=[1, 1, 1, 1, 1, 0.879, 0.483, 0.098, 0.059, 0.057, 0.019, 0.034, -0.005, 0.039, 0.02, -0.088, 0],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=30,
        resolution_angst=64,
        counters=(1, 0),
        smallest=(8.420331, 24.707801, 1),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(5.5, 6),
        changes=(4.411445, 6.043115, 0),
        pmax=0.133156,
        fsc=[1, 1, 1, 1, 1, 0.934, 0.621, 0.345, 0.354, 0.203, 0.135, 0.057, 0.049, 0.014, 0.018, 0.035, 0],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=30,
        resolution_angst=53.333333,
        counters=(0, 0),
        smallest=(4.411445, 6.043115, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.85, 3.7),
        changes=(2.696507, 6.989078, 0),
        pmax=0.640963,
        fsc=[1, 1, 1, 1, 1, 1, 0.874, 0.413, 0.268, 0.155, 0.085, 0.083, 0.056, 0.072, 0.009, 0.013, -0.011],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=32,
        resolution_angst=53.333333,
        counters=(1, 0),
        smallest=(2.696507, 6.043115, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.5, 3.4),
        changes=(1.159498, 1.243184, 0),
        pmax=0.810337,
        fsc=[1, 1, 1, 1, 1, 1, 0.865, 0.422, 0.281, 0.194, 0.122, 0.092, 0.062, 0.046, 0.012, 0.015, -0.035],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=32,
        resolution_angst=53.333333,
        counters=(2, 0),
        smallest=(1.159498, 1.243184, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.45, 3),
        changes=(0.948505, 1.312925, 0),
        pmax=0.898582,
        fsc=[1, 1, 1, 1, 1, 1, 0.862, 0.419, 0.279, 0.214, 0.133, 0.101, 0.069, 0.05, 0.015, -0.004, -0.001],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=32,
        resolution_angst=53.333333,
        counters=(3, 0),
        smallest=(0.948505, 1.243184, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.4, 3),
        changes=(1.05203, 2.726367, 0),
        pmax=0.742485,
        fsc=[1, 1, 1, 1, 1, 1, 0.857, 0.404, 0.286, 0.211, 0.104, 0.082, 0.065, 0.049, 0.02, 0.01, -0.01],
        sampling=(4, 50, 20),
        sigma=3.75,
        size=32,
        resolution_angst=53.333333,
        counters=(4, 1),
        smallest=(0.948505, 1.243184, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.4, 3),
        changes=(0.689705, 3.08553, 0),
        pmax=0.250612,
        fsc=[1, 1, 1, 1, 1, 1, 0.866, 0.429, 0.33, 0.272, 0.151, 0.144, 0.097, 0.042, 0.019, 0.043, -0.023],
        sampling=(5, 15, 10),
        sigma=1.875,
        size=32,
        resolution_angst=53.333333,
        counters=(1, 0),
        smallest=(0.689705, 3.08553, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.16, 2.9),
        changes=(0.600234, 2.518134, 0),
        pmax=0.422891,
        fsc=[1, 1, 1, 1, 1, 1, 0.873, 0.464, 0.322, 0.278, 0.137, 0.153, 0.085, 0.051, 0.05, 0.054, -0.001],
        sampling=(5, 15, 10),
        sigma=1.875,
        size=32,
        resolution_angst=53.333333,
        counters=(2, 1),
        smallest=(0.600234, 2.518134, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.04, 2.8),
        changes=(0.547281, 2.920782, 0),
        pmax=0.393728,
        fsc=[1, 1, 1, 1, 1, 1, 0.883, 0.469, 0.321, 0.287, 0.165, 0.16, 0.081, 0.052, 0.06, 0.049, -0.025],
        sampling=(5, 15, 10),
        sigma=1.875,
        size=32,
        resolution_angst=53.333333,
        counters=(3, 2),
        smallest=(0.547281, 2.518134, 0),
        high_fsc=False,
    ),
]

RIBOSOMES = [
    Iteration(
        accuracy=(999, 999),
        changes=(6.472141, 9.938775, 1),
        pmax=1,
        fsc=[1, 1, 1, 1, 1, 1, 1, 1, 0.837, 0.24, 0.104, 0.104, 0.033],
        sampling=(4, 100, 40),
        sigma=3.75,
        size=24,
        resolution_angst=60,
        counters=(1, 0),
        smallest=(6.472141, 9.938775, 1),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(3.4, 5.6),
        changes=(4.147612, 11.525239, 0),
        pmax=0.407226,
        fsc=[1, 1, 1, 1, 1, 1, 1, 1, 0.875, 0.292, 0.109, 0.13, 0.135],
        sampling=(4, 100, 40),
        sigma=3.75,
        size=24,
        resolution_angst=60,
        counters=(2, 0),
        smallest=(4.147612, 9.938775, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(2.8, 5.6),
        changes=(9.189166, 20.219234, 0),
        pmax=0.548712,
        fsc=[1, 1, 1, 1, 1, 1, 1, 1, 0.764, 0.059, -0.038, -0.039, 0.048],
        sampling=(4, 100, 40),
        sigma=3.75,
        size=24,
        resolution_angst=60,
        counters=(3, 1),
        smallest=(4.147612, 9.938775, 0),
        high_fsc=False,
    ),
    Iteration(
        accuracy=(4.5, 8),
        changes=(6.819855, 19.350596, 0),
        pmax=0.351871,
        fsc=[1, 1, 1, 1, 1, 1, 1, 1, 0.864, 0.294, 0.054, 0.044, 0.151],
        sampling=(4, 100, 40),
        sigma=3.75,
        size=24,
        resolution_angst=60,
        counters=(4, 2),
        smallest=(4.147612, 9.938775, 0),
        high_fsc=False,
    ),
]
