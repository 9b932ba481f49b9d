"""The HQ decoder against the authors' own package, with the same weights, prompts and embeddings."""

from __future__ import annotations

from dataclasses import replace

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sparsesam_deploy.model.mask_decoder_hq import MaskDecoderHQ

from ..helpers import TINY, random_sam

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def decoder() -> MaskDecoderHQ:
    return random_sam(replace(TINY, hq=True)).mask_decoder


@pytest.fixture(scope="module")
def oracle(decoder: MaskDecoderHQ) -> nn.Module:
    hq = pytest.importorskip("segment_anything_hq.modeling")
    transformer = hq.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=TINY.decoder_mlp_dim, num_heads=8)
    oracle = hq.MaskDecoderHQ(transformer_dim=256, transformer=transformer, vit_dim=TINY.embed_dim)
    oracle.load_state_dict(decoder.state_dict(), strict=True)
    return oracle.eval()


def decoder_inputs(num_prompts: int, grid: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_prompts)
    shapes = {
        "image_embeddings": (1, 256, grid, grid),
        "image_pe": (1, 256, grid, grid),
        "sparse_prompt_embeddings": (num_prompts, 3, 256),
        "dense_prompt_embeddings": (num_prompts, 256, grid, grid),
        "interm_embeddings": (2, 1, grid, grid, TINY.embed_dim),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize(("num_prompts", "grid"), [(1, 64), (3, 16)], ids=["one-prompt", "three-prompts"])
@torch.no_grad()
def test_masks_and_ious_are_the_authors(
    decoder: MaskDecoderHQ, oracle: nn.Module, num_prompts: int, grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = []  # all five masks, before the authors' forward picks from them

    def recording(predict_masks=oracle.predict_masks, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        predictions.append(predict_masks(**inputs))
        return predictions[0]

    monkeypatch.setattr(oracle, "predict_masks", recording)
    inputs = decoder_inputs(num_prompts, grid)
    oracle(**inputs, multimask_output=False, hq_token_only=False)
    masks, iou = decoder.predict_masks(**inputs)

    assert masks.shape == (num_prompts, 5, 4 * grid, 4 * grid)
    assert iou.shape == (num_prompts, 4)
    assert masks.std(dim=(2, 3)).min() > 0.1, "a mask this flat would compare equal to anything"
    torch.testing.assert_close((masks, iou), predictions[0], atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_only_the_first_global_block_is_used(decoder: MaskDecoderHQ) -> None:
    inputs = decoder_inputs(1)
    masks, _ = decoder.predict_masks(**inputs)
    first, last = (inputs["interm_embeddings"].clone() for _ in range(2))
    first[0] += 1
    last[1] += 1
    changed, _ = decoder.predict_masks(**inputs | {"interm_embeddings": first})
    same, _ = decoder.predict_masks(**inputs | {"interm_embeddings": last})
    assert not torch.allclose(changed[:, 4], masks[:, 4], atol=1e-3)
    torch.testing.assert_close(same, masks, atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_exports_with_any_number_of_prompts(decoder: MaskDecoderHQ, tmp_path) -> None:
    class Predict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(  # by name: torch 2.10 takes no dynamic shapes for ``**inputs``
            self,
            image_embeddings: Tensor,
            image_pe: Tensor,
            sparse_prompt_embeddings: Tensor,
            dense_prompt_embeddings: Tensor,
            interm_embeddings: Tensor,
        ) -> tuple[Tensor, Tensor]:
            return self.decoder.predict_masks(
                image_embeddings=image_embeddings,
                image_pe=image_pe,
                sparse_prompt_embeddings=sparse_prompt_embeddings,
                dense_prompt_embeddings=dense_prompt_embeddings,
                interm_embeddings=interm_embeddings,
            )

    names = list(decoder_inputs(2))
    dynamic = {name: {0: torch.export.Dim("prompts")} if "prompt" in name else None for name in names}
    torch.onnx.export(
        Predict(),
        kwargs=decoder_inputs(2),
        f=tmp_path / "decoder.onnx",
        dynamo=True,
        dynamic_shapes=dynamic,
        input_names=names,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "decoder.onnx", providers=["CPUExecutionProvider"])
    inputs = decoder_inputs(5)
    got = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    expected = decoder.predict_masks(**inputs)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-4, rtol=1e-4)
