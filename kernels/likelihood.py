"""What the E-step is given: the model of one half set, the search for one iteration, and its particles.

Names are RELION's.  ``K`` classes, ``S = N/2 + 1`` shells, ``G`` noise groups, ``D`` coarse directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.orientations import AngularGrid

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Where RELION 3.1 is not followed; all false reproduces it.

    Attributes
    ----------
    offset_prior_in_angst : measure the offset prior in Angstrom throughout, where RELION adds old offsets in pixels.
    keep_offset_fraction : centre the search on the whole old offset, where RELION rounds it to voxels.
    smooth_direction_prior : add one pseudo-particle per direction, where RELION never revisits a direction of zero
        weight.
    polar_safe_prior : carry psi along the great circle in local searches, where RELION compares psi itself.
    class_prior_in_local_search : include the class distribution in local searches, where RELION leaves it out.
    """

    offset_prior_in_angst: bool = True
    keep_offset_fraction: bool = True
    smooth_direction_prior: bool = True
    polar_safe_prior: bool = True
    class_prior_in_local_search: bool = True

    @classmethod
    def relion(cls) -> Rules:
        """Reproduce RELION 3.1, defects included."""
        return cls(False, False, False, False, False)


@dataclass(frozen=True)
class Model:
    """The generative model during one E-step.

    Attributes
    ----------
    box : N in voxels; voxel_size_angst; pad : oversampling of the references.
    current_size, coarse_size : even image sizes of the second and of the first pass.
    fine_size : image size at which the second pass compares (``current_size`` unless resolution is strictly limited).
    references_rft : K centred half grids (P, P, P//2 + 1) with ``r_max = current_size // 2``.
    sigma2_noise : (G, S); group_scale : (G,), used when ``use_scale``; ssnr : (K, S).
    pdf_class : (K,); pdf_direction : (K, D); sigma2_offset_angst2.
    use_ctf : CTF volumes enter the reconstruction; ctf_in_reference : and the predicted particle.
    weight_by_noise : the reconstruction divides by the noise power; otherwise every coefficient counts alike.
    """

    box: int
    voxel_size_angst: float
    pad: float
    current_size: int
    coarse_size: int
    fine_size: int
    references_rft: Any
    sigma2_noise: FloatArray
    group_scale: FloatArray
    ssnr: FloatArray
    pdf_class: FloatArray
    pdf_direction: FloatArray
    sigma2_offset_angst2: float
    use_ctf: bool
    ctf_in_reference: bool
    use_scale: bool
    weight_by_noise: bool = True

    @property
    def r_max(self) -> int:
        """Largest radius of the references, in unpadded Fourier voxels."""
        return self.current_size // 2


@dataclass(frozen=True)
class Search:
    """The sampling of poses during one E-step.

    Attributes
    ----------
    grid : coarse directions and psi; translations_angst : (T, 3) coarse, unperturbed x, y, z.
    offset_step_angst : coarse step; perturbation : fraction of a step by which both grids are displaced.
    oversampling : adaptive oversampling order of the second pass; 0 means a single pass.
    adaptive_fraction : share of the weight that is kept; max_significant : cap on coarse points, -1 for none.
    cross_correlation : winner takes all by normalised cross-correlation instead of the likelihood.
    local : orientations near each particle's prior, with the three sigmas in degrees (0: no prior on that angle).
    fixed_orientation, fixed_offset : keep the input angles (skip_rotate) and offsets (skip_align, which fixes both).
    """

    grid: AngularGrid
    translations_angst: FloatArray
    offset_step_angst: float
    perturbation: float
    oversampling: int
    adaptive_fraction: float = 0.999
    max_significant: int = -1
    cross_correlation: bool = False
    local: bool = False
    sigma_rot_deg: float = 0.0
    sigma_tilt_deg: float = 0.0
    sigma_psi_deg: float = 0.0
    fixed_orientation: bool = False
    fixed_offset: bool = False


@dataclass(frozen=True)
class Particle:
    """One particle as read, with its current pose.

    Attributes
    ----------
    index : position in the particle table, which also seeds the noise outside the mask.
    volume : (N, N, N) real, z y x; ctf_rft : (N, N, N//2 + 1) real CTF or wedge, or None.
    ctf_premultiplied : the volume was multiplied by its CTF already.
    group : index into the noise groups; only_class : 0-based class to which the search is restricted, -1 for all.
    angles_deg, prior_angles_deg : (3,) rot, tilt, psi; origin_angst, prior_origin_angst : (3,) x, y, z.
    """

    index: int
    volume: Any
    ctf_rft: Any
    ctf_premultiplied: bool
    group: int
    angles_deg: FloatArray
    origin_angst: FloatArray
    prior_angles_deg: FloatArray
    prior_origin_angst: FloatArray
    only_class: int = -1


@dataclass(frozen=True)
class Mask:
    """The soft sphere around a particle.

    Attributes
    ----------
    radius_px, edge_px : of the sphere; zero_fill : mean background outside, otherwise coloured noise seeded with
    ``seed`` plus the particle's index.
    """

    radius_px: float
    edge_px: float
    zero_fill: bool
    seed: int = 0


@dataclass(frozen=True)
class Assignment:
    """The result for one particle: its most probable pose and class (0-based) and how certain it is."""

    index: int
    angles_deg: FloatArray
    origin_angst: FloatArray
    class_index: int
    log_likelihood: float
    pmax: float
    significant_samples: int
