"""Choosing a device: what ``--gpu`` finds, what it may take, and the CPU with one warning where there is none."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from kernels.backend import Backend, cpu_backend, cuda_backend
from runner.plan.config import RefineConfig
from runner.refinement.inputs import open_backend
from runner.refinement.run import _computing
from runner.report.events import Event, Events, Noted, Warned
from tests.unit import strict_device

GIB = 1 << 30


class CompileError(Exception):
    """What CuPy raises when a kernel cannot be compiled: none of Python's own errors."""


@dataclass
class Records:
    """A sink that keeps everything."""

    kept: list[Event] = field(default_factory=list)

    def write(self, event: Event) -> None:
        self.kept.append(event)

    def close(self) -> None:
        """Nothing to close."""


def events_and_records() -> tuple[Events, list[Event]]:
    records = Records()
    return Events(records), records.kept


@dataclass
class Machine:
    """A machine with CuPy: its GPUs, the free memory of each, and what it is told to do."""

    available: bool = True
    gpus: int = 2
    free: int = 8 * GIB
    failure: Exception | None = None
    used: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    def ones(self, shape: tuple[int, ...]) -> strict_device.DeviceArray:
        if self.failure is not None:
            raise self.failure
        return strict_device.ones(shape)

    def set_limit(self, *, size: int) -> None:
        self.limits.append(size)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        modules = {name: ModuleType(name) for name in ("cupy", "cupy.cublas", "cupyx", "cupyx.scipy")}
        modules["cupyx.scipy.fft"] = modules["cupyx.scipy"].fft = ModuleType("fft")
        modules["cupyx"].scipy = modules["cupyx.scipy"]
        cupy = modules["cupy"]
        cupy.is_available = lambda: self.available
        cupy.ones = self.ones
        plans = SimpleNamespace(set_memsize=lambda size: None)
        cupy.fft = SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: plans))
        cupy.get_default_memory_pool = lambda: SimpleNamespace(set_limit=self.set_limit)
        cupy.cuda = SimpleNamespace(
            Device=lambda number: SimpleNamespace(use=lambda: self.used.append(number)),
            compiler=SimpleNamespace(CompileException=CompileError),
            runtime=SimpleNamespace(getDeviceCount=lambda: self.gpus, memGetInfo=lambda: (self.free, 16 * GIB)),
        )
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return cupy


def config(**changes: object) -> RefineConfig:
    return RefineConfig(i="p.star", o="OUT/run", ref="r.mrc", **changes)


def _backend(given: RefineConfig, events: Events) -> Backend:
    """The device that a run in this process computes on."""
    open_backend.cache_clear()
    computing, device = _computing(given, events, in_process=True)
    backend = open_backend(computing, device)
    open_backend.cache_clear()
    return backend


def test_without_gpu_nothing_is_looked_for_and_a_unit_may_keep_half_a_gigabyte():
    events, records = events_and_records()
    backend = _backend(config(j=4), events)
    assert backend.is_cpu
    assert backend.real == np.float32
    assert backend.memory_bytes == GIB
    assert records == []
    assert _backend(config(parity="relion-3.1"), events).real == np.float64


MISSING = {
    "no device": (Machine(available=False), "CuPy finds no usable CUDA device"),
    "no such device": (Machine(gpus=1), "there is no GPU 1, the numbers go from 0 to 0"),
    "no compiler": (
        Machine(failure=RuntimeError("cannot load\n  libnvrtc")),
        "GPU 1 cannot compute (cannot load libnvrtc)",
    ),
    "no headers": (Machine(failure=CompileError("vector_types.h")), "GPU 1 cannot compute (vector_types.h)"),
    "no memory at all": (Machine(failure=MemoryError("out of memory")), "GPU 1 cannot compute (out of memory)"),
    "no memory to spare": (Machine(free=GIB // 2), "GPU 1 has less than 1024 MB of free memory"),
}


@pytest.mark.parametrize("case", MISSING)
def test_gpu_without_a_usable_device_warns_once_and_uses_the_cpu(case: str, monkeypatch: pytest.MonkeyPatch):
    machine, reason = MISSING[case]
    machine.install(monkeypatch)
    events, records = events_and_records()
    backend = _backend(config(gpu="1", free_gpu_memory=1024.0, memory=1.0, j=2), events)
    assert backend == cpu_backend("float32", GIB)
    assert records == [Warned(f"--gpu: {reason}; going on with the CPU")]


def test_gpu_without_cupy_warns_once_and_uses_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    events, records = events_and_records()
    assert _backend(config(gpu=""), events).is_cpu
    assert len(records) == 1
    assert isinstance(records[0], Warned)
    assert "CuPy cannot be imported" in records[0].message
    assert "\n" not in records[0].message


@pytest.mark.parametrize(("numbers", "device"), [("", 0), ("1", 1), ("1:0", 1), ("0,1", 0), ("1:1", 1)])
def test_the_first_gpu_named_is_used(numbers: str, device: int, monkeypatch: pytest.MonkeyPatch):
    machine = Machine()
    cupy = machine.install(monkeypatch)
    events, records = events_and_records()
    backend = _backend(config(gpu=numbers), events)
    assert backend.xp is cupy
    assert not backend.is_cpu
    assert backend.device == device
    assert machine.used == [device]
    several = len(set(numbers.replace(",", ":").split(":"))) > 1
    assert records == ([Noted(f"--gpu {numbers}: one GPU is used, number {device}")] if several else [])
    backend.activate()
    assert machine.used == [device, device]


def test_memory_to_leave_free_is_neither_budgeted_nor_pooled(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(free=8 * GIB)
    machine.install(monkeypatch)
    events, _ = events_and_records()
    assert _backend(config(gpu="", j=1), events).memory_bytes == 4 * GIB
    assert machine.limits == []
    assert _backend(config(gpu="", j=1, free_gpu_memory=2048.0), events).memory_bytes == 3 * GIB
    assert machine.limits == [6 * GIB]


def test_units_that_run_at_once_share_the_memory_of_the_gpu(monkeypatch: pytest.MonkeyPatch):
    Machine(free=8 * GIB).install(monkeypatch)
    assert cuda_backend(units=4).memory_bytes == GIB
    events, _ = events_and_records()
    assert _backend(config(gpu="", j=4), events).memory_bytes == GIB
