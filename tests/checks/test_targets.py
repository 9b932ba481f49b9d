"""How results are judged."""

from __future__ import annotations

import pytest

from checks.targets import Target, targets
from tests.benchmarks.synthetic import attention_results, encoder_results


@pytest.mark.parametrize(
    ("target", "met", "verdict"),
    [
        (Target("t", 7.0, 7.0, at_least=True), True, "met"),
        (Target("t", 6.3, 7.0, at_least=True), False, "missed by 10 %"),
        (Target("t", 0.5, 0.5), True, "met"),
        (Target("t", 0.75, 0.5), False, "missed by 50 %"),
        (Target("t", None, 0.5), None, "not measured"),
    ],
    ids=("at-least-met", "at-least-missed", "at-most-met", "at-most-missed", "nothing"),
)
def test_verdicts(target: Target, met: bool | None, verdict: str):
    assert (target.met, target.verdict) == (met, verdict)


def test_every_target_of_every_model_is_judged():
    found = {target.name: target for target in targets(attention_results(), encoder_results())}
    assert len(found) == 3 * (4 + 2 + 1 + 2)
    assert found["vit_b encoder, default preset, speed-up"].value == 10.0
    assert found["vit_b encoder, default preset, speed-up"].met
    assert found["vit_h encoder, density 0.4, of its products"].value == 1.25
    assert found["vit_l activations, batch 8, of eager"].verdict == "met"
    assert found["vit_b fused dense control is in the table"].met
    assert found["vit_h attention, density 0.4, of SDPA"].verdict == "missed by 20 %"
    assert found["vit_h attention, density 1, of SDPA"].verdict == "met"


def test_nothing_measured_is_no_verdict():
    assert {target.verdict for target in targets(None, {})} == {"not measured"}
