"""Workers, schedulers and drivers that are killed, stopped, poisoned, late: every unit has one outcome all the same."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.execute.dask_cluster import DaskExecutor
from runner.execute.protocol import MAX_ATTEMPTS, MAX_DEATHS, Task
from tests.faults.cluster import PATIENCE_SECONDS, TOMOBURST, Cluster, Process, free_port, wait_for

pytestmark = pytest.mark.e2e

KILLS = 20
STOP_SECONDS = 20.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Processes of one test; none is left behind."""
    found = Cluster(tmp_path)
    yield found
    found.close()


def test_processes_of_this_machine_give_what_threads_give(cluster: Cluster):
    tasks = [[f"u{item}", "square", {"item": item}] for item in range(30)]
    assert cluster.driver("--workers", "2", tasks=tasks).wait() == 0
    by_workers = {each["id"]: each["result"] for each in cluster.outcomes()}
    (cluster.folder / "outcomes.jsonl").unlink()
    assert cluster.driver(tasks=tasks).wait() == 0
    assert {each["id"]: each["result"] for each in cluster.outcomes()} == by_workers
    assert len(by_workers) == 30


def test_workers_are_killed_at_random(cluster: Cluster):
    """Twenty deaths: each loses the unit that the worker was computing and nothing else."""
    chance = random.Random(20)
    cluster.scheduler()
    names = ["a", "b", "c"]
    workers = {name: cluster.worker("--name", name) for name in names}
    driver = cluster.attached("--endless", "--seconds", "0.3")

    def stays(name: str) -> int:
        joined, lost = driver.records("worker_joined"), driver.records("worker_lost")
        return len(of_worker(joined, name)) - len(of_worker(lost, name))

    for kill in range(KILLS):
        name = names[kill % len(names)]
        wait_for(lambda name=name: stays(name) == 1, driver)
        time.sleep(chance.uniform(0.0, 0.6))
        if kill % 7 == 6:
            workers[name].kill()  # all of it, for good; another one comes
            wait_for(lambda name=name: stays(name) == 0, driver)
            workers[name] = cluster.worker("--name", name)
        else:
            workers[name].worker_processes()[0].kill()
            wait_for(lambda deaths=kill + 1: len(driver.records("worker_lost")) == deaths, driver)
    cluster.enough()
    assert driver.wait() == 0
    outcomes, lost = cluster.outcomes(), driver.records("worker_lost")
    assert len({each["id"] for each in outcomes}) == len(outcomes)
    assert [each for each in outcomes if each["error"]] == []
    assert len(lost) == KILLS
    assert max(len(each["units"]) for each in lost) == 1
    assert sum(each["attempts"] - 1 for each in outcomes) == sum(len(each["units"]) for each in lost)
    copies = len(driver.records("straggler_duplicated"))
    assert len(outcomes) <= len(cluster.touches()) <= len(outcomes) + sum(len(each["units"]) for each in lost) + copies


def test_scheduler_is_killed_and_comes_back(cluster: Cluster):
    scheduler = cluster.scheduler()
    workers = [cluster.worker() for _ in range(2)]
    driver = cluster.attached("--endless", "--seconds", "0.1")
    wait_for(lambda: len(cluster.outcomes()) > 10, driver)
    scheduler.kill()
    wait_for(lambda: driver.records("scheduler_lost"), driver)
    cluster.scheduler()
    wait_for(lambda: driver.records("scheduler_back"), driver)
    before = len(cluster.outcomes())
    wait_for(lambda: len(cluster.outcomes()) > before + 10, driver)
    cluster.enough()
    assert driver.wait() == 0
    outcomes = cluster.outcomes()
    assert len({each["id"] for each in outcomes}) == len(outcomes)
    assert {(each["error"], each["attempts"]) for each in outcomes} == {(None, 1)}
    assert [worker.popen.poll() for worker in workers] == [None, None]


def test_units_that_are_sent_while_there_is_no_scheduler(cluster: Cluster):
    """The next scheduler hears of them before any worker has found it, and that they were for one that is gone."""
    scheduler, worker = cluster.scheduler(), cluster.worker()
    executor = DaskExecutor.attach(cluster.url)

    def tasks() -> Iterator[Task]:
        scheduler.kill()
        wait_for(lambda: not executor._link.is_up(), worker)
        for name, function, spec in cluster.touch_tasks(3):
            yield Task(name, f"tests.faults.fake_units:{function}", spec, locality="chunk 1")
        cluster.scheduler()

    with executor:
        outcomes = list(executor.run(tasks()))
    assert sorted((each.task.id, each.attempts, each.error) for each in outcomes) == [
        (f"u{item}", 1, None) for item in range(3)
    ]


def test_scheduler_never_comes_back(cluster: Cluster):
    scheduler = cluster.scheduler()
    worker = cluster.worker("--death_timeout", "2")
    driver = cluster.attached("--endless", "--seconds", "0.1", "--patience", "3")
    wait_for(cluster.outcomes, driver)
    scheduler.kill()
    assert driver.wait() == 75
    assert driver.log.read_text().splitlines()[-1].startswith("tomoburst: error: the Dask scheduler went away")
    assert worker.wait() == 75
    assert (
        worker.log.read_text().splitlines()[-1].startswith(f"tomoburst: error: no scheduler at {cluster.url} for 2 s")
    )


def test_there_never_was_a_scheduler(cluster: Cluster):
    driver = cluster.attached("--patience", "1", tasks=cluster.touch_tasks(1))
    assert driver.wait() == 75
    assert f"--scheduler {cluster.url}: no Dask scheduler answers there" in driver.log.read_text()


def test_a_unit_that_kills_its_workers_is_given_up_and_no_other(cluster: Cluster):
    cluster.scheduler()
    cluster.worker()
    poison = ["poison", "die", {"item": "poison", "folder": str(cluster.folder / "done")}]
    tasks = cluster.touch_tasks(20)
    driver = cluster.attached(tasks=[*tasks[:3], poison, *tasks[3:]])
    assert driver.wait() == 0
    outcomes = {each["id"]: each for each in cluster.outcomes()}
    assert len(outcomes) == 21
    bad = outcomes.pop("poison")
    assert (bad["error"], bad["attempts"]) == ("BadUnit", MAX_DEATHS)
    assert bad["message"].startswith(f"unit poison: {MAX_DEATHS} workers died while they computed it")
    assert len(cluster.touches("poison")) == MAX_DEATHS
    assert {(each["error"], each["attempts"]) for each in outcomes.values()} == {(None, 1)}


def test_a_unit_that_takes_too_much_memory_is_given_up(cluster: Cluster):
    """Its worker is started anew before the machine has none left."""
    cluster.scheduler()
    cluster.worker("--memory_limit", "0.4")
    hoard = ["hoard", "hoard", {"seconds": 600}]
    assert cluster.attached(tasks=[hoard, *cluster.touch_tasks(3)]).wait() == 0
    outcomes = {each["id"]: each["error"] for each in cluster.outcomes()}
    assert outcomes == {"hoard": "BadUnit", "u0": None, "u1": None, "u2": None}


def test_errors_of_units_come_back_from_workers(cluster: Cluster):
    folder = str(cluster.folder / "done")
    tasks = [[kind, "fail", {"item": kind, "error": kind, "folder": folder}] for kind in ("input", "storage", "other")]
    tasks.append(["twice", "fail", {"item": "twice", "error": "storage", "times": 2, "folder": folder}])
    driver = cluster.driver("--workers", "2", tasks=tasks)
    assert driver.wait() == 0
    found = {
        each["id"]: (each["error"], each["attempts"], len(cluster.touches(each["id"]))) for each in cluster.outcomes()
    }
    assert found == {
        "input": ("InputError", 1, 1),
        "storage": ("StorageError", MAX_ATTEMPTS, MAX_ATTEMPTS),
        "other": ("BadUnit", MAX_ATTEMPTS, MAX_ATTEMPTS),
        "twice": (None, 3, 3),
    }
    retried = [record["unit"] for record in driver.records("unit_retried")]
    assert sorted(retried) == ["other", "other", "storage", "storage", "twice", "twice"]


def test_the_driver_tells_of_the_requests_that_its_workers_made_again(cluster: Cluster):
    driver = cluster.driver("--workers", "1", tasks=[["u0", "stumble", {"url": "s3://bucket/chunk"}]])
    assert driver.wait() == 0
    told = [(each["url"], each["attempt"], each["reason"]) for each in driver.records("store_retried")]
    assert told == [("s3://bucket/chunk", 2, "reset"), ("s3://bucket/chunk", 3, "reset")]
    assert {each["worker"] for each in driver.records("store_retried")} == {cluster.outcomes()[0]["worker"]}


def test_a_straggler_is_given_to_a_second_worker(cluster: Cluster):
    slow = ["slow", "slow_once", {"item": "slow", "folder": str(cluster.folder / "done")}]
    driver = cluster.driver("--workers", "2", tasks=[slow, *cluster.touch_tasks(10)])
    assert driver.wait() == 0
    assert len(cluster.outcomes()) == 11
    assert [record["unit"] for record in driver.records("straggler_duplicated")] == ["slow"]
    assert len(cluster.touches("slow")) == 2
    first, second = cluster.touches("slow")
    assert first.split("-")[1] != second.split("-")[1]


def test_workers_come_late(cluster: Cluster):
    cluster.scheduler()
    driver = cluster.attached(tasks=cluster.touch_tasks(40, 0.2))
    wait_for(lambda: any("no worker is there" in each["message"] for each in driver.records("noted")), driver)
    assert cluster.outcomes() == []
    cluster.worker("--name", "early")
    wait_for(cluster.outcomes, driver)
    cluster.worker("--name", "late")
    assert driver.wait() == 0
    assert len(cluster.outcomes()) == 40
    assert {each["worker"] for each in cluster.outcomes()} == {"early", "late"}


def test_worker_takes_its_leave_on_sigterm(cluster: Cluster):
    cluster.scheduler()
    leaver, other = cluster.worker("--name", "leaver"), cluster.worker("--name", "other")
    driver = cluster.attached("--endless", "--seconds", "0.5")
    wait_for(lambda: {"leaver", "other"} == {each["worker"] for each in cluster.outcomes()}, driver)
    assert exit_code_of_sigterm(leaver) == 75
    wait_for(lambda: driver.records("worker_lost"), driver)
    cluster.enough()
    assert driver.wait() == 0
    (lost,) = driver.records("worker_lost")
    assert (lost["worker"], lost["reason"]) == ("leaver", "took its leave")
    assert [each for each in cluster.outcomes() if each["error"]] == []
    assert other.popen.poll() is None


@pytest.mark.parametrize("how", ["workers", "scheduler", "threads"])
def test_driver_stops_on_sigterm(cluster: Cluster, how: str):
    """Also in the middle of units that take minutes, and no process stays."""
    tasks = [*cluster.touch_tasks(2), *cluster.touch_tasks(10, 300)[2:]]
    if how == "scheduler":
        cluster.scheduler()
        cluster.worker()
        driver = cluster.attached(tasks=tasks)
    else:
        driver = cluster.driver(*(("--workers", "2") if how == "workers" else ("--j", "2")), tasks=tasks)
    wait_for(lambda: len(cluster.outcomes()) == 2, driver)
    time.sleep(1.0)  # long units are under way
    children = driver.worker_processes()
    assert len(children) == (2 if how == "workers" else 0)
    assert exit_code_of_sigterm(driver) == 75
    assert driver.log.read_text().splitlines()[-1].startswith("tomoburst: error: stopped (SIGTERM)")
    assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []


@pytest.mark.parametrize("how", [("--workers", "2"), ("--j", "2")], ids=["workers", "threads"])
def test_driver_stops_on_ctrl_c(cluster: Cluster, how: tuple[str, str]):
    """A terminal sends it to all processes of the command at once."""
    driver = cluster.driver(*how, tasks=[*cluster.touch_tasks(2), *cluster.touch_tasks(10, 300)[2:]])
    wait_for(lambda: len(cluster.outcomes()) == 2, driver)
    children = driver.worker_processes()
    os.killpg(driver.popen.pid, signal.SIGINT)
    assert driver.popen.wait(STOP_SECONDS) == 130
    assert driver.log.read_text().splitlines()[-1] == "tomoburst: error: interrupted"
    assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []


def test_a_killed_driver_takes_its_processes_along(cluster: Cluster):
    driver = cluster.driver("--workers", "2", tasks=[*cluster.touch_tasks(1), *cluster.touch_tasks(4, 300)[1:]])
    wait_for(cluster.outcomes, driver)
    children = driver.worker_processes()
    assert len(children) == 2
    driver.popen.kill()
    driver.wait()
    assert psutil.wait_procs(children, timeout=PATIENCE_SECONDS)[1] == []


def test_scheduler_stops_on_sigterm_and_is_waited_for(cluster: Cluster):
    scheduler = cluster.scheduler()
    worker = cluster.worker()
    assert exit_code_of_sigterm(scheduler) == 75
    wait_for(lambda: worker.records("scheduler_lost"), worker)
    cluster.scheduler()
    driver = cluster.attached(tasks=cluster.touch_tasks(3))
    assert driver.wait() == 0
    assert len(cluster.outcomes()) == 3
    assert exit_code_of_sigterm(worker) == 75


def test_scheduler_ends_in_good_order(cluster: Cluster):
    scheduler = cluster.scheduler()
    worker = cluster.worker()
    scheduler.popen.send_signal(signal.SIGINT)
    assert scheduler.wait() == 130
    assert worker.wait() == 0


def test_a_worker_ends_when_it_has_nothing_to_do(cluster: Cluster):
    scheduler = cluster.scheduler()
    assert cluster.worker("--idle_timeout", "1").wait() == 0
    assert scheduler.popen.poll() is None


def test_scheduler_ends_when_nobody_needs_it(cluster: Cluster):
    assert cluster.scheduler("--idle_timeout", "1").wait() == 0


def test_local_workers_share_the_gpus(cluster: Cluster):
    tasks = [[f"u{item}", "visible_gpu", {}] for item in range(9)]
    assert cluster.driver("--workers", "3", "--gpu", "1:5", tasks=tasks).wait() == 0
    assert {(each["worker"], each["result"]["gpu"]) for each in cluster.outcomes()} == {
        ("0", "1"),
        ("1", "5"),
        ("2", "1"),
    }


def test_a_worker_sees_its_gpu_and_is_started_again_with_it(cluster: Cluster):
    cluster.scheduler()
    worker = cluster.worker("--gpu", "3")
    for _ in range(2):
        assert cluster.attached(tasks=[["u", "visible_gpu", {}]]).wait() == 0
        worker.worker_processes()[0].kill()
    assert [each["result"]["gpu"] for each in cluster.outcomes()] == ["3", "3"]


@pytest.mark.parametrize("flag", ["--port", "--health_port"])
def test_a_port_that_is_taken(cluster: Cluster, flag: str):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--health_port", "0", flag, str(port)]
        process = cluster.start([*TOMOBURST, *words], "scheduler")
        assert process.wait() == 4
    assert process.log.read_text().startswith(f"tomoburst: error: {flag} {port}: cannot listen there")


def test_health_is_served(cluster: Cluster):
    ports = free_port(), free_port()
    cluster.scheduler("--health_port", str(ports[0]))
    cluster.worker("--health_port", str(ports[1]))
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_SECONDS) as answer:
            assert (answer.status, answer.read()) == (200, b"ok")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory, requires: Callable[[str], str]) -> list[str]:
    """Flags of a certificate authority and one certificate of it."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run([requires("openssl"), *words], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.csr", "-subj", "/CN=node")
    openssl(
        "x509", "-req", "-in", "cert.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem"
    )
    files = {"--tls_ca": "ca.pem", "--tls_cert": "cert.pem", "--tls_key": "key.pem"}
    return [word for flag, name in files.items() for word in (flag, str(folder / name))]


def test_certificates_are_asked_for(cluster: Cluster, authority: list[str]):
    cluster.tls = authority
    scheduler = cluster.scheduler()
    cluster.worker()
    assert cluster.attached(tasks=cluster.touch_tasks(3)).wait() == 0
    assert len(cluster.outcomes()) == 3
    cluster.tls = []
    stranger = cluster.attached("--patience", "2", tasks=cluster.touch_tasks(3))
    assert stranger.wait() == 75
    assert "no Dask scheduler answers there" in stranger.log.read_text()
    assert len(cluster.outcomes()) == 3
    assert scheduler.popen.poll() is None


def of_worker(records: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Records that name a worker."""
    return [record for record in records if record["worker"] == name]


def exit_code_of_sigterm(process: Process) -> int:
    """Exit code after SIGTERM for all processes of a command, as batch systems send it.

    The test fails when it takes longer than is promised.
    """
    os.killpg(process.popen.pid, signal.SIGTERM)
    return process.popen.wait(STOP_SECONDS)
