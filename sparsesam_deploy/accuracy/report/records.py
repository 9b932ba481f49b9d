"""What `evaluate` and `tune` find, as data: the JSON files are these models."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel

from ...provenance import Provenance

SCHEMA: Final = 1


class Interval(BaseModel):
    """A mean over objects and its 95 % confidence interval, by bootstrap over images."""

    mean: float
    low: float
    high: float


class Cost(BaseModel):
    """Work of one image through the encoder, as shares of the dense encoder's.

    Attributes:
        gemm: multiplications in the linear layers of the blocks.
        flops: all multiplications of the blocks: linear layers, scores and weighted values.
        bytes: smallest traffic with memory of the blocks, half precision: weights, streams, keys and values once.
        ms: measured time of the encoder in milliseconds, where it was measured.
    """

    gemm: float
    flops: float
    bytes: float
    ms: float | None = None


class Score(BaseModel):
    """One variant asked by one kind of prompt.

    ``iou`` and ``boundary_iou`` are to the ground truth (where there is none, to the dense encoder's masks);
    ``iou_change`` and ``boundary_iou_change`` from the dense encoder on the same prompts, paired; ``agreement`` is the
    IoU with the dense encoder's masks.
    """

    prompt: str
    iou: Interval
    boundary_iou: Interval
    iou_change: Interval
    boundary_iou_change: Interval
    agreement: Interval


class Worst(BaseModel):
    """One object on which a variant lost most against the dense encoder."""

    image: str
    object: str
    prompt: str
    iou: float
    dense_iou: float
    agreement: float

    @property
    def change(self) -> float:
        return self.iou - self.dense_iou


class VariantResult(BaseModel):
    """One way of thinning the encoder; the dense encoder is one of them, named ``dense``.

    ``settings`` are those of `SparsityConfig` by name; ``computed_by`` says which program computed it, where;
    ``embedding_error`` is the relative L2 error of the image embedding against the dense one, mean over images.
    """

    name: str
    settings: dict[str, Any]
    effective_density: dict[str, float]
    cost: Cost
    computed_by: str
    embedding_error: Interval
    scores: tuple[Score, ...]
    worst: tuple[Worst, ...]


class DatasetSummary(BaseModel):
    """What was evaluated; ``skipped`` lists what `--skip-bad` left out, one sentence each."""

    description: str
    fingerprint: str
    has_truth: bool
    images: int
    objects: int
    symmetries: int
    left_out: dict[str, int]
    skipped: tuple[str, ...]


class RunProvenance(Provenance):
    """How to get these numbers again: of which weights, by which seed; ``seconds`` is what it took."""

    model: str
    checkpoint_sha256: str
    seed: int
    seconds: float


class Evaluation(BaseModel):
    """``evaluation.json``: ``variants`` start with the dense encoder."""

    schema_version: Literal[1] = SCHEMA
    provenance: RunProvenance
    dataset: DatasetSummary
    prompts: tuple[str, ...]
    variants: tuple[VariantResult, ...]


Knob = Literal["attention", "mlp", "windowed"]
"""Which density of a block a step changes: global attention, MLP rows, rows of a windowed block's attention."""


class Sensitivity(BaseModel):
    """What one knob of one block costs alone, everything else dense.

    ``disagreement`` is 1 - IoU with the dense masks, mean over objects; ``saved`` the share of the dense cost.
    """

    block: int
    knob: Knob
    density: float
    disagreement: float
    saved: float


class Step(BaseModel):
    """One step of the search: a knob of a block (or several) turned down, what it saved and what it cost.

    ``cost`` is the share of the dense cost that is left, ``predicted`` the disagreement that sensitivities alone add up
    to. ``disagreement`` and ``loss`` were measured with the schedule after this step on the calibration images, where
    it was far enough from the last one that was.
    """

    number: int
    block: int
    knob: Knob
    before: float
    after: float
    saved: float
    cost: Cost
    predicted: float
    disagreement: float | None
    loss: Interval | None


class ParetoPoint(BaseModel):
    """One schedule that was really evaluated; losses are drops of mean IoU (positive = worse than dense)."""

    name: str
    settings: dict[str, Any]
    cost: Cost
    calibration: Interval
    validation: Interval | None = None


class Tuning(BaseModel):
    """``tuning.json``: ``chosen`` and ``compared`` name two ``points``, ``loss_is`` says in words what a loss is."""

    schema_version: Literal[1] = SCHEMA
    provenance: RunProvenance
    calibration: DatasetSummary
    validation: DatasetSummary
    budget: dict[str, float]
    cost_measure: Literal["flops", "ms"]
    loss_is: str
    prompts: tuple[str, ...]
    sensitivities: tuple[Sensitivity, ...]
    steps: tuple[Step, ...]
    points: tuple[ParetoPoint, ...]
    chosen: str
    compared: str
    difference: Interval
    """Mean IoU of the chosen schedule minus that of the uniform one of equal cost, paired, on the validation images."""
