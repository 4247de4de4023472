"""The command line: one sub-command a use case, options generated from the configuration dataclasses.

Use cases are imported when they are called, so that help and usage errors come at once.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from runner.errors import Preempted, StorageError, TomoburstError
from runner.plan.config import ReconstructConfig, RefineConfig
from runner.plan.execution_config import SchedulerConfig, WorkerConfig
from runner.plan.extract_config import ExtractConfig
from runner.plan.flags import Flag, flags_of
from runner.plan.ingest_config import IngestConfig
from runner.plan.plan_config import PlanConfig
from runner.plan.relion_flags import (
    RECONSTRUCT_IGNORED,
    RECONSTRUCT_REFUSED,
    REFINE_IGNORED,
    REFINE_REFUSED,
    Ignored,
    read_arguments,
)
from runner.plan.report_config import ReportConfig
from runner.plan.simulate_config import DemoConfig, SimulateConfig
from runner.plan.store_config import StoreConfig
from runner.report.events import Noted, RunFailed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "TOMOBURST_DEBUG"

app = typer.Typer(
    name="tomoburst",
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Subtomogram averaging with RELION's flags and file names.",
)


@app.callback()
def _options(debug: bool = typer.Option(False, "--debug", help="Show the traceback of errors.")) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as distribution_version

    typer.echo(f"tomoburst {distribution_version('tomoburst')}")


def add_command(
    config_class: type[DataclassInstance],
    use_case: str,
    text: str,
    ignored: Mapping[str, Ignored] | None = None,
    refused: Mapping[str, str] | None = None,
    module: str = "",
    *,
    has_stores: bool = True,
) -> None:
    """Add the sub-command of one use case.

    Parameters
    ----------
    config_class : its configuration, a dataclass of `runner.plan.flags.flag` fields with a method ``validate``.
    use_case : name of the sub-command and of the module ``runner.NAME`` with its function ``run_NAME(config, events)``.
    text : help of the sub-command.
    ignored, refused : flags of RELION's program that the sub-command answers, see `runner.plan.relion_flags`.
    module : name of the module when it is another one.
    has_stores : whether it takes the flags of `StoreConfig` too.
    """
    store_flags = flags_of(StoreConfig) if has_stores else ()
    flags = (*flags_of(config_class), *store_flags)

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            words, ctx.obj = read_arguments(args, flags, ignored or {}, refused or {})
            return super().parse_args(ctx, words)

    def command(ctx: typer.Context, **values: Any) -> None:
        if issubclass(config_class, RefineConfig):
            names = (each.field for each in flags_of(config_class))
            values["given"] = frozenset(name for name in names if _on_command_line(ctx, name))
        store = StoreConfig(**{each.field: values.pop(each.field) for each in store_flags})
        config: Any = config_class(**values)
        config.validate()
        _use_store(store)
        from runner.report.progress import open_events

        run = getattr(import_module(f"runner.{module or use_case}"), f"run_{use_case}")
        with open_events() as events:
            for note in ctx.obj:
                events.emit(Noted(note))
            try:
                run(config, events)
            except BaseException as error:
                with suppress(StorageError):  # when the log cannot be written either, the line of the error is enough
                    events.emit(RunFailed(*_failure(error)))
                raise

    _set_signature(command, flags)
    app.command(name=use_case, cls=Command, help=text)(command)


def _on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _use_store(config: StoreConfig) -> None:
    """Reach S3 as the flags say, in this process and the workers it sends tasks to."""
    from runner.store.options import options_in_use, use

    config.validate()
    options = replace(options_in_use(), endpoint=config.s3_endpoint, region=config.s3_region, anonymous=config.s3_anon)
    if options != options_in_use():
        use(options)


def _set_signature(command: Callable[..., None], flags: Sequence[Flag]) -> None:
    """Give a function one keyword parameter for each flag, from which Typer makes the options."""
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    options = [
        inspect.Parameter(
            flag.field,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=flag.type,
            default=typer.Option(
                flag.default,
                flag.name,
                help=flag.text,
                rich_help_panel=flag.section,
                show_default=flag.default not in ("", None, False),
                metavar=_METAVARS.get(flag.type, "TEXT"),
            ),
        )
        for flag in flags
    ]
    command.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [context, *options]}


_METAVARS = {bool: "", int: "INT", float: "FLOAT"}

add_command(SimulateConfig, "simulate", "Make subtomograms with known poses from a model, a map or a built-in shape.")
add_command(ExtractConfig, "extract", "Cut subtomograms out of tomograms, at the positions of a STAR file.")
add_command(IngestConfig, "ingest", "Put subtomograms into one particle store, from which runs read them fast.")
add_command(
    ReconstructConfig,
    "reconstruct",
    "Average subtomograms with the poses of a STAR file, as relion_reconstruct --3d_rot does.",
    RECONSTRUCT_IGNORED,
    RECONSTRUCT_REFUSED,
)
add_command(
    RefineConfig,
    "refine",
    "Refine poses and map, as relion_refine_mpi does: auto-refine with --auto_refine, 3D classification without.",
    REFINE_IGNORED,
    REFINE_REFUSED,
)
add_command(
    PlanConfig,
    "plan",
    "Tell what a refinement would compute, read, write, hold and cost: the flags of refine, before it is run.",
    REFINE_IGNORED,
    REFINE_REFUSED,
    module="plan_run",
)
add_command(
    ReportConfig, "report", "Report on a run: where its time went, and what the machine allows.", module="timing_report"
)
add_command(DemoConfig, "demo", "Simulate, reconstruct and refine a small case, and show what came out.")
add_command(
    SchedulerConfig,
    "scheduler",
    "Serve as the meeting point of drivers and workers on several machines.",
    has_stores=False,
)
add_command(WorkerConfig, "worker", "Compute what drivers send through a scheduler.", has_stores=False)

_STORE = {each.field: typer.Option(each.default, each.name, help=each.text) for each in flags_of(StoreConfig)}
_PREFIX = typer.Argument(..., metavar="PREFIX", help="Output prefix of the run: what was given with --o.")


@app.command()
def status(
    prefix: str = _PREFIX,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    watch: bool = typer.Option(False, "--watch", help="Print it again every few seconds while the run works."),
    s3_endpoint: str = _STORE["s3_endpoint"],
    s3_region: str = _STORE["s3_region"],
    s3_anon: bool = _STORE["s3_anon"],
) -> None:
    """Tell what a run does, from its store alone: iteration, units done, rate, workers, last error."""
    _use_store(StoreConfig(s3_endpoint, s3_region, s3_anon))
    from runner.status import show_status

    show_status(prefix, as_json, watch)


@app.command()
def cancel(
    prefix: str = _PREFIX,
    s3_endpoint: str = _STORE["s3_endpoint"],
    s3_region: str = _STORE["s3_region"],
    s3_anon: bool = _STORE["s3_anon"],
) -> None:
    """Ask the driver of a run to stop; the same command goes on with the run later."""
    _use_store(StoreConfig(s3_endpoint, s3_region, s3_anon))
    from runner.cancel import cancel_run

    typer.echo(cancel_run(prefix))


STOP_AGAIN_SECONDS = 0.5


class _Stopped(BaseException):
    """SIGTERM, on its way through code that turns exceptions into other ones."""


def _stop(*_: object) -> None:
    """End the command by an exception, and see to it that it gets through.

    Where the interpreter is called by C (a finaliser, a callback of the compiler) an exception is told of and dropped:
    it does not live on then, and another one is raised. One that lives is on its way and is left alone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb what the first one puts in order
    stopped = _Stopped()
    alive = weakref.ref(stopped)

    def again(*_: object) -> None:
        if alive() is None:
            _stop()

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, STOP_AGAIN_SECONDS, STOP_AGAIN_SECONDS)
    try:
        raise stopped
    finally:
        del stopped  # this frame, which the traceback keeps, must not keep it alive


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; every failure is one line on standard error and a code of docs/exit-codes.md."""
    signal.signal(signal.SIGTERM, _stop)
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code in (Preempted.exit_code, EXIT_INTERRUPTED):  # not after units that threads still compute: nobody reads them
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        code = app(list(arguments) or ["--help"], prog_name="tomoburst", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(error.format_message(), error.exit_code)
    except (Exception, _Stopped) as error:  # noqa: BLE001
        signal.setitimer(signal.ITIMER_REAL, 0)
        return _fail(*_failure(error))
    if code == EXIT_INTERRUPTED:  # Typer turns Ctrl-C into this code
        return _fail(*_failure(KeyboardInterrupt()))
    return code if isinstance(code, int) else 0


def _failure(error: BaseException) -> tuple[str, int]:
    """What is told of an error in one line, and the exit code."""
    if isinstance(error, _Stopped):
        return "stopped (SIGTERM): finished files are kept; run the same command again", Preempted.exit_code
    if isinstance(error, TomoburstError):
        return " ".join(str(error).split()), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", EXIT_INTERRUPTED
    cause = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return f"unexpected {cause} ({DEBUG_VARIABLE}=1 shows where; please report it)", EXIT_UNEXPECTED


def _fail(message: str, code: int) -> int:
    """Write one line on standard error, after the traceback when it was asked for."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exc()
    sys.stderr.write(f"tomoburst: error: {' '.join(message.split())}\n")
    return code
