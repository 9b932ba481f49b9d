"""``encoder.onnx`` in OpenVINO as a runtime, on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from onnx import inliner
from torch import Tensor

from ..errors import CheckFailed, InvalidInput
from ..export.metadata import load_exported, weight_files
from ..optional import importing
from .interface import Run, Runtime

if TYPE_CHECKING:
    import openvino


class OpenVinoRuntime(Runtime):
    """``encoder.onnx`` under OpenVINO, set for the latency of one call.

    OpenVINO knows no ONNX functions: a file that has them is inlined in memory. Arithmetic is float32 whatever the
    file's precision, since few processors have another that keeps it.

    Args:
        path: ``encoder.onnx``, of a build or of an export.

    Attributes:
        metadata: of the file.

    Raises:
        EnvironmentProblem: OpenVINO is not installed.
        InvalidInput: the file has functions, and weights beside it.
        CheckFailed: the file was edited, or OpenVINO refuses it.
    """

    def __init__(self, path: Path) -> None:
        with importing("openvino", "--runtime openvino"):
            import openvino
        model, self.metadata = load_exported(path, "encoder")
        self.device, core = torch.device("cpu"), openvino.Core()
        choices = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        try:
            self.model = core.compile_model(core.read_model(_readable(model, path)), "CPU", choices)
        except RuntimeError as error:
            reason = (str(error) or "no reason given").strip().splitlines()[-1]
            raise CheckFailed(f"OpenVINO cannot run {path} ({reason}); choose another runtime.") from error
        self.kernels = f"OpenVINO {openvino.__version__.partition('-')[0]} CPU, float32 arithmetic"

    def new_run(self) -> Run:
        return partial(self._encode, self.model.create_infer_request())

    @staticmethod
    def _encode(request: openvino.InferRequest, image: Tensor) -> tuple[Tensor, ...]:
        results = request.infer([image.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(np.array(result)) for result in results.to_tuple())  # the next call reuses it


def _readable(model: onnx.ModelProto, path: Path) -> Path | bytes:
    """What OpenVINO can read of ``model``: its file ``path``, or its content inlined."""
    if not model.functions:
        return path
    if weight_files(model):
        raise InvalidInput(
            f"{path} has functions, which OpenVINO does not know, and keeps its weights beside it; export it again "
            "with --inline."
        )
    return inliner.inline_local_functions(model).SerializeToString()
