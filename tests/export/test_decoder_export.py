"""``decoder.onnx`` against segment_anything's prompt encoder and mask decoder, and against segment_anything_hq's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from sparsesam_deploy.engines.builder import build_engine
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.export.decoder import OUTPUTS
from sparsesam_deploy.model.checkpoint import LoadedSam, load_nano
from sparsesam_deploy.parity.onnx_runner import OnnxRunner
from tests.comparison import relative_error
from tests.export.models import TINY_HQ, inlined, load_tiny, run_openvino, value_types
from tests.helpers import TINY

TOLERANCE = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.08}
IMAGE_SIZE = (1024, 1024)


@pytest.fixture(scope="module")
def loaded() -> LoadedSam:
    return load_tiny(TINY)


@pytest.fixture(scope="module")
def files(loaded: LoadedSam, decoder_of: Callable[..., Path]) -> dict[str, Path]:
    return {dtype: decoder_of(loaded, dtype) for dtype in TOLERANCE}


@pytest.fixture(scope="module")
def hq_files(decoder_of: Callable[..., Path]) -> dict[str, Path]:
    return {dtype: decoder_of(load_tiny(TINY_HQ), dtype) for dtype in ("fp32", "bf16")}


def prompts(kind: str, count: int) -> dict[str, Tensor]:
    """Arguments of SAM's ``PromptEncoder.forward``."""
    generator = torch.Generator().manual_seed(count)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    corner, extent = 600 * random(count, 2), 50 + 300 * random(count, 2)
    boxes = torch.cat((corner, corner + extent), 1)
    points = 1024 * random(count, 3, 2)
    labels = torch.tensor([[1, 0, 1]]).expand(count, -1)
    masks = 8 * random(count, 1, 256, 256) - 4
    return {
        "box": {"points": None, "boxes": boxes, "masks": None},
        "point": {"points": (points[:, :1], labels[:, :1]), "boxes": None, "masks": None},
        "points": {"points": (points, labels), "boxes": None, "masks": None},
        "point-and-box": {"points": (points[:, :1], labels[:, :1]), "boxes": boxes, "masks": None},
        "box-and-mask": {"points": None, "boxes": boxes, "masks": masks},
    }[kind]


KINDS = ("box", "point", "points", "point-and-box", "box-and-mask")


def decoder_inputs(prompt: dict) -> dict[str, Tensor]:
    """The same prompts in the layout of ``decoder.onnx``, written from its description: padding point, box corners."""
    coords, labels = [], []
    if prompt["points"] is not None:
        coords.append(prompt["points"][0])
        labels.append(prompt["points"][1])
    if prompt["boxes"] is None:
        count = len(coords[0])
        coords.append(torch.zeros(count, 1, 2))
        labels.append(torch.full((count, 1), -1))
    else:
        count = len(prompt["boxes"])
        coords.append(prompt["boxes"].view(count, 2, 2))
        labels.append(torch.tensor([[2, 3]]).expand(count, -1))
    masks = prompt["masks"]
    return {
        "point_coords": torch.cat(coords, 1),
        "point_labels": torch.cat(labels, 1).float(),
        "mask_input": torch.zeros(count, 1, 256, 256) if masks is None else masks,
        "has_mask_input": torch.full((count,), float(masks is not None)),
    }


def embeddings(loaded: LoadedSam) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    result = {"image_embeddings": torch.randn(1, 256, 64, 64, generator=generator)}
    if loaded.config.hq:
        result["interm_embeddings"] = torch.randn(2, 1, 64, 64, loaded.config.embed_dim, generator=generator)
    return result


@torch.inference_mode()
def segment_anything(loaded: LoadedSam, prompt: dict) -> tuple[Tensor, Tensor]:
    """All masks and IoU predictions as segment_anything computes them."""
    encoder = loaded.sam.prompt_encoder
    sparse, dense = encoder(**prompt)
    return loaded.sam.mask_decoder.predict_masks(
        image_embeddings=embeddings(loaded)["image_embeddings"],
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )


@cache
def runner(path: Path, **options) -> OnnxRunner:
    return OnnxRunner(path, **options)


def run(path: Path, loaded: LoadedSam, prompt: dict, **options) -> tuple[Tensor, ...]:
    inputs = {**embeddings(loaded), **decoder_inputs(prompt)}
    results = runner(path, **options).run({name: value.numpy() for name, value in inputs.items()})
    return tuple(torch.from_numpy(results[name]) for name in OUTPUTS)


@pytest.mark.parametrize("count", (1, 5), ids="prompts-{}".format)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ("fp32", "fp16"))
def test_decoder_is_segment_anything(dtype: str, kind: str, count: int, files: dict[str, Path], loaded: LoadedSam):
    masks, ious = segment_anything(loaded, prompts(kind, count))
    found_masks, found_ious = run(files[dtype], loaded, prompts(kind, count))
    assert found_masks.shape == masks.shape == (count, 4, 256, 256)
    assert relative_error(found_masks, masks) <= TOLERANCE[dtype]
    assert relative_error(found_ious, ious) <= TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ("box", "box-and-mask"))
def test_bf16_is_close(kind: str, files: dict[str, Path], loaded: LoadedSam):
    for found, expected in zip(
        run(files["bf16"], loaded, prompts(kind, 2), float32=True),
        segment_anything(loaded, prompts(kind, 2)),
        strict=True,
    ):
        assert relative_error(found, expected) <= TOLERANCE["bf16"]


def test_one_call_may_mix_prompts_with_and_without_masks(files: dict[str, Path], loaded: LoadedSam):
    prompt = prompts("box-and-mask", 3)
    inputs = {**embeddings(loaded), **decoder_inputs(prompt)}
    inputs["has_mask_input"] = torch.tensor([1.0, 0.0, 1.0])
    results = OnnxRunner(files["fp32"]).run({name: value.numpy() for name, value in inputs.items()})
    masks = torch.from_numpy(results["low_res_masks"])
    with_mask, without = (segment_anything(loaded, {**prompt, "masks": m})[0] for m in (prompt["masks"], None))
    assert relative_error(masks[1], without[1]) <= TOLERANCE["fp32"]
    assert relative_error(masks[[0, 2]], with_mask[[0, 2]]) <= TOLERANCE["fp32"]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_precision_is_in_the_graph(dtype: str, files: dict[str, Path]):
    model = onnx.load(files[dtype])
    onnx.checker.check_model(model, full_check=True)
    types = value_types(inlined(model))
    element = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[dtype]
    # The one float32 product multiplies coordinates with SAM's random Fourier matrix (see SamDecoder).
    wide = [n.name for n in model.graph.node if n.op_type in ("MatMul", "Gemm") and types[n.input[0]] != element]
    assert len(wide) == (0 if dtype == "fp32" else 1)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        TensorProto.FLOAT
    }
    kinds = [node.op_type for node in model.graph.node]
    assert not {"Pow", "InstanceNormalization", "NonZero", "GroupNormalization"} & set(kinds)
    assert "ReduceMean" not in kinds


@pytest.mark.parametrize("count", (1, 3), ids="prompts-{}".format)
@torch.inference_mode()
def test_hq_decoder_is_segment_anything_hq(count: int, hq_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    hq = pytest.importorskip("segment_anything_hq.modeling")
    loaded = load_tiny(TINY_HQ)
    transformer = hq.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=TINY.decoder_mlp_dim, num_heads=8)
    oracle = hq.MaskDecoderHQ(transformer_dim=256, transformer=transformer, vit_dim=TINY.embed_dim).eval()
    oracle.load_state_dict(loaded.sam.mask_decoder.state_dict(), strict=True)

    predictions = []  # all five masks, before the authors' forward picks from them

    def recording(predict_masks=oracle.predict_masks, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        predictions.append(predict_masks(**inputs))
        return predictions[0]

    monkeypatch.setattr(oracle, "predict_masks", recording)
    encoder, prompt = loaded.sam.prompt_encoder, prompts("box", count)
    sparse, dense = encoder(**prompt)
    oracle(
        **embeddings(loaded),
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        hq_token_only=False,
    )
    masks, ious = run(hq_files["fp32"], loaded, prompt)
    assert masks.shape == (count, 5, 256, 256)
    assert relative_error(masks, predictions[0][0]) <= TOLERANCE["fp32"]
    assert relative_error(ious, predictions[0][1]) <= TOLERANCE["fp32"]


@pytest.mark.parametrize("kind", ("box", "points"))
def test_openvino_computes_it(kind: str, files: dict[str, Path], loaded: LoadedSam):
    """Without ``--inline``: there are no custom nodes in it."""
    inputs = {**embeddings(loaded), **decoder_inputs(prompts(kind, 3))}
    found = run_openvino(onnx.load(files["fp32"]), {name: value.numpy() for name, value in inputs.items()})
    for name, expected in zip(OUTPUTS, segment_anything(loaded, prompts(kind, 3)), strict=True):
        assert relative_error(torch.from_numpy(found[name]), expected) <= TOLERANCE["fp32"]


def test_nano_decoder_in_fp16_stays_finite(built_as_the_readme_says: Path):
    """Trained weights, embeddings four times as large as usual."""
    loaded = load_nano()
    inputs = {**embeddings(loaded), **decoder_inputs(prompts("box-and-mask", 2))}
    inputs["image_embeddings"] = 4 * inputs["image_embeddings"]
    decoder = built_as_the_readme_says / "engines" / "built" / "nano" / "decoder.onnx"
    results = OnnxRunner(decoder).run({name: value.numpy() for name, value in inputs.items()})
    assert all(torch.from_numpy(result).isfinite().all() for result in results.values())


@pytest.mark.parametrize("name", ("fp32", "fp16", "bf16", "hq-bf16"))
def test_tensorrt_rtx_builds_it(name: str, files: dict[str, Path], hq_files: dict[str, Path]):
    """Whatever the encoder's batch: the decoder's axes have ranges of their own."""
    pytest.importorskip("tensorrt_rtx")
    path = hq_files["bf16"] if name == "hq-bf16" else files[name]
    built = build_engine(path, "tensorrt-rtx", EngineOptions(), lambda share, words="": None, batch=(1, 2, 4))
    assert built.audit.passed and built.audit.custom_nodes == {}
    assert len(built.data) > 1 << 20
