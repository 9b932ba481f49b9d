"""The order of what happens on a GPU, written down by a pretended torch; on a real one see `test_on_a_gpu`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from sparsesam_deploy.runtime import cuda_graph, gpu_call
from sparsesam_deploy.runtime.cuda_graph import WARM_UP
from sparsesam_deploy.runtime.gpu_call import GpuCall


class Pretence:
    """Torch as far as `gpu_call` uses it; ``diary`` has what was asked of it, with the stream it was asked in."""

    def __init__(self) -> None:
        self.diary: list[tuple[str, str]] = []
        self.caller = self.stream = PretendedStream(self, "caller")
        self.cuda = SimpleNamespace(
            device=lambda device: nullcontext(),
            Stream=lambda: PretendedStream(self, "own"),
            stream=self.entered,
            current_stream=lambda: self.stream,
            Event=lambda: PretendedEvent(self),
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: self.note("replay")),
            graph=self.captured,
        )
        self.Tensor, self.float32 = object, object()

    def note(self, what: str) -> None:
        self.diary.append((self.stream.name, what))

    def empty(self, shape, dtype, device, pin_memory) -> PretendedTensor:
        assert (dtype, device) == (self.float32, "cpu"), "torch's defaults may be anything"
        return PretendedTensor(self, "pinned" if pin_memory else "pageable", shape[0])

    @contextmanager
    def entered(self, stream):
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    @contextmanager
    def captured(self, graph, stream, capture_error_mode):
        self.note("capture begins")
        yield
        self.note("capture ends")


class PretendedStream:
    def __init__(self, torch: Pretence, name: str) -> None:
        self.torch, self.name = torch, name

    def wait_stream(self, other) -> None:
        self.torch.diary.append((self.name, f"waits for {other.name}"))

    def synchronize(self) -> None:
        self.torch.diary.append((self.name, "synchronize"))


class PretendedEvent:
    def __init__(self, torch: Pretence) -> None:
        self.torch = torch

    def record(self) -> None:
        self.torch.note("copied")

    def synchronize(self) -> None:
        self.torch.note("wait until copied")


class PretendedTensor:
    def __init__(self, torch: Pretence, name: str, batch: int = 1, on_gpu: bool = False) -> None:
        self.torch, self.name, self.shape, self.is_cuda = torch, name, (batch, 3, 1024, 1024), on_gpu

    def __len__(self) -> int:
        return self.shape[0]

    def copy_(self, other) -> PretendedTensor:
        self.torch.note(f"{other.name} -> {self.name}")
        return self

    def to(self, device, non_blocking) -> PretendedTensor:
        self.torch.note(f"{self.name} -> {device}")
        return PretendedTensor(self.torch, "image", len(self), on_gpu=True)

    def clone(self) -> PretendedTensor:
        self.torch.note(f"clone {self.name}")
        return PretendedTensor(self.torch, f"{self.name}'s copy", len(self), on_gpu=True)

    def record_stream(self, stream) -> None:
        self.torch.note(f"{self.name} kept for {stream.name}")


@pytest.fixture
def torch(monkeypatch) -> Pretence:
    pretence = Pretence()
    for module in (gpu_call, cuda_graph):
        monkeypatch.setattr(module, "torch", pretence)
    return pretence


@pytest.fixture
def make(torch):
    def new_run():
        torch.note("new run")

        def run(image):
            torch.note(f"encode {image.name}")
            return (PretendedTensor(torch, "result", len(image), on_gpu=True),)

        return run

    return lambda cuda_graph: GpuCall(SimpleNamespace(device="gpu", new_run=new_run), cuda_graph)


def call(torch: Pretence, encode: GpuCall, image: PretendedTensor) -> list[tuple[str, str]]:
    """What one call does."""
    start = len(torch.diary)
    encode(image)
    return torch.diary[start:]


BEFORE, AFTER = ("own", "waits for caller"), ("caller", "waits for own")


def test_a_run_is_made_in_the_stream_it_will_use(torch, make):
    make(cuda_graph=False)
    assert torch.diary == [("own", "new run")]


def test_the_callers_stream_waits_and_nobody_else(torch, make):
    image = PretendedTensor(torch, "image", on_gpu=True)
    assert call(torch, make(False), image) == [
        BEFORE,
        ("own", "encode image"),
        AFTER,
        ("caller", "result kept for caller"),
    ]


def test_images_on_the_host_go_through_two_pinned_buffers(torch, make):
    """The third call is the first that has to wait for a copy: that of the first."""
    encode, image = make(False), PretendedTensor(torch, "host")
    diaries = [call(torch, encode, image) for _ in range(3)]
    for diary in diaries:
        assert diary[:6] == [
            BEFORE,
            ("own", "wait until copied"),
            ("own", "host -> pinned"),
            ("own", "pinned -> gpu"),
            ("own", "copied"),
            ("own", "encode image"),
        ]
    staging = encode._staging[1]
    assert staging._buffers[0] is not staging._buffers[1] and staging._turn == 1


def test_each_batch_size_is_recorded_once_and_replayed(torch, make):
    encode = make(cuda_graph=True)
    assert torch.diary == []
    one, two = (PretendedTensor(torch, "image", batch, on_gpu=True) for batch in (1, 2))
    replay = [
        ("own", "image -> image's copy"),
        ("own", "replay"),
        ("own", "clone result"),
        AFTER,
        ("caller", "result's copy kept for caller"),
    ]
    record = [
        ("own", "new run"),
        ("own", "clone image"),
        *[("own", "encode image's copy")] * WARM_UP,
        ("own", "synchronize"),
        ("own", "capture begins"),
        ("own", "encode image's copy"),
        ("own", "capture ends"),
    ]
    assert call(torch, encode, one) == [BEFORE, *record, *replay]
    assert call(torch, encode, two) == [BEFORE, *record, *replay]
    assert call(torch, encode, one) == [BEFORE, *replay]


def test_captures_of_two_encoders_take_turns(torch, make, monkeypatch):
    """Each begins with waiting for the whole GPU, which a capture by another thread forbids."""
    running, most = [], []

    @contextmanager
    def captured(graph, stream, capture_error_mode):
        running.append(graph)
        most.append(len(running))
        time.sleep(0.05)
        yield
        running.remove(graph)

    monkeypatch.setattr(torch.cuda, "graph", captured)
    image = PretendedTensor(torch, "image", on_gpu=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda encode: encode(image), [make(True), make(True)]))
    assert most == [1, 1]
