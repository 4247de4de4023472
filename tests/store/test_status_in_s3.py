"""`tomoburst status` and `tomoburst cancel` of a run in a real bucket."""

from __future__ import annotations

from runner import status
from runner.cancel import Cancellation, cancel_run
from runner.model.manifest import RunManifest
from runner.report.events import Events, IterationStarted, UnitFinished
from runner.report.pulse import Pulse
from runner.status import run_status
from runner.store.layout import RunLayout
from runner.store.lease import claim
from runner.store.objects import write_bytes
from tests.conftest import Bucket


def test_onlooker_of_a_run_in_a_bucket(s3: Bucket) -> None:
    layout = RunLayout(f"{s3.url}/job/run")
    write_bytes(layout.manifest, RunManifest({}, 1, {}, "0.1.0", {"particles": 200}).to_bytes())
    write_bytes(layout.commit(3), b"{}")
    pulse = Pulse()
    cancellation = Cancellation(layout, pulse.state)
    with Events(pulse) as events, claim(layout, cancellation.beat, beat=0.1):
        cancellation.begin(events)
        events.emit(IterationStarted(4, 200, 20.0, 26, 2, 7.5, 50.0, 20.0))
        events.emit(UnitFinished(25, 200, "unit_00000", "gpu-1", 2.0))
        seen = run_status(layout.prefix, patience=60, poll=0.05)
        assert (seen.state, seen.iteration, seen.units_total, seen.done) == (status.RUNNING, 3, 8, 25)
        assert "stops after the unit under way" in cancel_run(layout.prefix)
        assert "before" in cancel_run(layout.prefix)
    seen = run_status(layout.prefix, patience=60)
    assert (seen.state, seen.workers) == (status.CANCELLED, None)
