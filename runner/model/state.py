"""The state of a refinement: everything that the next iteration needs, and nothing else.

Names are RELION's.  ``S = N/2 + 1`` is the number of shells, ``K`` the
number of classes, ``G`` the number of noise groups and ``D`` the number of coarse directions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass
class SamplingState:
    """The coarse sampling of poses; offsets in Angstrom, angles in degrees."""

    healpix_order: int
    psi_step_deg: float
    offset_range_angst: float
    offset_step_angst: float
    symmetry: str = "C1"
    limit_tilt_deg: float = -91.0
    perturbation: float = 0.0
    perturbation_factor: float = 0.5
    healpix_order_original: int = 0
    psi_step_original_deg: float = 0.0
    offset_range_original_angst: float = 0.0
    offset_step_original_angst: float = 0.0


@dataclass
class HalfModel:
    """The model of one half set (auto-refine) or of the whole set (3D classification).

    Attributes
    ----------
    references : (K, N, N, N) maps, z y x, on the scale of the data.
    tau2, sigma2_ref, ssnr, fsc, fourier_coverage : (K, S) spectra.
    orientability : (K, S) spectral orientability contribution, or None before it was ever computed.
    sigma2_noise : (G, S) noise variance of the real or the imaginary part; zeros for a group without particles.
    group_scale : (G,); group_particles : (G,) particles of each group in this half.
    pdf_class : (K,); pdf_direction : (K, D), both summing to 1 over all their entries.
    sigma2_offset_angst2 : isotropic variance of the offsets.
    orientational_prior_mode : 0 none, 1 prior on rot, tilt and psi with the variances ``sigma2_*_deg2``.
    accuracy_rotation_deg, accuracy_translation_angst, estimated_resolution_angst, fourier_completeness : (K,).
    current_resolution : 1/Angstrom.
    """

    references: FloatArray
    tau2: FloatArray
    sigma2_ref: FloatArray
    ssnr: FloatArray
    fsc: FloatArray
    fourier_coverage: FloatArray
    sigma2_noise: FloatArray
    group_scale: FloatArray
    group_particles: IntArray
    pdf_class: FloatArray
    pdf_direction: FloatArray
    sigma2_offset_angst2: float
    orientational_prior_mode: int = 0
    sigma2_rot_deg2: float = 0.0
    sigma2_tilt_deg2: float = 0.0
    sigma2_psi_deg2: float = 0.0
    average_pmax: float = 0.0
    log_likelihood: float = 0.0
    current_resolution: float = 0.0
    current_size: int = 0
    orientability: FloatArray | None = None
    accuracy_rotation_deg: FloatArray = field(default_factory=lambda: np.full(1, 999.0))
    accuracy_translation_angst: FloatArray = field(default_factory=lambda: np.full(1, 999.0))
    estimated_resolution_angst: FloatArray = field(default_factory=lambda: np.full(1, 999.0))
    fourier_completeness: FloatArray = field(default_factory=lambda: np.zeros(1))


@dataclass
class ScheduleState:
    """Counters and flags of the automated refinement. Offsets in Angstrom, angles in degrees."""

    current_resolution: float = 0.0
    best_resolution: float = 1.0 / 999.0
    current_size: int = 0
    coarse_size: int = 0
    incr_size: int = 10
    has_high_fsc_at_limit: bool = False
    iterations_without_resolution_gain: int = 0
    iterations_without_large_changes: int = 0
    has_fine_enough_angular_sampling: bool = False
    has_converged: bool = False
    accuracy_rotation_deg: float = 999.0
    accuracy_translation_angst: float = 999.0
    changes_orientations_deg: float = 999.0
    changes_offsets_angst: float = 999.0
    changes_classes: float = 9999999.0
    smallest_changes_orientations_deg: float = 999.0
    smallest_changes_offsets_angst: float = 999.0
    smallest_changes_classes: float = 9999999.0


@dataclass
class PoseState:
    """The current assignment of every particle, in the order of the particle table.

    Attributes
    ----------
    angles_deg : (n, 3) rot, tilt, psi; origins_angst : (n, 3) x, y, z: the shift that centres the particle.
    class_number : (n,) 1-based, 0 before the first assignment; random_subset : (n,) 1 or 2, 0 without halves.
    log_likelihood, pmax : (n,); significant_samples : (n,).
    """

    angles_deg: FloatArray
    origins_angst: FloatArray
    class_number: IntArray
    random_subset: IntArray
    norm_correction: FloatArray
    log_likelihood: FloatArray
    pmax: FloatArray
    significant_samples: IntArray


@dataclass
class RunState:
    """A run after ``iteration``: one half model (3D classification, converged refinement) or two (auto-refine).

    ``set_aside`` are the rows of particles that take no part in the run any more, with the reasons.
    """

    iteration: int
    halves: list[HalfModel]
    poses: PoseState
    sampling: SamplingState
    schedule: ScheduleState
    references_are_ctf_corrected: bool = False
    set_aside: dict[int, str] = field(default_factory=dict)
