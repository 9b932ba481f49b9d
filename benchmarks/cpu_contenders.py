"""The image encoders that `cpu_speed` compares, each run in a process of its own so that its memory is its own.

A contender is made, computes twice, of which one is compared, and then does what it is asked.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sparsesam_deploy.model.config import SamConfig

ONNX_PRODUCTS = {"Gemm", "MatMul", "FusedMatMul"}
OPENVINO_PRODUCTS = {"FullyConnected", "MatMul", "Gemm"}
TORCH_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
PROFILED = 3
"""Runs whose median says what matrix products take."""


@dataclass(frozen=True)
class Task:
    """What a process has to run: ``library`` computes the encoder in ``file``, a checkpoint or an ONNX file."""

    library: str
    file: Path
    config: SamConfig
    threads: int


class Contender(ABC):
    """One encoder, float32, ready to run."""

    @abstractmethod
    def run(self, image: np.ndarray) -> np.ndarray:
        """Image (1, 3, 1024, 1024) -> embeddings (1, 256, 64, 64)."""

    @abstractmethod
    def products(self, image: np.ndarray) -> float:
        """Milliseconds that the matrix products of one run take, by the library's own profiler."""


class TorchContender(Contender):
    """segment_anything's encoder, or transformers', launched by Python."""

    def __init__(self, task: Task) -> None:
        import torch

        torch.set_num_threads(task.threads)
        self.encoder = self.load(task).eval().requires_grad_(False)

    def load(self, task: Task) -> Any:
        from sparsesam_deploy.model.checkpoint import load_checkpoint

        return load_checkpoint(task.file).sam.image_encoder

    def run(self, image: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self.encode(torch.from_numpy(image)).numpy()

    def encode(self, image: Any) -> Any:
        return self.encoder(image)

    def products(self, image: np.ndarray) -> float:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(PROFILED):
                self.run(image)
        events = profiler.key_averages()
        return sum(event.self_cpu_time_total for event in events if event.key in TORCH_PRODUCTS) / PROFILED / 1e3


class TransformersContender(TorchContender):
    """The vision encoder of ``transformers.SamModel``, with the attention that it chooses."""

    def load(self, task: Task) -> Any:
        from transformers import SamConfig as HuggingFaceConfig
        from transformers import SamModel

        from sparsesam_deploy.model.huggingface import official_name

        config = task.config
        vision = {
            "hidden_size": config.embed_dim,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.num_heads,
            "global_attn_indexes": list(config.global_blocks),
            "mlp_dim": 4 * config.embed_dim,
        }
        encoder = SamModel(HuggingFaceConfig(vision_config=vision)).vision_encoder
        tensors = super().load(task).state_dict()
        official = {name: official_name(f"vision_encoder.{name}") for name in encoder.state_dict()}
        encoder.load_state_dict({name: tensors[own.removeprefix("image_encoder.")] for name, own in official.items()})
        return encoder

    def encode(self, image: Any) -> Any:
        return self.encoder(image)[0]


class OnnxRuntimeContender(Contender):
    """An ONNX file in ONNX Runtime."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.session: Any = self.new_session()

    def new_session(self, profile: str | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.task.threads
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(self.task.file, options, providers=["CPUExecutionProvider"])

    def run(self, image: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: image})[0]

    def products(self, image: np.ndarray) -> float:
        with tempfile.TemporaryDirectory() as folder:
            self.session = None  # of a ViT-B exported plainly, two do not fit into 24 GiB
            session = self.session = self.new_session(str(Path(folder, "profile")))
            for _ in range(PROFILED):
                session.run(None, {session.get_inputs()[0].name: image})
            events = json.loads(Path(session.end_profiling()).read_text())
        times = defaultdict(list)
        for event in events:
            if event.get("args", {}).get("op_name") in ONNX_PRODUCTS and event["name"].endswith("_kernel_time"):
                times[event["name"]].append(event["dur"])
        return sum(statistics.median(node) for node in times.values()) / 1e3


class OpenVinoContender(Contender):
    """An ONNX file without functions in OpenVINO, for latency and in float32."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.request = self.new_request(profile=False)

    def new_request(self, profile: bool) -> Any:
        import openvino

        choices = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.task.threads,
            "PERF_COUNT": profile,
        }
        core = openvino.Core()
        return core.compile_model(core.read_model(self.task.file), "CPU", choices).create_infer_request()

    def run(self, image: np.ndarray) -> np.ndarray:
        return np.array(self.request.infer([image])[0])

    def products(self, image: np.ndarray) -> float:
        request, sums = self.new_request(profile=True), []
        for _ in range(PROFILED):
            request.infer([image])
            nodes = [node for node in request.profiling_info if node.node_type in OPENVINO_PRODUCTS]
            sums.append(sum(node.real_time.total_seconds() for node in nodes))
        return 1e3 * statistics.median(sums)


CONTENDERS: dict[str, type[Contender]] = {
    "torch": TorchContender,
    "transformers": TransformersContender,
    "onnxruntime": OnnxRuntimeContender,
    "openvino": OpenVinoContender,
}


def serve(task: Task, image_file: Path, connection: Connection) -> None:
    """The process of one contender: answers ``output``, ``time``, ``memory`` and ``products`` until told ``end``."""
    image = np.load(image_file)
    try:
        contender = CONTENDERS[task.library](task)
        output = contender.run(image)
    except Exception as problem:  # whatever a library raises: the others go on
        connection.send(problem if isinstance(problem, ImportError) else RuntimeError(str(problem)[:300]))
        return
    contender.run(image)  # ONNX Runtime plans its memory by the first run and asks for it anew in the second
    connection.send(output)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was that of loading
    while (asked := connection.recv()) != "end":
        if asked == "time":
            begun = time.perf_counter()
            contender.run(image)
            connection.send(1e3 * (time.perf_counter() - begun))
        elif asked == "memory":
            connection.send(peak_mib())
        else:
            connection.send(contender.products(image))


def peak_mib() -> int:
    """The most memory that this process has held since its peak was last forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10
