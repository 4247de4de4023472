"""The account of memory: it grows with what is held, deals out what a budget leaves, and refuses what does not fit."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from kernels import expectation, scores
from kernels.geometry import padded_size
from kernels.sphere import sphere
from runner.errors import UsageError
from runner.execute import images
from runner.plan import memory as account
from runner.plan.config import RefineConfig
from runner.plan.cost import Data, Kind, Sharpness, accumulator_bytes, result_bytes
from runner.plan.expected import Assumptions
from runner.plan.memory import LEAST, WITHOUT_BUDGET, Memory, Process, Shares, block_bytes, flattest, memory
from runner.planning.budget import SLACK, Account, peak_bytes
from runner.planning.kinds import expected_kinds
from runner.refinement import iteration

DATA = Data(particles=40, groups=3, box=32, voxel_size_angst=10.0, volume_bytes=4 * 32**3 + 1024, ctf_bytes=100.0)
AUTO = RefineConfig(auto_refine=True, split_random_halves=True, ini_high=60, particle_diameter=250, healpix_order=2)
SHARP = Sharpness(5, 2, 20)
BASE = 10**8
ONE = Process(BASE)


def kinds(config: RefineConfig = AUTO) -> list[Kind]:
    """Kinds of iterations of a run on `DATA`."""
    return [kind for kind, _ in expected_kinds(config, DATA, Assumptions(20.0, 6))]


def held(kind: Kind, process: Process = ONE, shares: Shares = LEAST, units: int = 4) -> Memory:
    """Memory of one kind of iteration on `DATA`."""
    return memory(DATA, kind, SHARP, process, units, 10, shares)


LOCAL = next(kind for kind in kinds() if kind.local)
GLOBAL = kinds()[0]


def test_shapes_are_those_of_the_kernels():
    for name in ("SCORES_PER_BATCH", "PARTICLES_PER_BATCH"):
        assert getattr(account, name) == getattr(expectation, name)
    for name in ("COEFFICIENTS_PER_BLOCK", "ROWS_PER_BLOCK", "COARSE_ROWS_PER_BLOCK"):
        assert getattr(account, name) == getattr(scores, name)
    assert account.CTF_CACHE_BYTES == images.DEFAULT_CACHE_BYTES
    assert account.ACCURACY_PARTICLES == iteration.ACCURACY_PARTICLES


def test_it_grows_with_threads_and_holds_what_it_is_made_of():
    one, four = held(LOCAL), held(LOCAL, Process(BASE, 4, 4))
    assert four.expectation - one.expectation > 2 * (one.prepared + one.blocks)
    assert four.maximization == one.maximization
    assert one.expectation > BASE + one.box + one.references + one.prepared + one.blocks
    assert one.peak == max(one.expectation, one.maximization)
    assert one.accumulators == 2 * accumulator_bytes(1, 3, LOCAL.directions, 32, LOCAL.grid)


def test_units_that_wait_for_a_store_hold_particles_and_results():
    one, two = held(LOCAL), held(LOCAL, Process(BASE, 1, 2))
    assert two.expectation - one.expectation >= one.prepared + 3 * one.result


@pytest.mark.parametrize("grown", [{"classes": 2}, {"grid": LOCAL.grid + 20}, {"orientations": 10**5}])
def test_it_grows_with_classes_grids_and_orientations(grown: dict[str, int]):
    assert held(replace(LOCAL, **grown)).peak > 1.2 * held(LOCAL).peak - 0.2 * BASE  # type: ignore[arg-type]


def test_results_of_units_wait_for_their_node_of_the_tree_as_far_as_they_may():
    few, many, most = (held(LOCAL, shares=WITHOUT_BUDGET, units=units) for units in (16, 17, 1000))
    result = result_bytes(1, 2, 3, LOCAL.directions, 32, LOCAL.grid)
    assert many.expectation - few.expectation == 15 * result
    assert most == many
    assert held(LOCAL, shares=LEAST, units=17).kept == 0


def test_rotated_references_are_kept_where_the_share_holds_them():
    needed = 4 * 2 * 40 * LOCAL.fine_coefficients
    assert account.kept_references(LOCAL, SHARP, needed) == needed
    assert account.kept_references(LOCAL, SHARP, needed - 1) == 0
    spread = 4 * 2 * 8 * 2 * LOCAL.fine_coefficients  # 5 orientations over 3 classes
    assert account.kept_references(replace(LOCAL, classes=3), SHARP, spread) == 3 * spread
    assert account.kept_references(replace(LOCAL, classes=3), SHARP, spread - 1) == 0


def test_the_flattest_posterior_is_flat_in_every_class():
    one, three = flattest(GLOBAL), flattest(replace(GLOBAL, classes=3))
    assert three.orientations == 3 * one.orientations


def test_scores_of_a_batch_are_held_at_once():
    kind = replace(GLOBAL, halves=1, orientations=10**4, translations=100)
    one, most = (block_bytes(kind, Sharpness(1, 1, 1), chunk, ONE) for chunk in (1, 16))
    assert most - one > 10 * 4 * 2 * 10**6
    assert block_bytes(kind, Sharpness(1, 1, 1), 64, ONE) == most


def test_flat_posteriors_need_more():
    assert block_bytes(LOCAL, flattest(LOCAL), 10, ONE) > 1.5 * block_bytes(LOCAL, SHARP, 10, ONE)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_budget_leaves_is_dealt_out_and_never_more(threads: int):
    process, found = Process(BASE, threads, 2 * threads), kinds()
    full = [
        replace(each, current_size=32, fine_coefficients=len(sphere(32)), grid=padded_size(16, 2)) for each in found
    ]
    needed = max(memory(DATA, each, flattest(each), process, 4, 10, LEAST).peak for each in full)
    for factor in (1.0, 1.05, 1.3, 3.0):
        budget = int(factor * needed)
        shares = Account(DATA, process).shares((budget + 1) * SLACK / 2**30, found)
        assert all(memory(DATA, each, flattest(each), process, 4, 10, shares).peak <= budget + 1 for each in full)
    assert shares.results_bytes > 0


def test_without_a_budget_nothing_is_refused_or_given_up():
    assert Account(DATA, replace(ONE, base_bytes=10**15)).shares(-1.0, kinds()) == WITHOUT_BUDGET


def test_a_budget_that_is_too_small_is_refused_with_the_one_that_is_enough():
    with pytest.raises(UsageError, match=r"--memory 0\.1: .* need .* GB .*--j.*--pad") as refused:
        Account(DATA, Process(BASE, 2, 2)).shares(0.1, kinds())
    enough = float(str(refused.value).partition("give --memory ")[2].split(";")[0])
    Account(DATA, Process(BASE, 2, 2)).shares(enough, kinds())


def test_the_peak_of_this_process_is_measured():
    before = peak_bytes()
    block = bytearray(os.urandom(1)) * (before + 2**25)
    assert peak_bytes() >= len(block)
