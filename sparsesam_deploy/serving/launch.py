"""How the server is started: the exact command, the container it needs, and the README that says so."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..engines.manifest import EngineManifest
from ..engines.options import DECODER_PROFILE
from ..plugin_library import REGISTER
from .options import ServingOptions

MOUNT = "/models"
IMAGE = "sparsesam-triton"
SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"
COMPATIBILITY = "https://github.com/triton-inference-server/server/blob/main/docs/introduction/compatibility.md"
DOCKERFILE = """\
# Triton with what the python models import besides NumPy, which is there. RELEASE is like 26.07; see README-*.md.
ARG RELEASE
FROM nvcr.io/nvidia/tritonserver:${RELEASE}-py3
RUN PIP_BREAK_SYSTEM_PACKAGES=1 pip3 install --no-cache-dir "pillow>=10"
"""


@dataclass(frozen=True)
class Launch:
    """The commands that serve a repository: ``server`` where it lies at ``/models``, ``docker`` from outside."""

    server: tuple[str, ...]
    build: str
    docker: str
    container: str

    @classmethod
    def of(cls, repository: Path, manifest: EngineManifest, options: ServingOptions) -> Launch:
        encoder, decoder = (each == "tensorrt_plan" for each in (options.platform, options.decoder_platform))
        server = ["tritonserver", f"--model-repository={MOUNT}"]
        if encoder and manifest.libraries:  # Triton only dlopens what it is given
            server.append(f"--backend-config=tensorrt,plugins={MOUNT}/{REGISTER}")
        if (encoder and manifest.carries_host_code) or (decoder and manifest.version_compatible):
            # Triton's only way to have host code allowed, which embedded plugins are too
            server.append("--backend-config=tensorrt,version-compatible=true")
        if options.cache_mib:
            server.append(f"--cache-config=local,size={options.cache_mib << 20}")
        gpus = "--gpus all " if options.device == "gpu" else ""
        repository = repository.resolve()
        return cls(
            tuple(server),
            f"docker build --build-arg RELEASE=YY.MM -t {IMAGE} - < {shlex.quote(str(repository / 'Dockerfile'))}",
            f"docker run --rm {gpus}--shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 "
            f"-v {shlex.quote(str(repository))}:{MOUNT}:ro {IMAGE} {shlex.join(server)}",
            _container(manifest, options, encoder or decoder),
        )


def _container(manifest: EngineManifest, options: ServingOptions, engines: bool) -> str:
    """Which release of the container: found by the user, since which holds what is NVIDIA's to say."""
    words = []
    if engines:
        version = manifest.builder_version
        later = " or later" if manifest.version_compatible else ", to the last digit"
        words.append(
            f"RELEASE is a release of nvcr.io/nvidia/tritonserver whose TensorRT is {version}{later}: {SUPPORT_MATRIX} "
            "lists them. To see what one holds: `docker run --rm nvcr.io/nvidia/tritonserver:YY.MM-py3 "
            "sh -c 'find / -name \"libnvinfer.so.*\" 2>/dev/null'`. If none has it, build the engines inside the "
            "container you serve from."
        )
    if "onnxruntime" in (options.platform, options.decoder_platform):
        words.append(f"The ONNX files need ONNX Runtime 1.23 or later, which is in 25.09 and later ({COMPATIBILITY}).")
    return " ".join(words)


def readme(launch: Launch, manifest: EngineManifest, options: ServingOptions, models: tuple[str, ...]) -> str:
    """``README-<name>-<version>.md`` of a repository."""
    served = {
        "tensorrt_plan": f"TensorRT {manifest.builder_version} engine for {', '.join(manifest.compute_capabilities)}",
        "onnxruntime": f"ONNX Runtime on the {options.device.upper()}",
    }
    sha256 = manifest.checkpoint.sha256
    prompts, points = (largest for _, _, largest in DECODER_PROFILE.values())
    limit = f"A request has up to {prompts} prompts of {points} points, SAM's padding point included.\n"
    limit = limit if options.decoder_platform == "tensorrt_plan" else ""
    return f"""\
# {options.name}, version {options.version}: image file and prompts to masks

{manifest.family} of {manifest.checkpoint.source} (SHA-256 {sha256}), {manifest.export.dtype}; encoder: \
{served[options.platform]}; decoder: {served[options.decoder_platform]}. Models: {", ".join(models)}.
{limit}
## Start

{launch.container}

```sh
{launch.build}
{launch.docker}
```

The server command alone, with this folder at {MOUNT}:

```sh
{shlex.join(launch.server)}
```

A plugin library that cannot be loaded is only a line in Triton's log; the engine then fails to load by name. NVIDIA
advises against `--model-control-mode=poll` in production: with `explicit`, load `{options.name}` once files are whole.

## Ask

`{options.name}` takes `image` (bytes of a JPEG or PNG), `point_coords` (N, P, 2) in pixels of the image,
`point_labels` (N, P): 1 foreground, 0 background, 2 and 3 a box's corners, -1 nothing; and, if not left out,
`multimask_output` (default true). It answers what `SamPredictor.predict` does: `masks` (N, M, H, W) bool,
`iou_predictions` (N, M) and `low_res_masks` (N, M, 256, 256) logits.

```python
import numpy as np
import tritonclient.grpc as triton

def tensor(name, array, kind):
    given = triton.InferInput(name, array.shape, kind)
    given.set_data_from_numpy(array)
    return given

client = triton.InferenceServerClient("localhost:8001")
inputs = [
    tensor("image", np.fromfile("photo.jpg", np.uint8), "UINT8"),
    tensor("point_coords", np.array([[[305, 15], [364, 71]]], np.float32), "FP32"),
    tensor("point_labels", np.array([[2, 3]], np.int32), "INT32"),
    tensor("multimask_output", np.array([False]), "BOOL"),
]
answer = client.infer("{options.name}", inputs)
masks, iou = answer.as_numpy("masks"), answer.as_numpy("iou_predictions")
```

`{options.name}_embed` takes `image` and answers embeddings and `original_size`; `{options.name}_predict` takes these
and prompts and answers masks: for many questions about one image, and for embeddings that the application keeps.
"""
