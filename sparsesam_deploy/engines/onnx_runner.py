"""Runs an exported ONNX file under ONNX Runtime, inner values included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ..export.metadata import load_exported
from .bfloat16 import with_rounding_emulated


class OnnxRunner:
    """One session on the CPU provider, nothing else: no provider is ever chosen behind the user's back.

    Args:
        path: a file this project exported; its content digest is checked.
        inner_values: names of inner values to return beside the outputs.

    Raises:
        InvalidInput, CheckFailed: see `load_exported`.
    """

    provider = "CPUExecutionProvider"

    def __init__(self, path: Path, inner_values: Sequence[str] = ()) -> None:
        model, self.metadata = load_exported(path)
        outputs = [value.name for value in model.graph.output]
        for name in inner_values:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        self.kernels = f"ONNX Runtime {onnxruntime.__version__} {self.provider}"
        if self.metadata["dtype"] == "bf16":
            model = with_rounding_emulated(onnx.load(path), inner_values)
            self.kernels += ", bfloat16 emulated: float32 kernels, every result rounded to bfloat16"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        source = model.SerializeToString()
        del model
        self.session = onnxruntime.InferenceSession(source, options, providers=[self.provider])
        self.names = [*outputs, *inner_values]

    def run(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs and inner values by name; half-precision inner values come as float32."""
        results = self.session.run(self.names, inputs)
        return {name: np.asarray(value, np.float32) for name, value in zip(self.names, results, strict=True)}
