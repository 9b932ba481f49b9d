"""A torch encoder as CUDA graphs, without a build folder; what needs a GPU is run by ``make gpu-check``."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import PRESETS, SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.layers import cast_copy
from sparsesam_deploy.runtime import captured
from sparsesam_deploy.runtime.captured import CapturedEncoder
from tests.comparison import relative_error
from tests.export.models import global_outputs
from tests.helpers import TINY, random_sam
from tests.networks import noise_image

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; make gpu-check runs it")
by_preset = pytest.mark.parametrize("preset", PRESETS)


def kernel_encoder(preset: str) -> SparseSamEncoder:
    loaded = load_nano()
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, PRESETS[preset], backend="triton")
    return cast_copy(encoder, torch.float16).cuda()


def test_an_encoder_on_the_cpu_cannot_be_captured():
    encoder = SparseSamEncoder(random_sam(TINY).image_encoder, TINY, SparsityConfig())
    with pytest.raises(InvalidInput, match=r"the encoder is on cpu; a CUDA graph needs it on a GPU: encoder.cuda\(\)."):
        CapturedEncoder(encoder)


# --- what is recorded: the torch runtime that `load` has, here run without a GPU ------------------------------------


@pytest.fixture
def seen(monkeypatch) -> list[tuple[torch.dtype, bool, bool]]:
    """For each image that would be in a graph: its dtype, whether it is contiguous, and whether gradients are kept."""
    images = []

    class PretendedCall:
        def __init__(self, runtime, cuda_graph: bool) -> None:
            assert cuda_graph
            self.run = runtime.new_run()
            runtime.device = torch.device("cpu")  # torch's settings for a GPU are not needed

        def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
            images.append(
                (image.dtype, image.is_contiguous(), torch.is_grad_enabled() or torch.is_inference_mode_enabled())
            )
            return self.run(image)

    monkeypatch.setattr(captured, "GpuCall", PretendedCall)
    return images


def pretended(config: SamConfig, monkeypatch) -> SparseSamEncoder:
    """An encoder on the CPU whose parameters say that they are on a GPU."""
    encoder = SparseSamEncoder(random_sam(config).image_encoder, config, PRESETS["default"])
    place = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    monkeypatch.setattr(encoder, "parameters", lambda: iter([place]))
    return encoder


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_images_of_any_dtype_layout_and_batch_are_taken(dtype: torch.dtype, seen, monkeypatch):
    """The graph has one image of one type, which takes whatever comes without rounding it to what came first."""
    encoder = pretended(TINY, monkeypatch)
    replayed, image = CapturedEncoder(encoder), noise_image().half().expand(2, -1, -1, -1).transpose(2, 3)
    with torch.inference_mode():
        found = replayed(image.to(dtype))
        expected = encoder(image.float())
    assert seen == [(torch.float32, True, False)]
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_sam_hq_answers_with_a_pair(seen, monkeypatch):
    """As `load` does, so that the predictor for SAM-HQ takes it."""
    encoder = pretended(replace(TINY, hq=True), monkeypatch)
    with torch.no_grad():
        streams = list(encoder.streams(noise_image()))[1:]
        expected = encoder.finish(streams[-1]), global_outputs(encoder, streams)
    found = CapturedEncoder(encoder)(noise_image())
    assert len(found) == 2 and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("shape", [(3, 1024, 1024), (1, 3, 1024, 1000)], ids=str)
def test_another_shape_is_refused(shape: tuple[int, ...], seen, monkeypatch):
    with pytest.raises(
        InvalidInput, match=r"the image has shape .*, and \(B, 3, 1024, 1024\) is taken; prepare it with"
    ):
        CapturedEncoder(pretended(TINY, monkeypatch))(torch.zeros(shape))
    assert not seen


# --- on a GPU ----------------------------------------------------------------------------------------------------


@on_gpu
@by_preset
def test_replays_answer_as_the_encoder_does(preset: str):
    """Image after image: nothing of the one before is left."""
    encoder = kernel_encoder(preset)
    replayed = CapturedEncoder(encoder)
    for seed in (0, 1, 0):
        image = noise_image(seed).cuda().half()
        with torch.inference_mode():
            expected = encoder(image)
        assert relative_error(replayed(image), expected.float()) <= 1e-6


@on_gpu
@by_preset
def test_the_forward_pass_never_waits_for_the_gpu(preset: str):
    encoder, image = kernel_encoder(preset), noise_image().cuda().half()
    with torch.inference_mode():
        encoder(image)  # kernels are compiled
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            encoder(image)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_two_streams_do_not_disturb_each_other():
    """One captured encoder called from two streams, and one encoder run in both at once."""
    encoder = kernel_encoder("default")
    replayed, images = CapturedEncoder(encoder), [noise_image(seed).cuda().half() for seed in (0, 1)]
    with torch.inference_mode():
        expected = [encoder(image) for image in images]
        streams = [torch.cuda.Stream() for _ in images]
        torch.cuda.synchronize()
        results = []
        for _ in range(10):
            for which, (stream, image) in enumerate(zip(streams, images, strict=True)):
                with torch.cuda.stream(stream):
                    results += [(which, replayed(image)), (which, encoder(image))]
        torch.cuda.synchronize()
    for which, result in results:
        assert relative_error(result.float(), expected[which].float()) <= 1e-6


@on_gpu
def test_two_replayeds_run_side_by_side():
    """In two streams at once, and one after the other is gone: they share no scratch."""
    encoder, images = kernel_encoder("default"), [noise_image(seed).cuda().half() for seed in (0, 1)]
    pair = [CapturedEncoder(encoder) for _ in images]
    with torch.no_grad():
        expected = [encoder(image) for image in images]
    streams = [torch.cuda.Stream() for _ in images]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for which, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results.append((which, pair[which](images[which])))
    torch.cuda.synchronize()
    pair.pop()
    results.append((0, pair[0](images[0])))
    for which, result in results:
        assert relative_error(result.float(), expected[which].float()) <= 1e-6


@on_gpu
def test_a_graph_does_not_take_the_dtype_of_the_first_image_it_saw():
    """Wherever images lie; each batch size has a graph of its own."""
    encoder = cast_copy(kernel_encoder("default"), torch.float32)
    used, fresh = CapturedEncoder(encoder), CapturedEncoder(encoder)
    for image in (noise_image(), noise_image().expand(2, -1, -1, -1)):
        used(image.cuda().half())
        expected = fresh(image.cuda())
        assert expected.shape == (len(image), 256, 64, 64)
        for place in (image, image.contiguous().pin_memory(), image.cuda()):
            assert relative_error(used(place), expected) <= 1e-6
