"""Pictures for the report: the objects that lost most, and which tokens each block keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch

from ...model.attention import ImageState
from ...model.mlp import RoutedMlp
from ...model.shared_attention import SharedAttention
from ..data.mirrored import Mirrored
from ..report.pictures import Case, KeptTokens
from ..report.records import Worst
from .judge import Judge, Scene
from .scoring import Advance
from .variants import Outputs, Variant

CASES = 8
KEPT_VARIANTS = 2


def pictures(
    judge: Judge,
    variants: Sequence[Variant],
    dataset: Mirrored,
    worst: Mapping[str, Sequence[Worst]],
    advance: Advance,
) -> tuple[list[Case], list[KeptTokens]]:
    """The ``worst`` objects of ``variants`` by name, and on the image of the very worst what the first variants keep.

    Each image is judged once more, one at a time.
    """
    wanted, named = _worst_in_turns(worst), {variant.name: variant for variant in variants}
    positions = {name: index for index, name in enumerate(dataset.names)}
    images = list(dict.fromkeys(one.image for _, one in wanted))
    cases, kept = [], []
    for done, image in enumerate(images):
        advance(done, image)
        scene = judge.scene(image, dataset.load(positions[image]))
        assert scene is not None  # an object of it is one of the worst
        outputs: dict[str, Outputs] = {}
        for name, one in wanted:
            if one.image == image:
                if name not in outputs:
                    outputs[name] = named[name].encode(scene.image.tensor)
                cases.append(_case(judge, name, outputs[name], scene, one))
        if done == 0:
            kept = [tokens for variant in variants[:KEPT_VARIANTS] for tokens in kept_tokens(variant, scene)]
    advance(len(images), "")
    return cases, kept


def _worst_in_turns(worst: Mapping[str, Sequence[Worst]]) -> list[tuple[str, Worst]]:
    """At most `CASES` objects, each once, with the name of the variant that lost them; the worst first."""
    found: dict[tuple[str, str, str], tuple[str, Worst]] = {}
    for rank in range(max(map(len, worst.values()), default=0)):
        for name, objects in worst.items():
            if rank < len(objects) and len(found) < CASES:
                one = objects[rank]
                found.setdefault((one.image, one.object, one.prompt), (name, one))
    return sorted(found.values(), key=lambda pair: pair[1].change)


def _case(judge: Judge, variant: str, outputs: Outputs, scene: Scene, worst: Worst) -> Case:
    index, asked = scene.objects.index(worst.object), scene.asked[worst.prompt]
    box = None
    if asked.boxes is not None:
        left, top, right, bottom = map(float, asked.boxes[index])
        box = (left, top, right, bottom)
    return Case(
        variant=variant,
        image=worst.image,
        object=worst.object,
        prompt=worst.prompt,
        pixels=scene.pixels,
        truth=None if scene.truth is None else scene.truth[index],
        dense=scene.dense[worst.prompt][index],
        sparse=judge.mask(scene, outputs, worst.prompt, index),
        box=box,
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
