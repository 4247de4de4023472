"""The record of a run: what it computes from what, and how far it has come. The same command resumes from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runner.errors import InputError, Preempted, StorageError, UsageError
from runner.formats.checkpoint import pack, unpack
from runner.formats.relion_run import RunNames
from runner.model.manifest import RunManifest
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.plan.flags import flags_of
from runner.plan.units import FAN_IN, batch_size, chunks_per_unit
from runner.report.events import Events, RunFinished
from runner.store import objects
from runner.store.layout import RunLayout
from runner.store.lease import Describe, DriverLease, claim
from runner.store.together import Behind

STATES_KEPT = 2


class RunRecord:
    """Manifest, commits and end of the run with the output prefix ``config.o``.

    Attributes
    ----------
    config : what the run is asked to do; with the seed of the manifest when there is one.
    is_new : nothing of the run was found and nothing is committed yet.
    result : the end of the run, when it is finished.
    """

    def __init__(self, config: RefineConfig, files: Mapping[str, str], seed: int, first: int, events: Events) -> None:
        """Look for what an earlier start of the same command has left.

        Parameters
        ----------
        files : URL -> flag of the files that the run reads, but for the particles' volumes.
        seed : of a new run, where the flags leave it open; first : number of the iteration that it starts from.

        Raises
        ------
        UsageError
            The prefix holds another run, whose differences are named, or files of one without a record; or
            ``--overwrite`` would remove a file that the run reads.
        """
        seed = config.random_seed if config.random_seed >= 0 else seed
        self.config = replace(config, random_seed=seed)
        self.is_new = True
        self.result: RunFinished | None = None
        self._layout = RunLayout(config.o)
        self._files, self._first, self._events = files, first, events
        self._is_removable = False
        self._made_folders = _missing_folders(config.o)
        self._lease: DriverLease
        self._behind = Behind(at_once=objects.is_local(config.o))  # at most a commit and the next log
        self._manifest = RunManifest(
            settings=_settings(config),
            seed=seed,
            inputs={f"{flag} {url}": _digest(url, flag) for url, flag in files.items()},
            version=_version(),
            units={},
        )
        self._look()

    @contextmanager
    def driving(self, describe: Describe = dict) -> Iterator[None]:
        """Be the one driver of the run; a new run that ends by a mistake of the user leaves nothing behind.

        ``describe`` is what the heartbeat tells, see `runner.store.lease`.

        Raises
        ------
        Preempted
            Another driver works on the run.
        UsageError
            As above, when another driver was there meanwhile.
        """
        with claim(self._layout, describe) as self._lease:
            try:
                self._look()
                self._remove_partial_results()
                with self._behind:
                    yield
            except (UsageError, InputError, Preempted) as error:
                self._give_way()
                if self._is_removable and not isinstance(error, Preempted):
                    self._remove_traces(self._lease)
                raise
            if self.result is not None:
                self._end(self._lease)

    def warn_of_store(self) -> None:
        """Say so where the store would let two drivers at once pass."""
        if not objects.supports_conditional_create(self._layout.finished):
            self._events.warn(
                f"{self._layout.prefix}: the store ignores If-None-Match, so no second driver is kept away for sure; "
                "run one at a time"
            )

    def write_log(self, data: bytes) -> None:
        """Write the log of the run, behind what is written before it; that of a driver that has taken over stays."""
        self._behind.do(partial(self._write_log, data))

    def _write_log(self, data: bytes) -> None:
        if not self._lease.is_lost():
            objects.write_bytes(self._layout.events, data)

    def begin(self, particles: int) -> None:
        """Write the manifest of a new run of so many particles, which is known to be able to work.

        Raises
        ------
        StorageError
            The manifest cannot be written, or somebody else has written another one.
        """
        if not self.is_new:
            return
        if self.config.overwrite:
            self._remove_results()
            self._is_removable = True
        self._remove_work()  # also of a run whose manifest is gone: its units are not those of this one
        units = {
            "particles": particles,
            "batch": batch_size(particles),
            "chunks_per_unit": chunks_per_unit(particles),
            "fan_in": FAN_IN,
        }
        self._manifest = replace(self._manifest, units=units)
        _create(self._layout.manifest, self._manifest.to_bytes())

    def last_state(self) -> RunState | None:
        """The state of the last commit, None when there is none; of a damaged one, with a warning, the one before."""
        if self.is_new:
            return None
        names = [each.url for each in objects.list_objects(self._layout.work)]
        committed = [self._layout.iteration_of(name) for name in names if objects.basename(name) == "commit.json"]
        for number in sorted((each for each in committed if each is not None), reverse=True):
            try:
                return self._read_state(number)
            except InputError as error:
                self._events.warn(f"{error}; iteration {number} is done again")
        return None

    def tidy(self) -> None:
        """Remove what the driver of a finished run left that was killed at the very end."""
        if [each.url for each in objects.list_objects(self._layout.work)] != [self._layout.finished]:
            with suppress(Preempted), self.driving():  # the driver that still is there does it
                self._lease.check()

    def commit(self, state: RunState, write: Callable[[], object] = lambda: None) -> RunState:
        """Record that the iteration of ``state`` is done, and remove what only older iterations need.

        In a bucket that happens while the caller goes on: the next call, or `settle`, waits for it and raises its
        failures. A run that is killed meanwhile finds the sums of the iteration and makes its commit again.

        Parameters
        ----------
        write : called before, to write the files of the iteration.

        Returns
        -------
        The state as it is read back, so that runs with and without a break go on from the same thing in memory.

        Raises
        ------
        Preempted
            Another driver has taken over.
        StorageError
            The store does not answer, or holds another result of this iteration.
        """
        data = pack(state)
        self._behind.do(partial(self._commit, state.iteration, data, write))
        return unpack(RunState, data, self._layout.state(state.iteration))

    def settle(self) -> None:
        """Return when all that was committed is in the store; raises as `commit` does."""
        self._behind.wait()

    def _commit(self, number: int, data: bytes, write: Callable[[], object]) -> None:
        write()
        self._lease.check()
        marker = _json({"iteration": number, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
        earlier = _read(self._layout.commit(number))
        if earlier not in (None, marker):
            raise _conflict(self._layout.commit(number))
        objects.write_bytes(self._layout.state(number), data)
        _create(self._layout.commit(number), marker)
        self.is_new = self._is_removable = False
        self._remove_work(lambda url: self._is_needed(url, number))

    def finish(self, result: RunFinished) -> None:
        """Record that the run is done; the rest of its work is removed when `driving` ends.

        Raises
        ------
        Preempted
            Another driver has taken over.
        """
        self.settle()
        self._lease.check()
        objects.write_bytes(self._layout.finished, _json(result.as_dict()))
        self.is_new, self._is_removable, self.result = False, False, result

    def _look(self) -> None:
        """Read the manifest and the end of the run, if there are any."""
        manifest = _read(self._layout.manifest)
        self._is_removable = manifest is None
        if self.config.overwrite:
            self._refuse_removal_of_inputs()
            return
        if manifest is None:
            self._refuse_foreign_files()
            return
        earlier = RunManifest.from_bytes(manifest, self._layout.manifest)
        differences = earlier.differences(self._manifest)
        if differences:
            raise UsageError(
                f"--o {self._layout.prefix}: the run there is another one: {'; '.join(differences)}; give the command "
                "of its start to go on with it, another --o, or --overwrite to remove it and start afresh"
            )
        self.is_new, self._manifest = False, earlier
        self.config = replace(self.config, random_seed=earlier.seed)
        finished = _read(self._layout.finished)
        self.result = None if finished is None else self._checked_result(finished)

    def _refuse_removal_of_inputs(self) -> None:
        for url, flag in self._files.items():
            if self._layout.is_result(url):
                raise UsageError(f"--overwrite would remove {flag} {url}, which the run reads; give another --o")

    def _refuse_foreign_files(self) -> None:
        """Keep files of RELION, or of a version without records, from being mixed with those of a new run."""
        names = [RunNames(self._layout.prefix, number).optimiser for number in (self._first, self._first + 1)]
        for name in (*names, RunNames(self._layout.prefix, 0, final=True).optimiser):
            if objects.exists(name):
                raise UsageError(
                    f"--o {self._layout.prefix}: {name} is there, of a run without {self._layout.manifest}; go on with "
                    "it by --continue, give another --o, or --overwrite to remove its files and start afresh"
                )

    def _checked_result(self, finished: bytes) -> RunFinished:
        values: dict[str, Any] = json.loads(finished)
        for name in values["files"]:
            if not objects.exists(name):
                raise UsageError(
                    f"--o {self._layout.prefix}: the run there is finished, but its result {name} is gone; give "
                    "another --o, or --overwrite to start afresh"
                )
        resolution = values["resolution_angst"]
        return RunFinished(
            values["command"],
            iterations=values["iterations"],
            resolution_angst=math.nan if resolution is None else resolution,
            converged=values["converged"],
            files=tuple(values["files"]),
        )

    def _read_state(self, number: int) -> RunState:
        """State of a committed iteration; `InputError` when it is damaged or gone."""
        url = self._layout.state(number)
        marker, data = json.loads(objects.read_bytes(self._layout.commit(number))), objects.read_bytes(url)
        if hashlib.sha256(data).hexdigest() != marker["sha256"]:
            raise InputError(f"{url}: is damaged, its digest is not that of the commit")
        return unpack(RunState, data, url)

    def _remove_results(self) -> None:
        """Remove the files of an earlier run: those that have the name of a result, and no others."""
        folder = objects.parent(self._layout.prefix)
        urls = [objects.join(folder, name) for name in objects.list_names(folder)]
        objects.delete([self._layout.manifest, self._layout.finished])  # first: without them nothing is resumed
        objects.delete([url for url in urls if self._layout.is_result(url)])

    def _remove_partial_results(self) -> None:
        """Remove what a driver that was killed has left of files that it was writing."""
        partial = objects.partial_files(objects.parent(self._layout.prefix))
        objects.delete([url for url, whole in partial.items() if self._layout.is_result(whole)])

    def _remove_work(self, needed: Callable[[str], bool] = lambda _: False) -> None:
        """Remove the work but for the drivers' claims and what is needed."""
        urls = (each.url for each in objects.list_objects(self._layout.work))
        objects.delete([url for url in urls if not url.startswith(f"{self._layout.drivers}/") and not needed(url)])

    def _is_needed(self, url: str, committed: int) -> bool:
        """Whether an object is of use after the commit of an iteration."""
        number = self._layout.iteration_of(url)
        if number is None or number >= committed:
            return True
        is_state = url in (self._layout.state(number), self._layout.commit(number))
        return is_state and number > committed - STATES_KEPT

    def _give_way(self) -> None:
        """Raise `Preempted` when another driver has taken over: it removes what this one may just have missed."""
        if self._lease.is_lost() and objects.exists(self._layout.finished):
            self._remove_work(lambda url: url == self._layout.finished)  # units that this one made too late
        self._lease.check()

    def _end(self, lease: DriverLease) -> None:
        """Leave of the work of a finished run only the mark that it is finished."""
        self._remove_work(lambda url: url == self._layout.finished)
        lease.release(tidy=True)
        objects.remove_leftovers(self._layout.work)

    def _remove_traces(self, lease: DriverLease) -> None:
        """Leave nothing of a run that could not begin."""
        self._remove_work()
        objects.delete([self._layout.manifest])
        lease.release(tidy=True)
        objects.remove_leftovers(self._layout.work, above=self._made_folders)


def _settings(config: RefineConfig) -> dict[str, Any]:
    """Flags on which results depend, with their values; of a GPU whether there is one, not which."""
    flags = (flag for flag in flags_of(RefineConfig) if flag.results)
    settings = {flag.name: getattr(config, flag.field) for flag in flags}
    return settings | {"--gpu": config.gpu is not None}


def _digest(url: str, flag: str) -> str:
    try:
        return hashlib.sha256(objects.read_bytes(url)).hexdigest()
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def _version() -> str:
    try:
        return version("tomoburst")
    except PackageNotFoundError:  # run from its sources
        return "unknown"


def _missing_folders(prefix: str) -> list[str]:
    """The local folders that have to be made for a prefix, the innermost first."""
    missing = []
    folder = objects.parent(prefix) if objects.is_local(prefix) else ""
    while folder and not objects.exists(folder):
        missing.append(folder)
        folder = objects.parent(folder)
    return missing


def _read(url: str) -> bytes | None:
    try:
        return objects.read_bytes(url)
    except InputError:
        return None


def _create(url: str, data: bytes) -> None:
    """Create an object; that it is there with the same content, from an earlier attempt or driver, is as good."""
    if not objects.create_bytes(url, data) and _read(url) != data:
        raise _conflict(url)


def _conflict(url: str) -> StorageError:
    return StorageError(
        f"{url}: another driver has written something else there, perhaps on a machine of another kind; "
        "run the same command again to go on with what it wrote"
    )


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
