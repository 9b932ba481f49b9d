"""What `load` opens is the encoder it should be, behind the predictor too; what it refuses, and with which remedy."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from sparsesam_deploy import load
from sparsesam_deploy.engines.manifest import MANIFEST, EngineManifest, ParitySummary
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem, InvalidInput
from sparsesam_deploy.model.config import DENSE
from sparsesam_deploy.model.predictor import SparseSamPredictor
from sparsesam_deploy.runtime import onnx_runtime, openvino_runtime, torch_runtime
from sparsesam_deploy.runtime.openvino_runtime import OpenVinoRuntime
from tests.comparison import relative_error
from tests.export.models import export_with_weights_beside, global_outputs, random_image
from tests.helpers import TINY, save_random_checkpoint
from tests.runtime.builds import CHECKPOINT

on_the_cpu = pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
TOLERANCE = 1e-5


@pytest.fixture
def copied(dense, tmp_path) -> Path:
    """A build that may be spoiled."""
    return Path(shutil.copytree(dense.folder, tmp_path / "build"))


# --- what it computes --------------------------------------------------------------------------------------------


@on_the_cpu
def test_a_dense_build_is_segment_anything(dense, runtime):
    image = random_image(batch=2)
    with torch.no_grad():
        expected = dense.loaded.sam.image_encoder(image)
    found = load(dense.folder, runtime, "cpu")(image)
    assert found.dtype == torch.float32 and relative_error(found, expected) < TOLERANCE


@on_the_cpu
def test_sam_hq_answers_with_a_pair(sparse_hq, runtime):
    image, encoder = random_image(), sparse_hq.encoder
    with torch.no_grad():
        streams = list(encoder.streams(image))[1:]
        expected = encoder.finish(streams[-1]), global_outputs(encoder, streams)
    found = load(sparse_hq.folder / MANIFEST, runtime, "cpu")(image.numpy())
    assert [value.shape for value in found] == [(1, 256, 64, 64), (2, 1, 64, 64, 64)]
    for value, wanted in zip(found, expected, strict=True):
        assert relative_error(torch.from_numpy(value), wanted) < TOLERANCE


@on_the_cpu
def test_behind_the_predictor(sparse_hq, runtime):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    sam, encoder = sparse_hq.loaded.sam, load(sparse_hq.folder, runtime, "cpu")
    predictors = [SparseSamPredictor(sam, sparse_hq.encoder), SparseSamPredictor(sam, encoder)]
    predictors[0].set_image(pixels)
    predictors[1].set_image(torch.from_numpy(pixels))
    expected, found = (predictor.predict(box=np.array([5, 5, 40, 40]))[2] for predictor in predictors)
    assert relative_error(torch.from_numpy(found), torch.from_numpy(expected)) < 1e-4


def test_half_precision_is_that_of_the_build(dense, tmp_path):
    """The torch runtime computes in the manifest's precision: more than float32's error, less than nonsense."""
    shutil.copytree(dense.folder, tmp_path, dirs_exist_ok=True)
    manifest = EngineManifest.read(tmp_path / MANIFEST)
    manifest.model_copy(update={"export": replace(manifest.export, dtype="bf16")}).write(tmp_path / MANIFEST)
    encoder = load(tmp_path, "torch", "cpu")
    image = random_image()
    with torch.no_grad():
        expected = dense.loaded.sam.image_encoder(image)
    assert 1e-4 < relative_error(encoder(image), expected) < 0.1


@on_the_cpu
def test_torchs_default_dtype_does_not_matter(dense, runtime):
    """float64, since in half as much memory a failure would write beyond the end and take pytest along."""
    image, before = random_image(), torch.get_default_dtype()
    with torch.no_grad():
        expected = dense.loaded.sam.image_encoder(image)
    encode = load(dense.folder, runtime, "cpu")
    torch.set_default_dtype(torch.float64)
    try:
        found = encode(image)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == torch.float32 and relative_error(found, expected) < TOLERANCE


def test_sam_hq_on_torch_keeps_no_more_than_it_answers_with(sparse_hq):
    """The streams of all blocks of a ViT-H would be 670 MB an image."""
    runtime = load(sparse_hq.folder, "torch", "cpu")._runtime
    streams, alive, most = runtime.encoder.streams, [], []

    def watched(image):
        for stream in streams(image):
            alive.append(weakref.ref(stream))
            most.append(sum(reference() is not None for reference in alive))
            yield stream

    runtime.encoder.streams = watched
    runtime.new_run()(random_image())
    assert len(most) == 1 + sparse_hq.encoder.config.depth and max(most) <= 2  # a block's input and its output


@pytest.fixture
def torchs_own_choice():
    """TF32 in convolutions, as in a new process, whatever earlier tests have set."""
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.allow_tf32
    cudnn.allow_tf32 = True
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    yield
    cudnn.allow_tf32 = before[2]
    cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = before[:2]


def test_torch_on_a_gpu_computes_in_full_float32(dense, torchs_own_choice):
    """And leaves torch's own choice as it was."""
    runtime, cudnn, seen = load(dense.folder, "torch", "cpu")._runtime, torch.backends.cudnn, []
    encode = runtime.encoder.encode
    runtime.encoder.encode = lambda image: seen.append((cudnn.conv.fp32_precision, cudnn.allow_tf32)) or encode(image)
    runtime.device = torch.device("cuda", 0)
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.allow_tf32
    runtime.new_run()(random_image())
    assert seen == [("ieee", False)] and before == ("tf32", "tf32", True)
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, cudnn.allow_tf32) == before


def test_torchs_newer_setting_is_respected_too(torchs_own_choice, monkeypatch):
    """With it alone torch's older one cannot be read."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn.rnn, "fp32_precision", "ieee")
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        _ = cudnn.allow_tf32
    with torch_runtime._without_tf32():
        assert cudnn.conv.fp32_precision == "ieee"
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) == ("tf32", "ieee")


# --- what it refuses ---------------------------------------------------------------------------------------------

CPU = {"runtime": "onnxruntime", "device": "cpu"}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("choices", "error", "sentence"),
    [
        ({"runtime": "coreml"}, InvalidInput, "runtime 'coreml' is unknown; choose one of tensorrt, tensorrt-rtx"),
        ({"runtime": "openvino", "device": "cuda"}, InvalidInput, "openvino does not run on cuda; give cpu"),
        ({"runtime": "openvino", "cuda_graph": True}, InvalidInput, "openvino on cpu makes no CUDA graph"),
        ({"runtime": "torch"}, InvalidInput, "torch runs on the CPU and on GPUs; say which by device, cpu or cuda"),
        ({"runtime": "onnxruntime", "device": "gpu"}, InvalidInput, "device 'gpu' is unknown; give cpu, cuda or"),
        ({"runtime": "onnxruntime", "device": "meta"}, InvalidInput, "onnxruntime does not run on meta; give cpu or"),
        ({"device": "cpu"}, InvalidInput, "tensorrt-rtx does not run on cpu; give cuda"),
        ({**CPU, "cuda_graph": True}, InvalidInput, "onnxruntime on cpu makes no CUDA graph; leave cuda_graph out"),
        ({**CPU, "checkpoint": "w.pth"}, InvalidInput, r"the onnxruntime runtime has its weights in \S+; leave"),
        pytest.param({}, EnvironmentProblem, "finds no CUDA GPU for tensorrt-rtx; install a CUDA build", marks=NO_GPU),
        pytest.param(
            {"runtime": "onnxruntime", "device": "cuda"},
            EnvironmentProblem,
            "finds no CUDA GPU for onnxruntime",
            marks=NO_GPU,
        ),
    ],
)
def test_choices_that_do_not_go_together(dense, choices, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        load(dense.folder, **choices)
    assert "\n" not in str(caught.value)


@pytest.fixture
def pretended_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_an_engine_of_the_other_builder(dense, pretended_gpus):
    with pytest.raises(
        InvalidInput, match=r"encoder.engine was built by tensorrt-rtx, which tensorrt cannot load; lea"
    ):
        load(dense.folder, "tensorrt")


def test_a_gpu_that_is_not_there(dense, pretended_gpus):
    with pytest.raises(EnvironmentProblem, match="cuda:2 does not exist: 2 GPUs are visible here"):
        load(dense.folder, device="cuda:2")


def test_onnx_runtime_without_the_provider(dense, pretended_gpus, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EnvironmentProblem, match="has no CUDAExecutionProvider; pip uninstall -y onnxruntime && pip"):
        load(dense.folder, "onnxruntime", "cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_that_drops_the_provider(dense, monkeypatch):
    """It warns and goes on with the CPU when CUDA does not start."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    manifest = EngineManifest.read(dense.folder / MANIFEST)
    runtime = onnx_runtime.OnnxRuntime(dense.folder, manifest, torch.device("cuda", 0))
    with pytest.raises(EnvironmentProblem, match=r"CUDAExecutionProvider of ONNX Runtime .* does not start on cuda:0"):
        runtime._session({})


@pytest.fixture
def ort(dense) -> onnx_runtime.OnnxRuntime:
    manifest = EngineManifest.read(dense.folder / MANIFEST)
    return onnx_runtime.OnnxRuntime(dense.folder, manifest, torch.device("cpu"))


SAYS_WHERE = pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="ONNX Runtime says where it computes from 1.24 on, which onnxruntime-gpu has to be",
)


@SAYS_WHERE
def test_onnx_runtime_that_computes_layers_elsewhere(ort):
    session, path = ort.session, ort.path
    with pytest.raises(
        EnvironmentProblem, match=r"no CUDAExecutionProvider kernels for Conv, .*MatMul, .* build anoth"
    ):
        onnx_runtime._check_placement(session, "CUDAExecutionProvider", path)
    onnx_runtime._check_placement(session, "CPUExecutionProvider", path)


def test_onnx_runtime_whose_provider_fails_is_not_replaced(ort, capfd):
    """It would print so on stdout and take the CPU with its default options."""
    with pytest.raises(CheckFailed, match=r"ONNX Runtime cannot run \S+encoder.onnx \(.*\); free memory if"):
        ort._session("no options")
    assert capfd.readouterr().out == ""


def test_onnx_runtime_that_fails_in_a_run(ort):
    with pytest.raises(CheckFailed, match=r"ONNX Runtime cannot run \S+encoder.onnx \(.+\); free memory if") as caught:
        ort.new_run()(torch.zeros(1, 3, 1024, 512))
    assert "\n" not in str(caught.value)


@SAYS_WHERE
def test_onnx_runtime_on_cuda_is_asked_for_full_float32_in_the_callers_stream(ort, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0xC0FFEE))
    monkeypatch.setattr(ort, "_session", lambda options: asked.append(options) or ort.session)
    ort.device = torch.device("cuda", 1)
    ort.new_run()
    assert asked == [{"device_id": "1", "user_compute_stream": str(0xC0FFEE), "use_tf32": "0"}]


def test_openvino_needs_no_device_and_runs_beside_itself(sparse_hq):
    """Results of one call are not overwritten by the next one."""
    encode, images = load(sparse_hq.folder, "openvino"), (random_image(), random_image(seed=1))
    first, second = (encode(image)[0] for image in images)
    assert not torch.equal(first, second) and torch.equal(first, encode.clone()(images[0])[0])


def test_openvino_that_does_not_run(dense, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "_readable", lambda model, path: b"no graph")
    with pytest.raises(
        CheckFailed, match=r"OpenVINO cannot run \S+encoder.onnx \(.+\); choose another runtime"
    ) as caught:
        load(dense.folder, "openvino")
    assert "\n" not in str(caught.value)


def test_openvino_reads_no_functions_with_weights_beside(tmp_path):
    with pytest.raises(InvalidInput, match=r"encoder.onnx has functions, .* export it again with --inline"):
        OpenVinoRuntime(export_with_weights_beside(tmp_path, DENSE).path)
    inlined, image = export_with_weights_beside(tmp_path, DENSE, inline=True), random_image()
    with torch.no_grad():
        expected = inlined.encoder(image)
    assert relative_error(OpenVinoRuntime(inlined.path).new_run()(image)[0], expected) < TOLERANCE


@pytest.mark.parametrize("runtime", [None, "onnxruntime", "openvino", "torch"])
def test_a_build_that_failed_its_parity_check(copied, runtime):
    """Whatever is to run it; what else a manifest may say of parity is in tests/engines/test_folder.py."""
    manifest = EngineManifest.read(copied / MANIFEST)
    manifest.model_copy(update={"parity": ParitySummary(passed=False)}).write(copied / MANIFEST)
    with pytest.raises(CheckFailed, match=r"manifest.json says that this build failed its parity check; see which wi"):
        load(copied, runtime, "cpu")


def test_onnx_runtime_has_no_bfloat16_on_the_cpu(copied):
    manifest = EngineManifest.read(copied / MANIFEST)
    manifest.model_copy(update={"export": replace(manifest.export, dtype="bf16")}).write(copied / MANIFEST)
    with pytest.raises(
        EnvironmentProblem, match="no bfloat16 kernels for the CPU; build fp16 or fp32, or use the torch"
    ):
        load(copied, **CPU)


def test_an_edited_graph(copied):
    path = copied / "encoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckFailed, match=r"encoder.onnx has changed since its manifest was written; rebuild with"):
        load(copied, **CPU)


def test_a_checkpoint_of_other_weights(dense, tmp_path):
    save_random_checkpoint(tmp_path / "other.pth", TINY)
    with pytest.raises(InvalidInput, match=r"other.pth is not the weights.safetensors this build was made from"):
        load(dense.folder, "torch", "cpu", checkpoint=tmp_path / "other.pth")


def test_a_checkpoint_that_is_not_to_be_found(copied, dense):
    (copied / CHECKPOINT).unlink()
    with pytest.raises(
        InvalidInput, match=r"needs weights.safetensors, and it lies neither in \S+ nor here; give it as"
    ):
        load(copied, "torch", "cpu")
    assert load(copied, "torch", "cpu", checkpoint=dense.folder / CHECKPOINT).kernels.endswith("reference on cpu")


def test_no_build_at_all(tmp_path):
    with pytest.raises(InvalidInput, match=r"cannot read \S+manifest.json: no such file or directory"):
        load(tmp_path, **CPU)
