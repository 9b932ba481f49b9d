"""Answers are those of the authors' predictors: the single mask for a box, the best of three for a point."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from sparsesam_deploy.model.checkpoint import load_nano
from sparsesam_deploy.model.decoder import SamDecoder
from sparsesam_deploy.model.outputs import EncoderOutputs
from sparsesam_deploy.parity.masks import Answer, agreement, answer, onnx_decode, torch_decode
from sparsesam_deploy.parity.onnx_runner import OnnxRunner
from sparsesam_deploy.parity.samples import Sample, shipped_samples

from ..helpers import TINY, random_sam

HEIGHT, WIDTH = 120, 160
INPUT_SIZE = (768, 1024)


@cache
def predictor() -> SamPredictor:
    """segment_anything's own, with the coins in it."""
    made = SamPredictor(load_nano().sam)
    made.set_image(coins("boxes").pixels)
    return made


def coins(prompts: str) -> Sample:
    """Five of the shipped coins, asked by box or by a point inside."""
    (sample,) = (sample for sample in shipped_samples() if sample.name == "coins.png")
    boxes = sample.boxes[:5]
    if prompts == "boxes":
        return replace(sample, boxes=boxes)
    return replace(sample, boxes=None, points=(boxes[:, :2] + boxes[:, 2:]) / 2 + 3.5)


def authors_masks(predictor: SamPredictor, sample: Sample, **options) -> np.ndarray:
    """(N, H, W) by asking for one prompt after the other."""
    masks = []
    if sample.boxes is not None:
        for box in sample.boxes:
            masks.append(predictor.predict(box=box, multimask_output=False, **options)[0][0])
    else:
        for point in sample.points:
            found, iou, _ = predictor.predict(point[None], np.array([1]), multimask_output=True, **options)
            masks.append(found[iou.argmax()] if len(found) == len(iou) else found[0])
    return np.stack(masks)


@pytest.mark.parametrize("prompts", ["boxes", "points"])
def test_answers_are_segment_anythings(prompts):
    sample = coins(prompts)
    outputs = EncoderOutputs(predictor().features.numpy())
    loaded = load_nano()
    decode = torch_decode(SamDecoder(loaded.sam, loaded.config))
    found = answer(decode, outputs, sample.prompts(), sample.preprocessed())
    expected = authors_masks(predictor(), sample)
    assert found.masks.shape == expected.shape == (5, *sample.pixels.shape[:2])
    assert found.masks.dtype == bool
    assert expected.mean(axis=(1, 2)).min() > 0.001
    assert (found.masks != expected).mean() < 1e-6  # a logit of 1e-6 may fall on either side of zero
    assert set(found.chosen) <= ({0} if prompts == "boxes" else {1, 2, 3})


def test_the_exported_decoder_gives_the_same_answers(decoder_of):
    decoder, sample = decoder_of(load_nano()), coins("boxes")
    outputs = EncoderOutputs(predictor().features.numpy())
    found = answer(onnx_decode(OnnxRunner(decoder)), outputs, sample.prompts(), sample.preprocessed())
    assert (found.masks != authors_masks(predictor(), sample)).mean() < 1e-5


@pytest.mark.parametrize("prompts", ["boxes", "points"])
def test_hq_answers_are_the_authors(prompts):
    hq = pytest.importorskip("segment_anything_hq")
    config = replace(TINY, hq=True)
    sam = random_sam(config)
    transformer = hq.modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=TINY.decoder_mlp_dim, num_heads=8)
    decoder = hq.modeling.MaskDecoderHQ(transformer_dim=256, transformer=transformer, vit_dim=TINY.embed_dim)
    decoder.load_state_dict(sam.mask_decoder.state_dict())
    theirs = hq.SamPredictor(hq.modeling.Sam(sam.image_encoder, sam.prompt_encoder, decoder.eval()))
    generator = torch.Generator().manual_seed(2)
    theirs.features = torch.randn(1, 256, 64, 64, generator=generator)
    theirs.interm_features = list(torch.randn(2, 1, 64, 64, TINY.embed_dim, generator=generator))
    theirs.is_image_set, theirs.original_size, theirs.input_size = True, (HEIGHT, WIDTH), INPUT_SIZE

    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    boxes = np.array([[10, 20, 60, 90], [80, 5, 150, 110]], float)
    points = np.array([[30, 40], [100, 70]], float)
    sample = Sample("grey", pixels, boxes if prompts == "boxes" else None, points if prompts == "points" else None)
    outputs = EncoderOutputs(theirs.features.numpy(), torch.stack(theirs.interm_features).numpy())
    found = answer(torch_decode(SamDecoder(sam, config)), outputs, sample.prompts(), sample.preprocessed())
    expected = authors_masks(theirs, sample)
    assert (found.masks != expected).mean() < 1e-4
    assert 0.01 < expected.mean() < 0.99


# --- choosing, without a network ---------------------------------------------------------------------------------


def fake_decode(logits: np.ndarray, iou: list[list[float]]):
    """A decoder whose mask m of every prompt is constant: positive where ``logits[m]`` is."""
    values = np.broadcast_to(logits[None, :, None, None], (len(iou), len(logits), 256, 256)).astype(np.float32)
    return lambda outputs, prompts: (values.copy(), np.array(iou, np.float32))


def test_points_take_the_best_of_three_and_never_the_single_mask():
    sample = coins("points")
    iou = [[0.9, 0.1, 0.2, 0.3], [0.9, 0.3, 0.2, 0.1], [0.9, 0.1, 0.3, 0.2], [0.9, 0.5, 0.5, 0.5], [0, 0, 0, 1]]
    decode = fake_decode(np.array([1, 1, -1, 1]), iou)
    found = answer(decode, {}, sample.prompts(), sample.preprocessed())
    assert found.chosen.tolist() == [3, 1, 2, 1, 3]
    assert found.masks.mean(axis=(1, 2)).tolist() == [1, 1, 0, 1, 1]


def test_boxes_take_the_single_mask_whatever_the_others_promise():
    sample = coins("boxes")
    decode = fake_decode(np.array([-1, 1, 1, 1]), [[0.1, 0.9, 0.9, 0.9]] * 5)
    found = answer(decode, {}, sample.prompts(), sample.preprocessed())
    assert found.chosen.tolist() == [0] * 5
    assert not found.masks.any()


def test_a_choice_can_be_given():
    sample = coins("points")
    decode = fake_decode(np.array([-1, -1, 1, -1]), [[0.1, 0.9, 0.2, 0.3]] * 5)
    found = answer(decode, {}, sample.prompts(), sample.preprocessed(), np.array([0, 1, 2, 3, 2]))
    assert found.masks.mean(axis=(1, 2)).tolist() == [0, 0, 1, 0, 1]


def test_hqs_mask_is_added_to_the_chosen_one():
    sample = coins("boxes")
    for logits, inside in (([-1, 1, 1, 1, 2], True), ([1, 1, 1, 1, -2], False)):
        decode = fake_decode(np.array(logits), [[1, 0, 0, 0]] * 5)
        assert (answer(decode, {}, sample.prompts(), sample.preprocessed()).masks == inside).all()


def test_agreement_is_by_prompt():
    masks = np.zeros((2, 50, 50), bool)
    masks[:, 10:30, 10:30] = True
    other = masks.copy()
    other[1, 20:30] = False
    chosen = np.zeros(2, int)
    found = agreement(Answer(other, chosen), Answer(masks, chosen))
    assert (found.mean_iou, found.min_iou) == (0.75, 0.5)
    assert found.min_boundary_iou < found.mean_boundary_iou < 1
    assert found.mean_boundary_iou == pytest.approx((1 + found.min_boundary_iou) / 2)


def test_answers_to_different_prompts_are_not_compared():
    one, two = (Answer(np.ones((n, 4, 4), bool), np.zeros(n, int)) for n in (1, 2))
    with pytest.raises(ValueError, match="zip"):
        agreement(one, two)
