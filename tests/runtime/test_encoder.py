"""What an encoder takes and gives, whatever computes it, and how it is timed."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsesam_deploy.engines.manifest import BatchProfile
from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.runtime.encoder import Encoder
from sparsesam_deploy.runtime.interface import Runtime
from sparsesam_deploy.runtime.latency import Latency

IMAGE = torch.arange(3 * 1024 * 1024, dtype=torch.float32).reshape(1, 3, 1024, 1024)


class Recorder(Runtime):
    """Answers with the first and second channel, and keeps what it was given."""

    device, kernels = torch.device("cpu"), "a pretence"

    def __init__(self, outputs: int = 1) -> None:
        self.seen, self.outputs, self.runs = [], outputs, 0

    def new_run(self):
        self.runs += 1
        return self.run

    def run(self, image):
        self.seen.append(image)
        return tuple(image[:, index].clone() for index in range(self.outputs))


def make_encoder(runtime: Recorder, low: int = 1, high: int = 2) -> Encoder:
    return Encoder(runtime, SimpleNamespace(batch=BatchProfile(min=low, opt=high, max=high)))


# --- what goes in ------------------------------------------------------------------------------------------------


class FromElsewhere:
    """A tensor of another library: nothing but the protocol."""

    def __dlpack__(self, **options):
        return IMAGE.__dlpack__(**options)

    def __dlpack_device__(self):
        return IMAGE.__dlpack_device__()


@pytest.mark.parametrize("image", [IMAGE, IMAGE.numpy(), FromElsewhere()], ids=["torch", "numpy", "dlpack"])
def test_memory_is_shared_not_copied(image):
    runtime = Recorder()
    make_encoder(runtime)(image)
    assert runtime.seen[0].data_ptr() == IMAGE.data_ptr()


def read_only() -> np.ndarray:
    array = IMAGE.numpy().copy()
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "image",
    [read_only(), IMAGE.numpy()[:, ::-1], IMAGE.transpose(2, 3), IMAGE.requires_grad_(False)[..., ::1]],
    ids=["read-only", "negative strides", "transposed", "a view"],
)
@pytest.mark.filterwarnings("error")
def test_memory_of_any_layout_is_taken(image):
    runtime = Recorder()
    make_encoder(runtime)(image)
    assert runtime.seen[0].is_contiguous()
    assert np.array_equal(runtime.seen[0].numpy(), np.asarray(image))


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (IMAGE[0], r"the image has shape \(3, 1024, 1024\), and \(B, 3, 1024, 1024\) is taken; prepare it with"),
        (IMAGE[..., :1000], r"shape \(1, 3, 1024, 1000\)"),
        (IMAGE.half(), r"the image is float16, and every precision takes float32; prepare it with"),
        (IMAGE.numpy().astype(np.float64), "the image is float64, and"),
        (np.zeros((480, 640, 3), np.uint8), r"the image is uint8, and every precision takes float32; prepare it with"),
        (IMAGE.expand(3, -1, -1, -1), r"3 images were given, and this build is for batches of 1 to 2; split them, or"),
        (IMAGE[:0], "0 images were given"),
        ([[1.0]], "the image is a list; give a torch tensor, a numpy array or anything with __dlpack__"),
    ],
    ids=["no batch", "narrow", "half", "double", "pixels", "too many", "none", "list"],
)
def test_what_cannot_be_encoded(image, sentence):
    runtime = Recorder()
    with pytest.raises(InvalidInput, match=sentence) as caught:
        make_encoder(runtime)(image)
    assert not runtime.seen and str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_that_is_neither_on_the_host_nor_on_the_encoders_device():
    runtime = Recorder()
    with pytest.raises(InvalidInput, match=r"the image is on meta, the encoder on cpu; move it there\."):
        make_encoder(runtime)(IMAGE.to("meta"))
    assert not runtime.seen


def test_too_few_images_and_how_to_build_for_them():
    with pytest.raises(InvalidInput, match=r"1 images .* batches of 2 to 4; split them, or build with --batch 1,4,4"):
        make_encoder(Recorder(), 2, 4)(IMAGE)


# --- what comes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "kind"), [(IMAGE, torch.Tensor), (IMAGE.numpy(), np.ndarray)], ids=["torch", "numpy"]
)
def test_answers_are_of_the_kind_of_the_question(image, kind):
    alone, pair = make_encoder(Recorder())(image), make_encoder(Recorder(outputs=2))(image)
    assert isinstance(alone, kind) and isinstance(pair, tuple) and all(isinstance(value, kind) for value in pair)
    for value, channel in ((alone, 0), (pair[0], 0), (pair[1], 1)):
        assert np.array_equal(np.asarray(value), IMAGE[:, channel].numpy())


def test_answers_can_be_trained_on():
    head = torch.nn.Linear(1024, 1)
    head(make_encoder(Recorder())(IMAGE)).sum().backward()
    assert head.weight.grad.isfinite().all()


class WithMemory(Recorder):
    """It writes its answers into memory that it made in the first call, as a CUDA graph does."""

    memory = None

    def run(self, image):
        self.memory = image[:, 0].clone() if self.memory is None else self.memory.copy_(image[:, 0])
        return (self.memory.clone(),)


def test_the_first_call_may_be_made_in_inference_mode():
    encode = make_encoder(WithMemory())
    with torch.inference_mode():
        first = encode(IMAGE.clone())
    assert not first.is_inference() and torch.equal(encode(-IMAGE), -first)


def test_a_clone_has_a_run_of_its_own():
    runtime = Recorder()
    clone = make_encoder(runtime).clone()
    assert runtime.runs == 2 and clone(IMAGE).shape == (1, 1024, 1024)


# --- times -------------------------------------------------------------------------------------------------------


def test_latency_figures():
    times = [float(value) for value in np.random.default_rng(0).permutation(np.arange(1, 102) ** 2)]
    found = Latency.of(4, times)
    hundredths = statistics.quantiles(times, n=100, method="inclusive")
    assert (found.batch, found.count) == (4, 101)
    assert (found.p50, found.p90, found.p99) == pytest.approx([hundredths[i - 1] for i in (50, 90, 99)])
    assert found.mean == pytest.approx(statistics.fmean(times))
    assert found.images_per_second == pytest.approx(4 * 1000 / statistics.fmean(times))
    assert found.as_json() == pytest.approx(
        {"batch": 4, "count": 101, "mean": found.mean, "p50": 51**2, "p90": 91**2, "p99": 100**2}
        | {"images_per_second": found.images_per_second}
    )


def test_measuring_calls_the_encoder_that_often(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("sparsesam_deploy.runtime.timing.time.perf_counter", lambda: 0.001 * next(clock) ** 2)
    runtime, seen = Recorder(), []
    found = make_encoder(runtime).measure(2, 3, lambda share, words: seen.append(share))
    assert [len(image) for image in runtime.seen] == [2] * 4  # a warm-up and three
    assert found == Latency(2, 3, *(pytest.approx(value) for value in (5, 5, 8.2, 8.92)))  # of 1, 5 and 9 ms
    assert seen == [0, pytest.approx(1 / 3), pytest.approx(2 / 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_torchs_default_dtype_does_not_matter(dtype):
    runtime, before = Recorder(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        make_encoder(runtime).measure(1, 1)
    finally:
        torch.set_default_dtype(before)
    assert [image.dtype for image in runtime.seen] == [torch.float32] * 2


def test_nothing_is_measured_in_no_iterations():
    with pytest.raises(InvalidInput, match="0 iterations measure nothing; give 1 or more"):
        make_encoder(Recorder()).measure(iterations=0)
