"""CUDA graphs of encoders; all but the refusal needs a GPU and is run by ``make gpu-check``."""

from __future__ import annotations

import pytest
import torch

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.captured import CapturedEncoder
from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.layers import cast_copy
from tests.helpers import TINY, random_sam
from tests.networks import noise_image, relative_error

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


@on_gpu
@by_preset
def test_replays_answer_as_the_encoder_does(preset: str):
    """Image after image: nothing of the one before is left."""
    encoder = kernel_encoder(preset)
    captured = CapturedEncoder(encoder)
    for seed in (0, 1, 0):
        image = noise_image(seed).cuda().half()
        with torch.inference_mode():
            expected = encoder(image)
        assert relative_error(captured(image).float(), expected.float()) <= 1e-6


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
    captured, images = CapturedEncoder(encoder), [noise_image(seed).cuda().half() for seed in (0, 1)]
    with torch.inference_mode():
        expected = [encoder(image) for image in images]
        streams = [torch.cuda.Stream() for _ in images]
        torch.cuda.synchronize()
        results = []
        for _ in range(10):
            for which, (stream, image) in enumerate(zip(streams, images, strict=True)):
                with torch.cuda.stream(stream):
                    results += [(which, captured(image)), (which, encoder(image))]
        torch.cuda.synchronize()
    for which, result in results:
        assert relative_error(result.float(), expected[which].float()) <= 1e-6


@on_gpu
def test_two_captured_encoders_run_side_by_side():
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
def test_another_batch_is_refused():
    captured = CapturedEncoder(kernel_encoder("default"), batch=2)
    assert captured(noise_image().expand(2, -1, -1, -1)).shape == (2, 256, 64, 64)
    with pytest.raises(InvalidInput, match="capture another one for this batch"):
        captured(noise_image())
