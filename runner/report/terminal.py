"""Progress of a run on a terminal: bars that move, and one line for each thing that is finished."""

from __future__ import annotations

import math

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from runner.report.events import (
    Event,
    IterationFinished,
    IterationStarted,
    Noted,
    ParticleSetAside,
    RunFinished,
    RunResumed,
    RunStarted,
    SchedulerBack,
    SchedulerLost,
    StageStarted,
    StoreRetried,
    StragglerDuplicated,
    UnitFinished,
    UnitRetried,
    Warned,
    WorkerJoined,
    WorkerLost,
)


class TerminalProgress:
    """Draws one bar for the running iteration or stage and leaves one line of result for each that is finished."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def write(self, event: Event) -> None:
        """Draw one record."""
        match event:
            case RunStarted():
                self._print(_run_line(event), style="bold")
            case StageStarted():
                self._start(event.stage, event.total)
            case IterationStarted():
                self._start(_iteration_label(event), event.particles)
            case UnitFinished():
                if self._task is not None:
                    self._progress.update(self._task, completed=event.done, total=event.total)
            case IterationFinished():
                self._stop()
                self._print(_result_line(event))
            case RunFinished():
                self._stop()
                for line in _finish_lines(event):
                    self._print(line)
            case Warned():
                self._print(f"warning: {event.message}", style="yellow")
            case Noted():
                self._print(event.message, style="dim")
            case _:
                if line := _incident_line(event):
                    self._print(line, style="yellow")

    def close(self) -> None:
        """Take the bar away."""
        self._stop()

    def _start(self, label: str, total: int) -> None:
        self._stop()
        self._task = self._progress.add_task(label, total=total or None)
        self._progress.start()

    def _stop(self) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._progress.stop()

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style), soft_wrap=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.3g}/s" if rate else "")


def _run_line(event: RunStarted) -> str:
    parts = [event.command]
    if event.particles:
        parts.append(f"{event.particles} particles")
    parts += [f"{key} {value}" for key, value in event.details.items()]
    if event.output:
        parts.append(f"-> {event.output}")
    return " · ".join(parts)


def _incident_line(event: Event) -> str:
    """What happened to particles, units, workers or the store; empty for records that say nothing to people."""
    match event:
        case RunResumed():
            return f"going on after iteration {event.iteration}"
        case ParticleSetAside():
            return f"particle {event.row} ({event.particle}) is set aside: {event.reason}"
        case UnitRetried():
            return f"unit {event.unit} is tried again (attempt {event.attempt}): {event.reason}"
        case StragglerDuplicated():
            return f"unit {event.unit} takes long on {event.worker}: given to a second worker"
        case WorkerJoined():
            return f"worker {event.worker} joined"
        case WorkerLost():
            return f"worker {event.worker} is gone, with {len(event.units)} units under way"
        case StoreRetried():
            return f"{event.url} is tried again (attempt {event.attempt}): {event.reason}"
        case SchedulerLost():
            return f"the scheduler does not answer: {event.reason}"
        case SchedulerBack():
            return "the scheduler answers again"
    return ""


def _iteration_label(event: IterationStarted) -> str:
    search = "local" if event.local else "global"
    return (
        f"iteration {event.iteration} · {_angst(event.resolution_angst)} · {search} {event.angular_step_deg:.3g} deg"
        f" · box {event.current_size_px}"
    )


def _result_line(event: IterationFinished) -> str:
    parts = [f"iteration {event.iteration:3d}", f"resolution {_angst(event.resolution_angst)}"]
    for text, value, unit in (
        ("angles changed", event.changes_angles_deg, "deg"),
        ("offsets changed", event.changes_offsets_angst, "A"),
        ("classes changed", event.changes_classes, ""),
        ("accuracy", event.accuracy_rotation_deg, "deg"),
        ("", event.accuracy_translation_angst, "A"),
    ):
        if math.isfinite(value) and value < 999:
            parts.append(f"{text} {value:.3g} {unit}".strip())
    return " · ".join(parts)


def _finish_lines(event: RunFinished) -> list[str]:
    parts = [f"{event.command} finished"]
    if event.iterations:
        parts.append(
            f"{event.iterations} iterations" if event.converged else f"{event.iterations} iterations, not converged"
        )
    if math.isfinite(event.resolution_angst):
        parts.append(f"resolution {_angst(event.resolution_angst)}")
    return [" · ".join(parts), *(f"  {name}" for name in event.files)]


def _angst(value: float) -> str:
    return f"{value:.1f} A" if math.isfinite(value) and 0 < value < 999 else "- A"
