"""What a user may choose about serving."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidInput
from .source import Platform


@dataclass(frozen=True)
class ServingOptions:
    """What a user may choose about the server.

    ``name`` is that of the ensemble from file to masks, and the beginning of the other models'; ``gpus`` empty means
    all; ``instances`` execute at once on each GPU (or on the CPU); ``cpu_workers`` are processes of each python model;
    ``max_queue_delay_us`` is how long a request waits for others to share its batch, microseconds, None for 2000 where
    there are batches; ``cache_mib`` is the size of the cache of embeddings, 0 for none.

    Raises:
        InvalidInput: a name that is no folder's, or options that contradict each other.
    """

    name: str = "sam"
    version: int = 1
    platform: Platform = "tensorrt_plan"
    decoder_platform: Platform = "tensorrt_plan"
    device: str = "gpu"
    gpus: tuple[int, ...] = ()
    instances: int = 1
    cpu_workers: int = 4
    max_queue_delay_us: int | None = None
    cuda_graphs: bool = True
    cache_mib: int = 0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise InvalidInput(
                f"model name {self.name!r} cannot name a folder; take letters, digits, '_', '.' and '-', and begin "
                "with a letter or digit."
            )
        if self.device == "cpu" and "tensorrt_plan" in (self.platform, self.decoder_platform):
            raise InvalidInput("--device cpu cannot run TensorRT engines; add --platform onnxruntime.")
        if self.device == "cpu" and self.gpus:
            raise InvalidInput(f"--gpus {','.join(map(str, self.gpus))} contradicts --device cpu; leave one out.")
        if len(set(self.gpus)) < len(self.gpus):
            raise InvalidInput(
                f"--gpus {','.join(map(str, self.gpus))} repeats one; use --instances for several on each."
            )
