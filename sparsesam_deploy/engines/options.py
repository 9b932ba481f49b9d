"""What a user may choose about an engine, in TensorRT's own words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInput
from .manifest import BuilderName

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

    ``workspace_mib`` limits the scratch memory of kernels (MiB); ``builder_optimization_level`` is 0 to 5;
    ``version_compatible`` makes an engine later TensorRT releases can load; ``embed_plugins`` puts the plugin library
    into the engine; ``timing_cache`` is read if it exists and written after the build; ``compute_capabilities``
    (TensorRT-RTX, like ``SM89``) defaults to `RTX_COMPUTE_CAPABILITIES`; ``batch`` is the (min, opt, max) profile.

    Raises:
        InvalidInput: a value is outside its range.
    """

    workspace_mib: int | None = None
    builder_optimization_level: int | None = None
    version_compatible: bool = False
    embed_plugins: bool = False
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] | None = None
    batch: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InvalidInput(f"workspace of {self.workspace_mib} MiB is too small; give 1 or more, or leave it out.")
        level = self.builder_optimization_level
        if level is not None and not 0 <= level <= 5:  # TensorRT itself would clamp it and say nothing
            raise InvalidInput(f"builder optimization level {level} is outside 0 to 5; 3 is TensorRT's default.")
        if len(self.batch) != 3 or not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            given = ",".join(map(str, self.batch))
            raise InvalidInput(f"batch {given} is not 1 <= min <= opt <= max; give three numbers, like 1,4,8.")
        targets = self.compute_capabilities
        if targets is not None and (not targets or len(set(targets)) < len(targets)):
            given = ",".join(targets)
            raise InvalidInput(
                f"compute capabilities '{given}' are none or repeat one; name each once, like SM86,SM89."
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
