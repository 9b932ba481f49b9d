"""The parity report: as data, as a table for people, as JUnit XML for CI."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pydantic import BaseModel, JsonValue
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .blocks import StageError, first_failure
from .masks import Agreement
from .tolerance import AS_FP32, TOLERANCES


class EngineResult(BaseModel):
    """What running the engine showed for one image: embeddings and masks against PyTorch, both sparse.

    ``median_error`` is the relative L2 error of the median position. It does not show the few tokens that the engine
    routes differently because their scores almost tie.
    """

    relative_l2: float
    median_error: float
    cosine: float
    parity: Agreement


class ImageResult(BaseModel):
    """One image: errors of the encoder, and agreement of the masks of ``prompts`` prompts.

    ``parity`` compares ONNX with PyTorch, both sparse; ``cost`` compares sparse with dense, both PyTorch; ``total``
    compares sparse ONNX, which is shipped, with dense PyTorch. `EncoderParity` says what the other figures are.
    """

    image: str
    prompts: int
    stages: tuple[StageError, ...]
    max_abs: float
    relative_l2: float
    relative_l2_routed_alike: float
    cosine: float
    parity: Agreement
    cost: Agreement
    total: Agreement
    engine: EngineResult | None = None


class Check(BaseModel):
    """One yes-or-no question of the report; ``failure`` is the sentence when the answer is no."""

    name: str
    failure: str | None = None


class ParityReport(BaseModel):
    """Everything ``verify`` found out."""

    dtype: str
    encoder_kernels: str
    decoder_kernels: str
    engine: str
    images: tuple[ImageResult, ...]
    min_dense_iou: float | None = None

    @property
    def checks(self) -> list[Check]:
        """Every threshold of every image, passed or not."""
        return [check for image in self.images for check in self._image_checks(image)]

    @property
    def failures(self) -> list[str]:
        return [f"{check.name}: {check.failure}" for check in self.checks if check.failure]

    @property
    def passed(self) -> bool:
        return not self.failures

    def summary(self) -> dict[str, JsonValue]:
        """The few figures that belong beside an engine: means over images, worst cases."""

        def mean(kind: str) -> float:
            values = [getattr(image, kind).mean_iou for image in self.images]
            return round(sum(values) / len(values), 6)

        figures: dict[str, JsonValue] = {
            "passed": self.passed,
            "images": len(self.images),
            "prompts": sum(image.prompts for image in self.images),
            "max_abs": max(image.max_abs for image in self.images),
            "relative_l2": max(image.relative_l2 for image in self.images),
            "relative_l2_routed_alike": max(image.relative_l2_routed_alike for image in self.images),
            "cosine": min(image.cosine for image in self.images),
            "mask_iou_onnx_vs_torch": mean("parity"),
            "mask_iou_sparse_vs_dense": mean("cost"),
            "mask_iou_onnx_vs_dense": mean("total"),
            "engine": self.engine,
        }
        engines = [image.engine for image in self.images if image.engine is not None]
        if engines:
            figures["engine_relative_l2"] = max(engine.relative_l2 for engine in engines)
            figures["engine_median_error"] = max(engine.median_error for engine in engines)
            figures["mask_iou_engine_vs_torch"] = min(engine.parity.mean_iou for engine in engines)
        return {name: _finite(value) for name, value in figures.items()}

    def as_json(self) -> dict[str, JsonValue]:
        """The whole report; figures that are no numbers are null, as JSON has it."""
        content: dict[str, Any] = {
            "summary": self.summary(),
            "failures": self.failures,
            "tolerance": {"graph": AS_FP32.block, **vars(TOLERANCES[self.dtype])},
            **self.model_dump(mode="json"),
        }
        return {name: _finite(value) for name, value in content.items()}

    def _image_checks(self, image: ImageResult) -> list[Check]:
        limit = TOLERANCES[self.dtype]

        def at_least(name: str, value: float, least: float) -> Check:
            failure = None if value >= least else f"{value:.5f} is below {least:g}"
            return Check(name=f"{image.image} {name}", failure=failure)

        def at_most(name: str, value: float, most: float) -> Check:
            failure = None if value <= most else f"{value:.1e} is above {most:.0e}"
            return Check(name=f"{image.image} {name}", failure=failure)

        checks = [
            Check(name=f"{image.image} blocks", failure=first_failure(image.stages, self.dtype)),
            at_most("embedding relative L2, routed alike", image.relative_l2_routed_alike, limit.embedding),
            at_least("mask IoU, ONNX to torch", image.parity.mean_iou, limit.mask_iou),
            at_least("boundary IoU, ONNX to torch", image.parity.mean_boundary_iou, limit.boundary_iou),
        ]
        if image.engine is not None:
            checks += [
                at_most("engine embedding error, median position", image.engine.median_error, limit.embedding),
                at_least("engine embedding cosine", image.engine.cosine, limit.cosine),
                at_least("engine mask IoU", image.engine.parity.mean_iou, limit.mask_iou),
                at_least("engine boundary IoU", image.engine.parity.mean_boundary_iou, limit.boundary_iou),
            ]
        if self.min_dense_iou is not None:
            checks.append(at_least("mask IoU to dense", image.total.mean_iou, self.min_dense_iou))
        return checks

    def print(self, console: Console) -> None:
        """The report for people: one row an image in each of two tables, within 80 columns; failures in words."""
        encoder = _table(
            f"Encoder, {self.dtype}: relative L2 errors",
            "image",
            "worst block",
            "as fp32",
            "routed alike",
            "output",
            "max abs",
            "cosine",
        )
        masks = _table(
            "Masks: mean IoU / boundary IoU", "image", "prompts", "ONNX to torch", "sparse to dense", "total"
        )
        for image in self.images:
            worst = max(image.stages, key=lambda stage: stage.precision)
            encoder.add_row(
                escape(image.image),
                f"{worst.precision:.1e}",
                f"{max(stage.graph for stage in image.stages):.1e}",
                f"{image.relative_l2_routed_alike:.1e}",
                f"{image.relative_l2:.1e}",
                f"{image.max_abs:.1e}",
                f"{image.cosine:.6f}",
            )
            pairs = (image.parity, image.cost, image.total)
            figures = [f"{pair.mean_iou:.4f} / {pair.mean_boundary_iou:.4f}" for pair in pairs]
            masks.add_row(escape(image.image), str(image.prompts), *figures)
        console.print(encoder, masks)
        engines = [(image.image, image.engine) for image in self.images if image.engine is not None]
        if engines:
            table = _table("Engine to torch", "image", "median position", "output", "cosine", "mean IoU / boundary IoU")
            for name, engine in engines:
                table.add_row(
                    escape(name),
                    f"{engine.median_error:.1e}",
                    f"{engine.relative_l2:.1e}",
                    f"{engine.cosine:.6f}",
                    f"{engine.parity.mean_iou:.4f} / {engine.parity.mean_boundary_iou:.4f}",
                )
            console.print(table)
        for name, words in (
            ("encoder", self.encoder_kernels),
            ("decoder", self.decoder_kernels),
            ("engine", self.engine),
        ):
            console.print(f"{name}: {escape(words)}", highlight=False, soft_wrap=True)
        for failure in self.failures:
            console.print(f"[red]FAILED[/] {escape(failure)}", highlight=False, soft_wrap=True)

    def junit(self) -> bytes:
        """JUnit XML: one test case a check."""
        checks = self.checks
        attributes = {"name": "sparsesam parity", "tests": str(len(checks)), "failures": str(len(self.failures))}
        suite = ElementTree.Element("testsuite", attributes)
        for check in checks:
            case = ElementTree.SubElement(suite, "testcase", {"classname": f"parity.{self.dtype}", "name": check.name})
            if check.failure:
                ElementTree.SubElement(case, "failure", {"message": check.failure})
        return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "image" else "right")
    return table


def _finite(value: JsonValue) -> JsonValue:
    """``value`` with null for not-a-number and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON; the caller provides for a temporary name."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
