"""TensorRT-RTX builds what is exported; no GPU takes part."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy.engines.builder import EngineOptions, build_engine
from sparsesam_deploy.export.decoder import export_decoder
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from tests.export.models import export, load_tiny

STATIC, DYNAMIC = (1, 1, 1), (1, 2, 4)
CASES = {
    "default-fp16": (PRESETS["default"], "fp16", STATIC),
    "default-fp16-dynamic": (PRESETS["default"], "fp16", DYNAMIC),
    "default-bf16": (PRESETS["default"], "bf16", STATIC),
    "paper-fp16": (PRESETS["paper"], "fp16", STATIC),
    "interleaved-share-sobel-fp16": (
        SparsityConfig(0.3, 0.5, order="interleaved", routing="share-sobel"),
        "fp16",
        STATIC,
    ),
    "diagonal-fp16": (SparsityConfig(0.25, 0.5, diagonal=True), "fp16", STATIC),
    "many-kept-fp16": (SparsityConfig(0.25, 0.96, routing="skip-group-rank"), "fp16", STATIC),
}


def ignore(share: float, words: str = "") -> None:
    """Progress nobody watches."""


@pytest.mark.parametrize("name", CASES)
def test_encoder_builds(name: str, tmp_path: Path):
    pytest.importorskip("tensorrt_rtx")
    sparsity, dtype, batch = CASES[name]
    exported = export(tmp_path, sparsity, dtype, batch)
    built = build_engine(exported.path, "tensorrt-rtx", EngineOptions(batch=batch), ignore)
    assert built.audit.passed
    assert len(built.data) > 1 << 16


@pytest.mark.parametrize("dtype", ("fp32", "fp16", "bf16"))
def test_decoder_builds(dtype: str, tmp_path: Path):
    """With tensorrt_rtx itself: `build_engine` makes profiles for a dynamic batch and nothing else."""
    trt = pytest.importorskip("tensorrt_rtx")
    export_decoder(load_tiny(), tmp_path / "decoder.onnx", dtype)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(tmp_path / "decoder.onnx")), parser.get_error(0).desc()
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tensor.shape:
            shapes = [[size if dim == -1 else dim for dim in tensor.shape] for size in (1, 2, 8)]
            profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
