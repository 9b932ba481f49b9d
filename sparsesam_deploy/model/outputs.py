"""What an image encoder gives: image embeddings, and with them what SAM-HQ's decoder asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T", Tensor, np.ndarray)
U = TypeVar("U", Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class EncoderOutputs(Generic[T]):
    """Tensors or arrays of B images; the names are those of ``encoder.onnx``.

    Attributes:
        image_embeddings: (B, 256, 64, 64).
        interm_embeddings: of SAM-HQ alone, (num_global, B, 64, 64, C): the outputs of the global blocks.
    """

    image_embeddings: T
    interm_embeddings: T | None = None

    @classmethod
    def of(cls, returned: T | tuple[T, ...] | list[T]) -> EncoderOutputs[T]:
        """From what an encoder returned: image embeddings, or a pair."""
        return cls(*returned) if isinstance(returned, (tuple, list)) else cls(returned)

    @classmethod
    def of_named(cls, named: Mapping[str, T]) -> EncoderOutputs[T]:
        """From outputs by name, which may be more than these."""
        return cls(named["image_embeddings"], named.get("interm_embeddings"))

    @property
    def returned(self) -> T | tuple[T, T]:
        """As an encoder returns them: image embeddings, or a pair."""
        interm = self.interm_embeddings
        return self.image_embeddings if interm is None else (self.image_embeddings, interm)

    @property
    def all(self) -> tuple[T, ...]:
        """One or two of them."""
        returned = self.returned
        return returned if isinstance(returned, tuple) else (returned,)

    @property
    def named(self) -> dict[str, T]:
        """Those that there are, by name."""
        return dict(zip(("image_embeddings", "interm_embeddings"), self.all, strict=False))

    def map(self, change: Callable[[T], U]) -> EncoderOutputs[U]:
        """Each of them changed."""
        return EncoderOutputs(*map(change, self.all))

    def image(self, index: int) -> EncoderOutputs[T]:
        """Of one of the images, as a batch of one; ``index`` counts from 0."""
        one = slice(index, index + 1)
        interm = self.interm_embeddings
        return EncoderOutputs(self.image_embeddings[one], None if interm is None else interm[:, one])
