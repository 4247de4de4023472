"""The record of a run in a store: commits, what is kept and removed, and drivers that meet; nothing is computed."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.errors import InputError, Preempted, StorageError, UsageError
from runner.model.state import RunState
from runner.plan.config import RefineConfig
from runner.refinement import record as record_module
from runner.refinement.record import RunRecord
from runner.report.events import Event, Events, RunFinished, Warned
from runner.store import objects
from runner.store.layout import RunLayout
from tests.unit.states import assert_identical, run_state

RESULT = RunFinished("refine", 3, 20.0, files=("map.mrc",))
SEED = 77


class Heard:
    """Keeps all records."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A folder with an input and a map that may be a result."""
    monkeypatch.chdir(tmp_path)
    Path("particles.star").write_text("particles")
    Path("map.mrc").write_text("map")
    return RunLayout("OUT/run")


@pytest.fixture
def bucket(layout: RunLayout) -> RunLayout:
    """A run in a store that is not local."""
    return RunLayout(f"memory://bucket-{uuid.uuid4().hex}/run")


def open_record(heard: Heard, **flags: Any) -> RunRecord:
    config = RefineConfig(**({"i": "particles.star", "o": "OUT/run"} | flags))
    return RunRecord(config, {"particles.star": "--i"}, SEED, 0, Events(heard))


def at(iteration: int) -> RunState:
    return dataclasses.replace(run_state(), iteration=iteration)


def work(layout: RunLayout) -> list[str]:
    """Names below the work folder, but for the drivers'."""
    names = (each.url.removeprefix(f"{layout.work}/") for each in objects.list_objects(layout.work))
    return [name for name in names if not name.startswith("driver/")]


@pytest.fixture
def committed(layout: RunLayout, heard: Heard) -> Iterator[RunRecord]:
    """A record with iterations 0 to 3, under way."""
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        for iteration in range(4):
            objects.write_bytes(f"{layout.iteration(iteration)}/unit_00000_ab.npz", b"sums")
            record.commit(at(iteration))
        yield record


def test_a_state_comes_back_and_only_the_last_ones_are_kept(
    layout: RunLayout, heard: Heard, committed: RunRecord
) -> None:
    assert work(layout) == [
        "it002/commit.json", "it002/state.npz", "it003/commit.json", "it003/state.npz", "it003/unit_00000_ab.npz",
    ]  # fmt: skip
    found = open_record(heard).last_state()
    assert found is not None
    assert_identical(found, at(3))


def test_what_is_gone_on_with_is_what_is_read_back(committed: RunRecord) -> None:
    state = at(4)
    state.halves[0].tau2 = state.halves[0].tau2[:, ::2]  # a view: in memory otherwise than after reading
    assert committed.commit(state).halves[0].tau2.flags.c_contiguous


def test_a_damaged_state_is_named_and_the_one_before_is_taken(
    layout: RunLayout, heard: Heard, committed: RunRecord
) -> None:
    objects.write_bytes(layout.state(3), b"damaged")
    found = open_record(heard).last_state()
    assert found is not None
    assert found.iteration == 2
    (warning,) = (event.message for event in heard.events if isinstance(event, Warned))
    assert layout.state(3) in warning
    committed.commit(at(3))
    again = open_record(heard).last_state()
    assert again is not None
    assert again.iteration == 3


def test_without_any_state_that_can_be_read_the_run_starts_anew(
    layout: RunLayout, heard: Heard, committed: RunRecord
) -> None:
    objects.delete([layout.state(2), layout.state(3)])
    assert open_record(heard).last_state() is None


def test_the_same_commit_twice_is_one(committed: RunRecord) -> None:
    committed.commit(at(3))


def test_another_result_of_a_committed_iteration_is_refused_and_spares_the_state(
    layout: RunLayout, heard: Heard, committed: RunRecord
) -> None:
    other = dataclasses.replace(at(3), references_are_ctf_corrected=True)
    with pytest.raises(StorageError, match=r"it003/commit.json: another driver has written something else"):
        committed.commit(other)
    found = open_record(heard).last_state()
    assert found is not None
    assert_identical(found, at(3))


def test_a_driver_that_was_cut_off_commits_nothing(layout: RunLayout, committed: RunRecord) -> None:
    objects.write_bytes(f"{layout.drivers}/000002.json", objects.read_bytes(f"{layout.drivers}/000001.json"))
    with pytest.raises(Preempted, match="taken this run over"):
        committed.commit(at(4))
    with pytest.raises(Preempted, match="taken this run over"):
        committed.finish(RESULT)
    committed.write_log(b"")
    assert not objects.exists(layout.events)
    assert not objects.exists(layout.state(4))
    assert not objects.exists(layout.finished)
    objects.delete([f"{layout.drivers}/000002.json"])


def test_in_a_bucket_the_next_iteration_goes_on_while_one_is_committed(heard: Heard, bucket: RunLayout) -> None:
    go = threading.Event()
    record = open_record(heard, o=bucket.prefix)
    with record.driving():
        record.begin(40)
        state = record.commit(at(0), lambda: go.wait(10))
        assert_identical(state, at(0))
        assert not objects.exists(bucket.commit(0))
        go.set()
        record.settle()
        assert objects.exists(bucket.commit(0))


def test_a_commit_that_fails_in_a_bucket_ends_the_run_and_those_behind_it_are_not_made(
    heard: Heard, bucket: RunLayout
) -> None:
    def fail() -> None:
        raise StorageError("full")

    record = open_record(heard, o=bucket.prefix)

    def drive() -> None:
        with record.driving():
            record.begin(40)
            record.commit(at(0), fail)
            record.commit(at(1))
            record.settle()

    with pytest.raises(StorageError, match="full"):
        drive()
    assert record.last_state() is None


def test_a_run_in_a_bucket_that_is_stopped_ends_its_commit_before_it_gives_way(heard: Heard, bucket: RunLayout) -> None:
    record = open_record(heard, o=bucket.prefix)

    def drive() -> None:
        with record.driving():
            record.begin(40)
            record.commit(at(0), lambda: time.sleep(0.2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive()
    assert objects.exists(bucket.commit(0))
    assert objects.exists(f"{bucket.drivers}/000001.released")


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_driver_that_was_cut_off_takes_what_it_misses_for_the_work_of_another_one(
    is_finished: bool, layout: RunLayout, heard: Heard
) -> None:
    record = open_record(heard)
    with pytest.raises(Preempted, match="taken this run over"):
        cut_off_and_fail(record, layout, is_finished)
    assert objects.exists(layout.manifest)
    assert objects.exists(layout.commit(0)) is not is_finished


def cut_off_and_fail(record: RunRecord, layout: RunLayout, is_finished: bool) -> None:
    """A driver whose successor commits, or even finishes, and which then misses a unit."""
    with record.driving():
        record.begin(40)
        objects.write_bytes(f"{layout.drivers}/000002.json", b"{}")
        objects.write_bytes(layout.state(0), b"")
        objects.write_bytes(layout.commit(0), b"")
        if is_finished:
            objects.write_bytes(layout.finished, b"")
        raise InputError("unit_00000_ab.npz: no such file")


def test_a_finished_run_leaves_its_end_and_nothing_else(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        record.commit(at(0))
        record.finish(RESULT)
    assert [each.url for each in objects.list_objects(layout.work)] == [layout.finished]
    assert sorted(path.name for path in Path(layout.work).iterdir()) == ["finished.json"]
    assert open_record(heard).result == RESULT


def test_what_a_driver_left_that_was_killed_at_the_end_is_removed(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        record.commit(at(0))
        record.finish(RESULT)
    objects.write_bytes(layout.state(0), b"left")
    open_record(heard).tidy()
    assert [each.url for each in objects.list_objects(layout.work)] == [layout.finished]


def fail_at_the_start(record: RunRecord, layout: RunLayout, error: BaseException) -> None:
    """A driver that computes one unit and ends by an error."""
    with record.driving():
        record.begin(40)
        objects.write_bytes(f"{layout.iteration(0)}/unit_00000_ab.npz", b"spectra")
        raise error


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_a_mistake_in_the_first_start_leaves_nothing(folder_is_there: bool, layout: RunLayout, heard: Heard) -> None:
    if folder_is_there:
        Path("OUT").mkdir()
    before = sorted(Path().rglob("*"))
    record = open_record(heard)
    with pytest.raises(InputError, match="particle 7"):
        fail_at_the_start(record, layout, InputError("particle 7 is NaN"))
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("error", [StorageError("gone"), KeyboardInterrupt()])
def test_anything_else_leaves_what_is_finished(error: BaseException, layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with pytest.raises(type(error)):
        fail_at_the_start(record, layout, error)
    assert work(layout) == ["it000/unit_00000_ab.npz"]
    assert objects.exists(f"{layout.drivers}/000001.released")
    assert objects.exists(layout.manifest)


def test_a_mistake_later_leaves_what_is_committed(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        record.commit(at(0))
    with pytest.raises(InputError), open_record(heard).driving():
        raise InputError("particle 7 is NaN")
    assert work(layout) == ["it000/commit.json", "it000/state.npz"]


def test_units_of_a_run_whose_manifest_is_gone_are_not_taken(layout: RunLayout, heard: Heard) -> None:
    objects.write_bytes(f"{layout.iteration(1)}/unit_00000_ab.npz", b"of another run")
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        assert work(layout) == []
        assert record.last_state() is None


def test_the_manifest_says_what_the_run_computes_from_what(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with record.driving():
        record.begin(40)
    manifest = json.loads(objects.read_bytes(layout.manifest))
    assert manifest["seed"] == SEED == record.config.random_seed
    assert manifest["settings"]["--random_seed"] == -1
    assert list(manifest["inputs"]) == ["--i particles.star"]
    assert manifest["units"] == {"particles": 40, "batch": 10, "chunks_per_unit": 1, "fan_in": 16}
    without = {"--j", "--memory", "--free_gpu_memory", "--cache", "--cache_size", "--workers", "--scheduler"}
    assert without.isdisjoint(manifest["settings"])
    assert {"--i", "--o", "--ref", "--healpix_order", "--gpu", "--parity"} <= manifest["settings"].keys()


def test_a_seed_that_is_given_as_it_was_drawn_is_the_same_run(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard)
    with record.driving():
        record.begin(40)
    for flags in ({}, {"random_seed": SEED}, {"j": 8}, {"memory": 9.0}, {"on_bad_particle": "skip"}):
        assert open_record(heard, **flags).config.random_seed == SEED
    with pytest.raises(UsageError, match="--random_seed: was -1, is 78"):
        open_record(heard, random_seed=78)


def test_which_gpu_does_not_matter_but_whether_there_is_one(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard, gpu="")
    with record.driving():
        record.begin(40)
    open_record(heard, gpu="1")
    with pytest.raises(UsageError, match="--gpu: was given, is not given"):
        open_record(heard)


def test_all_differences_are_named_in_one_line(layout: RunLayout, heard: Heard) -> None:
    record = open_record(heard, tau2_fudge=4.0, sym="C1")
    with record.driving():
        record.begin(40)
    Path("particles.star").write_text("others")
    with pytest.raises(UsageError) as refused:
        open_record(heard, tau2_fudge=2.5, sym="D2", scale=True)
    message = str(refused.value)
    for words in ("--tau2_fudge: was 4, is 2.5", "--sym: was C1, is D2", "--scale: was not given, is given",
                  "--i particles.star: content was ", "--overwrite", "another --o"):  # fmt: skip
        assert words in message
    assert "\n" not in message


def test_a_manifest_that_is_none_is_named(layout: RunLayout, heard: Heard) -> None:
    objects.write_bytes(layout.manifest, b"{")
    with pytest.raises(InputError, match=r"OUT/run_manifest.json: is no manifest.*--overwrite"):
        open_record(heard)


def test_an_endpoint_without_conditional_create_is_warned_of_and_right_for_one_driver(
    layout: RunLayout, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "supports_conditional_create", lambda url: False)
    record = open_record(heard)
    with record.driving():
        record.begin(40)
        record.warn_of_store()
        record.commit(at(0))
    again = open_record(heard)
    with again.driving():
        assert again.last_state() is not None
        again.warn_of_store()
        again.finish(RESULT)
    assert open_record(heard).result == RESULT
    warnings = [event.message for event in heard.events if isinstance(event, Warned)]
    assert len(warnings) == 2
    assert all("If-None-Match" in warning and "one at a time" in warning for warning in warnings)


def test_two_manifests_at_once_end_in_one_run(layout: RunLayout, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = open_record(heard), open_record(heard, tau2_fudge=3.0)
    with first.driving():
        first.begin(40)
    with pytest.raises(UsageError, match="--tau2_fudge: was 1, is 3"), second.driving():
        pytest.fail("it must not begin")
    assert objects.exists(layout.manifest)


def test_the_version_is_part_of_the_record(layout: RunLayout, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "version", lambda name: "1.0")
    record = open_record(heard)
    with record.driving():
        record.begin(40)
    monkeypatch.setattr(record_module, "version", lambda name: "2.0")
    with pytest.raises(UsageError, match=r"version of tomoburst: was 1\.0, is 2\.0"):
        open_record(heard)


@pytest.mark.parametrize(
    ("name", "is_result"),
    [
        ("run_it001_data.star", True),
        ("run_it012_half2_class001.mrc", True),
        ("run_it012_half2_class001_angdist.bild", True),
        ("run_half1_class001_unfil.mrc", True),
        ("run_class010.mrc", True),
        ("run_optimiser.star", True),
        ("run_events.jsonl", True),
        ("run_bad_particles.star", True),
        ("run_ct3_it004_data.star", False),
        ("run_it001_mask.mrc", False),
        ("run_class001.mrc.gz", False),
        ("run2_data.star", False),
        ("run_particles.zarr", False),
        ("run_submit.script", False),
    ],
)
def test_names_of_results(name: str, is_result: bool) -> None:
    for folder in ("OUT/", "s3://bucket/job/", ""):
        assert RunLayout(f"{folder}run").is_result(f"{folder}{name}") == is_result
