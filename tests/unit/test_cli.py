"""The command line: RELION's commands parse verbatim, every failure is one line and has its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from runner import cli
from runner.errors import InputError, Preempted, StorageError
from runner.plan.config import ReconstructConfig, RefineConfig
from runner.plan.flags import changed_flags, flags_of
from runner.plan.relion_flags import RECONSTRUCT_IGNORED, RECONSTRUCT_REFUSED, REFINE_IGNORED, REFINE_REFUSED
from runner.report.events import Events

GLOBAL = """
    --o OUT/run --ctf --auto_refine --split_random_halves --i particles.star --ref rec.mrc --firstiter_cc
    --ini_high 60 --dont_combine_weights_via_disc --pool 3 --pad 2 --particle_diameter 250 --flatten_solvent --zero_mask
    --oversampling 1 --healpix_order 2 --auto_local_healpix_order 4 --offset_range 5 --offset_step 2
    --sym C1 --low_resol_join_halves 40
    --norm --scale --j 7 --gpu"""
LOCAL = """
    --o OUT/run --auto_refine --split_random_halves --i particles.star --ref rec.mrc --firstiter_cc
    --ini_high 60 --dont_combine_weights_via_disc --pool 3 --pad 2 --particle_diameter 230 --flatten_solvent --zero_mask
    --oversampling 1 --healpix_order 4 --auto_local_healpix_order 4 --offset_range 5 --offset_step 2
    --sym C1 --low_resol_join_halves 40
    --norm --scale --j 7 --gpu"""
CLASSIFY = "--i p.star --o OUT/run --ref r.mrc --K 2 --iter 12"


class UseCase:
    """Stands for a use case: keeps the configurations it is called with, or raises."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.error: BaseException | None = None

    def __call__(self, config: Any, events: Events) -> None:
        self.configs.append(config)
        if self.error is not None:
            raise self.error


@pytest.fixture
def use_case(monkeypatch: pytest.MonkeyPatch) -> UseCase:
    called = UseCase()
    for name in ("refine", "reconstruct", "simulate", "demo"):
        module = types.ModuleType(f"runner.{name}")
        setattr(module, f"run_{name}", called)
        monkeypatch.setitem(sys.modules, f"runner.{name}", module)
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    return called


def refine(line: str) -> int:
    return cli.run(["refine", *line.split()])


def only_line(text: str) -> str:
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text.strip()


def test_global_command_of_relion_parses_verbatim(use_case: UseCase, capsys: pytest.CaptureFixture[str]) -> None:
    assert refine(GLOBAL) == 0
    assert use_case.configs == [
        RefineConfig(
            o="OUT/run",
            ctf=True,
            auto_refine=True,
            split_random_halves=True,
            i="particles.star",
            ref="rec.mrc",
            firstiter_cc=True,
            ini_high=60,
            pad=2,
            particle_diameter=250,
            flatten_solvent=True,
            zero_mask=True,
            oversampling=1,
            healpix_order=2,
            auto_local_healpix_order=4,
            offset_range=5,
            offset_step=2,
            sym="C1",
            low_resol_join_halves=40,
            norm=True,
            scale=True,
            j=7,
            gpu="",
        )
    ]
    notes = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [note["event"] for note in notes] == ["noted"] * 3
    assert [note["message"].split()[0] for note in notes] == ["--dont_combine_weights_via_disc", "--pool", "--norm"]


def test_local_command_of_relion_parses_verbatim(use_case: UseCase) -> None:
    assert refine(LOCAL) == 0
    (config,) = use_case.configs
    assert (config.ctf, config.healpix_order, config.particle_diameter) == (False, 4, 230.0)


def test_reconstruct_command_of_relion_parses_verbatim(use_case: UseCase) -> None:
    words = "--3d_rot --ctf --i S --o M --class 2 --subset 1 --fsc f.star"
    assert cli.run(["reconstruct", *words.split()]) == 0
    assert use_case.configs == [
        ReconstructConfig(i="S", o="M", ctf=True, rot_3d=True, class_=2, subset=1, fsc="f.star")
    ]


def test_simulate_and_demo_call_their_use_cases(use_case: UseCase) -> None:
    assert cli.run(["simulate", "--o", "made", "--n", "12", "--seed", "3"]) == 0
    assert cli.run(["demo"]) == 0
    simulate, demo = use_case.configs
    assert (simulate.o, simulate.n, simulate.random_seed) == ("made", 12, 3)
    assert demo.o == "tomoburst_demo"


@pytest.mark.parametrize(
    ("words", "gpu"), [("", None), ("--gpu", ""), ("--gpu 0", "0"), ("--gpu 0:1 --ctf", "0:1"), ("--gpu --ctf", "")]
)
def test_gpu_takes_an_optional_value(use_case: UseCase, words: str, gpu: str | None) -> None:
    assert refine(f"{CLASSIFY} {words}") == 0
    assert use_case.configs[0].gpu == gpu


def test_negative_values_and_equals_signs(use_case: UseCase) -> None:
    assert refine(f"{CLASSIFY} --limit_tilt -60 --sigma_ang=5 --psi_step -1") == 0
    config = use_case.configs[0]
    assert (config.limit_tilt, config.sigma_ang, config.psi_step) == (-60.0, 5.0, -1.0)


@pytest.mark.parametrize("config_class", [RefineConfig, ReconstructConfig])
def test_every_flag_reaches_its_field(use_case: UseCase, config_class: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_class, "validate", lambda self: None)
    other = {bool: True, int: 12345, float: 0.12345, str: "other"}
    values = {flag.field: other.get(flag.type, "0:1") for flag in flags_of(config_class)}
    command = "refine" if config_class is RefineConfig else "reconstruct"
    assert cli.run([command, *changed_flags(config_class(**values))]) == 0
    assert use_case.configs == [config_class(**values)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--heapix_order 3", "unknown flag --heapix_order: did you mean --healpix_order?"),
        ("--completely_unknown", "unknown flag --completely_unknown: --help lists all flags"),
        ("--helical_rise_min 3", "--helical_rise_min is not available: helical"),
        ("--sgd_ini_iter 3", "--sgd_ini_iter is not available: initial models"),
        ("--grad", "--grad is not available"),
        ("--multibody_masks x.star", "--multibody_masks is not available"),
        ("--ios set.star", "--ios is not available: RELION 5"),
        ("--i", "--i needs a value, but nothing follows it"),
        ("--i --ctf", "--i needs a value, but it is followed by --ctf"),
        ("-i p.star", "unknown flag -i: did you mean --i?"),
        ("\N{EN DASH}ctf", "starts with a dash that is not '-' (copied from a text?): write --ctf"),
        ("--o OUT/run particles.star", "unexpected word 'particles.star'"),
        ("--ctf=yes", "--ctf takes no value"),
        ("--K two", "--K 'two': a whole number is needed"),
        ("--ini_high low", "--ini_high 'low': a number is needed"),
        ("--o OUT/run", "--i is missing"),
        ("--i p.star --o OUT/run --ref r.mrc --K 0", "--K 0 is too small: give 1 or more"),
    ],
)
def test_usage_errors_are_one_line(
    use_case: UseCase, capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    assert refine(line) == 2
    assert only_line(capsys.readouterr().err).startswith("tomoburst: error: ")
    assert not use_case.configs
    assert refine(line) == 2
    assert expected in capsys.readouterr().err


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["refin"]) == 2
    assert "refine" in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("particle 3: NaN"), 3, "particle 3: NaN"),
        (StorageError("cannot write OUT"), 4, "cannot write OUT"),
        (Preempted("stopped after iteration 3"), 75, "stopped after iteration 3"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (RuntimeError("two\nlines"), 1, "unexpected RuntimeError: two lines (TOMOBURST_DEBUG=1 shows where"),
    ],
)
def test_failures_have_their_exit_codes(
    use_case: UseCase, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    use_case.error = error
    assert refine(CLASSIFY) == code
    line = only_line(capsys.readouterr().err)
    assert line.startswith("tomoburst: error: ")
    assert text in line


def test_debug_shows_the_traceback(
    use_case: UseCase, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "0")
    use_case.error = InputError("particle 3: NaN")
    assert cli.run(["--debug", "refine", *CLASSIFY.split()]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_main_exits_with_the_code(use_case: UseCase) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["refine", "--o", "x"])
    assert stop.value.code == 2


def relion_flags(help_text: str) -> set[str]:
    return {word for line in help_text.splitlines() for word in line.split()[:1] if word.startswith("--")}


@pytest.mark.relion
@pytest.mark.parametrize(
    ("program", "config_class", "ignored", "refused"),
    [
        ("relion_refine", RefineConfig, REFINE_IGNORED, REFINE_REFUSED),
        ("relion_reconstruct", ReconstructConfig, RECONSTRUCT_IGNORED, RECONSTRUCT_REFUSED),
    ],
)
def test_every_flag_of_relion_has_an_answer(
    requires: Any, program: str, config_class: type, ignored: dict[str, Any], refused: dict[str, str]
) -> None:
    printed = subprocess.run([requires(program), "--help"], capture_output=True, text=True).stdout
    known = {flag.name for flag in flags_of(config_class)} | set(ignored)
    unanswered = {
        name
        for name in relion_flags(printed) - known
        if not any(name == word or name.startswith(f"{word}_") for word in refused)
    }
    assert len(relion_flags(printed)) > 20
    assert unanswered == set()


@pytest.mark.relion
@pytest.mark.parametrize(
    ("program", "config_class"), [("relion_refine", RefineConfig), ("relion_reconstruct", ReconstructConfig)]
)
def test_defaults_are_those_of_relion(requires: Any, program: str, config_class: type) -> None:
    printed = subprocess.run([requires(program), "--help"], capture_output=True, text=True).stdout
    defaults = {
        line.split()[0]: line.split("(", 1)[1].split(")", 1)[0] for line in printed.splitlines() if ") : " in line
    }
    compared = 0
    for flag in flags_of(config_class):
        if flag.name not in defaults or flag.name == "--o":
            continue
        given = defaults[flag.name]
        if flag.is_switch or flag.name == "--gpu":
            assert given == "false", flag.name
        elif flag.type is str:
            assert given.lower() in (flag.default.lower(), "none"), flag.name
        else:
            assert float(given) == flag.default, flag.name
        compared += 1
    assert compared > 10


def test_help_comes_from_the_installed_command() -> None:
    command = Path(sys.executable).parent / "tomoburst"
    program = [str(command)] if command.exists() else [sys.executable, "-c", "from runner.cli import main; main()"]
    printed = subprocess.run([*program, "refine", "--help"], capture_output=True, text=True)
    assert printed.returncode == 0
    assert "--auto_refine" in printed.stdout


def test_help_imports_no_numerics() -> None:
    code = (
        "import sys; from runner.cli import run; run(['refine', '--help']); "
        "print('LOADED', {'numba', 'scipy', 'numpy'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "LOADED set()" in printed.stdout, printed.stderr


def test_a_stop_that_a_finaliser_swallows_gets_through() -> None:
    program = """
import os, signal, time
from runner import cli

class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

def work(*_, **__):
    Deaf()
    try:
        time.sleep(100)
    finally:
        time.sleep(3 * cli.STOP_AGAIN_SECONDS)  # what is put in order meanwhile is not disturbed
        print("in order", flush=True)

cli.app = work
cli.main(["version"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(cli.__file__).parents[1], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 75, done.stderr
    assert done.stdout == "in order\n"
    assert "Exception ignored" in done.stderr
