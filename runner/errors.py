"""The errors a user can meet. Every message is one line: what, where, what was expected and how to fix it."""

from __future__ import annotations


class TomoburstError(Exception):
    """Base of all expected failures; ``exit_code`` is what the command returns."""

    exit_code = 1


class UsageError(TomoburstError, ValueError):
    """Flags that are unknown, impossible or contradict each other."""

    exit_code = 2


class InputError(TomoburstError, ValueError):
    """Input data that are missing, malformed or do not fit together."""

    exit_code = 3


class StorageError(TomoburstError, OSError):
    """An output that cannot be written, or a store that does not answer any more."""

    exit_code = 4


class BadUnit(TomoburstError):
    """A unit of work that failed as often as it may be tried, for no reason that its input or the store gave."""


class Preempted(TomoburstError):
    """The run was asked to stop (SIGTERM); what was finished is kept, and the same command resumes it."""

    exit_code = 75


class SchedulerLost(Preempted):
    """No scheduler answers; what was finished is kept, and the same command resumes it."""
