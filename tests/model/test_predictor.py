"""The predictor against segment_anything's and SAM-HQ's own, with the same weights, images and prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import segment_anything
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from sparsesam_deploy.errors import ImageError, InvalidInput
from sparsesam_deploy.model.config import DENSE, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.image import preprocess
from sparsesam_deploy.model.layers import cast_copy
from sparsesam_deploy.model.predictor import SparseSamPredictor
from sparsesam_deploy.parity.samples import Sample, shipped_samples

from ..helpers import TINY, random_sam
from ..networks import nano

Predictor = segment_anything.SamPredictor

TOLERANCE = 1e-4
HQ = replace(TINY, hq=True)
sam_of = cache(random_sam)
METHODS = [name for name, _ in inspect.getmembers(Predictor, inspect.isfunction) if not name.startswith("_")]


@pytest.fixture(scope="module")
def coins() -> Sample:
    return next(sample for sample in shipped_samples() if sample.name == "coins.png")


@pytest.fixture(scope="module")
def pair(coins: Sample) -> tuple[SparseSamPredictor, Predictor]:
    """Ours at density 1 and segment_anything's, the same photo set in both."""
    sam, config = nano()
    predictors = SparseSamPredictor(sam, SparseSamEncoder(sam.image_encoder, config, DENSE)), Predictor(sam)
    for predictor in predictors:
        predictor.set_image(coins.pixels)
    return predictors


@pytest.fixture(scope="module")
def hq_pair(coins: Sample) -> tuple[SparseSamPredictor, Predictor]:
    """Ours at density 1 and the authors' of SAM-HQ."""
    hq = pytest.importorskip("segment_anything_hq")
    parts, sam = hq.modeling, sam_of(HQ)
    oracle = parts.Sam(
        image_encoder=parts.ImageEncoderViT(
            embed_dim=HQ.embed_dim,
            depth=HQ.depth,
            num_heads=HQ.num_heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=HQ.global_blocks,
        ),
        prompt_encoder=parts.PromptEncoder(256, (64, 64), (1024, 1024), mask_in_chans=16),
        mask_decoder=parts.MaskDecoderHQ(
            transformer_dim=256,
            transformer=parts.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=HQ.decoder_mlp_dim, num_heads=8),
            vit_dim=HQ.embed_dim,
        ),
    )
    oracle.load_state_dict(sam.state_dict(), strict=True)
    encoder = SparseSamEncoder(sam.image_encoder, HQ, DENSE)
    predictors = SparseSamPredictor(sam, encoder), hq.SamPredictor(oracle.eval())
    for predictor in predictors:
        predictor.set_image(coins.pixels)
    return predictors


HALVES = [
    pytest.param(torch.bfloat16, id="bf16"),
    pytest.param(
        torch.float16,
        id="fp16",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="a float16 encoder takes 20 s on a CPU"),
    ),
]
POINTS = {"point_coords": np.array([[335.0, 40.0], [300.0, 290.0]]), "point_labels": np.array([1, 0])}
BOX = {"box": np.array([305, 15, 364, 71])}
MASK = {"mask_input": np.random.default_rng(0).normal(scale=4, size=(1, 256, 256)).astype(np.float32)}
PROMPTS = {"point": POINTS, "box": BOX, "point-box": POINTS | BOX, "mask": POINTS | MASK, "none": {}}


def assert_same_answers(found: tuple, expected: tuple) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert type(ours) is type(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if ours.dtype in (bool, torch.bool):
            assert 0 < theirs.sum() < theirs.size if isinstance(theirs, np.ndarray) else theirs.any()
            assert (ours != theirs).sum() <= 1e-4 * np.prod(ours.shape), "more than pixels on the very edge"
        else:
            torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("prompts", "multimask_output", "return_logits"),
    [
        pytest.param(
            prompts, three, logits, id=f"{name}-{'three' if three else 'one'}-{'logits' if logits else 'masks'}"
        )
        for name, prompts in PROMPTS.items()
        for three, logits in ((True, name != "point"), (False, name == "point"))
    ],
)
def test_answers_are_segment_anythings(pair, coins: Sample, prompts, multimask_output, return_logits) -> None:
    ours, theirs = (
        predictor.predict(**prompts, multimask_output=multimask_output, return_logits=return_logits)
        for predictor in pair
    )
    assert_same_answers(ours, theirs)
    num_masks = 3 if multimask_output else 1
    assert ours[0].shape == (num_masks, *coins.pixels.shape[:2])
    assert ours[0].dtype == (np.float32 if return_logits else bool)
    assert (ours[1].shape, ours[2].shape) == ((num_masks,), (num_masks, 256, 256))


def test_embedding_is_segment_anythings(pair) -> None:
    ours, theirs = (predictor.get_image_embedding() for predictor in pair)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)


def batched_boxes(predictor: Predictor, sample: Sample, count: int = 3) -> Tensor:
    boxes = torch.as_tensor(sample.boxes[:count], dtype=torch.float32)
    return predictor.transform.apply_boxes_torch(boxes, sample.pixels.shape[:2])


def test_batched_boxes_are_segment_anythings(pair, coins: Sample) -> None:
    ours, theirs = (
        predictor.predict_torch(None, None, batched_boxes(predictor, coins), multimask_output=False)
        for predictor in pair
    )
    assert_same_answers(ours, theirs)
    assert ours[0].shape == (3, 1, *coins.pixels.shape[:2])


def test_low_res_masks_refine_the_next_answer(pair) -> None:
    answers = []
    for predictor in pair:
        _, iou, low_res = predictor.predict(**POINTS)
        best = iou.argmax()
        answers.append(predictor.predict(**POINTS, mask_input=low_res[best : best + 1], multimask_output=False))
    assert_same_answers(*answers)


@pytest.mark.parametrize(
    ("prompts", "multimask_output", "hq_token_only"),
    [(POINTS, True, False), (POINTS | BOX | MASK, False, False), (POINTS, True, True), (BOX, False, True)],
    ids=["best-of-three", "one", "hq-alone-best-of-three", "hq-alone-one"],
)
def test_hq_answers_are_the_authors(hq_pair, monkeypatch, prompts, multimask_output, hq_token_only) -> None:
    ours, theirs = hq_pair
    monkeypatch.setattr(ours, "hq_token_only", hq_token_only)
    arguments = prompts | {"multimask_output": multimask_output, "return_logits": hq_token_only}
    assert_same_answers(ours.predict(**arguments), theirs.predict(**arguments, hq_token_only=hq_token_only))


def test_batched_hq_boxes_are_the_authors(hq_pair, coins: Sample) -> None:
    ours, theirs = (
        predictor.predict_torch(None, None, batched_boxes(predictor, coins), return_logits=True)
        for predictor in hq_pair
    )
    assert_same_answers(ours, theirs)


def test_hq_takes_a_pair_from_any_encoder(hq_pair, coins: Sample) -> None:
    ours, theirs = hq_pair
    outputs = theirs.features.double(), torch.stack(theirs.interm_features)
    predictor = SparseSamPredictor(ours.model, lambda image: outputs)
    predictor.set_image(coins.pixels)
    assert predictor.get_image_embedding().dtype == torch.float32
    assert_same_answers(predictor.predict(**POINTS), theirs.predict(**POINTS))


class Recorder(nn.Module):
    """In an encoder's place: keeps the image, and writes every answer into the same memory, as an engine may."""

    img_size = 1024

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, device=device, dtype=dtype))
        self.images: list[Tensor] = []
        self.answer = torch.empty(1, 256, 64, 64)

    def forward(self, image: Tensor) -> Tensor:
        self.images.append(image)
        if image.is_meta:
            return self.answer.zero_()
        cells = torch.nn.functional.avg_pool2d(image.detach(), 16)
        return self.answer.copy_(cells.repeat(1, 86, 1, 1)[:, :256])


@pytest.fixture
def tiny() -> Sam:
    return sam_of(TINY)


@pytest.fixture
def stock(tiny: Sam) -> Predictor:
    return Predictor(Sam(Recorder(), tiny.prompt_encoder, tiny.mask_decoder))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(30, 41), (41, 30), (1024, 1024), (1300, 900)], ids="{0[0]}x{0[1]}".format)
def test_image_is_prepared_as_segment_anything_does(tiny, stock: Predictor, size, image_format: str) -> None:
    predictor, pixels = SparseSamPredictor(tiny, Recorder()), noise(*size)
    for either in (predictor, stock):
        either.set_image(pixels, image_format)
    (found,), (expected,) = predictor.encoder.images, stock.model.image_encoder.images
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    assert found.shape == (1, 3, 1024, 1024)
    assert_same_answers(predictor.predict(**POINTS), stock.predict(**POINTS))


MISUSES: dict[str, Callable[[Predictor], object]] = {
    "format": lambda predictor: predictor.set_image(noise(30, 41), "GRAY"),
    "grey": lambda predictor: predictor.set_image(noise(30, 41)[..., 0]),
    "alpha": lambda predictor: predictor.set_image(np.zeros((30, 41, 4), np.uint8)),
    "unscaled": lambda predictor: predictor.set_torch_image(torch.zeros(1, 3, 512, 512), (512, 512)),
    "three-axes": lambda predictor: predictor.set_torch_image(torch.zeros(3, 1024, 1024), (1024, 1024)),
    "channels-last": lambda predictor: predictor.set_torch_image(torch.zeros(1, 1024, 1024, 3), (1024, 1024)),
    "no-labels": lambda predictor: predictor.predict(point_coords=POINTS["point_coords"]),
    "after-reset": lambda predictor: (predictor.reset_image(), predictor.predict(**POINTS)),
    "after-reset-torch": lambda predictor: (predictor.reset_image(), predictor.predict_torch(None, None)),
    "after-reset-embedding": lambda predictor: (predictor.reset_image(), predictor.get_image_embedding()),
}


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(30, 41), (1300, 500)], ids="{0[0]}x{0[1]}".format)
def test_a_tensor_is_prepared_as_an_array(tiny, size, image_format: str) -> None:
    seen, image = [], noise(*size)
    predictor = SparseSamPredictor(tiny, lambda prepared: seen.append(prepared) or torch.zeros(1, 256, 64, 64))
    for same in (image, torch.from_numpy(image)):
        predictor.set_image(same, image_format)
        assert (predictor.original_size, max(predictor.input_size)) == (size, 1024)
    assert torch.equal(*seen)


def test_tensors_that_are_no_image_are_refused(tiny) -> None:
    predictor = SparseSamPredictor(tiny, lambda prepared: prepared)
    with pytest.raises(ImageError, match=r"image tensor is uint8 of shape \(1, 4, 5, 3\); give uint8 of shape"):
        predictor.set_image(torch.zeros(1, 4, 5, 3, dtype=torch.uint8))
    with pytest.raises(AssertionError, match="image_format must be in"):
        predictor.set_image(torch.zeros(4, 5, 3, dtype=torch.uint8), "RBG")


@pytest.mark.parametrize("config", [TINY, HQ], ids=["sam", "hq"])
@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_misuse_fails_as_in_segment_anything(stock: Predictor, config, misuse: Callable) -> None:
    recorder, interm = Recorder(), torch.zeros(1, 1, 64, 64, HQ.embed_dim)
    encoder = recorder if config is TINY else lambda image: (recorder(image), interm)
    predictor = SparseSamPredictor(sam_of(config), encoder)
    failures = []
    for either in (predictor, stock):
        either.set_image(noise(30, 41))
        with pytest.raises(Exception) as caught:
            misuse(either)
        failures.append((type(caught.value), str(caught.value), either.is_image_set))
    assert failures[0] == failures[1]


def test_nothing_is_set_at_first(tiny) -> None:
    predictor = SparseSamPredictor(tiny, Recorder())
    with pytest.raises(RuntimeError, match="An image must be set"):
        predictor.predict(**POINTS)
    assert predictor.device == torch.device("cpu")
    assert predictor.model is tiny


def test_sparse_encoder_gives_its_own_embedding(tiny, coins: Sample) -> None:
    sparse, dense = (SparseSamEncoder(tiny.image_encoder, TINY, sparsity) for sparsity in (SparsityConfig(), DENSE))
    predictor, image = SparseSamPredictor(tiny, sparse), preprocess(coins.pixels).tensor
    predictor.set_image(coins.pixels)
    with torch.no_grad():
        torch.testing.assert_close(predictor.get_image_embedding(), sparse(image), atol=0, rtol=0)
        assert not torch.allclose(predictor.get_image_embedding(), dense(image), atol=0.01)


@pytest.mark.parametrize("config", [TINY, HQ], ids=["sam", "hq"])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_encoder_beside_a_float32_decoder(coins: Sample, config, dtype: torch.dtype) -> None:
    sam, device = sam_of(config), "cuda" if torch.cuda.is_available() else "cpu"
    encoder = cast_copy(SparseSamEncoder(sam.image_encoder, config, SparsityConfig()), dtype).to(device)
    predictor, image = SparseSamPredictor(sam, encoder), preprocess(coins.pixels).tensor.to(device, dtype)
    predictor.set_image(coins.pixels)
    with torch.no_grad():
        streams = list(encoder.streams(image))[1:]
        expected = encoder.finish(streams[-1]).to("cpu", torch.float32)
        torch.testing.assert_close(predictor.get_image_embedding(), expected, atol=0, rtol=0)
        if config.hq:
            first = config.global_blocks[0]
            early = torch.stack([encoder.to_grid(streams[first])]).to("cpu", torch.float32)
            torch.testing.assert_close(predictor.interm_features, early, atol=0, rtol=0)
    masks, iou, low_res = predictor.predict(**POINTS, return_logits=True)
    assert {array.dtype for array in (masks, iou, low_res)} == {np.dtype(np.float32)}
    assert np.isfinite(low_res).all()
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def test_image_goes_where_the_encoders_parameters_are(tiny, device: str, dtype: torch.dtype) -> None:
    predictor = SparseSamPredictor(tiny, Recorder())
    predictor.encoder.to(device, dtype)  # after construction, as somebody may move a model
    predictor.set_image(noise(30, 41))
    (image,) = predictor.encoder.images
    assert (image.device.type, image.dtype) == (device, dtype)
    assert predictor.get_image_embedding().device == predictor.device
    assert predictor.get_image_embedding().dtype == torch.float32


def test_function_gets_float32(tiny) -> None:
    recorder = Recorder(dtype=torch.float64)
    predictor = SparseSamPredictor(tiny, lambda image: recorder(image).double())
    predictor.set_image(noise(30, 41))
    assert recorder.images[0].dtype == torch.float32
    assert predictor.predict(**POINTS)[1].dtype == np.float32


def test_predictors_over_one_encoder_do_not_disturb_each_other(tiny) -> None:
    encoder, images = Recorder(), [noise(30, 41, seed=1), noise(60, 33, seed=2)]
    alone = []
    for pixels in images:
        predictor = SparseSamPredictor(tiny, encoder)
        predictor.set_image(pixels)
        alone.append(predictor.predict(**POINTS, return_logits=True))
    together = [SparseSamPredictor(tiny, encoder) for _ in images]
    for predictor, pixels in zip(together, images, strict=True):
        predictor.set_image(pixels)
    together[1].predict(**BOX)
    for predictor, expected in zip(together, alone, strict=True):
        assert_same_answers(predictor.predict(**POINTS, return_logits=True), expected)
    together[1].reset_image()
    assert_same_answers(together[0].predict(**POINTS, return_logits=True), alone[0])


@pytest.mark.parametrize("config", [TINY, HQ], ids=["sam", "hq"])
def test_model_and_encoder_stay_as_they_are(config) -> None:
    sam = random_sam(config).requires_grad_(True)
    encoder = SparseSamEncoder(sam.image_encoder, config, SparsityConfig())
    snapshot = partial(lambda *modules: [{**vars(m)} for module in modules for m in module.modules()], sam, encoder)
    weights, before = {name: tensor.clone() for name, tensor in sam.state_dict().items()}, snapshot()
    predictor = SparseSamPredictor(sam, encoder)
    predictor.set_image(noise(30, 41))
    answers = predictor.predict_torch(None, None, torch.tensor([[10.0, 10.0, 600.0, 700.0]]))
    assert snapshot() == before
    for name, tensor in sam.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=0, rtol=0)
    kept = [*answers, predictor.features, *([predictor.interm_features] if config.hq else [])]
    assert not any(tensor.requires_grad for tensor in kept)


@pytest.mark.parametrize(
    ("config", "output", "message"),
    [
        (TINY, torch.zeros(1, 256, 32, 32), r"a tensor of shape \(1, 256, 32, 32\); return image embeddings"),
        (TINY, np.zeros((1, 256, 64, 64)), "a ndarray; return image embeddings"),
        (TINY, (torch.zeros(1, 256, 64, 64), torch.zeros(2, 1, 64, 64, 64)), "has no use for"),
        (HQ, torch.zeros(1, 256, 64, 64), "SAM-HQ's decoder needs intermediate embeddings"),
        (HQ, (torch.zeros(1, 256, 64, 64), torch.zeros(1, 64, 64, 64)), r"shape \(num_global, 1, 64, 64, C\)"),
    ],
    ids=["grid", "numpy", "interm-without-hq", "hq-without-interm", "interm-shape"],
)
def test_wrong_encoder_output_is_refused(config, output, message: str) -> None:
    predictor = SparseSamPredictor(sam_of(config), lambda image: output)
    with pytest.raises(InvalidInput, match=message):
        predictor.set_image(noise(30, 41))
    assert not predictor.is_image_set


def test_hq_token_needs_hq(tiny) -> None:
    with pytest.raises(InvalidInput, match="needs a SAM-HQ model"):
        SparseSamPredictor(tiny, Recorder(), hq_token_only=True)


@pytest.mark.parametrize("name", METHODS)
def test_signature_is_segment_anythings(name: str) -> None:
    def signature(owner: type) -> list[tuple]:
        parameters = inspect.signature(getattr(owner, name)).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert signature(SparseSamPredictor) == signature(Predictor)
