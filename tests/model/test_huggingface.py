"""Hugging Face checkpoints: loaded by us and run by transformers, the same image gives the same masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsesam_deploy.model.checkpoint import load_checkpoint

from ..helpers import TINY, random_tensor

TOLERANCE = 2e-5
POINTS, LABELS = torch.tensor([[[200.0, 300.0], [640.0, 90.0], [5.0, 5.0]]]), torch.tensor([[1, 0, -1]])
BOX = torch.tensor([[100.0, 150.0, 700.0, 900.0]])


def hugging_face_model(hq: bool) -> nn.Module:
    """A small random model whose weights are all different from what they are initialised to."""
    transformers = pytest.importorskip("transformers")
    prefix = "SamHQ" if hq else "Sam"
    config = getattr(transformers, f"{prefix}Config")(
        vision_config={
            "hidden_size": TINY.embed_dim,
            "num_hidden_layers": TINY.depth,
            "num_attention_heads": TINY.num_heads,
            "global_attn_indexes": list(TINY.global_blocks),
            "mlp_dim": 4 * TINY.embed_dim,
        },
        mask_decoder_config={
            "mlp_dim": TINY.decoder_mlp_dim,
            "layer_norm_eps": 1e-5,  # Segment Anything's; transformers has 1e-6, which moves a mask by about 1e-4
        }
        | ({"vit_dim": TINY.embed_dim} if hq else {}),
    )
    model = getattr(transformers, f"{prefix}Model")(config).eval()
    generator = torch.Generator().manual_seed(3)
    model.load_state_dict({n: random_tensor(n, t.shape, generator) for n, t in model.state_dict().items()})
    return model


def as_bin(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def as_safetensors(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)  # stores the shared position embedding once
    return folder / "model.safetensors"


def as_fine_tune(model: nn.Module, folder: Path) -> Path:
    torch.save({"state_dict": {f"module.sam.{n}": t for n, t in model.state_dict().items()}}, folder / "last.pt")
    return folder / "last.pt"


@torch.no_grad()
def test_predicts_what_transformers_predicts(tmp_path: Path) -> None:
    model = hugging_face_model(hq=False)
    sam = load_checkpoint(as_bin(model, tmp_path)).sam
    generator = torch.Generator().manual_seed(4)
    image = torch.randn(1, 3, 1024, 1024, generator=generator)
    mask = torch.randn(1, 1, 256, 256, generator=generator)

    embedding = sam.image_encoder(image)
    their_embedding = model.vision_encoder(image).last_hidden_state
    torch.testing.assert_close(embedding, their_embedding, atol=TOLERANCE, rtol=0)

    sparse, dense = sam.prompt_encoder(points=(POINTS, LABELS), boxes=BOX, masks=mask)
    masks, iou = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=True)
    prompts = {"input_points": POINTS, "input_labels": LABELS, "input_boxes": BOX}
    theirs = model(
        image_embeddings=their_embedding, input_masks=mask, **{name: value[None] for name, value in prompts.items()}
    )
    assert masks.std(dim=(2, 3)).min() > 0.1, "a mask this flat would compare equal to anything"
    torch.testing.assert_close(masks, theirs.pred_masks[0], atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(iou, theirs.iou_scores[0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_every_hq_layer_computes_what_transformers_computes(tmp_path: Path) -> None:
    """Layer by layer: SamHQModel's own masks (transformers 5.23) ignore what its transformer makes of the image."""
    model = hugging_face_model(hq=True)
    loaded = load_checkpoint(as_safetensors(model, tmp_path))
    assert loaded.config == replace(TINY, hq=True)
    ours, theirs = loaded.sam.mask_decoder, model.mask_decoder
    hq_layers = {
        "embedding_encoder": ((1, 256, 64, 64), theirs.encoder_conv1, theirs.encoder_norm, theirs.encoder_conv2),
        "compress_vit_feat": (
            (1, TINY.embed_dim, 64, 64),
            theirs.compress_vit_conv1,
            theirs.compress_vit_norm,
            theirs.compress_vit_conv2,
        ),
        "embedding_maskfeature": ((1, 32, 64, 64), theirs.mask_conv1, theirs.mask_norm, theirs.mask_conv2),
    }
    generator = torch.Generator().manual_seed(5)
    for name, (shape, first, norm, second) in hq_layers.items():
        features = torch.randn(shape, generator=generator)
        expected = second(theirs.activation(norm(first(features))))
        torch.testing.assert_close(getattr(ours, name)(features), expected, atol=TOLERANCE, rtol=0)
    assert torch.equal(ours.hf_token.weight, theirs.hq_token.weight)
    token = torch.randn(1, 256, generator=generator)
    torch.testing.assert_close(ours.hf_mlp(token), theirs.hq_mask_mlp(token), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("hq", [False, True], ids=["sam", "sam-hq"])
@pytest.mark.parametrize("save", [as_safetensors, as_fine_tune], ids=["safetensors", "fine-tune"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, hq: bool, save: Callable) -> None:
    model = hugging_face_model(hq)
    expected = load_checkpoint(as_bin(model, tmp_path)).sam.state_dict()
    got = load_checkpoint(save(model, tmp_path)).sam.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)
