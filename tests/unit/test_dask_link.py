"""Which worker a unit goes to: always the same one, whoever else comes and goes."""

from __future__ import annotations

from collections import Counter

from runner.execute.dask_link import rendezvous

KEYS = [f"rows {start}" for start in range(0, 6000, 10)]
WORKERS = ["node-a", "node-b", "node-c", "node-d"]


def test_the_order_of_workers_is_of_no_matter():
    assert [rendezvous(WORKERS, key) for key in KEYS] == [rendezvous(reversed(WORKERS), key) for key in KEYS]


def test_only_what_a_lost_worker_had_goes_elsewhere():
    before = {key: rendezvous(WORKERS, key) for key in KEYS}
    after = {key: rendezvous(WORKERS[1:], key) for key in KEYS}
    assert {before[key] for key in KEYS if before[key] != after[key]} == {WORKERS[0]}


def test_keys_are_shared_evenly():
    shares = Counter(rendezvous(WORKERS, key) for key in KEYS)
    assert sorted(shares) == WORKERS
    assert max(shares.values()) < 1.3 * len(KEYS) / len(WORKERS)
