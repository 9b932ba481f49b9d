"""Every readable file that is not a whole Segment Anything model, and the one sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsesam_deploy.model.checkpoint import load_checkpoint

from ..helpers import TINY, assert_refused, random_tensors

Tensors = dict[str, Tensor]
PATCH_EMBED = "image_encoder.patch_embed.proj.weight"
NO_VIT = f"and has no {PATCH_EMBED}; give a Segment Anything checkpoint with a ViT encoder"
QKV = "image_encoder.blocks.2.attn.qkv.weight"


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors(TINY)


FOREIGN = {
    "sam2": (["image_encoder.trunk.patch_embed.proj.weight", "memory_encoder.bias"], "looks like SAM 2"),
    "mobile-sam": (["image_encoder.patch_embed.seq.0.c.weight"], "looks like MobileSAM (a TinyViT)"),
    "efficientvit-sam": (["image_encoder.backbone.input_stem.weight"], "looks like EfficientViT-SAM"),
    "resnet": (["conv1.weight", "layer1.0.conv1.weight", "fc.bias"], "looks like a ResNet"),
    "wrapped-resnet": (["layer1.0.conv1.weight"], "looks like a ResNet"),
    "unknown": (["a", "b", "c", "d"], "holds 4 items (a, b, c, ...)"),
    "bare-vit": (["patch_embed.proj.weight"], "holds 1 item (patch_embed.proj.weight)"),
}


@pytest.mark.parametrize("family", FOREIGN)
def test_other_networks_are_named(tmp_path: Path, family: str) -> None:
    names, message = FOREIGN[family]
    content: dict[str, object] = {name: torch.ones(1) for name in names}
    torch.save({"state_dict": content} if family.startswith("wrapped") else content, tmp_path / "net.pth")
    assert_refused(load_checkpoint, tmp_path / "net.pth", f"{message}, {NO_VIT}")


def bottomless() -> dict[str, object]:
    content: dict[str, object] = {}
    content["model"] = content
    return content


NAMELESS = {
    "list": ([torch.ones(2)], "holds nothing by name"),
    "empty": ({}, "holds nothing by name"),
    "bottomless": (bottomless(), "holds 1 item (model)"),
}


@pytest.mark.parametrize(("content", "message"), NAMELESS.values(), ids=NAMELESS)
def test_file_without_a_state_dict(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "sam.pth")
    assert_refused(load_checkpoint, tmp_path / "sam.pth", f"{message}, {NO_VIT}")


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def encoder_only(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name.startswith("image_encoder.")}


def with_value(name: str, value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        changed = tensors[name].to(dtype, copy=True)
        changed.view(-1)[-1] = value
        return tensors | {name: changed}

    return change


def with_extra(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(1) for name in names}


def with_tensors(**changes: object) -> Callable[[Tensors], dict]:
    return lambda tensors: tensors | {name.replace("__", "."): value for name, value in changes.items()}


def alike_tables(tensors: Tensors) -> Tensors:
    return {name: tensor[:27] if ".rel_pos_" in name else tensor for name, tensor in tensors.items()}


def odd_heads(tensors: Tensors) -> Tensors:
    return {name: tensor[:, :24] if ".rel_pos_" in name else tensor for name, tensor in tensors.items()}


CUSTOM = "a custom Segment Anything model"
CONTENTS: dict[str, tuple[Callable[[Tensors], dict], str]] = {
    "one-missing": (
        without("mask_decoder.iou_token.weight"),
        f"lacks 1 tensor (mask_decoder.iou_token.weight) of {CUSTOM}; give a complete checkpoint",
    ),
    "no-rel-pos": (
        without("image_encoder.blocks.1.attn.rel_pos_w"),
        "lacks image_encoder.blocks.1.attn.rel_pos_w; give a complete Segment Anything checkpoint",
    ),
    "encoder-only": (encoder_only, "lacks mask_decoder.transformer.layers.0.mlp.lin1.weight; give a complete"),
    "no-prompt-encoder": (
        lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith("prompt_encoder")},
        "lacks 17 tensors (prompt_encoder.pe_layer.positional_encoding_gaussian_matrix, "
        "prompt_encoder.point_embeddings.0.weight, prompt_encoder.point_embeddings.1.weight, ...) of",
    ),
    "unmatched": (
        with_extra("lora.a", "lora.b", "lora.c", "lora.d"),
        f"holds 4 tensors (lora.a, lora.b, lora.c, ...) that {CUSTOM} has no place for; remove them if",
    ),
    "block-too-many": (
        with_extra("image_encoder.blocks.5.norm1.weight"),
        "lacks image_encoder.blocks.4.attn.rel_pos_h",
    ),
    "shape": (
        with_tensors(image_encoder__neck__2__weight=torch.ones(128, 256, 3, 3)),
        f"has image_encoder.neck.2.weight of shape (128, 256, 3, 3) where {CUSTOM} has (256, 256, 3, 3); only",
    ),
    "patch-size": (
        with_tensors(image_encoder__patch_embed__proj__weight=torch.ones(64, 3, 8, 8)),
        f"has {PATCH_EMBED} of shape (64, 3, 8, 8) where {CUSTOM} has (64, 3, 16, 16); only the original",
    ),
    "flat-position-embedding": (
        with_tensors(image_encoder__pos_embed=torch.ones(1, 4097, 64)),
        "has image_encoder.pos_embed of shape (1, 4097, 64) where",
    ),
    "rank": (
        with_tensors(image_encoder__patch_embed__proj__weight=torch.ones(64)),
        f"has {PATCH_EMBED} of shape (64,), not of rank 4; give a Segment Anything checkpoint",
    ),
    "empty-table": (
        with_tensors(image_encoder__blocks__0__attn__rel_pos_h=torch.ones(0, 32)),
        "has image_encoder.blocks.0.attn.rel_pos_h of shape (0, 32), not of rank 2",
    ),
    "heads": (odd_heads, "has 64 channels in heads of 24, which does not divide; give"),
    "alike-tables": (
        alike_tables,
        "has relative-position tables of one length in all 4 blocks, which does not tell windowed",
    ),
    "nan": (with_value(QKV, float("nan")), f"has NaN or Inf in {QKV}; use a checkpoint from before"),
    "inf-in-fp16": (with_value(QKV, float("-inf"), torch.float16), f"has NaN or Inf in {QKV}; use"),
    "beyond-fp32": (with_value(QKV, 1e300, torch.float64), f"has NaN or Inf in {QKV}; use"),
    "integers": (
        with_tensors(image_encoder__pos_embed=torch.ones(1, 64, 64, 64, dtype=torch.int8)),
        "stores image_encoder.pos_embed as torch.int8, not as floating-point numbers; save",
    ),
    "sparse": (
        with_tensors(image_encoder__pos_embed=torch.ones(1, 64, 64, 64).to_sparse()),
        "stores image_encoder.pos_embed as torch.float32 (torch.sparse_coo, cpu), not number by number; save",
    ),
    "sparse-pixel-mean": (
        with_tensors(pixel_mean=torch.ones(3).to_sparse()),
        "stores pixel_mean as torch.float32 (torch.sparse_coo, cpu), not number by number; save",
    ),
    "larger-than-its-file": (
        with_tensors(image_encoder__patch_embed__proj__weight=torch.ones(1, 1, 1, 1).expand(2**32, 1, 1, 1)),
        f"stores {PATCH_EMBED} as torch.float32 (torch.strided, cpu), not number by number; save",
    ),
    "integer-normalisation": (
        with_tensors(pixel_mean=torch.tensor([123, 116, 103])),
        "normalises images with pixel_mean [123, 116, 103], and only",
    ),
    "not-a-tensor": (
        with_tensors(image_encoder__pos_embed=[1.0, 2.0]),
        "holds a list named image_encoder.pos_embed among its tensors; save the model's state_dict() alone",
    ),
    "other-normalisation": (
        with_tensors(pixel_mean=torch.tensor([0.0, 0.0, 0.0])),
        "normalises images with pixel_mean [0.0, 0.0, 0.0], and only SAM's [123.675, 116.28, 103.53] is supported",
    ),
}


@pytest.mark.parametrize(("change", "message"), CONTENTS.values(), ids=CONTENTS)
def test_content_that_is_not_a_whole_sam(tmp_path: Path, tensors: Tensors, change: Callable, message: str) -> None:
    torch.save(change(tensors), tmp_path / "sam.pth")
    assert_refused(load_checkpoint, tmp_path / "sam.pth", message)


def test_two_tensors_for_one_name(tmp_path: Path, tensors: Tensors) -> None:
    bias = "image_encoder.patch_embed.proj.bias"
    content = {f"model.{name}": tensor for name, tensor in tensors.items()}
    torch.save(content | {bias: tensors[bias]}, tmp_path / "same.pth")
    assert load_checkpoint(tmp_path / "same.pth").config == TINY
    torch.save(content | {bias: tensors[bias] + 1}, tmp_path / "sam.pth")
    assert_refused(load_checkpoint, tmp_path / "sam.pth", f"holds two different tensors for {bias}; remove one of them")
