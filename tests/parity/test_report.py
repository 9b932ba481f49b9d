"""The parity report: every threshold is asked, no failure is lost on the way to JSON, JUnit or the terminal."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from sparsesam_deploy.parity.blocks import StageError
from sparsesam_deploy.parity.masks import Agreement
from sparsesam_deploy.parity.report import EngineResult, ImageResult, ParityReport
from sparsesam_deploy.parity.tolerance import TOLERANCES

GOOD = Agreement(mean_iou=1.0, min_iou=0.99, mean_boundary_iou=1.0, min_boundary_iou=0.98)
COST = Agreement(mean_iou=0.97, min_iou=0.8, mean_boundary_iou=0.9, min_boundary_iou=0.7)
STAGES = tuple(StageError(name, 2e-7, 3e-7) for name in ("embedding", "block 0", "block 1", "neck"))
ENGINE = EngineResult(relative_l2=2e-6, median_error=1e-6, cosine=1.0, parity=GOOD)


def image_result(name: str = "coins.png", **changes) -> ImageResult:
    errors = {"max_abs": 1e-5, "relative_l2": 3e-7, "relative_l2_routed_alike": 4e-7, "cosine": 1.0}
    masks = {"parity": GOOD, "cost": COST, "total": COST}
    return ImageResult(**({"image": name, "prompts": 24, "stages": STAGES} | errors | masks | changes))


def report(*images: ImageResult, dtype: str = "fp32", **changes) -> ParityReport:
    values = {"encoder_kernels": "ONNX Runtime CPU", "decoder_kernels": "ONNX Runtime CPU", "engine": "not built"}
    return ParityReport(dtype=dtype, images=images or (image_result(),), **(values | changes))


def worse(agreement: Agreement, **changes) -> Agreement:
    return agreement.model_copy(update=changes)


def failing_stage(**changes) -> tuple[StageError, ...]:
    return (*STAGES[:2], replace(STAGES[2], **changes), *STAGES[3:])


# --- thresholds --------------------------------------------------------------------------------------------------

FAILURES = {
    "block": ({"stages": failing_stage(graph=1e-3)}, "blocks: block 1 computes something else"),
    "embedding": ({"relative_l2_routed_alike": 2e-5}, "embedding relative L2, routed alike: 2.0e-05 is above 1e-05"),
    "mask-iou": ({"parity": worse(GOOD, mean_iou=0.99)}, "mask IoU, ONNX to torch: 0.99000 is below 0.999"),
    "boundary": ({"parity": worse(GOOD, mean_boundary_iou=0.9)}, "boundary IoU, ONNX to torch: 0.90000 is below"),
    "engine-error": (
        {"engine": worse(ENGINE, median_error=0.1)},
        "engine embedding error, median position: 1.0e-01 is above",
    ),
    "engine-cosine": ({"engine": worse(ENGINE, cosine=0.5)}, "engine embedding cosine: 0.50000 is below"),
    "engine-iou": (
        {"engine": worse(ENGINE, parity=worse(GOOD, mean_iou=0.5))},
        "engine mask IoU: 0.50000 is below",
    ),
    "engine-boundary": (
        {"engine": worse(ENGINE, parity=worse(GOOD, mean_boundary_iou=0.5))},
        "engine boundary IoU: 0.50000 is below",
    ),
}
NAN = {
    "graph": {"stages": failing_stage(graph=math.nan)},
    "precision": {"stages": failing_stage(precision=math.nan)},
    "infinite-block": {"stages": failing_stage(graph=math.inf, precision=math.inf)},
    "l2": {"relative_l2_routed_alike": math.nan},
    "infinite-l2": {"relative_l2_routed_alike": math.inf},
    "mask-iou": {"parity": worse(GOOD, mean_iou=math.nan)},
    "boundary-iou": {"parity": worse(GOOD, mean_boundary_iou=math.nan)},
    "engine-error": {"engine": worse(ENGINE, median_error=math.nan)},
    "engine-cosine": {"engine": worse(ENGINE, cosine=math.nan)},
    "engine-iou": {"engine": worse(ENGINE, parity=worse(GOOD, mean_iou=math.nan))},
    "engine-boundary": {"engine": worse(ENGINE, parity=worse(GOOD, mean_boundary_iou=math.nan))},
}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_good_report_passes(dtype):
    good = report(image_result(engine=ENGINE), image_result("face.png"), dtype=dtype)
    assert (good.passed, good.failures) == (True, [])
    assert len(good.checks) == 8 + 4


def test_what_near_ties_make_of_an_image_is_shown_and_not_judged():
    """Tokens routed differently, each as well as the other: the parts of the error that are not rounding."""
    shown = report(image_result(max_abs=3.0, relative_l2=0.02, cosine=0.9998))
    assert shown.passed
    assert shown.summary()["relative_l2"] == 0.02


@pytest.mark.parametrize(("changes", "sentence"), FAILURES.values(), ids=FAILURES)
def test_each_threshold_fails_alone_and_in_words(changes, sentence):
    bad = report(image_result("face.png"), image_result(**changes))
    (failure,) = bad.failures
    assert failure.startswith(f"coins.png {sentence}")
    assert not bad.passed


@pytest.mark.parametrize("changes", NAN.values(), ids=NAN)
def test_nan_passes_nothing(changes):
    assert len(report(image_result(**changes)).failures) == 1


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_looser_types_have_looser_limits_in_one_order(dtype):
    order = ["fp32", "fp16", "bf16"]
    stricter = [TOLERANCES[other] for other in order[: order.index(dtype)]]
    mine = TOLERANCES[dtype]
    assert all(mine.block > other.block and mine.embedding > other.embedding for other in stricter)
    assert all(mine.cosine < other.cosine and mine.mask_iou < other.mask_iou for other in stricter)


def test_sparsity_is_judged_only_when_asked():
    assert report().passed
    assert report(min_dense_iou=0.97).passed
    assert report(min_dense_iou=0.975).failures == ["coins.png mask IoU to dense: 0.97000 is below 0.975"]
    nan = image_result(total=worse(COST, mean_iou=math.nan))
    assert len(report(nan, min_dense_iou=0.1).failures) == 1


def test_what_was_exported_is_held_against_the_dense_model():
    """Not the PyTorch twin of it, which may be better."""
    bad = image_result(total=worse(COST, mean_iou=0.5))
    assert not report(bad, min_dense_iou=0.9).passed


# --- forms -------------------------------------------------------------------------------------------------------


def test_summary_holds_means_and_worst_cases():
    figures = {"max_abs": 2e-3, "relative_l2": 4e-6, "relative_l2_routed_alike": 5e-6, "cosine": 0.9999995}
    second = image_result("face.png", prompts=1, cost=worse(COST, mean_iou=0.5), **figures)
    summary = report(image_result(), second).summary()
    assert (summary["images"], summary["prompts"], summary["passed"]) == (2, 25, True)
    assert summary.items() >= figures.items()
    assert summary["mask_iou_sparse_vs_dense"] == pytest.approx(0.735)
    assert summary["mask_iou_onnx_vs_torch"] == 1


def test_json_round_trip():
    written = report(image_result(engine=ENGINE), min_dense_iou=0.5)
    content = json.loads(json.dumps(written.as_json(), allow_nan=False))
    assert ParityReport.model_validate(content) == written
    assert ParityReport.model_validate_json(written.model_dump_json()) == written
    assert content["tolerance"]["block"] == TOLERANCES["fp32"].block
    assert content["failures"] == []


@pytest.mark.parametrize("changes", NAN.values(), ids=NAN)
def test_a_report_of_numbers_that_are_none_is_still_json(changes):
    """Strict parsers know neither NaN nor Infinity; the failure must reach them all the same."""
    content = json.loads(json.dumps(report(image_result(**changes)).as_json(), allow_nan=False))
    assert content["summary"]["passed"] is False
    assert len(content["failures"]) == 1


def test_junit_counts_every_check_and_every_failure():
    bad = report(
        image_result(relative_l2_routed_alike=1.0, parity=worse(GOOD, mean_iou=0.1)), image_result('face <&> "1".png')
    )
    suite = ElementTree.fromstring(bad.junit())
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "8", "2")
    cases = suite.findall("testcase")
    assert len(cases) == 8
    assert {case.get("classname") for case in cases} == {"parity.fp32"}
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failed == ["coins.png embedding relative L2, routed alike", "coins.png mask IoU, ONNX to torch"]
    assert cases[1].find("failure").get("message") == "1.0e+00 is above 1e-05"
    assert any(case.get("name").startswith('face <&> "1".png') for case in cases)


def printed(shown: ParityReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    shown.print(console)
    return console.file.getvalue()


def test_the_table_holds_the_figures_at_80_columns():
    second = image_result("astronaut.png", prompts=1, parity=worse(GOOD, mean_iou=0.9991))
    text = printed(report(image_result(), second))
    table = [line for line in text.splitlines() if "astronaut.png" in line]
    assert len(table) == 2  # its errors and its masks, neither broken over two lines
    for figure in ("3.0e-07", "2.0e-07", "4.0e-07", "0.9991", "0.9700"):
        assert figure in " ".join(table)
    assert "engine: not built" in text.replace("  ", " ")
    assert "FAILED" not in text


def test_what_an_engine_showed_is_printed_and_summed_up():
    shown = report(image_result(engine=worse(ENGINE, median_error=6.5e-7)))
    assert "6.5e-07" in printed(shown)
    assert shown.summary()["engine_median_error"] == 6.5e-7
    assert "Engine to torch" not in printed(report())


def test_failures_are_printed_in_full():
    bad = report(image_result("a/[red]photo[/blue].png", relative_l2_routed_alike=1.0))
    text = " ".join(printed(bad).split())
    assert "FAILED a/[red]photo[/blue].png embedding relative L2, routed alike: 1.0e+00 is above 1e-05" in text
