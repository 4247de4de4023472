"""The ladder of parity cases: every entry is one command line that RELION and tomoburst both run.

The order is that of debugging: fixed poses, one angular grid, two passes, local priors, cross-correlation, classes and
symmetry, options, then split halves and a whole refinement. A case needs nothing that a case above it has not shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.parity.dataset import Flavour

PLAIN = Flavour("plain")
HALF_LAYOUT = Flavour("half", ctf="half")
ASYMMETRIC = Flavour("asymmetric", ctf="asymmetric")
PREMULTIPLIED = Flavour("premultiplied", premultiplied=True)
TWO_STATES = Flavour("states", states=2)
EXTRAS = Flavour("extras", extras=True)

COMMON: dict[str, str] = {
    "--i": "data/particles.star",
    "--ref": "data/ref1.mrc",
    "--ctf": "",
    "--zero_mask": "",
    "--flatten_solvent": "",
    "--particle_diameter": "110",
    "--maskedge": "3",
    "--ini_high": "60",
    "--incr_size": "3",
    "--offset": "40",
    "--offset_range": "2",
    "--offset_step": "2",
    "--pad": "2",
    "--perturb": "0",
    "--random_seed": "1",
    "--dont_check_norm": "",
    "--j": "1",
}
CLASS3D = {"--K": "1", "--iter": "1"}
AUTO = {
    "--auto_refine": "",
    "--split_random_halves": "",
    "--low_resol_join_halves": "40",
    "--auto_iter_max": "2",
    "--dont_combine_weights_via_disc": "",  # RELION would pass its sums through single-precision files
}
SPHERE = {"--oversampling": "0", "--healpix_order": "1"}
TWO_PASS = {"--oversampling": "1", "--healpix_order": "0", "--iter": "2"}
LOCAL = {"--oversampling": "1", "--healpix_order": "2", "--sigma_ang": "8", "--iter": "2"}


@dataclass(frozen=True)
class Case:
    """One command line. A value of ``None`` takes a common flag away; ``first`` skips earlier iterations' files."""

    name: str
    changes: dict[str, str | None]
    flavour: Flavour = PLAIN
    halves: bool = False
    first: int = 0
    ignore: frozenset[str] = field(default_factory=frozenset)

    @property
    def ignored(self) -> frozenset[str]:
        """Labels that carry no information in RELION's files.

        With split halves its spectral orientability stays on the rank that computed it, and zeros are written; where
        orientations are fixed, the list of directions holds the angles of whichever particle came last.
        """
        labels = {"rlnSpectralOrientabilityContribution"} if self.halves else set()
        if {"--skip_align", "--skip_rotate"} & self.changes.keys():
            labels |= {"rlnAngleRot", "rlnAngleTilt"}
        return self.ignore | labels

    def arguments(self) -> list[str]:
        """The flags both programs get, without ``--o``."""
        base = COMMON | (AUTO if self.halves else CLASS3D) | self.changes
        return [word for flag, value in base.items() if value is not None for word in (flag, value) if word]


def _case(name: str, *changes: dict[str, str] | dict[str, None] | dict[str, str | None], **keywords: object) -> Case:
    merged: dict[str, str | None] = {}
    for change in changes:
        merged.update(change)
    return Case(name, merged, **keywords)  # type: ignore[arg-type]


CORRECTED: dict[str, str] = {"--ctf_corrected_ref": ""}
NO_CTF: dict[str, None] = {"--ctf": None}
AUTO_LOCAL = {"--firstiter_cc": "", "--healpix_order": "3", "--auto_local_healpix_order": "3", "--scale": ""}
AUTO_STEPS: dict[str, str | None] = {"--firstiter_cc": "", "--healpix_order": "1", "--perturb": None}
AUTO_STEPS |= {"--auto_local_healpix_order": "3", "--auto_iter_max": "4"}
SOLVENT = {"--skip_align": "", "--iter": "2", "--solvent_mask": "data/mask.mrc"}
LOWPASS = {"--lowpass_mask": "data/region.mrc", "--lowpass": "70"}
WITHOUT_SIGMA: dict[str, None] = {"--sigma_ang": None}
# RELION divides by the shell where its signal-to-noise ratio falls below 1, which without regularisation is the zeroth.
NO_RESOLUTION = frozenset({"rlnEstimatedResolution", "rlnOverallFourierCompleteness"})
TWO_REFERENCES = {"--ref": "data/refs.star", "--K": "2"}

CASES = [
    # Step 1 and 2: the initial model, then one M-step at given poses.
    _case("skip-align", {"--skip_align": ""}),
    _case("skip-align-no-ini-high", {"--skip_align": "", "--ini_high": None}),
    _case("skip-align-no-ctf", {"--skip_align": ""}, NO_CTF),
    _case("skip-align-scale", {"--skip_align": "", "--scale": "", "--iter": "3"}, CORRECTED),
    _case("skip-align-half-layout", {"--skip_align": "", "--iter": "2"}, flavour=HALF_LAYOUT),
    _case("skip-align-asymmetric-ctf", {"--skip_align": ""}, CORRECTED, flavour=ASYMMETRIC),
    _case("skip-align-premultiplied", {"--skip_align": "", "--scale": "", "--iter": "2"}, flavour=PREMULTIPLIED),
    _case("skip-align-pad-1", {"--skip_align": "", "--pad": "1"}),
    _case("skip-align-skip-gridding", {"--skip_align": "", "--skip_gridding": ""}),
    _case("skip-align-c3", {"--skip_align": "", "--sym": "C3"}),
    _case("skip-align-d2", {"--skip_align": "", "--sym": "D2"}),
    _case("skip-align-o", {"--skip_align": "", "--sym": "O"}),
    _case(
        "skip-align-fixed-noise", {"--skip_align": "", "--iter": "2", "--fix_sigma_noise": "", "--fix_sigma_offset": ""}
    ),
    _case("skip-align-solvent-mask", {"--skip_align": "", "--iter": "2", "--solvent_mask": "data/mask.mrc"}),
    _case("skip-align-tau2-fudge", {"--skip_align": "", "--iter": "2", "--tau2_fudge": "4"}),
    _case("skip-align-no-map", {"--skip_align": "", "--iter": "2", "--no_map": ""}, ignore=NO_RESOLUTION),
    _case("skip-align-minres-map", {"--skip_align": "", "--iter": "2", "--minres_map": "3"}),
    _case("skip-align-gridding-iter", {"--skip_align": "", "--gridding_iter": "2"}),
    _case("skip-align-tau", {"--skip_align": "", "--iter": "2", "--tau": "data/tau.star"}, flavour=EXTRAS),
    _case(
        "skip-align-tau-fudge",
        {"--skip_align": "", "--tau": "data/tau.star", "--tau2_fudge": "2", "--K": "2", "--ref": "data/refs.star"},
        flavour=EXTRAS,
    ),
    _case(
        "skip-align-ref-angpix", {"--skip_align": "", "--ref": "data/ref_1A.mrc", "--ref_angpix": "10"}, flavour=EXTRAS
    ),
    _case("skip-align-mask-without-flattening", SOLVENT, {"--flatten_solvent": None}),
    _case("skip-align-solvent-mask2", SOLVENT, {"--solvent_mask2": "data/mask2.mrc"}, flavour=EXTRAS),
    _case("skip-align-lowpass-mask", SOLVENT, LOWPASS, flavour=EXTRAS),
    _case("skip-align-lowpass-mask-mask2", SOLVENT, LOWPASS, {"--solvent_mask2": "data/mask2.mrc"}, flavour=EXTRAS),
    _case("skip-align-lowpass-sphere", {"--skip_align": "", "--iter": "2"}, LOWPASS, flavour=EXTRAS),
    # Step 3: one grid, one pass.
    _case("skip-rotate", {"--skip_rotate": "", "--oversampling": "0", "--offset_step": "1"}),
    _case(
        "skip-rotate-narrow-prior", {"--skip_rotate": "", "--oversampling": "0", "--offset_step": "1", "--offset": None}
    ),
    _case("one-pass", SPHERE),
    _case("one-pass-corrected-scale", SPHERE, CORRECTED, {"--scale": ""}),
    _case("one-pass-no-ctf", SPHERE, NO_CTF),
    _case("one-pass-two-iterations", SPHERE, {"--iter": "2"}),
    _case("one-pass-limit-side-views", SPHERE, {"--limit_tilt": "45"}),
    _case("one-pass-limit-top-views", SPHERE, {"--limit_tilt": "-60"}),
    _case("one-pass-psi-step", SPHERE, {"--psi_step": "50"}),
    _case("one-pass-adaptive-fraction", SPHERE, {"--adaptive_fraction": "0.9"}),
    # Step 4: two passes.
    _case("two-pass", TWO_PASS),
    _case("two-pass-scale", TWO_PASS, CORRECTED, {"--scale": "", "--iter": "3"}),
    _case("two-pass-perturbed", TWO_PASS, {"--perturb": None}),
    _case("two-pass-maxsig", TWO_PASS, {"--maxsig": "2", "--offset_step": "1"}),
    _case("two-pass-coarse-size", TWO_PASS, {"--coarse_size": "6"}),
    _case("two-pass-oversampling-2", TWO_PASS, {"--oversampling": "2", "--iter": "1"}),
    _case("two-pass-highres-limit", TWO_PASS, {"--strict_highres_exp": "45"}),
    _case("two-pass-half-layout", TWO_PASS, CORRECTED, flavour=HALF_LAYOUT),
    _case("two-pass-premultiplied", TWO_PASS, CORRECTED, flavour=PREMULTIPLIED),
    _case("two-pass-lowres-limit", TWO_PASS, {"--strict_lowres_exp": "85"}),
    _case("two-pass-lowres-highres-limit", TWO_PASS, {"--strict_lowres_exp": "85", "--strict_highres_exp": "45"}),
    _case("two-pass-skip-maximize", TWO_PASS, {"--skip_maximize": ""}),
    _case("two-pass-incr-size", TWO_PASS, {"--incr_size": "2"}),
    # Step 5: local priors.
    _case("local-one-pass", LOCAL, {"--oversampling": "0", "--iter": "1"}),
    _case("local", LOCAL),
    _case("local-corrected-scale", LOCAL, CORRECTED, {"--scale": ""}),
    _case("local-no-ctf", LOCAL, NO_CTF, {"--scale": ""}),
    _case("local-rot", LOCAL, {"--sigma_rot": "8", "--healpix_order": "1", "--iter": "1"}, WITHOUT_SIGMA),
    _case("local-tilt", LOCAL, {"--sigma_tilt": "8", "--healpix_order": "1", "--iter": "1"}, WITHOUT_SIGMA),
    _case("local-psi", LOCAL, {"--sigma_psi": "8", "--healpix_order": "1", "--iter": "1"}, WITHOUT_SIGMA),
    _case("local-rot-tilt", LOCAL, {"--sigma_rot": "12", "--sigma_tilt": "6", "--iter": "1"}, WITHOUT_SIGMA),
    _case("local-three-sigmas", LOCAL, {"--sigma_rot": "12", "--sigma_tilt": "6", "--sigma_psi": "9"}, WITHOUT_SIGMA),
    # Step 6: cross-correlation.
    _case("cc", TWO_PASS, {"--firstiter_cc": "", "--healpix_order": "1"}),
    _case("cc-corrected", TWO_PASS, CORRECTED, {"--firstiter_cc": "", "--iter": "1"}),
    _case("cc-local-scale", LOCAL, {"--firstiter_cc": "", "--scale": ""}),
    # Classes and symmetry.
    _case("classes-skip-align", {"--skip_align": "", "--iter": "2"}, TWO_REFERENCES, CORRECTED, flavour=TWO_STATES),
    _case("classes-two-pass", TWO_PASS, TWO_REFERENCES, CORRECTED, flavour=TWO_STATES),
    _case("classes-local", LOCAL, TWO_REFERENCES, {"--scale": "", "--tau2_fudge": "2"}, flavour=TWO_STATES),
    _case("classes-seeded", TWO_PASS, {"--K": "2", "--iter": "3"}, CORRECTED, flavour=TWO_STATES),
    _case("classes-seeded-cc", TWO_PASS, {"--K": "2", "--iter": "3", "--firstiter_cc": ""}, flavour=TWO_STATES),
    _case("classes-seeded-skip-align", {"--skip_align": "", "--K": "3", "--iter": "2"}, flavour=TWO_STATES),
    _case(
        "classes-coarser",
        TWO_PASS,
        TWO_REFERENCES,
        {"--allow_coarser_sampling": "", "--healpix_order": "1"},
        flavour=TWO_STATES,
    ),
    _case("symmetry-c3", TWO_PASS, {"--sym": "C3", "--healpix_order": "1"}),
    _case("symmetry-d2", TWO_PASS, {"--sym": "D2", "--healpix_order": "1"}),
    _case("symmetry-d2-local", LOCAL, {"--sym": "D2"}),
    # Step 8: split halves and the automated schedule.
    _case("auto", {"--firstiter_cc": "", "--healpix_order": "1", "--scale": ""}, halves=True),
    _case("auto-no-ctf", {"--firstiter_cc": "", "--healpix_order": "1"}, NO_CTF, halves=True),
    _case(
        "auto-random-halves", {"--i": "data/unsplit.star", "--firstiter_cc": "", "--healpix_order": "1"}, halves=True
    ),
    _case("auto-skip-maximize", {"--healpix_order": "1", "--skip_maximize": ""}, halves=True),
    _case("auto-no-join", {"--healpix_order": "1", "--low_resol_join_halves": None}, CORRECTED, halves=True),
    _case("auto-c3", {"--firstiter_cc": "", "--healpix_order": "1", "--sym": "C3"}, halves=True),
    _case("auto-local", AUTO_LOCAL, halves=True),
    _case("auto-local-perturbed", AUTO_LOCAL, {"--perturb": None}, halves=True),
    _case("auto-ignore-angles", AUTO_STEPS, {"--auto_ignore_angles": ""}, halves=True),
    _case("auto-resolution-angles", AUTO_STEPS, {"--auto_resol_angles": ""}, halves=True),
    _case("auto-maximum-sampling", AUTO_STEPS, {"--maximum_angular_sampling": "20"}, halves=True),
    # Perturbed, because on the unperturbed grid a refined sampling meets each particle's last pose exactly: RELION then
    # takes the arc cosine of 1 + 2e-16 and drops that direction for some particles, by chance of rounding.
    _case(
        "auto-to-the-end",
        {"--firstiter_cc": "", "--healpix_order": "1", "--auto_local_healpix_order": "3", "--auto_iter_max": "30"},
        {"--scale": "", "--perturb": None},
        halves=True,
    ),
]
