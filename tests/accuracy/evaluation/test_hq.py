"""Evaluations of a SAM-HQ model: its decoder, on the embeddings that its encoder's variants give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from sparsesam_deploy.accuracy.evaluation import scoring
from sparsesam_deploy.accuracy.evaluation.journal import Journal
from sparsesam_deploy.accuracy.evaluation.judge import Judge
from sparsesam_deploy.accuracy.evaluation.prompts import parse_prompt
from sparsesam_deploy.accuracy.evaluation.scoring import Comparison
from sparsesam_deploy.accuracy.evaluation.variants import torch_variant
from sparsesam_deploy.model.checkpoint import LoadedSam
from sparsesam_deploy.model.config import DENSE, SamConfig, SparsityConfig
from tests.accuracy.evaluation.authors import coco_iou, masks_by
from tests.accuracy.pictures import picture, pictures
from tests.helpers import random_sam

CPU = torch.device("cpu")
HQ = SamConfig("custom", embed_dim=16, depth=2, num_heads=1, global_blocks=(0,), decoder_mlp_dim=64, hq=True)
KINDS = ("box", "center")


def authors_model(sam: Sam) -> torch.nn.Module:
    """The same weights in the mask decoder of SAM-HQ's authors."""
    parts = pytest.importorskip("segment_anything_hq").modeling
    transformer = parts.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=HQ.decoder_mlp_dim, num_heads=8)
    decoder = parts.MaskDecoderHQ(transformer_dim=256, transformer=transformer, vit_dim=HQ.embed_dim)
    decoder.load_state_dict(sam.mask_decoder.state_dict(), strict=True)
    return parts.Sam(sam.image_encoder, sam.prompt_encoder, decoder).eval()


def test_figures_are_those_of_the_authors_decoder(tmp_path):
    """Of the sum of its two masks, and of the feature maps that the thinned encoder gives."""
    loaded = LoadedSam(random_sam(HQ), HQ, "0" * 64, "hq")
    dense, sparse = (
        torch_variant(name, loaded, sparsity, CPU)
        for name, sparsity in (("dense", DENSE), ("sparse", SparsityConfig(0.05, (0.3, 0.3))))
    )
    judge = Judge(loaded, dense.encode, [parse_prompt(kind) for kind in KINDS], "best", CPU)
    comparison, dataset, journal = Comparison(dense, (sparse,), judge), pictures(1), Journal(tmp_path / "journal", {})
    scoring.run(comparison, dataset, journal, False, lambda count, words: None)
    _, (of_dense, of_sparse) = scoring.summarise(comparison, dataset, journal)
    predictor, item = pytest.importorskip("segment_anything_hq").SamPredictor(authors_model(loaded.sam)), picture(0)
    for kind, before, score in zip(KINDS, of_dense.scores, of_sparse.scores, strict=True):
        expected_before, expected = (
            masks_by(predictor, one.encode, "0.png", item, kind, multimask=kind == "center") for one in (dense, sparse)
        )
        assert before.iou.mean == pytest.approx(mean_iou(expected_before, item.masks), abs=5e-4)
        assert score.iou.mean == pytest.approx(mean_iou(expected, item.masks), abs=5e-4)
        assert score.agreement.mean == pytest.approx(mean_iou(expected, expected_before), abs=5e-4)
        assert score.agreement.mean < 0.995, "thinning changes too little here to be seen"


def mean_iou(masks: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean([coco_iou(*pair) for pair in zip(masks, others, strict=True)]))
