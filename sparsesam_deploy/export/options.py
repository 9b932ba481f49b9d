"""What a user may choose about the ONNX files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from ..declaration import CLOSED, check_settings
from ..errors import InvalidInput
from ..model.config import Gelu

Dtype = Literal["fp32", "fp16", "bf16"]
Batch = tuple[int, int, int]


@dataclass(frozen=True)
class ExportOptions:
    """How an encoder becomes ONNX.

    ``batch`` is the smallest, the usual and the largest number of images, a dynamic axis unless all are equal.

    Raises:
        InvalidInput: an unknown word, or a batch that is not 1 <= min <= opt <= max.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    dtype: Annotated[
        Dtype, Field(description="Precision of weights and arithmetic; inputs and outputs stay float32.")
    ] = "fp16"
    gelu: Annotated[
        Gelu,
        Field(description="GELU of the encoder's MLPs; erf is exact, as SAM was trained, tanh is its approximation."),
    ] = "erf"
    batch: Annotated[
        Batch,
        Field(
            description="Images in one call of the encoder; N is a fixed number, MIN,OPT,MAX a range with its usual "
            "value.",
            examples=["N|MIN,OPT,MAX"],
        ),
    ] = (1, 1, 1)
    inline: Annotated[
        bool,
        Field(
            description="Write the encoder in standard operators alone, for programs that know no ONNX functions; "
            "plugins cannot be used with such a file."
        ),
    ] = False

    def __post_init__(self) -> None:
        check_settings(self)
        check_batch(self.batch)


def check_batch(batch: Batch) -> None:
    """Raise `InvalidInput` unless ``batch`` is 1 <= min <= opt <= max."""
    if len(batch) != 3 or not 1 <= batch[0] <= batch[1] <= batch[2]:
        given = ",".join(map(str, batch))
        raise InvalidInput(f"batch {given} is not 1 <= min <= opt <= max; give three numbers, like 1,4,8.")
