"""What computes an image encoder: a TensorRT engine, ONNX Runtime, or PyTorch; each a function of tensors."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..engines.manifest import EngineManifest
from ..engines.opening import OpenEngine, open_engine
from ..errors import CheckFailed, EnvironmentProblem
from ..export.encoder import HQ_OUTPUT, OUTPUT
from ..export.writer import DTYPES
from ..model.checkpoint import LoadedSam
from ..model.encoder import SparseSamEncoder
from ..model.layers import cast_copy
from ..ops.backend import Backend as KernelBackend
from ..optional import importing
from ..parity.onnx_runner import explained

if TYPE_CHECKING:
    import onnxruntime

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""An image (B, 3, 1024, 1024) on the backend's device -> the encoder's outputs; all float32 and contiguous."""

INPUT = "image"
LAYERS = frozenset({"Conv", "Erf", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Softmax", "TopK"})
"""Operators of the graph that compute on activations and never on shapes."""


class Backend(ABC):
    """Weights on a device, shared by any number of runs, except that ONNX Runtime on a GPU has them once for each.

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
            results.append(_float32(context.get_tensor_shape(name), image.device))
            self._require(context.set_tensor_address(name, results[-1].data_ptr()))
        self._require(context.execute_async_v3(torch.cuda.current_stream(image.device).cuda_stream))
        return tuple(results)

    def _require(self, done: bool) -> None:
        if not done:
            reason = self.opened.messages.reason()
            raise CheckFailed(f"{self.opened.path} does not run ({reason}); rebuild it on this machine.")


class OnnxRuntimeBackend(Backend):
    """``encoder.onnx`` under ONNX Runtime, its custom nodes as their function bodies.

    On the CPU all runs share one session. On a GPU each has its own, with weights of its own, because a session is tied
    to a stream; arithmetic on shapes may stay on the CPU there, layers may not: see `_check_placement`.

    Raises:
        EnvironmentProblem: ONNX Runtime is not installed, has no provider for ``device``, or no kernels for the graph's
            precision there.
        CheckFailed: the files are not those of the manifest, or ONNX Runtime refuses the graph.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, device: torch.device) -> None:
        with importing("onnxruntime", "--backend onnxruntime", "onnxruntime-gpu" if device.type == "cuda" else None):
            import onnxruntime
        self.device, self.path = device, folder / manifest.encoder_onnx.name
        for record in (manifest.encoder_onnx, *manifest.weight_files):
            record.check(folder, f"rebuild with `sparsesam-export build --output {folder}`")
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise EnvironmentProblem(
                f"ONNX Runtime {onnxruntime.__version__} has no {provider}; "
                "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu."
            )
        if manifest.export.dtype == "bf16" and device.type == "cpu":
            raise EnvironmentProblem(
                "ONNX Runtime has no bfloat16 kernels for the CPU; build fp16 or fp32, or use the torch backend."
            )
        self.provider = provider
        self.session = self._session({}) if device.type == "cpu" else None  # on a GPU each run has its own
        self.kernels = f"ONNX Runtime {onnxruntime.__version__} {provider}"

    def new_run(self) -> Run:
        if self.device.type == "cpu" and self.session is not None:
            return partial(self._encode, self.session)
        stream = torch.cuda.current_stream(self.device).cuda_stream
        options = {"device_id": str(self.device.index), "user_compute_stream": str(stream), "use_tf32": "0"}
        session = self._session(options)
        _check_placement(session, self.provider, self.path)
        return partial(self._encode, session)

    def _session(self, provider_options: dict[str, str]) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = [(self.provider, provider_options)]
        with self._explained():  # a provider that fails is not to be replaced by the CPU's, which is the default
            session = onnxruntime.InferenceSession(self.path, options, providers=providers, enable_fallback=False)
        if session.get_providers()[0] != self.provider:  # it drops a provider that does not start, and says nothing
            raise EnvironmentProblem(
                f"{self.provider} of ONNX Runtime {onnxruntime.__version__} does not start on {self.device}; install "
                "the CUDA and cuDNN it was built for, or choose device cpu."
            )
        return session

    def _encode(self, session: onnxruntime.InferenceSession, image: Tensor) -> tuple[Tensor, ...]:
        """From torch's memory into torch's memory; on a GPU too ONNX Runtime waits for the result."""
        binding, place = session.io_binding(), (self.device.type, self.device.index or 0, np.float32)
        binding.bind_input(INPUT, *place, tuple(image.shape), image.data_ptr())
        results = []
        for output in session.get_outputs():
            sizes = [size if isinstance(size, int) else len(image) for size in output.shape]  # the batch has a name
            results.append(_float32(sizes, self.device))
            binding.bind_output(output.name, *place, sizes, results[-1].data_ptr())
        with self._explained():
            session.run_with_iobinding(binding)
        return tuple(results)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path, "free memory if that is what it lacks, or choose another backend")


class TorchBackend(Backend):
    """A `SparseSamEncoder` where its parameters are and in their precision; on a GPU convolutions are not in TF32."""

    def __init__(self, encoder: SparseSamEncoder) -> None:
        parameter = next(encoder.parameters())
        self.encoder, self.device, self.dtype = encoder, parameter.device, parameter.dtype
        self.kernels = f"torch {torch.__version__} {encoder.backend} on {self.device}"

    @classmethod
    def of_build(cls, loaded: LoadedSam, manifest: EngineManifest, device: torch.device) -> TorchBackend:
        """The encoder rebuilt from its checkpoint with the manifest's sparsity and precision.

        The operators are plain torch on the CPU and the Triton kernels on a GPU.
        """
        kernels: KernelBackend = "triton" if device.type == "cuda" else "reference"
        choices = manifest.sparsity, manifest.export.gelu
        encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, *choices, kernels)
        return cls(cast_copy(encoder, DTYPES[manifest.export.dtype]).to(device))

    def new_run(self) -> Run:
        return self._run

    def _run(self, image: Tensor) -> tuple[Tensor, ...]:
        with _without_tf32() if self.device.type == "cuda" else nullcontext():
            return self.encoder.encode(image.to(self.dtype)).map(lambda result: result.float().contiguous()).all


_precision_lock = threading.Lock()
"""Torch's setting is the process's: of two runs the later one would restore what the earlier one had set."""


@contextmanager
def _without_tf32() -> Iterator[None]:
    """cuDNN computes in full float32; torch's default is TF32, with 10 bits behind the point instead of 23.

    Torch has two names for the setting, and raises where the older one is read while they differ: both are set.
    """
    cudnn: Any = torch.backends.cudnn  # at run time an object with more than the module declares
    with _precision_lock:
        by_operator = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
        try:
            allowed = cudnn.allow_tf32
        except RuntimeError:  # the user has set the newer one
            allowed = None
        if allowed is not None:
            cudnn.allow_tf32 = False
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
        try:
            yield
        finally:
            if allowed is not None:
                cudnn.allow_tf32 = allowed
            cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = by_operator


def _float32(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Memory for a result, whatever torch's default dtype is."""
    return torch.empty(tuple(sizes), dtype=torch.float32, device=device)


def _check_placement(session: onnxruntime.InferenceSession, provider: str, path: Path) -> None:
    """Raise `EnvironmentProblem` where ONNX Runtime would compute layers elsewhere than on ``provider``.

    It gives the CPU any node that has no kernel on the GPU, and says nothing.
    """
    import onnxruntime

    placed = (
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )
    if elsewhere := sorted({op_type for name, op_type in placed if name != provider and op_type in LAYERS}):
        raise EnvironmentProblem(
            f"ONNX Runtime {onnxruntime.__version__} has no {provider} kernels for {', '.join(elsewhere)} of {path}; "
            "build another precision, or choose the torch backend or device cpu."
        )
