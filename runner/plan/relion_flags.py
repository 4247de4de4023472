"""RELION's other flags: some mean nothing here and are ignored, others ask for something else and are refused.

`read_arguments` goes through the words of a command before they are parsed, so that a RELION command line gets a clear
answer for each of its flags.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.plan.flags import Flag


@dataclass(frozen=True)
class Ignored:
    """A flag without effect: why, and whether a value follows it."""

    reason: str
    takes_value: bool = False


_DASHES = "-\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"
_NUMBERS = {int: "a whole number", float: "a number"}
_NO_DISC = "particles are read straight from where they are"
_NO_CTF_MODEL = "it has no effect on 3D CTF volumes"

REFINE_IGNORED: dict[str, Ignored] = {
    "--dont_combine_weights_via_disc": Ignored("sums never go through intermediate files"),
    "--pool": Ignored("batches of particles follow from --memory", takes_value=True),
    "--scratch_dir": Ignored(_NO_DISC, takes_value=True),
    "--keep_free_scratch": Ignored(_NO_DISC, takes_value=True),
    "--reuse_scratch": Ignored(_NO_DISC),
    "--keep_scratch": Ignored(_NO_DISC),
    "--preread_images": Ignored(_NO_DISC),
    "--no_parallel_disc_io": Ignored(_NO_DISC),
    "--onthefly_shifts": Ignored("shifts are computed block by block within --memory"),
    "--failsafe_threshold": Ignored(
        "weights are summed in double precision, there is no fail-safe mode", takes_value=True
    ),
    "--cpu": Ignored("the CPU is used unless --gpu is given"),
    "--dont_check_norm": Ignored("particles need not be normalised"),
    "--norm": Ignored("RELION switches it off for 3D data too"),
    "--no_norm": Ignored("there is no normalisation correction of 3D data"),
    "--relax_sym": Ignored("symmetry relaxation has no effect on 3D data", takes_value=True),
    "--ctf_phase_flipped": Ignored(_NO_CTF_MODEL),
    "--ctf_intact_first_peak": Ignored(_NO_CTF_MODEL),
    "--only_flip_phases": Ignored(_NO_CTF_MODEL),
    "--pad_ctf": Ignored(_NO_CTF_MODEL),
    "--dont_skip_gridding": Ignored("the gridding correction is done unless --skip_gridding is given"),
    "--verb": Ignored("progress is shown on terminals and written as JSON lines elsewhere", takes_value=True),
    "--pipeline_control": Ignored("there is no RELION pipeline to report to", takes_value=True),
}

RECONSTRUCT_IGNORED: dict[str, Ignored] = {
    "--refdim": Ignored("reconstructions are volumes", takes_value=True),
    "--ctf_phase_flipped": Ignored(_NO_CTF_MODEL),
    "--ctf_intact_first_peak": Ignored(_NO_CTF_MODEL),
    "--only_flip_phases": Ignored(_NO_CTF_MODEL),
    "--dont_skip_gridding": Ignored("the gridding correction is done unless --skip_gridding is given"),
    "--verb": REFINE_IGNORED["--verb"],
    "--pipeline_control": REFINE_IGNORED["--pipeline_control"],
}

_HELICAL = "helical reconstruction is not for subtomograms of single particles; use RELION"
_SGD = "initial models by gradient descent are made from 2D images; start from an average: tomoburst reconstruct"
_MULTIBODY = "multi-body refinement is not available; refine with --solvent_mask around one body"
_TOMO5 = "RELION 5 optimisation sets hold 2D image stacks; extract 3D subtomograms and give their STAR file with --i"
_BLUSH = "Blush is a trained denoiser of RELION 5; the regularisation here is RELION's tau2"
_DEBUG = "it is a debugging flag of RELION's own code"
_INFO = "it prints RELION's own tables; run relion_refine for them"

REFINE_REFUSED: dict[str, str] = {
    "--helix": _HELICAL,
    "--helical": _HELICAL,
    "--ignore_helical_symmetry": _HELICAL,
    "--bimodal_psi": _HELICAL,
    "--fourier_mask": _HELICAL,
    "--sgd": _SGD,
    "--mu": _SGD,
    "--grad": _SGD,
    "--stochastic_em": _SGD,
    "--denovo_3dref": _SGD,
    "--multibody": _MULTIBODY,
    "--reconstruct_subtracted_bodies": _MULTIBODY,
    "--ios": _TOMO5,
    "--tomograms": _TOMO5,
    "--trajectories": _TOMO5,
    "--blush": _BLUSH,
    "--som": "self-organising maps classify 2D images",
    "--class_inactivity_threshold": "it belongs to RELION's 2D classification by gradient descent",
    "--center_classes": "it belongs to 2D classification",
    "--fast_subsets": "it would skip particles in the first iterations; leave it out",
    "--external_reconstruct": "maps are reconstructed here, not by another program; leave it out",
    "--local_symmetry": "local symmetry is not available; use --sym for a point group",
    "--no_scale": "leave out --scale instead",
    "--sigma_off": "give the standard deviation of the offsets in A with --offset",
    "--join_random_halves": "use --low_resol_join_halves with a resolution in A",
    "--always_join_random_halves": "it makes the FSC meaningless; use --low_resol_join_halves with a resolution in A",
    "--debug_split_random_half": "both halves are always refined together here; leave it out",
    "--sequential_halves_recons": "memory is bounded by --memory; leave it out",
    "--angpix": "the pixel size is read from the STAR file's optics table; --ref_angpix sets that of the reference",
    "--offset_x_range": "offsets are searched in a sphere; use --offset_range",
    "--offset_y_range": "offsets are searched in a sphere; use --offset_range",
    "--offset_z_range": "offsets are searched in a sphere; use --offset_range",
    "--only_sample_tilt": _HELICAL,
    "--asymmetric_padding": _DEBUG,
    "--accuracy_current_size": _DEBUG,
    "--sigma2_fudge": _DEBUG,
    "--debug": _DEBUG,
    "--print_metadata_labels": _INFO,
    "--print_symmetry_ops": _INFO,
    "--NN": "references are interpolated linearly; leave it out",
    "--r_min_nn": "references are interpolated linearly; leave it out",
    "--trust_ref_size": "bring the reference to the box and pixel size of the particles (`tomoburst reconstruct`)",
    "--version": "use `tomoburst version`",
}

_IMAGES_2D = "it is for 2D images, and particles are volumes here"
_TESTING = "it changes the poses to test RELION itself; change them in the STAR file"

RECONSTRUCT_REFUSED: dict[str, str] = {
    "--ewald": _IMAGES_2D,
    "--mask_diameter": _IMAGES_2D,
    "--width_mask_edge": _IMAGES_2D,
    "--reverse_curvature": _IMAGES_2D,
    "--newbox": _IMAGES_2D,
    "--sectors": _IMAGES_2D,
    "--skip_mask": _IMAGES_2D,
    "--skip_weighting": _IMAGES_2D,
    "--subtract": _IMAGES_2D,
    "--reconstruct_ctf": _IMAGES_2D,
    "--reconstruct_noise": _IMAGES_2D,
    "--ctf2": _IMAGES_2D,
    "--nr_helical_asu": _HELICAL,
    "--helical": _HELICAL,
    "--angular_error": _TESTING,
    "--shift_error": _TESTING,
    "--NN": "nearest-neighbour insertion is not available; leave it out",
    "--blob": "the gridding kernel is RELION's default (radius 1.9, order 0, alpha 15) and fixed",
    "--fom_weighting": "weights by figure of merit are not available; select the particles in the STAR file",
    "--img": "file names are taken relative to the STAR file, then to the working directory",
    "--read_weights": _DEBUG,
    "--write_debug_output": _DEBUG,
    "--debug": _DEBUG,
    "--external_reconstruct": REFINE_REFUSED["--external_reconstruct"],
    "--version": "use `tomoburst version`",
}


def read_arguments(
    arguments: Sequence[str], flags: Sequence[Flag], ignored: Mapping[str, Ignored], refused: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Go through the words of a command: complete flags without value, drop ignored ones, refuse the others.

    Parameters
    ----------
    arguments : the words after the command's name.
    flags : the flags that the command has.
    ignored, refused : other flags, see the tables above. A refused ``--helical`` refuses ``--helical_...`` too.

    Returns
    -------
    The words to parse, and one line for each flag that has no effect.

    Raises
    ------
    UsageError
        For refused and unknown flags, flags without their value and values without a flag.
    """
    known = {flag.name: flag for flag in flags}
    words: list[str] = []
    notes: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--help":
            return [word], []
        name, equals, value = word.partition("=")
        if name in ignored:
            notes.append(f"{name} is ignored: {ignored[name].reason}")
        if name in known:
            words += [name, *_value(known[name], value if equals else None, rest)]
        elif name in ignored:
            if ignored[name].takes_value and not equals and rest:
                rest.pop(0)
        else:
            raise UsageError(_answer(word, name, [*known, *ignored], refused))
    return words, notes


def _value(flag: Flag, value: str | None, rest: list[str]) -> list[str]:
    """Take the value of a flag from the words that follow it."""
    if flag.is_switch:
        if value is not None:
            raise UsageError(f"{flag.name} takes no value, but has {value!r}: write {flag.name} alone")
        return []
    if value is None and rest and not rest[0].startswith("--"):
        value = rest.pop(0)
    if value is None and flag.bare_value is not None:
        return [flag.bare_value]
    if value is None:
        found = f"it is followed by {rest[0]}" if rest else "nothing follows it"
        raise UsageError(f"{flag.name} needs a value, but {found}: {flag.text}")
    if flag.type in _NUMBERS:
        try:
            flag.type(value)
        except ValueError:
            raise UsageError(f"{flag.name} {value!r}: {_NUMBERS[flag.type]} is needed: {flag.text}") from None
    return [value]


def _answer(word: str, name: str, accepted: Sequence[str], refused: Mapping[str, str]) -> str:
    """Say in one line why a word cannot be used."""
    for refusal, reason in refused.items():
        if name == refusal or name.startswith(f"{refusal}_"):
            return f"{name} is not available: {reason}"
    if not word.startswith("-"):
        if word.lstrip(_DASHES) != word:
            return f"{word!r} starts with a dash that is not '-' (copied from a text?): write --{word.lstrip(_DASHES)}"
        return f"unexpected word {word!r}: every value follows a flag (quote names with blanks)"
    close = difflib.get_close_matches(f"--{name.lstrip(_DASHES)}", accepted, n=1, cutoff=0.7)
    hint = f"did you mean {close[0]}?" if close else "--help lists all flags"
    return f"unknown flag {name}: {hint}"
