"""What a user may choose about an engine, in TensorRT's own words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from ..declaration import CLOSED, check_settings
from ..errors import InvalidInput

BuilderName = Literal["tensorrt", "tensorrt-rtx"]

RTX_COMPUTE_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
"""All that TensorRT-RTX serves from Ampere on; one engine for all of them is no larger than one for each."""


DECODER_PROFILE = {"num_prompts": (1, 1, 64), "num_points": (1, 2, 16)}
"""Smallest, usual and largest size of the decoder's dynamic axes, by their names in ``decoder.onnx``.

64 prompts is what segment_anything's mask generator asks for at once, and already takes half a GiB of activations in
float32; one is a click or a box, which are two points each, and of more than 16 clicks on one object SAM knows nothing.
"""


@dataclass(frozen=True)
class EngineOptions:
    """Options of a build; ``None`` leaves the builder's default.

    ``timing_cache`` is read if it exists and written after the build; ``compute_capabilities`` defaults to
    `RTX_COMPUTE_CAPABILITIES`.

    Raises:
        InvalidInput: a value is outside its range.
    """

    __pydantic_config__: ClassVar[ConfigDict] = CLOSED

    compute_capabilities: Annotated[
        tuple[str, ...] | None,
        Field(
            description="tensorrt-rtx: compute capabilities of the GPUs that the engine is for.  [default: "
            f"{','.join(RTX_COMPUTE_CAPABILITIES)}]",
            examples=["SM86,..."],
        ),
    ] = None
    workspace_mib: Annotated[
        int | None, Field(description="Most scratch memory (TensorRT's workspace) of the engine, MiB.", ge=1)
    ] = None
    builder_optimization_level: Annotated[  # TensorRT itself would clamp it and say nothing
        int | None,
        Field(description="tensorrt: how long the builder looks for fast kernels, 0 least, 5 most.", ge=0, le=5),
    ] = None
    version_compatible: Annotated[
        bool, Field(description="tensorrt: build an engine that later releases of TensorRT can load too.")
    ] = False
    embed_plugins: Annotated[
        bool,
        Field(description="tensorrt: put the plugin library into the engine, which then needs no library beside it."),
    ] = False
    timing_cache: Annotated[
        Path | None,
        Field(
            description="tensorrt: file with the kernel timings of earlier builds; read if it exists, written after "
            "the build.",
            examples=["FILE"],
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        targets = self.compute_capabilities
        if targets is not None and (not targets or len(set(targets)) < len(targets)):
            given = ",".join(targets)
            raise InvalidInput(
                f"compute capabilities '{given}' are empty or name one twice; name each once, like SM86,SM89."
            )

    def check_for(self, builder: BuilderName) -> None:
        """Refuse what ``builder`` would ignore or cannot do.

        Raises:
            InvalidInput: naming the option and what to do instead.
        """
        if builder == "tensorrt" and self.compute_capabilities is not None:
            raise InvalidInput(
                "tensorrt builds for the GPU it finds; leave out --compute-capabilities or use --builder tensorrt-rtx."
            )
        if builder == "tensorrt-rtx":
            unsupported = {
                "--timing-cache": self.timing_cache is not None,
                "--builder-optimization-level": self.builder_optimization_level is not None,
                "--version-compatible": self.version_compatible,
                "--embed-plugins": self.embed_plugins,
            }
            for option, given in unsupported.items():
                if given:
                    raise InvalidInput(f"tensorrt-rtx has no {option}; leave it out or use --builder tensorrt.")


def chosen_builder(builder: BuilderName | None) -> BuilderName:
    """``builder``, for what cannot do without one.

    Raises:
        InvalidInput: none was chosen.
    """
    if builder is None:
        raise InvalidInput("no builder was chosen; give --builder tensorrt-rtx (needs no GPU) or --builder tensorrt.")
    return builder
