"""The one clock: what lies between its two events, and what a recorded call is ordered after and before."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from sparsesam_deploy.runtime import cuda_graph, timing
from sparsesam_deploy.runtime.cuda_graph import WARM_UP
from sparsesam_deploy.runtime.timing import graph_replay, milliseconds

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; make gpu-check runs it")


def test_off_a_gpu_it_is_the_hosts_clock(monkeypatch):
    now, diary = iter((5.0, 5.25)), []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: diary.append("clock") or next(now))
    assert milliseconds(lambda: diary.append("call"), CPU) == 250
    assert diary == ["clock", "call", "clock"]


class Pretence:
    """Torch as far as `timing` uses it; ``diary`` has the stream and what was asked for in it."""

    def __init__(self) -> None:
        self.diary: list[tuple[str, str]] = []
        self.stream = self.caller = self.new_stream("caller")
        self.cuda = SimpleNamespace(
            device=lambda device: self.within(f"device {device}"),
            Event=self.new_event,
            Stream=lambda: self.new_stream("own"),
            stream=self.entered,
            current_stream=lambda: self.stream,
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: self.note("replay")),
            graph=lambda graph, stream, capture_error_mode: self.within(f"capture in {stream.name}"),
        )

    def note(self, what: str) -> None:
        self.diary.append((self.stream.name, what))

    def new_stream(self, name: str) -> SimpleNamespace:
        wait = lambda other: self.diary.append((name, f"waits for {other.name}"))  # noqa: E731
        return SimpleNamespace(name=name, wait_stream=wait, synchronize=lambda: self.note("synchronize"))

    def new_event(self, enable_timing: bool) -> SimpleNamespace:
        assert enable_timing
        return SimpleNamespace(
            record=lambda: self.note("event"),
            synchronize=lambda: self.note("synchronize"),
            elapsed_time=lambda later: 1.5,
        )

    @contextmanager
    def within(self, what: str):
        self.note(f"{what} begins")
        yield
        self.note(f"{what} ends")

    @contextmanager
    def entered(self, stream):
        before, self.stream = self.stream, stream
        yield
        self.stream = before


@pytest.fixture
def pretence(monkeypatch) -> Pretence:
    pretended = Pretence()
    for module in (timing, cuda_graph):
        monkeypatch.setattr(module, "torch", pretended)
    return pretended


def test_on_a_gpu_events_are_around_the_call_and_the_end_is_waited_for(pretence):
    assert milliseconds(lambda: pretence.note("call"), GPU) == 1.5
    assert [what for _, what in pretence.diary] == [
        "device cuda:1 begins",
        "event",
        "call",
        "event",
        "synchronize",
        "device cuda:1 ends",
    ]


def test_a_recorded_call_comes_after_its_inputs_and_its_replays_launch_no_call(pretence):
    replay = graph_replay(lambda: pretence.note("call"))
    assert pretence.diary == [
        ("own", "waits for caller"),
        *[("own", "call")] * WARM_UP,
        ("own", "synchronize"),
        ("own", "capture in own begins"),
        ("own", "call"),
        ("own", "capture in own ends"),
        ("caller", "waits for own"),
    ]
    pretence.diary.clear()
    replay()
    assert pretence.diary == [("caller", "replay")]


@on_gpu
def test_more_work_takes_longer():
    device = torch.device("cuda")
    products = [partial(torch.mm, x, x) for x in (torch.randn(side, side, device=device) for side in (256, 8192))]
    for calls in (products, [graph_replay(product) for product in products]):
        for call in calls:
            call()
        small, large = (min(milliseconds(call, device) for _ in range(5)) for call in calls)
        assert 0 < small < large < 1e4
