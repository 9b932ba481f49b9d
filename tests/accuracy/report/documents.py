"""Results as `evaluate` and `tune` could have found them: made-up figures, pictures of the held-out scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from sparsesam_deploy.accuracy.report import Case, KeptTokens
from sparsesam_deploy.accuracy.report.records import (
    Cost,
    DatasetSummary,
    Evaluation,
    Interval,
    ParetoPoint,
    RunProvenance,
    Score,
    Sensitivity,
    Step,
    Tuning,
    VariantResult,
    Worst,
)

HOLDOUT = Path(__file__).parents[2] / "data" / "holdout"
DEPTH, GLOBAL = 12, (2, 5, 8, 11)
SPARSE = {
    # name: flops, change of mean IoU by boxes, by points, its spread
    "lattice 0.25 + share 0.4": (0.712, -0.0052, -0.0041, 0.0021),
    "lattice 0.25 + share 0.6": (0.803, -0.0018, -0.0009, 0.0014),
    "lattice 0.25, dense MLP": (0.871, -0.0007, 0.0004, 0.0009),
    "skip-sobel 0.4": (0.704, -0.0163, -0.0144, 0.0090),
    "released code 0.4": (0.655, -0.0372, -0.0288, 0.0150),
}


def interval(mean: float, spread: float) -> Interval:
    return Interval(mean=mean, low=mean - 1.8 * spread, high=mean + 2.1 * spread)


def cost(flops: float, ms: float | None = None) -> Cost:
    return Cost(gemm=min(1.0, flops + 0.03), flops=flops, bytes=min(1.0, flops + 0.11), ms=ms)


def provenance(command: str, **changes) -> RunProvenance:
    values = {
        "command": command,
        "created": "2026-11-21 06:12 UTC",
        "commit": "c517247+",
        "model": "nano (9.5 M parameters)",
        "checkpoint_sha256": "3f9c" * 16,
        "versions": {"sparsesam-deploy": "0.1.0 (c517247)", "torch": "2.15.0", "onnxruntime": "1.31.0", "numpy": "2.3"},
        "machine": {"CPU": "AMD EPYC 9654, 2 cores", "GPU": "none", "memory": "8 GiB", "system": "Linux 6.1 x86_64"},
        "seed": 0,
        "seconds": 1130.0,
    }
    return RunProvenance(**(values | changes))


def dataset(**changes) -> DatasetSummary:
    values = {
        "description": "label maps in tests/data/holdout",
        "fingerprint": "b81d" * 16,
        "has_truth": True,
        "images": 12,
        "objects": 61,
        "symmetries": 1,
        "left_out": {"crowd annotations": 2},
        "skipped": (),
    }
    return DatasetSummary(**(values | changes))


def _variant(name: str, flops: float, changes: tuple[float, float], spread: float, ms: float | None) -> VariantResult:
    dense = name == "dense"
    scores = tuple(
        Score(
            prompt=prompt,
            iou=interval(base + change, 0.012),
            boundary_iou=interval(base - 0.11 + 1.3 * change, 0.016),
            iou_change=interval(change, spread),
            boundary_iou_change=interval(1.3 * change, 1.2 * spread),
            agreement=interval(1 + 2.5 * change if not dense else 1.0, spread),
        )
        for prompt, base, change in zip(("box", "centre point"), (0.877, 0.826), changes, strict=True)
    )
    worst = tuple(
        Worst(image=f"{i:02}.png", object=str(i + 2), prompt="box", iou=0.4 + 0.05 * i, dense_iou=0.9, agreement=0.5)
        for i in range(0 if dense else 5)
    )
    return VariantResult(
        name=name,
        settings={
            "attention_density": 1.0 if dense else 0.25,
            "mlp_density": 1.0 if dense else 0.4,
            "windowed_density": 1.0,
            "order": "lattice",
            "routing": "share-variance",
        },
        effective_density={"global_attention": 1.0 if dense else 0.25, "mlp": 1.0 if dense else 0.65},
        cost=cost(flops, ms),
        computed_by="PyTorch 2.15 on the CPU",
        embedding_error=interval(0.0 if dense else -8 * changes[0], spread),
        scores=scores,
        worst=worst,
    )


def evaluation(ms: bool = False, **changes) -> Evaluation:
    """Dense and five variants by two kinds of prompts."""
    variants = [_variant("dense", 1.0, (0.0, 0.0), 0.0, 17.1 if ms else None)]
    for name, (flops, box, point, spread) in SPARSE.items():
        variants.append(_variant(name, flops, (box, point), spread, 17.1 * flops if ms else None))
    command = (
        "sparsesam-export evaluate --checkpoint nano --labels tests/data/holdout --prompts box,centre \\\n"
        "    --variant default --variant paper --skip-bad --output evaluation/"
    )
    skipped = (
        "image 12.png cannot be decoded: it ends after 8192 bytes.",
        "labels 13_labels.png are 512x384, 13.png is 512x512.",
    )
    values = {
        "provenance": provenance(command),
        "dataset": dataset(skipped=skipped),
        "prompts": ("box", "centre point"),
        "variants": tuple(variants),
    }
    return Evaluation(**(values | changes))


def tuning(steps: int = 24, **changes) -> Tuning:
    """A search over 12 blocks: MLPs everywhere, attention of the global ones."""
    found = []
    for block in range(DEPTH):
        for density in (0.8, 0.6, 0.4):
            weight = 0.004 * (1 + np.cos(block * 1.7)) * (1 - density) ** 2 / (1 + block / 6) + 2e-5
            found.append(
                Sensitivity(block=block, knob="mlp", density=density, disagreement=weight, saved=0.052 * (1 - density))
            )
            if block in GLOBAL:
                values = {"disagreement": weight / 9, "saved": 0.02 * (1 - density)}
                found.append(Sensitivity(block=block, knob="attention", density=density, **values))
    order = sorted(found, key=lambda s: s.disagreement / s.saved)[:steps]
    left, disagreement, path, points = 1.0, 0.0, [], []
    for number, one in enumerate(order, 1):
        left -= one.saved / 2
        disagreement += one.disagreement * (1.1 if number % 3 else 0.7)
        loss = interval(disagreement * 0.4 - 0.0004 * (number % 2), 0.0004 + disagreement * 0.1)
        before = min(1.0, one.density + 0.2)
        values = {"number": number, "block": one.block, "knob": one.knob, "before": before, "after": one.density}
        values |= {"saved": one.saved / 2, "cost": cost(left)}
        measured = (
            {"loss": loss, "disagreement": disagreement} if number % 4 != 2 else {"loss": None, "disagreement": None}
        )
        path.append(Step(**values, **measured, predicted=disagreement * 0.9))
        seen = number % 6 == 0 or number == steps
        validation = interval(loss.mean + 0.0005, 0.0009) if seen else None
        schedule = {"attention_density": [1.0] * DEPTH, "mlp_density": [1.0] * DEPTH, "order": "lattice"}
        for step in path:
            schedule["attention_density" if step.knob == "attention" else "mlp_density"][step.block] = step.after
        point = {"name": f"step {number}", "settings": schedule, "cost": cost(left)}
        points.append(ParetoPoint(**point, calibration=loss, validation=validation))
    for density in (0.8, 0.6, 0.5, 0.4):
        flops = 1 - 0.45 * (1 - density)
        loss = interval(0.016 * (1 - density) ** 1.6, 0.0011)
        point = {"name": f"uniform {density:g}", "settings": {"mlp_density": density}, "cost": cost(flops)}
        points.append(ParetoPoint(**point, calibration=loss, validation=interval(loss.mean + 0.0003, 0.0012)))
    command = "sparsesam-export tune --checkpoint nano --images calibration/ --max-miou-drop 0.005 --output tuned.toml"
    values = {
        "provenance": provenance(command, seconds=6240.0),
        "calibration": dataset(description="16 scenes of scenes/train", images=16, objects=78, has_truth=False),
        "validation": dataset(left_out={}),
        "budget": {"max_miou_drop": 0.005},
        "cost_measure": "flops",
        "loss_is": "the drop of mean IoU to the ground truth",
        "prompts": ("box", "centre point"),
        "sensitivities": tuple(found),
        "steps": tuple(path),
        "points": tuple(points),
        "chosen": f"step {steps}",
        "compared": "uniform 0.6",
        "difference": Interval(mean=0.0030, low=0.0008, high=0.0056),
    }
    return Tuning(**(values | changes))


def scenes() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, pixels and label map of each held-out scene."""
    listed = json.loads((HOLDOUT / "holdout.json").read_text())["images"]
    return [
        (
            entry["image"],
            np.asarray(Image.open(HOLDOUT / entry["image"]).convert("RGB")),
            np.asarray(Image.open(HOLDOUT / entry["labels"])),
        )
        for entry in listed
    ]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def cases(count: int = 4) -> list[Case]:
    """Objects whose sparse masks lost a half, were eroded or spilled over; every second one by points."""
    made = []
    for index, (name, pixels, labels) in enumerate(scenes()[:count]):
        values, areas = np.unique(labels[labels > 0], return_counts=True)
        value = values[np.argsort(areas)[-1 - index % 3]]
        truth = labels == value
        rows, columns = np.nonzero(truth)
        half = np.arange(truth.shape[1])[None] < np.median(columns)
        sparse = (truth & half, binary_dilation(truth, iterations=6), binary_erosion(truth, iterations=4))[index % 3]
        dense = binary_dilation(truth, iterations=1)
        box = (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))
        middle = ((float(np.median(columns)), float(np.median(rows))),)
        by_box = index % 2 == 0
        made.append(
            Case(
                variant=list(SPARSE)[index % 2],
                image=name,
                object=str(value),
                prompt="box" if by_box else "centre point",
                pixels=pixels,
                truth=truth,
                dense=dense,
                sparse=sparse,
                box=box if by_box else None,
                points=() if by_box else middle,
                iou=iou(sparse, truth),
                dense_iou=iou(dense, truth),
                agreement=iou(sparse, dense),
            )
        )
    return made


def kept(images: int = 2) -> list[KeptTokens]:
    """Every second key of the global blocks, and detailed MLP rows where the picture varies."""
    made = []
    for name, pixels, _ in scenes()[:images]:
        height, width = pixels.shape[:2]
        cell = max(height, width) // 64
        grey = np.zeros((64 * cell, 64 * cell))
        grey[:height, :width] = pixels.mean(2)
        spread = grey.reshape(32, 2 * cell, 32, 2 * cell).std((1, 3)).repeat(2, 0).repeat(2, 1)
        for block in range(DEPTH):
            if block in GLOBAL:
                grid = np.zeros((64, 64))
                grid[::2, ::2] = 1
                made.append(
                    KeptTokens("lattice 0.25 + share 0.4", name, block, "keys of global attention", grid, pixels)
                )
            elif block > min(GLOBAL):
                detailed = (spread >= np.quantile(spread, 0.55 + 0.36 * block / DEPTH)).astype(float)
                made.append(
                    KeptTokens("lattice 0.25 + share 0.4", name, block, "MLP rows computed in full", detailed, pixels)
                )
    return made
