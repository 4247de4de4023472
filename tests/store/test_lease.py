"""One driver at a time, in every store: races, and drivers that ended, died, stand still or were cut off."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.errors import Preempted, StorageError
from runner.store import lease as lease_module
from runner.store import objects
from runner.store.layout import RunLayout
from runner.store.lease import Driver, DriverLease, claim

REPOSITORY = Path(__file__).resolve().parents[2]
FAST = {"beat": 0.05, "poll": 0.02}
RACES = 50


@pytest.fixture
def layout(steady_store: str) -> RunLayout:
    """A prefix under which nothing is."""
    return RunLayout(f"{steady_store}/run")


def names(layout: RunLayout) -> list[str]:
    return [objects.basename(each.url) for each in objects.list_objects(layout.drivers)]


def foreign(layout: RunLayout, number: int = 1) -> Driver:
    """The claim of a driver on another host."""
    driver = dataclasses.replace(Driver.here(), host="elsewhere", boot="another", pid=1, token="other")
    objects.write_bytes(f"{layout.drivers}/{number:06d}.json", json.dumps(dataclasses.asdict(driver)).encode())
    return driver


def test_drivers_one_after_the_other_count_on(layout: RunLayout) -> None:
    for number in (1, 2, 3):
        with claim(layout, **FAST) as lease:
            assert lease.number == number
            lease.check()
        assert f"{number:06d}.released" in names(layout)


def test_a_second_driver_is_refused_and_told_who_works(layout: RunLayout) -> None:
    with claim(layout, **FAST) as lease:
        with pytest.raises(Preempted, match=rf"host \S+, process {lease.driver.pid}\) works on this run; wait for it"):
            claim(layout, **FAST, ttl=60)
        lease.check()
    claim(layout, **FAST).release()


def test_the_heartbeat_holds_what_the_driver_tells(layout: RunLayout) -> None:
    told = {"iteration": 3}
    with claim(layout, lambda: told, **FAST):
        told["iteration"] = 4
        deadline = time.monotonic() + 60
        alive: dict[str, object] = {}
        while alive.get("iteration") != 4 or alive["beat"] == 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            alive = json.loads(objects.read_bytes(f"{layout.drivers}/000001.alive"))


def test_a_claim_says_who_and_nothing_else(layout: RunLayout) -> None:
    with claim(layout, **FAST):
        data = objects.read_bytes(f"{layout.drivers}/000001.json")
    assert set(json.loads(data)) == {"host", "boot", "namespace", "pid", "start", "claimed", "token"}


def test_a_standing_heartbeat_is_taken_over_a_changing_one_is_not(layout: RunLayout) -> None:
    foreign(layout)
    alive = f"{layout.drivers}/000001.alive"
    objects.write_bytes(alive, b"1")
    stop = threading.Event()

    def beat() -> None:
        count = 1
        while not stop.wait(0.05):
            count += 1
            objects.write_bytes(alive, str(count).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(Preempted, match="elsewhere, process 1"):
            claim(layout, **FAST, ttl=60)
    finally:
        stop.set()
        thread.join()
    with claim(layout, **FAST, ttl=0.3) as lease:
        assert lease.number == 2


def test_a_driver_that_is_released_meanwhile_is_followed_at_once(layout: RunLayout) -> None:
    foreign(layout)
    timer = threading.Timer(0.3, objects.write_bytes, (f"{layout.drivers}/000001.released", b"{}"))
    timer.start()
    with claim(layout, **FAST, ttl=3600) as lease:
        assert lease.number == 2
    timer.join()


def test_a_process_that_is_gone_is_followed_at_once(tmp_path: Path) -> None:
    layout = RunLayout(str(tmp_path / "run"))
    program = (
        "import sys, time; from runner.store.lease import claim; from runner.store.layout import RunLayout\n"
        "claim(RunLayout(sys.argv[1])); print('claimed', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, layout.prefix], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "claimed\n"
        with pytest.raises(Preempted, match=f"process {child.pid}\\)"):
            claim(layout, poll=0.1, ttl=60)
        child.kill()
        with claim(layout, ttl=3600) as lease:  # not even waited for: a zombie is gone
            assert lease.number == 2
    child.wait()


def test_a_number_that_another_process_has_now_is_no_life_sign() -> None:
    driver = Driver.here()
    assert not driver.is_gone
    assert dataclasses.replace(driver, start=driver.start - 1).is_gone
    assert not dataclasses.replace(driver, start=driver.start - 1, boot="another host").is_gone
    assert not dataclasses.replace(driver, start=driver.start - 1, namespace="another container").is_gone


def test_a_driver_that_was_cut_off_notices_before_it_commits(layout: RunLayout) -> None:
    with claim(layout, **FAST) as lease:
        foreign(layout, 2)
        with pytest.raises(Preempted, match="taken this run over"):
            lease.check()


def test_a_driver_that_was_cut_off_notices_that_the_run_is_tidied_up(layout: RunLayout) -> None:
    with claim(layout, **FAST) as lease:
        objects.delete([each.url for each in objects.list_objects(layout.drivers) if each.url.endswith("1.json")])
        with pytest.raises(Preempted):
            lease.check()


def test_tidying_up_leaves_no_trace(layout: RunLayout) -> None:
    claim(layout, **FAST).release()
    with claim(layout, **FAST) as lease:
        lease.release(tidy=True)
    assert names(layout) == []


def test_a_store_that_is_lost_does_not_hide_the_error(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, data: bytes) -> None:
        raise StorageError(f"{url}: gone")

    lease = claim(layout, **FAST)
    monkeypatch.setattr(objects, "write_bytes", refuse)
    with pytest.raises(ZeroDivisionError), lease:
        raise ZeroDivisionError


def test_a_driver_that_is_stopped_does_not_wait_for_a_store_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = threading.Event()
    lease = claim(RunLayout(f"memory://bucket-{uuid.uuid4().hex}/run"), **FAST)
    monkeypatch.setattr("runner.store.lease.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(objects, "exists", lambda url: go.wait(60))
    with pytest.raises(KeyboardInterrupt), lease:
        raise KeyboardInterrupt
    assert not go.is_set()
    go.set()


def race(layout: RunLayout, drivers: int = 2) -> list[DriverLease | Exception]:
    """Drivers that claim at the same moment; a winner holds its lease until all have their answer."""
    ready, answered = (threading.Barrier(drivers, timeout=120) for _ in range(2))
    outcomes: list[DriverLease | Exception] = []

    def drive() -> None:
        ready.wait()
        try:
            outcome: DriverLease | Exception = claim(layout, **FAST, ttl=60)
        except Exception as error:  # noqa: BLE001 -- told by the caller
            outcome = error
        outcomes.append(outcome)
        answered.wait()
        if isinstance(outcome, DriverLease):
            outcome.check()
            outcome.release()

    threads = [threading.Thread(target=drive) for _ in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_two_drivers_at_once_exactly_one_proceeds(layout: RunLayout) -> None:
    for number in range(1, RACES + 1):
        outcomes = race(layout)
        winners = [each.number for each in outcomes if isinstance(each, DriverLease)]
        assert winners == [number], outcomes
        assert [type(each) for each in outcomes if not isinstance(each, DriverLease)] == [Preempted]


def test_an_answer_that_was_lost_does_not_lose_the_claim(layout: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    create: Callable[[str, bytes], bool] = objects.create_bytes

    def forgetful(url: str, data: bytes) -> bool:
        create(url, data)
        return False

    monkeypatch.setattr(lease_module.objects, "create_bytes", forgetful)
    with claim(layout, **FAST, ttl=0.1) as lease:
        assert lease.number == 1
