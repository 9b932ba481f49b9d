"""Options of the commands that look at images with ground truth, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from ..errors import InvalidInput
from . import options

if TYPE_CHECKING:
    import torch

    from ..accuracy.data.dataset import Dataset
    from ..accuracy.data.mirrored import Mirrored
    from ..accuracy.evaluation.prompts import PromptKind
    from ..ops.backend import Backend

existing = click.Path(path_type=Path, exists=True)

data_choices = options.together(
    click.option("--images", type=existing, metavar="DIR", help="Folder with the images to judge on."),
    click.option("--coco", type=existing, metavar="FILE", help="Ground truth: COCO instance annotations as JSON."),
    click.option(
        "--labels",
        type=existing,
        metavar="DIR",
        help="Ground truth: folder of PNG label maps, in which every object has a pixel value of its own.",
    ),
    click.option(
        "--masks",
        type=existing,
        metavar="DIR",
        help="Ground truth: folder with one mask for each image, as DIS5K and HQ-44K have it.",
    ),
    click.option(
        "--ignore-label",
        "ignored_labels",
        type=click.IntRange(0),
        multiple=True,
        metavar="N",
        help="Pixel value of --labels that marks no object, as 255 in Pascal VOC; 0 never marks one. Repeatable.",
    ),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only N of the images, picked evenly."),
    click.option(
        "--symmetries",
        type=click.IntRange(1, 8),
        default=1,
        show_default=True,
        help="Show each image in this many of its eight mirrorings and turns; intervals still count it as one image.",
    ),
    click.option(
        "--skip-bad",
        is_flag=True,
        help="Leave out images and labels that cannot be used, and list them, instead of refusing them.",
    ),
)

prompt_choices = options.together(
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        default=("box",),
        show_default=True,
        metavar="KIND",
        help="How objects are asked for: box, jittered-box, center, random-K (K random points) or file:PATH; "
        "repeatable.",
    ),
    click.option(
        "--point-mask",
        type=click.Choice(["best", "single"]),
        default="best",
        show_default=True,
        help="Which mask answers a single point: of SAM's three the one with the best predicted IoU, or its single "
        "one.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Seed of jittered boxes and random points; the same seed gives the same prompts.",
    ),
)

device_choices = options.together(
    click.option(
        "--device", default="cpu", show_default=True, help="Device that PyTorch computes on: cpu, cuda or cuda:1."
    ),
    click.option(
        "--torch-backend",
        type=click.Choice(["reference", "sdpa", "triton"]),
        default="reference",
        show_default=True,
        help="What computes the custom operators: plain PyTorch, PyTorch's fused attention, or the Triton GPU kernels.",
    ),
)


def read_dataset(chosen: dict[str, Any], console: Console) -> Mirrored:
    """The data set of `data_choices`, taken out of ``chosen``.

    Raises:
        InvalidInput: no images, several kinds of ground truth, or a folder or file that cannot be used.
    """
    from ..accuracy.data.coco import CocoDataset
    from ..accuracy.data.folders import LabelMaps, MaskPairs, Unlabelled
    from ..accuracy.data.mirrored import Mirrored
    from ..accuracy.data.subset import Subset, evenly
    from ..progress import Stages

    images, limit, symmetries, ignored = (
        chosen.pop(name) for name in ("images", "limit", "symmetries", "ignored_labels")
    )
    truth = {name: path for name in ("coco", "labels", "masks") if (path := chosen.pop(name)) is not None}
    if images is None:
        raise InvalidInput("no images were given; give --images DIR, and --coco, --labels or --masks for ground truth.")
    if len(truth) > 1:
        raise InvalidInput(
            f"{' and '.join(f'--{name}' for name in truth)} are two kinds of ground truth; give only one of them."
        )
    if ignored and "labels" not in truth:
        raise InvalidInput("--ignore-label is for label maps; give --labels DIR too, or leave it out.")
    dataset: Dataset
    with Stages(console)("read data set") as advance:

        def progress(share: float) -> None:
            advance(share, "")

        if "coco" in truth:
            dataset = CocoDataset(truth["coco"], images, progress)
        elif "labels" in truth:
            dataset = LabelMaps(images, truth["labels"], ignored, progress)
        elif "masks" in truth:
            dataset = MaskPairs(images, truth["masks"], progress)
        else:
            dataset = Unlabelled(images)
    if limit is not None and limit < len(dataset.names):
        dataset = Subset(dataset, evenly(len(dataset.names), limit))
    return Mirrored(dataset, symmetries)


def read_prompts(chosen: dict[str, Any], dataset: Mirrored, symmetries: int) -> list[PromptKind]:
    """The kinds of prompt of `prompt_choices`, which are taken out of ``chosen`` but for ``point_mask`` and ``seed``.

    Raises:
        InvalidInput: an unknown kind, one asked for twice, or a file of prompts for mirrored images or without some.
    """
    from ..accuracy.evaluation.prompts import FromFile, parse_prompt

    kinds = [parse_prompt(word, chosen["seed"]) for word in chosen.pop("prompts")]
    if len({kind.name for kind in kinds}) < len(kinds):
        raise InvalidInput("one kind of --prompt is given twice; leave one of the two out.")
    for kind in kinds:
        if isinstance(kind, FromFile):
            if symmetries > 1:
                raise InvalidInput("prompts from a file do not fit mirrored images; leave --symmetries out.")
            kind.check_images(dataset.names)
    return kinds


def torch_device(name: str, backend: Backend) -> torch.device:
    """The torch device ``name``, in full float32: cuDNN's TF32, torch's default, would be the reference's own error.

    Raises:
        InvalidInput: no such device, or GPU kernels on the CPU.
        EnvironmentProblem: that GPU is not there.
    """
    import torch

    from ..runtime.loading import choose_device

    device = choose_device("torch", name)
    if device.type == "cpu" and backend == "triton":
        raise InvalidInput("--torch-backend triton needs a GPU; give --device cuda or leave it out.")
    torch.backends.cudnn.allow_tf32 = False
    return device
