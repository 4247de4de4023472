"""Configurations of the commands that exist in RELION: its flags, its names, its defaults.

A field is named like its flag where Python allows it. Texts are "" when the flag is not given; -1 means "off" or
"automatic" as in RELION. Distances are Angstrom unless a flag's help says pixels, which are pixels of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.plan.execution_config import (
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    metrics_port_flag,
    scheduler_flag,
    tls_flag,
    workers_flag,
)
from runner.plan.flags import flag
from runner.plan.validation import check_reconstruct, check_refine

PARITY_RELION_31 = "relion-3.1"

_IO = "Input and output"
_MODEL = "Reference and mask"
_SEARCH = "Search of poses"
_AUTO = "Auto-refine"
_CORRECTIONS = "Corrections"
_COMPUTE = "Computation"
_EXPERT = "Expert"


@dataclass(frozen=True)
class RefineConfig:
    """What `tomoburst refine` is asked to do; auto-refine with ``auto_refine``, 3D classification without."""

    i: str = flag("", "STAR file with the subtomograms, or a particle store", section=_IO)
    store: str = flag(
        "", "particle store with the volumes of the particles in --i, see `tomoburst ingest`", section=_IO
    )
    o: str = flag("", "output prefix, e.g. OUT/run; its folder is created", section=_IO)
    continue_: str = flag("", "optimiser STAR file of the run to go on with", section=_IO, name="--continue")
    overwrite: bool = flag(
        False, "remove what an earlier run wrote under this prefix and start afresh", section=_IO, results=False
    )

    ref: str = flag("", "map, or STAR file with rlnReferenceImage (one row a class)", section=_MODEL)
    ref_angpix: float = flag(-1.0, "pixel size of the reference in A (-1: from its header)", section=_MODEL)
    firstiter_cc: bool = flag(
        False, "iteration 1 by cross-correlation: for references on another grey scale", section=_MODEL
    )
    ini_high: float = flag(-1.0, "low-pass filter of the initial reference in A (-1: none)", section=_MODEL)
    particle_diameter: float = flag(-1.0, "diameter of the spherical mask in A (-1: the box)", section=_MODEL)
    zero_mask: bool = flag(
        False, "fill the particles outside of the mask with their mean, not with noise", section=_MODEL
    )
    flatten_solvent: bool = flag(False, "mask the reference after each iteration", section=_MODEL)
    solvent_mask: str = flag("", "mask for --flatten_solvent (default: sphere of --particle_diameter)", section=_MODEL)
    solvent_mask2: str = flag("", "second mask, filled with its own mean density", section=_MODEL)
    lowpass_mask: str = flag("", "region kept at low resolution, inside or outside of the mask", section=_MODEL)
    lowpass: float = flag(0.0, "low-pass filter of that region in A", section=_MODEL)
    K: int = flag(1, "number of classes", section=_MODEL)
    iter: int = flag(50, "number of iterations of a classification", section=_MODEL)
    tau2_fudge: float = flag(1.0, "weight of the data against the prior (T)", section=_MODEL)
    tau: str = flag("", "STAR file with a tau2 spectrum to keep", section=_MODEL)

    sym: str = flag("c1", "point group of the reference, or one a class: C1,D2", section=_SEARCH)
    oversampling: int = flag(1, "adaptive oversampling order (0: none)", section=_SEARCH)
    healpix_order: int = flag(2, "coarse angular order: 1 30 deg, 2 15 deg, 3 7.5 deg, 4 3.75 deg", section=_SEARCH)
    psi_step: float = flag(-1.0, "coarse in-plane step in deg (-1: that of the order)", section=_SEARCH)
    limit_tilt: float = flag(-91.0, "keep side views beyond +x deg, or top views below -x deg", section=_SEARCH)
    offset: float = flag(10.0, "initial standard deviation of the offsets in A", section=_SEARCH)
    offset_range: float = flag(6.0, "search range of offsets in pixels", section=_SEARCH)
    offset_step: float = flag(2.0, "coarse step of offsets in pixels", section=_SEARCH)
    perturb: float = flag(0.5, "random perturbation of the sampling (0: none)", section=_SEARCH)
    sigma_ang: float = flag(
        -1.0, "standard deviation of local searches for all angles in deg (-1: global)", section=_SEARCH
    )
    sigma_rot: float = flag(-1.0, "standard deviation of local searches for rot in deg", section=_SEARCH)
    sigma_tilt: float = flag(-1.0, "standard deviation of local searches for tilt in deg", section=_SEARCH)
    sigma_psi: float = flag(-1.0, "standard deviation of local searches for psi in deg", section=_SEARCH)
    skip_align: bool = flag(False, "keep angles and offsets: only classify", section=_SEARCH)
    skip_rotate: bool = flag(False, "keep angles: only offsets and classes", section=_SEARCH)
    always_cc: bool = flag(
        False, "cross-correlation in all iterations; noise spectra stay as first estimated", section=_SEARCH
    )
    allow_coarser_sampling: bool = flag(
        False, "classification: coarser sampling while accuracies are bad", section=_SEARCH
    )

    auto_refine: bool = flag(False, "automatic sampling and convergence", section=_AUTO)
    split_random_halves: bool = flag(False, "refine two halves of the data independently", section=_AUTO)
    low_resol_join_halves: float = flag(-1.0, "join the halves up to this resolution in A (-1: never)", section=_AUTO)
    auto_local_healpix_order: int = flag(4, "order from which searches are local", section=_AUTO)
    auto_iter_max: int = flag(999, "last iteration if nothing converges", section=_AUTO)
    auto_ignore_angles: bool = flag(False, "finer sampling whatever the changes of orientations", section=_AUTO)
    auto_resol_angles: bool = flag(False, "finer sampling as the resolution asks", section=_AUTO)
    force_converge: bool = flag(False, "make the next iteration the last", section=_AUTO)
    solvent_correct_fsc: bool = flag(False, "correct the FSC for the effects of the mask", section=_AUTO)
    minimum_angular_sampling: float = flag(0.0, "never sample finer than this in deg", section=_AUTO)
    maximum_angular_sampling: float = flag(0.0, "sample at least this finely in deg", section=_AUTO)

    ctf: bool = flag(False, "use rlnCtfImage: 3D CTF, wedge or multiplicity volumes", section=_CORRECTIONS)
    ctf_corrected_ref: bool = flag(False, "the reference is CTF-amplitude corrected", section=_CORRECTIONS)
    norm: bool = flag(False, "normalisation correction (no effect on 3D data, as in RELION)", section=_CORRECTIONS)
    scale: bool = flag(False, "intensity scale per group", section=_CORRECTIONS)

    j: int = flag(1, "threads; the results do not depend on it", section=_COMPUTE, results=False)
    workers: int = workers_flag()
    scheduler: str = scheduler_flag()
    tls_ca: str = tls_flag(TLS_CA)
    tls_cert: str = tls_flag(TLS_CERT)
    tls_key: str = tls_flag(TLS_KEY)
    metrics_port: int = metrics_port_flag()
    gpu: str | None = flag(
        None,
        "use a GPU, optionally by number: --gpu, --gpu 1; of several numbers (0:1) the first, or one for each of "
        "--workers in turn",
        section=_COMPUTE,
        bare_value="",
    )
    tf32: bool = flag(
        False, "round products of the first pass to TF32, for the tensor cores of a GPU", section=_COMPUTE
    )
    free_gpu_memory: float = flag(0.0, "GPU memory to leave free in MB", section=_COMPUTE, results=False)
    memory: float = flag(
        -1.0,
        "most main memory in GB that the process, or each of the processes of --workers, takes (-1: no limit)",
        section=_COMPUTE,
        results=False,
    )
    cache: str = flag(
        "",
        "folder on a fast local disk where chunks of particles are kept for later iterations",
        section=_COMPUTE,
        results=False,
    )
    cache_size: float = flag(
        0.0, "most GB in --cache (0: nine tenths of what is free there)", section=_COMPUTE, results=False
    )
    random_seed: int = flag(-1, "seed of the random numbers (-1: time)", section=_COMPUTE)
    on_bad_particle: str = flag(  # where it makes a difference, "fail" has no results
        "fail",
        "what becomes of particles that cannot be used: fail, or skip: set aside, listed",
        section=_COMPUTE,
        results=False,
    )
    parity: str = flag("", "relion-3.1: do as RELION 3.1 does, defects included", section=_COMPUTE)

    pad: int = flag(2, "padding of the references' Fourier transforms", section=_EXPERT)
    coarse_size: int = flag(-1, "image size of the first pass in pixels (-1: automatic)", section=_EXPERT)
    adaptive_fraction: float = flag(0.999, "share of the weights that the second pass keeps", section=_EXPERT)
    maxsig: int = flag(-1, "most poses that the second pass visits (-1: no limit)", section=_EXPERT)
    maskedge: int = flag(5, "soft edge of the spherical mask in pixels", section=_EXPERT)
    fix_sigma_noise: bool = flag(False, "keep the noise spectra", section=_EXPERT)
    fix_sigma_offset: bool = flag(False, "keep the standard deviation of the offsets", section=_EXPERT)
    incr_size: int = flag(10, "shells beyond the current resolution", section=_EXPERT)
    strict_highres_exp: float = flag(-1.0, "high-resolution limit of the expectation in A (-1: none)", section=_EXPERT)
    strict_lowres_exp: float = flag(-1.0, "low-resolution limit of the expectation in A (-1: none)", section=_EXPERT)
    skip_gridding: bool = flag(False, "no gridding correction in reconstructions", section=_EXPERT)
    gridding_iter: int = flag(10, "iterations of the gridding correction", section=_EXPERT)
    minres_map: int = flag(5, "shells without regularisation", section=_EXPERT)
    no_map: bool = flag(False, "no regularisation: maximum likelihood", section=_EXPERT)
    skip_maximize: bool = flag(False, "assign poses once and write the data STAR file, no maps", section=_EXPERT)

    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    """Fields whose flags the command line has, also with their defaults; they change a run that is gone on with."""

    @property
    def relion_parity(self) -> bool:
        """Whether every correction of RELION's defects is switched off."""
        return self.parity == PARITY_RELION_31

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work whatever the data are."""
        check_refine(self)


@dataclass(frozen=True)
class ReconstructConfig:
    """What `tomoburst reconstruct` is asked to do."""

    i: str = flag("", "STAR file with the subtomograms and their poses, or a particle store", section=_IO)
    store: str = flag("", "particle store with the volumes of the particles in --i", section=_IO)
    o: str = flag("", "output map", section=_IO)
    ctf: bool = flag(False, "weight with the CTF or wedge volumes of rlnCtfImage", section=_CORRECTIONS)
    sym: str = flag("C1", "point group", section=_MODEL)
    pad: int = flag(2, "padding factor", section=_EXPERT)
    maxres: float = flag(-1.0, "highest resolution in A (-1: Nyquist)", section=_MODEL)
    angpix: float = flag(-1.0, "pixel size in A (-1: that of the first optics group)", section=_MODEL)
    subset: int = flag(-1, "only half set 1 or 2 (-1: all)", section=_IO)
    class_: int = flag(-1, "only this class (-1: all)", section=_IO, name="--class")
    fsc: str = flag("", "STAR file with an FSC curve, for a regularised map", section=_MODEL)
    skip_gridding: bool = flag(False, "no gridding correction", section=_EXPERT)
    iter: int = flag(10, "iterations of the gridding correction", section=_EXPERT)
    j: int = flag(1, "threads; the results do not depend on it", section=_COMPUTE)
    rot_3d: bool = flag(False, "particles are volumes (always true here)", section=_IO, name="--3d_rot")

    def validate(self) -> None:
        """Raise `runner.errors.UsageError`, in one line, when the flags cannot work whatever the data are."""
        check_reconstruct(self)
