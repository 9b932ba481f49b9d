"""What computes an image encoder: a TensorRT engine, ONNX Runtime, or PyTorch; each a function of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from ...errors import CheckFailed, EnvironmentProblem
from ...export.encoder import HQ_OUTPUT, OUTPUT
from ...export.writer import DTYPES
from ...model.checkpoint import LoadedSam
from ...model.encoder import SparseSamEncoder
from ...model.layers import cast_copy
from ..manifest import EngineManifest
from ..opening import OpenEngine, open_engine
from ..verify import sparsity_of

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""An image (B, 3, 1024, 1024) on the backend's device -> the encoder's outputs; all float32 and contiguous."""

INPUT = "image"


class Backend(ABC):
    """Weights on a device, shared by any number of runs.

    Attributes:
        device: where images are taken and results made.
        kernels: what computes, in words.
    """

    device: torch.device
    kernels: str

    @abstractmethod
    def new_run(self) -> Run:
        """A function with working memory of its own, so that it may be used beside others.

        On a GPU it is always called in the stream that is current now.
        """


class EngineBackend(Backend):
    """A TensorRT or TensorRT-RTX engine.

    Raises:
        CheckFailed, EnvironmentProblem: see `open_engine`.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):  # engines and contexts belong to the GPU that is current when they are made
            self.opened = open_engine(folder, manifest, manifest.engine, device.index)
        self.kernels = self.opened.kernels

    def new_run(self) -> Run:
        with torch.cuda.device(self.device):
            return _EngineRun(self.opened)


class _EngineRun:
    """One execution context: the engine reads the image and writes the results where torch has them."""

    def __init__(self, opened: OpenEngine) -> None:
        self.opened, engine = opened, opened.engine
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EnvironmentProblem(
                f"{opened.path} has no room for its working memory ({opened.messages.reason()}); free GPU memory."
            )
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.outputs = [name for name in (OUTPUT, HQ_OUTPUT) if name in names]

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        context = self.context
        self._require(context.set_input_shape(INPUT, tuple(image.shape)))
        self._require(context.set_tensor_address(INPUT, image.data_ptr()))
        results = []
        for name in self.outputs:
            results.append(torch.empty(tuple(context.get_tensor_shape(name)), device=image.device))
            self._require(context.set_tensor_address(name, results[-1].data_ptr()))
        self._require(context.execute_async_v3(torch.cuda.current_stream(image.device).cuda_stream))
        return tuple(results)

    def _require(self, done: bool) -> None:
        if not done:
            reason = self.opened.messages.reason()
            raise CheckFailed(f"{self.opened.path} does not run ({reason}); rebuild it on this machine.")


class OnnxRuntimeBackend(Backend):
    """``encoder.onnx`` under ONNX Runtime, its custom nodes as their function bodies.

    Raises:
        EnvironmentProblem: ONNX Runtime has no provider for ``device``, or no kernels for the graph's precision there.
        CheckFailed: the files are not those of the manifest, or ONNX Runtime refuses the graph.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, device: torch.device) -> None:
        self.device, self.path = device, folder / manifest.encoder_onnx.name
        for record in (manifest.encoder_onnx, *manifest.weight_files):
            record.check(folder, f"rebuild with `sparsesam-export build --output {folder}`")
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise EnvironmentProblem(
                f"ONNX Runtime {onnxruntime.__version__} has no {provider}; "
                "pip install 'sparsesam-deploy[onnxruntime-gpu]' in place of onnxruntime."
            )
        if manifest.precision == "bf16" and device.type == "cpu":
            raise EnvironmentProblem(
                "ONNX Runtime has no bfloat16 kernels for the CPU; build fp16 or fp32, or use the torch backend."
            )
        self.provider = provider
        self.session = self._session({}) if device.type == "cpu" else None  # on a GPU each run has its own
        self.kernels = f"ONNX Runtime {onnxruntime.__version__} {provider}"

    def new_run(self) -> Run:
        if self.device.type == "cpu":
            return partial(self._encode, self.session)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        options = {"device_id": str(self.device.index), "user_compute_stream": str(stream)}
        return partial(self._encode, self._session(options))

    def _session(self, provider_options: dict[str, str]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(self.path, options, providers=[(self.provider, provider_options)])
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckFailed(f"ONNX Runtime cannot run {self.path} ({reason}); export it again.") from error
        if session.get_providers()[0] != self.provider:  # it drops a provider that does not start, and says nothing
            raise EnvironmentProblem(
                f"{self.provider} of ONNX Runtime {onnxruntime.__version__} does not start on {self.device}; install "
                "the CUDA and cuDNN it was built for, or use device='cpu'."
            )
        return session

    def _encode(self, session: onnxruntime.InferenceSession, image: Tensor) -> tuple[Tensor, ...]:
        """From torch's memory into torch's memory; on a GPU too ONNX Runtime waits for the result."""
        binding, place = session.io_binding(), (self.device.type, self.device.index or 0, np.float32)
        binding.bind_input(INPUT, *place, tuple(image.shape), image.data_ptr())
        results = []
        for output in session.get_outputs():
            sizes = [size if isinstance(size, int) else len(image) for size in output.shape]  # the batch has a name
            results.append(torch.empty(sizes, device=self.device))
            binding.bind_output(output.name, *place, sizes, results[-1].data_ptr())
        session.run_with_iobinding(binding)
        return tuple(results)


class TorchBackend(Backend):
    """The encoder rebuilt from its checkpoint with the manifest's sparsity and precision.

    The operators are plain torch on the CPU and the Triton kernels on a GPU.
    """

    def __init__(self, loaded: LoadedSam, manifest: EngineManifest, device: torch.device) -> None:
        self.device, self.dtype = device, DTYPES[manifest.precision]
        kernels = "triton" if device.type == "cuda" else "reference"
        sparsity = sparsity_of(manifest.sparsity.model_dump())
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity, manifest.gelu, kernels)
        self.encoder = cast_copy(encoder, self.dtype).to(device)
        self.kernels = f"torch {torch.__version__} {kernels} on {device}"

    def new_run(self) -> Run:
        return self._run

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        encoder, image = self.encoder, image.to(self.dtype)
        if not encoder.config.hq:
            return (encoder(image).float().contiguous(),)
        streams = encoder.block_outputs(image)
        return encoder.finish(streams[-1]).float().contiguous(), encoder.interm_embeddings(streams).float()
