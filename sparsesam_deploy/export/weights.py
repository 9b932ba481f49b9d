"""Which weights are exported: a model that ships with the package, or a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ..errors import InvalidInput

if TYPE_CHECKING:
    from ..model.checkpoint import LoadedSam


ModelName = Literal["nano"]


@dataclass(frozen=True)
class Weights:
    """A shipped model or a checkpoint of the user's; neither where somebody else names the weights.

    Raises:
        InvalidInput: both are given.
    """

    model: Annotated[
        ModelName | None, Field(description="Model that ships with the package, in the place of --checkpoint.")
    ] = None
    checkpoint: Annotated[
        Path | None,
        Field(
            description="Weights file: SAM, SAM-HQ, MedSAM or Hugging Face, as .pth or .safetensors.", examples=["FILE"]
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.model is not None and self.checkpoint is not None:
            raise InvalidInput(
                f"--model {self.model} and --checkpoint {self.checkpoint} are two models; give either --model nano or "
                "--checkpoint FILE."
            )

    def check_given(self) -> None:
        """Raise `InvalidInput` where neither is given."""
        if self.model is None and self.checkpoint is None:
            raise InvalidInput("no weights were given; give either --model nano or --checkpoint FILE.")

    def load(self) -> LoadedSam:
        """Raises as `check_given` and `load_checkpoint`."""
        from ..model.checkpoint import load_checkpoint, load_nano  # torch, which --help does without

        self.check_given()
        return load_nano() if self.checkpoint is None else load_checkpoint(self.checkpoint)
