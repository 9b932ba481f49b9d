"""`Encoder`: what `load` returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engines.manifest import BatchProfile, EngineManifest
from ..errors import InvalidInput
from ..model.config import IMAGE_SIZE
from ..progress import Advance
from .gpu_call import GpuCall
from .interface import Runtime
from .latency import Latency
from .timing import milliseconds

SIZES = (3, IMAGE_SIZE, IMAGE_SIZE)


class Encoder:
    """An image encoder that stands where `SparseSamPredictor` wants one: ``SparseSamPredictor(sam, load(folder))``.

    On a GPU a call returns at once, its result ready in the caller's stream (ONNX Runtime waits for it), and tensors on
    the GPU are not copied (a CUDA graph has an image and results of its own). Calls may come from any thread and
    stream; those of one encoder take turns, so give each thread or stream that is to run beside others a `clone`.

    Attributes:
        manifest: of the build.
        device: where images are taken and results made.
        kernels: what computes, in words.
        batch: the batch sizes it takes, those of the build on every runtime.
    """

    def __init__(self, runtime: Runtime, manifest: EngineManifest, cuda_graph: bool = False) -> None:
        self.manifest, self.device, self.kernels = manifest, runtime.device, runtime.kernels
        self._runtime, self._cuda_graph = runtime, cuda_graph
        self._run = GpuCall(runtime, cuda_graph) if self.device.type == "cuda" else runtime.new_run()

    @property
    def batch(self) -> BatchProfile:
        return self.manifest.batch

    def clone(self) -> Encoder:
        """Another encoder on the same weights, with working memory of its own; ONNX Runtime on a GPU loads them again.

        On a GPU up to 32 run side by side, as many as torch has streams.
        """
        return Encoder(self._runtime, self.manifest, self._cuda_graph)

    def __call__(self, image: Any) -> Any:
        """Encode.

        Args:
            image: (B, 3, 1024, 1024) float32, normalised and padded as `preprocess` does: a torch tensor, a numpy
                array, or anything with ``__dlpack__``. On a GPU runtime it may lie on that GPU or on the host, whence
                it is copied through pinned memory.

        Returns:
            Image embeddings (B, 256, 64, 64), for SAM-HQ a pair of them and the outputs of the global blocks
            (num_global, B, 64, 64, C); float32, as numpy arrays if ``image`` is one, else as tensors on `device`.

        Raises:
            InvalidInput: another shape, dtype, batch size or device.
            CheckFailed: the engine does not run.
        """
        encoded = self._encode(self._checked(_as_tensor(image)).contiguous())
        from_numpy = isinstance(image, np.ndarray)
        results = tuple(result.cpu().numpy() if from_numpy else result for result in encoded)
        return results if len(results) > 1 else results[0]

    def warm_up(self, batch: int | None = None) -> None:
        """Encode an empty image, so that kernels, memory and graph of that batch size (the smallest) are there."""
        batch = self.batch.min if batch is None else batch
        # From the host, so that pinned memory is there too; the rest is as for an image on the GPU.
        self._encode(self._checked(torch.zeros(batch, *SIZES, dtype=torch.float32, device="cpu")))
        self._wait()

    def measure(
        self, batch: int | None = None, iterations: int = 50, advance: Advance = lambda share, words: None
    ) -> Latency:
        """Time ``iterations`` calls, one after another, on an image that is on the device; `warm_up` comes first.

        On a GPU the time is that between CUDA events, see `timing.milliseconds`.
        """
        batch = self.batch.min if batch is None else batch
        if iterations < 1:
            raise InvalidInput(f"{iterations} iterations measure nothing; give 1 or more.")
        self.warm_up(batch)
        generator = torch.Generator("cpu").manual_seed(0)
        image = torch.randn(batch, *SIZES, generator=generator, dtype=torch.float32, device="cpu").to(self.device)
        times = []
        for index in range(iterations):
            advance(index / iterations, f"{index} of {iterations}")
            times.append(milliseconds(lambda: self._encode(image), self.device))
        return Latency.of(batch, times)

    def _encode(self, image: Tensor) -> tuple[Tensor, ...]:
        # Not inference_mode, not even the caller's: it would bar results from training something on them, and memory
        # that is made in the first call from being written by later ones.
        with torch.inference_mode(False), torch.no_grad():
            return self._run(image)

    def _checked(self, image: Tensor) -> Tensor:
        low, high = self.batch.min, self.batch.max
        check_sizes(tuple(image.shape))
        _check_float32(str(image.dtype).removeprefix("torch."))
        if not low <= len(image) <= high:
            built = f"batch {low}" if low == high else f"batches of {low} to {high}"
            raise InvalidInput(
                f"{len(image)} images were given, and this build is for {built}; split them, or build with "
                f"--batch {min(low, max(len(image), 1))},{self.batch.opt},{max(high, len(image))}."
            )
        if image.device.type != "cpu" and image.device != self.device:
            raise InvalidInput(f"the image is on {image.device}, the encoder on {self.device}; move it there.")
        return image

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # the whole GPU may not be waited for in a capture


def check_sizes(shape: tuple[int, ...]) -> None:
    """Raise InvalidInput unless ``shape`` is that of a batch of prepared images."""
    if len(shape) != 4 or shape[1:] != SIZES:
        raise InvalidInput(
            f"the image has shape {shape}, and (B, 3, {IMAGE_SIZE}, {IMAGE_SIZE}) is taken; prepare it with "
            "sparsesam_deploy.model.image.preprocess."
        )


def _check_float32(dtype: str) -> None:
    if dtype != "float32":
        raise InvalidInput(
            f"the image is {dtype}, and every precision takes float32; prepare it with "
            "sparsesam_deploy.model.image.preprocess."
        )


def _as_tensor(image: Any) -> Tensor:
    """Without a copy, except of arrays that torch cannot share: read-only ones and those with negative strides."""
    if isinstance(image, Tensor):
        return image.detach()
    if isinstance(image, np.ndarray):
        _check_float32(image.dtype.name)
        return torch.from_numpy(np.require(image, requirements=("C", "W")))
    if hasattr(image, "__dlpack__"):
        return torch.from_dlpack(image)
    raise InvalidInput(
        f"the image is a {type(image).__name__}; give a torch tensor, a numpy array or anything with __dlpack__."
    )
