"""Configurations: combinations that cannot work are refused in one line that names the flag."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runner.errors import UsageError
from runner.plan.config import ReconstructConfig, RefineConfig
from runner.plan.flags import changed_flags, flag, flags_of

CLASSIFY: dict[str, Any] = {"i": "p.star", "o": "OUT/run", "ref": "r.mrc"}
REFINE: dict[str, Any] = {**CLASSIFY, "auto_refine": True, "split_random_halves": True}


@pytest.mark.parametrize(
    "config",
    [
        RefineConfig(**CLASSIFY),
        RefineConfig(**CLASSIFY, K=4, skip_align=True),
        RefineConfig(**REFINE),
        RefineConfig(**REFINE, gpu="0:1", parity="relion-3.1", low_resol_join_halves=40, random_seed=0),
        ReconstructConfig(i="p.star", o="rec.mrc"),
    ],
)
def test_possible_configurations_pass(config: RefineConfig | ReconstructConfig) -> None:
    config.validate()


IMPOSSIBLE = [
    ({**CLASSIFY, "i": ""}, "--i is missing"),
    ({**CLASSIFY, "o": ""}, "--o is missing"),
    ({**CLASSIFY, "ref": ""}, "--ref is missing"),
    ({**CLASSIFY, "o": "OUT/"}, "write --o OUT/run"),
    ({**REFINE, "K": 2}, "--K 2 with --split_random_halves"),
    ({**CLASSIFY, "K": 2, "auto_refine": True}, "--K 2 with --auto_refine"),
    ({**CLASSIFY, "K": 0}, "--K 0"),
    ({**CLASSIFY, "auto_refine": True}, "--auto_refine needs --split_random_halves"),
    ({**CLASSIFY, "split_random_halves": True}, "--split_random_halves needs --auto_refine"),
    ({**CLASSIFY, "low_resol_join_halves": 40.0}, "--low_resol_join_halves needs two half sets"),
    ({**CLASSIFY, "skip_align": True, "gpu": ""}, "--skip_align with --gpu"),
    ({**REFINE, "skip_align": True}, "--skip_align with --auto_refine"),
    ({**REFINE, "skip_rotate": True}, "--skip_rotate with --auto_refine"),
    ({**CLASSIFY, "always_cc": True, "firstiter_cc": True}, "--always_cc with --firstiter_cc"),
    ({**REFINE, "solvent_correct_fsc": True}, "--solvent_correct_fsc needs a mask"),
    ({**CLASSIFY, "solvent_mask2": "m.mrc"}, "--solvent_mask2 needs a first mask"),
    ({**CLASSIFY, "lowpass_mask": "m.mrc"}, "--lowpass_mask and --lowpass belong together"),
    ({**CLASSIFY, "force_converge": True}, "--force_converge ends a run"),
    ({**CLASSIFY, "oversampling": 9}, "--oversampling 9 is out of range"),
    ({**CLASSIFY, "healpix_order": -1}, "--healpix_order -1 is out of range"),
    ({**CLASSIFY, "pad": 4}, "--pad 4: possible values are 1, 2, 3"),
    ({**CLASSIFY, "parity": "relion-4"}, "--parity relion-4: possible values are relion-3.1"),
    ({**CLASSIFY, "offset_step": 0.0}, "--offset_step 0"),
    ({**CLASSIFY, "offset_range": -2.0}, "--offset_range -2"),
    ({**CLASSIFY, "perturb": 1.5}, "--perturb 1.5 is out of range"),
    ({**CLASSIFY, "sigma_ang": 0.0}, "--sigma_ang 0"),
    ({**CLASSIFY, "particle_diameter": float("nan")}, "--particle_diameter nan"),
    ({**CLASSIFY, "ini_high": -3.0}, "--ini_high -3"),
    ({**CLASSIFY, "strict_highres_exp": 20.0, "strict_lowres_exp": 10.0}, "nothing is left to compare"),
    ({**CLASSIFY, "coarse_size": 15}, "--coarse_size 15 is odd"),
    ({**CLASSIFY, "tau2_fudge": 0.0}, "--tau2_fudge 0"),
    ({**CLASSIFY, "adaptive_fraction": 0.0}, "--adaptive_fraction 0"),
    ({**CLASSIFY, "memory": float("inf")}, "--memory inf"),
    ({**CLASSIFY, "memory": 0.0}, "--memory 0"),
    ({**CLASSIFY, "gpu": "first"}, "--gpu first"),
    ({**CLASSIFY, "tf32": True}, "--tf32: it is for the single precision of a GPU"),
    ({**CLASSIFY, "tf32": True, "gpu": "", "parity": "relion-3.1"}, "--tf32: it is for the single precision of a GPU"),
    ({**CLASSIFY, "j": 0}, "--j 0 is too small"),
    ({**CLASSIFY, "sym": ""}, "--sym is missing"),
]


@pytest.mark.parametrize(("values", "expected"), IMPOSSIBLE)
def test_impossible_configurations_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError) as refused:
        RefineConfig(**values).validate()
    message = str(refused.value)
    assert expected in message
    assert "\n" not in message
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"i": ""}, "--i is missing"),
        ({"o": ""}, "--o is missing"),
        ({"subset": 3}, "--subset 3: possible values are -1, 1, 2"),
        ({"class_": 0}, "--class 0"),
        ({"maxres": 0.0}, "--maxres 0"),
        ({"pad": 0}, "--pad 0"),
    ],
)
def test_impossible_reconstructions_are_refused(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        ReconstructConfig(**{"i": "p.star", "o": "rec.mrc", **values}).validate()


def test_flags_are_named_like_fields_unless_python_forbids_it() -> None:
    for config_class in (RefineConfig, ReconstructConfig):
        odd = {flag_.field: flag_.name for flag_ in flags_of(config_class) if flag_.name != f"--{flag_.field}"}
        assert odd in ({"continue_": "--continue"}, {"class_": "--class", "rot_3d": "--3d_rot"})


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RefineConfig(**CLASSIFY).K = 2  # type: ignore[misc]


def test_changed_flags_spell_a_command() -> None:
    config = RefineConfig(**REFINE, gpu="", ini_high=60.0)
    assert " ".join(changed_flags(config)) == (
        "--i p.star --o OUT/run --ref r.mrc --ini_high 60.0 --auto_refine --split_random_halves --gpu"
    )


def test_flag_keeps_its_words() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        depth: int = flag(3, "how deep", section="Well", name="--deep")

    (read,) = flags_of(Config)
    assert (read.field, read.name, read.type, read.default, read.text, read.section, read.is_switch) == (
        "depth", "--deep", int, 3, "how deep", "Well", False,
    )  # fmt: skip


def test_flags_without_effect_on_the_results_are_left_out_of_what_the_files_hold() -> None:
    config = RefineConfig(**CLASSIFY, j=7, overwrite=True, random_seed=3)
    assert changed_flags(config, results_only=True) == ["--i", "p.star", "--o", "OUT/run", "--ref", "r.mrc",
                                                        "--random_seed", "3"]  # fmt: skip
    assert "--overwrite" in changed_flags(config)
