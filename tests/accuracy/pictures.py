"""Small labelled images, and encoders that cost nothing."""

from __future__ import annotations

import numpy as np
import torch

from sparsesam_deploy.accuracy.data.dataset import BadImage, LabelledImage
from sparsesam_deploy.accuracy.data.mirrored import Mirrored
from sparsesam_deploy.model.outputs import EncoderOutputs

SIZE = (48, 64)


def picture(seed: int) -> LabelledImage:
    """Noise with two objects on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = np.hypot(y - rng.integers(15, 33), x - rng.integers(12, 24)) < 9
    box = (abs(y - rng.integers(14, 34)) < 8) & (abs(x - rng.integers(44, 54)) < 7)
    pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    pixels[disc] = 220
    pixels[box] = 30
    return LabelledImage(pixels, np.stack([disc, box]), ("disc", "box"))


class Pictures:
    """A data set in memory; ``bad`` images cannot be used, ``flawed`` ones have a label that cannot."""

    description, fingerprint, left_out = "pictures", "0" * 64, {"crowd annotations": 3}

    def __init__(self, count: int, has_truth: bool = True, bad: tuple[int, ...] = (), flawed: tuple[int, ...] = ()):
        self.names = [f"{index}.png" for index in range(count)]
        self.has_truth, self.bad, self.flawed = has_truth, bad, flawed

    def load(self, index: int) -> LabelledImage:
        if index in self.bad:
            raise BadImage(f"image {self.names[index]} is torn; repair it.")
        item = picture(index)
        if not self.has_truth:
            return LabelledImage(item.pixels, None)
        problems = (f"label 7 of {self.names[index]} is empty; draw it.",) if index in self.flawed else ()
        return LabelledImage(item.pixels, item.masks, item.objects, problems)


def pictures(count: int, symmetries: int = 1, **choices) -> Mirrored:
    return Mirrored(Pictures(count, **choices), symmetries)


class CheapEncoder:
    """Embeddings by arithmetic: colours of the 16x16 patches, spread over the channels, plus ``noise`` of its own."""

    computed_by = "arithmetic"

    def __init__(self, noise: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(5)
        self.spread = torch.randn(256, 3, generator=generator)
        self.noise = noise * torch.randn(1, 256, 64, 64, generator=generator)
        self.calls = 0

    def __call__(self, image: torch.Tensor) -> dict[str, np.ndarray]:
        self.calls += 1
        patches = torch.nn.functional.avg_pool2d(image, 16)
        return EncoderOutputs((torch.einsum("oc,bchw->bohw", self.spread, patches) + self.noise).numpy())
