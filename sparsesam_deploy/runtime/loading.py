"""`load`: from a build folder to an `Encoder`, with every mismatch refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch

from ..engines.folder import BuildFolder
from ..engines.manifest import BuilderName, EngineManifest
from ..errors import EnvironmentProblem, InvalidInput
from ..model.checkpoint import NANO_CHECKPOINT, LoadedSam, load_checkpoint
from .encoder import Encoder
from .engine import EngineRuntime
from .interface import Runtime
from .onnx_runtime import OnnxRuntime
from .openvino_runtime import OpenVinoRuntime
from .torch_runtime import TorchRuntime

RuntimeName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino", "torch"]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)


def load(
    path: str | Path,
    runtime: RuntimeName | None = None,
    device: str | torch.device | None = None,
    *,
    cuda_graph: bool = False,
    checkpoint: str | Path | None = None,
) -> Encoder:
    """Open what `sparsesam-export build` left as an image encoder.

    Args:
        path: the folder, or the manifest in it.
        runtime: the manifest's builder if not given: its engine. ``onnxruntime`` and ``openvino`` run
            ``encoder.onnx``, and ``torch`` the checkpoint with the same sparsity and precision: the Triton kernels on a
            GPU, plain torch on the CPU.
        device: ``cuda``, ``cuda:1``, ``cpu``; if it is not given, engines are on ``cuda`` and ``openvino`` on ``cpu``;
            for the other runtimes it has to be.
        cuda_graph: record a CUDA graph of the engine, or of torch's kernels, at the first call of each batch size.
        checkpoint: weights for the torch runtime, if they do not lie in the folder or the current one under the name
            in the manifest.

    Raises:
        InvalidInput: no such manifest, or choices that do not go together.
        CheckFailed: the build failed its parity check, or the folder's files, the installed runtime or the GPU are not
            those of the manifest.
        EnvironmentProblem: the GPU, the runtime or one of its providers is not there; nothing else is taken instead.
    """
    build = BuildFolder.of(path)
    manifest, folder = build.read(), build.path
    name = runtime or manifest.builder
    if name not in RUNTIMES:
        raise InvalidInput(f"runtime {name!r} is unknown; choose one of {', '.join(RUNTIMES)}.")
    if checkpoint is not None and name != "torch":
        raise InvalidInput(f"the {name} runtime has its weights in {folder}; leave checkpoint out.")
    place = choose_device(name, device)
    if cuda_graph and (name == "onnxruntime" or place.type == "cpu"):
        raise InvalidInput(
            f"{name} on {place} makes no CUDA graph; leave cuda_graph out, or use an engine or torch on a GPU."
        )
    return Encoder(_runtime(name, folder, manifest, place, checkpoint), manifest, cuda_graph)


def _runtime(
    name: str, folder: Path, manifest: EngineManifest, device: torch.device, checkpoint: str | Path | None
) -> Runtime:
    if name == "onnxruntime":
        return OnnxRuntime(folder, manifest, device)
    if name == "openvino":
        BuildFolder(folder).check_encoder(manifest)
        return OpenVinoRuntime(folder / manifest.encoder_onnx.name)
    if name == "torch":
        return TorchRuntime.of_build(_weights(folder, manifest, checkpoint), manifest, device)
    if name != manifest.builder:
        raise InvalidInput(
            f"{folder / manifest.engine.name} was built by {manifest.builder}, which {name} cannot load; leave the "
            f"runtime out or rebuild with `sparsesam-export build --builder {name} --output {folder}`."
        )
    return EngineRuntime(folder, manifest, device)


def choose_device(name: str, device: str | torch.device | None) -> torch.device:
    """The device that runtime ``name`` computes on; raises as `load` does."""
    devices = _devices(name)
    if device is None and len(devices) > 1:
        raise InvalidInput(f"{name} runs on the CPU and on GPUs; say which by device, cpu or cuda.")
    try:
        place = torch.device(devices[0] if device is None else device)
    except RuntimeError:
        raise InvalidInput(f"device {device!r} is unknown; give cpu, cuda or cuda:1.") from None
    if place.type not in devices:
        raise InvalidInput(f"{name} does not run on {place}; give {' or '.join(devices)}.")
    if place.type == "cpu":
        return place
    if not torch.cuda.is_available():
        raise EnvironmentProblem(
            f"torch {torch.__version__} finds no CUDA GPU for {name}; install a CUDA build of torch on a machine with "
            "one, or choose runtime onnxruntime and device cpu."
        )
    place = torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
    if place.index >= torch.cuda.device_count():
        raise EnvironmentProblem(
            f"{place} does not exist: {torch.cuda.device_count()} GPUs are visible here; give one of them."
        )
    return place


def _devices(name: str) -> tuple[str, ...]:
    """What runtime ``name`` can compute on; the first one without being asked, where it is the only one."""
    if name in get_args(BuilderName):
        return ("cuda",)
    return ("cpu",) if name == "openvino" else ("cpu", "cuda")


def _weights(folder: Path, manifest: EngineManifest, checkpoint: str | Path | None) -> LoadedSam:
    name = manifest.checkpoint.source
    path = None if checkpoint is None else Path(checkpoint)
    if path is None:
        places = (folder / name, Path(name), NANO_CHECKPOINT if NANO_CHECKPOINT.name == name else None)
        path = next((place for place in places if place is not None and place.is_file()), None)
    if path is None:
        raise InvalidInput(
            f"the torch runtime needs {name}, and it lies neither in {folder} nor here; give it as checkpoint."
        )
    loaded = load_checkpoint(path)
    if loaded.sha256 != manifest.checkpoint.sha256:
        raise InvalidInput(
            f"checkpoint {path} is not the {name} this build was made from (its SHA-256 begins with "
            f"{loaded.sha256[:12]}, not {manifest.checkpoint.sha256[:12]}); give that file."
        )
    return loaded
