"""Evaluations: the figures are those of segment_anything and pycocotools, whatever happens on the way."""

from __future__ import annotations

import csv
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from sparsesam_deploy.accuracy.data.dataset import LabelledImage
from sparsesam_deploy.accuracy.evaluation import scoring
from sparsesam_deploy.accuracy.evaluation.journal import Journal
from sparsesam_deploy.accuracy.evaluation.judge import Judge
from sparsesam_deploy.accuracy.evaluation.objects import DenseObjects
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.scoring import Comparison
from sparsesam_deploy.accuracy.evaluation.variants import Variant, combinations, describe, torch_variant
from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.checkpoint import LoadedSam, load_nano
from sparsesam_deploy.model.config import DENSE, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.model.image import preprocess
from tests.accuracy.evaluation.authors import coco_iou, masks_by
from tests.accuracy.pictures import SIZE, CheapEncoder, Pictures, picture, pictures
from tests.comparison import relative_error
from tests.helpers import TINY, random_sam
from tests.holdout import scenes

CPU = torch.device("cpu")
KINDS = ("box", "center", "random-2")


@cache
def loaded() -> LoadedSam:
    return LoadedSam(random_sam(TINY), TINY, "0" * 64, "tiny")


def comparison(kinds=("box",), point_mask="best") -> Comparison:
    dense, variants = CheapEncoder(), {"near": CheapEncoder(0.1), "far": CheapEncoder(2.0)}
    sam = loaded().sam

    def shape(sparsity: SparsityConfig) -> SparseSamEncoder:
        return SparseSamEncoder(sam.image_encoder, TINY, sparsity)

    judge = Judge(loaded(), dense, [parse_prompt(kind) for kind in kinds], point_mask, CPU)
    thinned = [Variant(name, shape(SparsityConfig()), encoder) for name, encoder in variants.items()]
    return Comparison(Variant("dense", shape(DENSE), dense), tuple(thinned), judge)


def journal(tmp_path) -> Journal:
    tmp_path.mkdir(exist_ok=True)
    return Journal(tmp_path / "journal", {"plan": 1})


def run(one: Comparison, dataset, kept: Journal, skip_bad: bool = False):
    scoring.run(one, dataset, kept, skip_bad, lambda count, words: None)
    return scoring.summarise(one, dataset, kept)


@cache
def authors_masks(noise: float, index: int, kind: str, multimask: bool) -> np.ndarray:
    """The masks of both objects by segment_anything's predictor, on the embedding of `CheapEncoder`."""
    predictor = SamPredictor(loaded().sam)
    return masks_by(predictor, CheapEncoder(noise), f"{index}.png", picture(index), kind, multimask)


def band(mask: np.ndarray) -> np.ndarray:
    """2 % of the diagonal, eroded ring by ring as in the boundary-iou API (for masks clear of the image's edge too)."""
    eroded = np.pad(mask, 1)
    for _ in range(round(0.02 * float(np.hypot(*mask.shape)))):
        eroded = binary_erosion(eroded, np.ones((3, 3)), border_value=1)
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize(("kinds", "point_mask"), [(KINDS, "best"), (("center",), "single")], ids=["best", "single"])
def test_figures_are_those_of_independent_tools(tmp_path, kinds, point_mask):
    one, dataset = comparison(kinds, point_mask), pictures(1)
    _, results = run(one, dataset, journal(tmp_path))
    truth = picture(0).masks
    for noise, result in zip((0.0, 0.1, 2.0), results, strict=True):
        for score in result.scores:
            multimask = score.prompt == "center" and point_mask == "best"
            masks, dense = (authors_masks(which, 0, score.prompt, multimask) for which in (noise, 0.0))
            iou = [coco_iou(*pair) for pair in zip(masks, truth, strict=True)]
            dense_iou = [coco_iou(*pair) for pair in zip(dense, truth, strict=True)]
            both = zip(masks, dense, strict=True)
            agreement = [coco_iou(*pair) if pair[0].any() or pair[1].any() else 1.0 for pair in both]
            assert score.iou.mean == pytest.approx(np.mean(iou), abs=2e-4)
            assert score.iou_change.mean == pytest.approx(np.mean(iou) - np.mean(dense_iou), abs=3e-4)
            boundary = [coco_iou(band(mask), band(true)) for mask, true in zip(masks, truth, strict=True)]
            assert score.boundary_iou.mean == pytest.approx(np.mean(boundary), abs=2e-3)
            assert score.agreement.mean == pytest.approx(np.mean(agreement), abs=3e-3)


def test_the_dense_encoder_is_compared_with_itself(tmp_path):
    _, (dense, near, far) = run(comparison(), pictures(2), journal(tmp_path))
    assert [score.iou_change.mean for score in dense.scores] == [0]
    assert [score.agreement.mean for score in dense.scores] == [1]
    assert dense.embedding_error.mean == 0 < near.embedding_error.mean < far.embedding_error.mean
    assert not dense.worst
    assert near.scores[0].agreement.mean > far.scores[0].agreement.mean


def test_embedding_error(tmp_path):
    one = comparison()
    _, results = run(one, pictures(2), journal(tmp_path))
    expected = []
    for index in range(2):
        image = one.judge.scene("x", picture(index)).image.tensor
        encoders = one.dense, one.variants[1]
        dense, far = (torch.from_numpy(variant.encode(image).image_embeddings) for variant in encoders)
        expected.append(relative_error(far, dense))
    assert results[2].embedding_error.mean == pytest.approx(np.mean(expected), rel=1e-5)


class Interrupted(CheapEncoder):
    """Is interrupted in its third call."""

    def __call__(self, image):
        if self.calls == 2:
            raise KeyboardInterrupt
        return super().__call__(image)


def test_a_killed_run_goes_on_and_finds_the_same(tmp_path):
    whole = run(comparison(), pictures(4), journal(tmp_path / "whole"))
    one, dataset = comparison(), pictures(4)
    killed = Comparison(
        one.dense, (Variant("near", one.variants[0].shape, Interrupted(0.1)), one.variants[1]), one.judge
    )
    with pytest.raises(KeyboardInterrupt):
        scoring.run(killed, dataset, journal(tmp_path / "parts"), False, lambda count, words: None)
    again = comparison()
    found = run(again, dataset, journal(tmp_path / "parts"))
    assert again.dense.encode.calls == 2
    assert found == whole


@pytest.mark.parametrize(
    ("choices", "words"), [({"bad": (1,)}, "1.png is torn"), ({"flawed": (1,)}, "label 7 of 1.png")]
)
def test_what_cannot_be_used_is_refused_by_name_or_listed(tmp_path, choices, words):
    with pytest.raises(InvalidInput, match=f"{words}.*--skip-bad"):
        run(comparison(), pictures(3, **choices), journal(tmp_path / "strict"))
    summary, _ = run(comparison(), pictures(3, **choices), journal(tmp_path / "lenient"), skip_bad=True)
    assert len(summary.skipped) == 1 and words in summary.skipped[0]
    assert summary.images == (2 if "bad" in choices else 3)
    assert summary.left_out == {"crowd annotations": 3}


def test_skipping_may_begin_late_but_not_end(tmp_path):
    """What the refusal advises goes on where the run stopped; without it, what was left out is refused again."""
    kept = tmp_path / "kept"
    with pytest.raises(InvalidInput, match="--skip-bad"):
        run(comparison(), pictures(3, bad=(1,)), journal(kept))
    one = comparison()
    summary, _ = run(one, pictures(3, bad=(1,)), journal(kept), skip_bad=True)
    assert (summary.images, one.dense.encode.calls) == (2, 1)
    with pytest.raises(InvalidInput, match="left out by an earlier run"):
        run(comparison(), pictures(3, bad=(1,)), journal(kept))


def test_an_image_that_is_too_narrow_is_named(tmp_path, monkeypatch):
    thin = LabelledImage(np.zeros((1, 5000, 3), np.uint8), np.ones((1, 1, 5000), bool), ("all",))
    monkeypatch.setattr(Pictures, "load", lambda self, index: thin)
    with pytest.raises(InvalidInput, match=r"0\.png: image of 5000x1 pixels"):
        run(comparison(), pictures(1), journal(tmp_path))


def test_objects_of_the_dense_model_are_those_of_its_own_generator(monkeypatch):
    """At the same points and thresholds; its most confident 24, small ones left out."""
    monkeypatch.setattr("sparsesam_deploy.accuracy.evaluation.objects.POINTS_PER_SIDE", 4)
    sam, pixels = load_nano(), scenes()[0].image
    dense = torch_variant("dense", sam, DENSE, CPU)
    found = DenseObjects(sam, CPU)(pixels, dense.encode(preprocess(pixels).tensor))
    theirs = SamAutomaticMaskGenerator(sam.sam, 4, pred_iou_thresh=0.5, stability_score_thresh=0.6).generate(pixels)
    theirs = sorted((one for one in theirs if one["area"] >= 100), key=lambda one: -one["predicted_iou"])[:24]
    assert 3 <= len(found) == len(theirs)
    assert (found != np.stack([one["segmentation"] for one in theirs])).mean() < 1e-4


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="no image of pictures could be used"):
        run(comparison(), pictures(2, bad=(0, 1)), journal(tmp_path), skip_bad=True)


def test_without_ground_truth_the_dense_masks_are_the_truth(tmp_path, monkeypatch):
    one = comparison()
    monkeypatch.setattr(one.judge, "_find_objects", lambda pixels, outputs: picture(0).masks)
    summary, (dense, near, _) = run(one, pictures(2, has_truth=False), journal(tmp_path))
    assert not summary.has_truth and summary.objects == 4
    assert dense.scores[0].iou.mean == 1
    assert near.scores[0].iou == near.scores[0].agreement
    assert near.scores[0].iou_change.mean == pytest.approx(near.scores[0].agreement.mean - 1)


def test_images_without_objects_are_listed(tmp_path, monkeypatch):
    one = comparison()
    masks = iter([picture(0).masks, np.zeros((0, *SIZE), bool)])
    monkeypatch.setattr(one.judge, "_find_objects", lambda pixels, outputs: next(masks))
    summary, _ = run(one, pictures(2, has_truth=False), journal(tmp_path))
    assert summary.images == 1 and summary.skipped == ("1.png: the dense encoder finds no object.",)


def test_mirrorings_are_one_image(tmp_path):
    summary, _ = run(comparison(), pictures(1, symmetries=2), journal(tmp_path))
    assert (summary.images, summary.objects, summary.symmetries) == (1, 4, 2)


def test_the_worst_come_first_and_every_object_is_in_the_csv(tmp_path):
    kept = journal(tmp_path)
    _, (_, _, far) = run(comparison(), pictures(6), kept)
    losses = [one.iou - one.dense_iou for one in far.worst]
    assert losses == sorted(losses) and len(losses) == scoring.WORST
    scoring.write_objects(kept, tmp_path / "objects.csv")
    with open(tmp_path / "objects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2 * 3
    of_far = [float(row["iou"]) for row in rows if row["variant"] == "far" and row["prompt"] == "box"]
    assert np.mean(of_far) == pytest.approx(far.scores[0].iou.mean)
    assert {row["area"] for row in rows if row["image"] == "0.png"} == {
        str(area) for area in picture(0).masks.sum((1, 2))
    }


def test_combinations_are_all_of_them():
    found = combinations({"density": [0.3, 0.4], "order": ["lattice", "ranked"], "mlp_density": []}, SparsityConfig())
    expected = [SparsityConfig(d, d, order=order) for d in (0.3, 0.4) for order in ("lattice", "ranked")]
    assert found == expected
    assert combinations({"density": [0.3], "mlp_density": [0.5]}, SparsityConfig()) == [SparsityConfig(0.3, 0.5)]


def test_descriptions_tell_settings_apart():
    settings = [
        DENSE,
        SparsityConfig(),
        SparsityConfig(0.3333331),
        SparsityConfig(0.3333334),
        SparsityConfig(order="ranked"),
        SparsityConfig(routing="skip-static"),
        SparsityConfig(windowed_density=0.5),
        SparsityConfig(windowed_density=0.5, windowed_routing="share-variance"),
        SparsityConfig((1.0, 0.5)),
        SparsityConfig(1.0, 1.0, order="ranked"),
    ]
    assert len({describe(one) for one in settings} | {"dense"}) == len(settings) + 1
