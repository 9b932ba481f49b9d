"""``encoder.onnx`` in ONNX Runtime as a runtime."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..engines.folder import BuildFolder
from ..engines.manifest import EngineManifest
from ..errors import EnvironmentProblem
from ..optional import importing
from ..parity.onnx_runner import explained
from .interface import INPUT, Run, Runtime, float32_result

if TYPE_CHECKING:
    import onnxruntime

LAYERS = frozenset({"Conv", "Erf", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Softmax", "TopK"})
"""Operators of the graph that compute on activations and never on shapes."""


class OnnxRuntime(Runtime):
    """``encoder.onnx`` under ONNX Runtime, its custom nodes as their function bodies.

    On the CPU all runs share one session. On a GPU each has its own, with weights of its own, because a session is tied
    to a stream; arithmetic on shapes may stay on the CPU there, layers may not: see `_check_placement`.

    Raises:
        EnvironmentProblem: ONNX Runtime is not installed, has no provider for ``device``, or no kernels for the graph's
            precision there.
        CheckFailed: the files are not those of the manifest, or ONNX Runtime refuses the graph.
    """

    def __init__(self, folder: Path, manifest: EngineManifest, device: torch.device) -> None:
        with importing("onnxruntime", "--runtime onnxruntime", "onnxruntime-gpu" if device.type == "cuda" else None):
            import onnxruntime
        self.device, self.path = device, folder / manifest.encoder_onnx.name
        BuildFolder(folder).check_encoder(manifest)
        provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise EnvironmentProblem(
                f"ONNX Runtime {onnxruntime.__version__} has no {provider}; "
                "pip uninstall -y onnxruntime && pip install --force-reinstall onnxruntime-gpu."
            )
        if manifest.export.dtype == "bf16" and device.type == "cpu":
            raise EnvironmentProblem(
                "ONNX Runtime has no bfloat16 kernels for the CPU; build fp16 or fp32, or use the torch runtime."
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
            results.append(float32_result(sizes, self.device))
            binding.bind_output(output.name, *place, sizes, results[-1].data_ptr())
        with self._explained():
            session.run_with_iobinding(binding)
        return tuple(results)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path, "free memory if that is what it lacks, or choose another runtime")


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
            "build another precision, or choose the torch runtime or device cpu."
        )
