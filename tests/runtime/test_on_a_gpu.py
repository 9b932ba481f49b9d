"""`load` on a real GPU: against segment_anything, from any stream, with and without a CUDA graph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from sparsesam_deploy import load
from sparsesam_deploy.engines.builder import load_builder
from sparsesam_deploy.engines.cuda import cuda_devices
from sparsesam_deploy.engines.manifest import MANIFEST, EngineManifest
from sparsesam_deploy.engines.options import RTX_COMPUTE_CAPABILITIES
from sparsesam_deploy.errors import SparseSamError
from sparsesam_deploy.model.image import preprocess
from tests.comparison import relative_error
from tests.export.models import random_image
from tests.runtime.builds import Build, make_engine_again

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; make gpu-check runs it")
TOLERANCE = 1e-4
"""float32 without TF32, products summed in another order than on the CPU."""


def runtimes() -> list[str]:
    """Those that this machine can run on its GPU."""
    if not torch.cuda.is_available():
        return ["none"]
    found = ["torch"]
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        found.append("onnxruntime")
    if cuda_devices()[0].compute_capability in RTX_COMPUTE_CAPABILITIES:
        found.append("tensorrt-rtx")
    try:
        load_builder("tensorrt")
        found.append("tensorrt")
    except SparseSamError:
        """Not installed."""
    return found


@dataclass(frozen=True, eq=False)
class Case:
    """A build and what runs it, with two images and segment_anything's answers."""

    runtime: str
    build: Build
    folder: Path
    images: list[Tensor]
    expected: list[Tensor]


@pytest.fixture(scope="module", params=runtimes())
def case(request, dense, tmp_path_factory) -> Case:
    folder = dense.folder
    if request.param == "tensorrt":
        folder = make_engine_again(dense.folder, tmp_path_factory.mktemp("tensorrt"), "tensorrt", (1, 1, 2))
    images = [random_image(seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        expected = [dense.loaded.sam.image_encoder(image) for image in images]
    return Case(request.param, dense, folder, images, expected)


graphs = pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])


def opened(case: Case, cuda_graph: bool = False):
    if cuda_graph and case.runtime == "onnxruntime":
        pytest.skip("ONNX Runtime makes no CUDA graph here")
    return load(case.folder, case.runtime, "cuda", cuda_graph=cuda_graph)


@graphs
@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_it_is_segment_anything(case, cuda_graph, where):
    """Image after image, so that nothing of the one before is left; batches of one and two in turn."""
    encode = opened(case, cuda_graph)
    for which in (0, 1, 0):
        found = encode(case.images[which].to(where))
        assert found.is_cuda and relative_error(found.cpu(), case.expected[which]) < TOLERANCE
        both = encode(torch.cat(case.images).to(where))
        assert relative_error(both.cpu(), torch.cat(case.expected)) < TOLERANCE
    assert isinstance(encode(case.images[0].numpy()), np.ndarray)


@graphs
def test_streams_threads_and_clones_do_not_disturb_each_other(case, cuda_graph):
    encoders = [opened(case, cuda_graph)]
    encoders.append(encoders[0].clone())
    images = [image.cuda() for image in case.images]
    streams = [torch.cuda.Stream() for _ in images]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for which, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results += [(which, encode(images[which])) for encode in encoders]
    torch.cuda.synchronize()
    for which, result in results:
        assert relative_error(result.cpu(), case.expected[which]) < TOLERANCE


def test_a_call_does_not_wait_for_the_gpu(case):
    if case.runtime == "onnxruntime":
        pytest.skip("ONNX Runtime waits for its results")
    encode, image = opened(case), case.images[0].cuda()
    encode.warm_up()
    torch.cuda.set_sync_debug_mode("error")
    try:
        encode(image)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def host_milliseconds(call: Callable[[], object]) -> float:
    """By the host's clock, with a wait for the GPU before and after: the median of ten calls."""
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


@graphs
def test_times_are_those_of_the_hosts_clock(case, cuda_graph):
    """To a half of it: a clock that does not wait for the GPU, or a unit mistaken, is further off than that."""
    encode = opened(case, cuda_graph)
    found = encode.measure(2, 10)
    assert (found.batch, found.count) == (2, 10)
    image = torch.cat(case.images).cuda()
    encode(image)
    assert found.p50 == pytest.approx(host_milliseconds(lambda: encode(image)), rel=0.5)


@pytest.mark.parametrize("size", [(480, 640), (1500, 600), (1024, 1024), (3000, 2000)], ids="{0[0]}x{0[1]}".format)
def test_preprocessing_is_the_same_to_the_bit(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = preprocess(torch.from_numpy(pixels).cuda())
    assert found.tensor.is_cuda and torch.equal(found.tensor.cpu(), preprocess(pixels).tensor)


def test_the_manifest_names_this_builder(case):
    builder = EngineManifest.read(case.folder / MANIFEST).builder
    assert builder == ("tensorrt" if case.runtime == "tensorrt" else "tensorrt-rtx")
