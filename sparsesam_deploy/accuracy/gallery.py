"""Pictures for the report: the objects that lost most, and which tokens each block keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch

from ..model.attention import ImageState
from ..model.mlp import RoutedMlp
from ..model.shared_attention import SharedAttention
from .evaluate import Subject
from .judge import Scene
from .mirrored import Mirrored
from .report.pictures import Case, KeptTokens
from .results import VariantResult, Worst
from .variants import Outputs, Variant

CASES = 8
KEPT_VARIANTS = 2


def pictures(
    subject: Subject, dataset: Mirrored, results: Sequence[VariantResult], advance: Callable[[int, str], None]
) -> tuple[list[Case], list[KeptTokens]]:
    """The worst objects of the variants, and on the image of the very worst what the first variants keep.

    Each image is judged once more, one at a time.
    """
    wanted = _worst_in_turns(results)
    variants = {variant.name: variant for variant in subject.variants}
    positions = {name: index for index, name in enumerate(dataset.names)}
    images = list(dict.fromkeys(worst.image for _, worst in wanted))
    cases, kept = [], []
    for done, image in enumerate(images):
        advance(done, image)
        scene = subject.judge.scene(image, dataset.load(positions[image]))
        outputs: dict[str, Outputs] = {}
        for name, worst in wanted:
            if worst.image == image:
                if name not in outputs:
                    outputs[name] = variants[name].encode(scene.image.tensor)
                cases.append(_case(subject, name, outputs[name], scene, worst))
        if done == 0:
            kept = [one for variant in subject.variants[:KEPT_VARIANTS] for one in kept_tokens(variant, scene)]
    advance(len(images), "")
    return cases, kept


def _worst_in_turns(results: Sequence[VariantResult]) -> list[tuple[str, Worst]]:
    """At most `CASES` objects, each once, with the name of the variant that lost them; the worst first."""
    found: dict[tuple[str, str, str], tuple[str, Worst]] = {}
    for rank in range(max((len(result.worst) for result in results), default=0)):
        for result in results:
            if rank < len(result.worst) and len(found) < CASES:
                worst = result.worst[rank]
                found.setdefault((worst.image, worst.object, worst.prompt), (result.name, worst))
    return sorted(found.values(), key=lambda pair: pair[1].iou - pair[1].dense_iou)


def _case(subject: Subject, variant: str, outputs: Outputs, scene: Scene, worst: Worst) -> Case:
    index, asked = scene.objects.index(worst.object), scene.asked[worst.prompt]
    return Case(
        variant=variant,
        image=worst.image,
        object=worst.object,
        prompt=worst.prompt,
        pixels=scene.pixels,
        truth=None if scene.truth is None else scene.truth[index],
        dense=scene.dense[worst.prompt][index],
        sparse=subject.judge.mask(scene, outputs, worst.prompt, index),
        box=None if asked.boxes is None else tuple(map(float, asked.boxes[index])),
        points=() if asked.points is None else tuple((float(x), float(y)) for x, y in asked.points[index]),
        iou=worst.iou,
        dense_iou=worst.dense_iou,
        agreement=worst.agreement,
    )


def kept_tokens(variant: Variant, scene: Scene) -> list[KeptTokens]:
    """Of each thinned block the tokens of ``scene`` that are kept there."""
    encoder, found, state = variant.shape, [], ImageState()

    def add(block: int, what: str, kept: torch.Tensor) -> None:
        """``kept`` (4096,), Z-ordered."""
        grid = encoder.to_grid(kept.float()[None, :, None])[0, :, :, 0]
        found.append(KeptTokens(variant.name, scene.name, block, what, grid.cpu().numpy(), scene.pixels))

    with torch.inference_mode():
        deque(encoder.streams(scene.image.tensor.to(encoder.perm.device), state), maxlen=0)
    for index, block in enumerate(encoder.blocks):
        attention, mlp = block.attention, block.mlp
        if not attention.windowed and attention.static.keys is not None and not attention.ranked:
            kept = torch.zeros(encoder.perm.numel(), device=encoder.perm.device)
            kept[torch.from_numpy(attention.static.keys.copy()).long()] = 1
            add(index, "keys of global attention", kept)
        for half, what in (
            (attention, "rows of windowed attention computed in full"),
            (mlp, "MLP rows computed in full"),
        ):
            if isinstance(half, (SharedAttention, RoutedMlp)):
                add(index, what, state.decisions[half.decision_name][0] < half.num_own_rows)
    return found
