"""Runs an exported ONNX file under ONNX Runtime, inner values included."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ..errors import CheckFailed, EnvironmentProblem, SparseSamError
from ..export.metadata import load_exported
from ..export.writer import EXTERNAL_DATA_ABOVE
from ..optional import importing
from .precision import in_float32

if TYPE_CHECKING:
    import onnxruntime

PROVIDER = "CPUExecutionProvider"
"""The only provider used here: none is ever chosen behind the user's back."""
EMULATED = ", bfloat16 emulated: float32 kernels, every result rounded"


@contextmanager
def explained(path: Path, remedy: str = "export the checkpoint again") -> Iterator[None]:
    """What ONNX Runtime raises over ``path`` becomes a `CheckFailed`: its exceptions share no base but Exception."""
    try:
        yield
    except (MemoryError, SparseSamError):
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckFailed(f"ONNX Runtime cannot run {path} ({reason}); {remedy}.") from error


class GraphRunner:
    """One session on the CPU.

    Args:
        model: a graph, or a part of one.
        path: the file it was read from, with its external data beside it.

    Raises:
        CheckFailed: ONNX Runtime refuses it.
    """

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.path, self.names = path, [value.name for value in model.graph.output]
        with explained(path):
            self.session = _session(model, path)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        with explained(self.path):
            results = self.session.run(self.names, inputs)
        return {name: np.asarray(value) for name, value in zip(self.names, results, strict=True)}


class OnnxRunner(GraphRunner):
    """One session of a whole file.

    Args:
        path: a file this project exported; its content digest is checked.
        inner_values: names of inner values to return beside the outputs.
        float32: run a half-precision graph in float32 without its rounding (see ``precision.py``).

    Raises:
        InvalidInput, CheckFailed: see `load_exported`; the graph lacks an inner value; ONNX Runtime refuses it.
        EnvironmentProblem: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, inner_values: Sequence[str] = (), float32: bool = False) -> None:
        self.kernels = kernels(path)
        model, self.metadata = load_exported(path)
        check_makes(model, path, inner_values)
        emulated = self.metadata["dtype"] == "bf16" and not float32
        if float32 or emulated:
            self.kernels += EMULATED if emulated else ", in float32 without rounding"
            onnx.load_external_data_for_model(model, str(path.parent))
            model = in_float32(model, inner_values, rounded=emulated)
        else:
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner_values)
        super().__init__(model, path)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs and inner values by name, all as float32."""
        return {name: np.asarray(value, np.float32) for name, value in super().run(inputs).items()}


def check_makes(model: onnx.ModelProto, path: Path, names: Sequence[str]) -> None:
    """Raise `CheckFailed` unless nodes of ``model`` make all these values."""
    made = {name for node in model.graph.node for name in node.output}
    if missing := [name for name in names if name not in made]:
        raise CheckFailed(
            f"{path} has no {missing[0]}, which an export of these densities has in this release; export the "
            "checkpoint again."
        )


def kernels(path: Path) -> str:
    """What runs ``path``, in words.

    Raises:
        EnvironmentProblem: ONNX Runtime is not installed.
    """
    with importing("onnxruntime", f"running {path.name}"):
        import onnxruntime
    return f"ONNX Runtime {onnxruntime.__version__} {PROVIDER}"


def _session(model: onnx.ModelProto, source: Path) -> onnxruntime.InferenceSession:
    """A session on ``model``, read from ``source`` with its external data there; loaded weights over 2 GiB go by disk.

    Without ``enable_fallback=False`` a refusal is printed on stdout, where ``--json`` prints, and tried once more.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # it would keep the memory of all activations, for each session
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(source.parent))
    choices: dict[str, Any] = {"providers": [PROVIDER], "enable_fallback": False}
    if sum(len(weight.raw_data) for weight in model.graph.initializer) < EXTERNAL_DATA_ABOVE:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, **choices)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            onnx.save(model, path, save_as_external_data=True, location="weights")
            return onnxruntime.InferenceSession(path, options, **choices)
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write the weights of {source} to {tempfile.gettempdir()} ({error.strerror}); "
            "free space there or set TMPDIR."
        ) from error
