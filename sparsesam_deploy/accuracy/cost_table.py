"""What each half of a block costs at each density: counted multiplications, or milliseconds measured on a device."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from ..errors import InvalidInput
from ..model.attention import NUM_TOKENS, ImageState
from ..model.checkpoint import LoadedSam
from ..model.config import IMAGE_SIZE, SamConfig
from ..model.encoder import SparseBlock, SparseSamEncoder
from ..model.layers import cast_copy
from ..ops.backend import Backend
from ..progress import Advance
from .cost import attention_work, mlp_work
from .results import Knob
from .schedule import LADDERS, Schedule, knobs

REPEATS = 9


class Entry(BaseModel):
    """One half of a block at one density."""

    knob: Knob
    density: float
    cost: float


class CostTable(BaseModel):
    """The cost of an encoder as a sum: ``fixed`` for patch embedding and neck, and the halves of all blocks.

    Blocks of one kind cost the same. ``measure`` is ``flops`` (shares of the dense blocks' multiplications) or ``ms``;
    ``device`` says where milliseconds were measured, and of what.
    """

    measure: Literal["flops", "ms"]
    family: str
    device: str
    fixed: float
    entries: tuple[Entry, ...]

    def of(self, knob: Knob, density: float) -> float:
        """The cost of one half of one block; between two densities of the table, in proportion.

        Raises:
            InvalidInput: the density is outside the table.
        """
        known = sorted((entry.density, entry.cost) for entry in self.entries if entry.knob == knob)
        if not known or not known[0][0] <= density <= known[-1][0]:
            raise InvalidInput(f"the cost table has no {knob} at density {density:g}; measure it again.")
        return float(np.interp(density, *zip(*known, strict=True)))

    def total(self, schedule: Schedule, config: SamConfig) -> float:
        """The cost of an encoder of ``config`` by ``schedule``."""
        return self.fixed + sum(self.of(knob, getattr(schedule, knob)[block]) for block, knob in knobs(config))

    @classmethod
    def read(cls, path: Path, family: str) -> CostTable:
        """A table that was written as JSON.

        Raises:
            InvalidInput: it is unreadable, malformed, incomplete, not of milliseconds or of another model family.
        """
        try:
            table = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidInput(f"cost table {path} cannot be read ({reason}); measure it again.") from error
        if table.measure != "ms" or not all(0 < entry.cost < math.inf for entry in table.entries):
            raise InvalidInput(f"cost table {path} is not of milliseconds; give one measured by `tune --target-ms`.")
        for knob, ladder in LADDERS.items():
            for density in ladder:
                table.of(knob, density)
        if table.family != family:
            raise InvalidInput(f"cost table {path} is of {table.family}, not of {family}; measure it on this model.")
        return table


def _example(loaded: LoadedSam, knob: Knob, density: float, backend: Backend) -> SparseBlock:
    """A block of which that knob has that density."""
    block = next(index for index, name in knobs(loaded.config) if name == knob)
    dense = Schedule.dense(loaded.config.depth)
    densities = list(getattr(dense, knob))
    densities[block] = density
    schedule = Schedule(**{**vars(dense), knob: tuple(densities)})
    return SparseSamEncoder(loaded.sam.image_encoder, loaded.config, schedule.sparsity, backend=backend).blocks[block]


def counted_table(loaded: LoadedSam) -> CostTable:
    """Multiplications, as shares of the dense blocks' sum."""
    channels = loaded.config.embed_dim
    work = {}
    for knob, ladder in LADDERS.items():
        for density in ladder:
            part = mlp_work if knob == "mlp" else attention_work
            found = part(_example(loaded, knob, density, "reference"), channels)
            work[knob, density] = found.gemm + found.attention
    dense = sum(work[knob, 1.0] for _, knob in knobs(loaded.config))
    entries = tuple(Entry(knob=knob, density=density, cost=cost / dense) for (knob, density), cost in work.items())
    return CostTable(measure="flops", family=loaded.config.family, device="counted", fixed=0.0, entries=entries)


@torch.inference_mode()
def measured_table(
    loaded: LoadedSam, device: torch.device, backend: Backend, dtype: torch.dtype, advance: Advance
) -> CostTable:
    """Milliseconds of each half of a block on ``device``, median of nine; the others of its kind cost the same."""
    stream = torch.randn(1, NUM_TOKENS, loaded.config.embed_dim, dtype=dtype, device=device)
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=dtype, device=device)
    pairs = [(knob, density) for knob, ladder in LADDERS.items() for density in ladder]
    entries = []
    for index, (knob, density) in enumerate(pairs):
        advance(index / len(pairs), f"{knob} at {density:g}")
        block = cast_copy(_example(loaded, knob, density, backend), dtype).to(device)
        half = (
            (lambda block=block: block.mlp(stream, ImageState()))
            if knob == "mlp"
            else (lambda block=block: block.attend(stream, ImageState()))
        )
        entries.append(Entry(knob=knob, density=density, cost=_milliseconds(half, device)))
    dense = Schedule.dense(loaded.config.depth).sparsity
    encoder = cast_copy(SparseSamEncoder(loaded.sam.image_encoder, loaded.config, dense, backend=backend), dtype)
    encoder = encoder.to(device)
    fixed = _milliseconds(lambda: encoder.finish(encoder.embed(image)), device)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return CostTable(
        measure="ms",
        family=loaded.config.family,
        device=f"{words}, PyTorch {torch.__version__} {backend} {str(dtype).removeprefix('torch.')}",
        fixed=fixed,
        entries=tuple(entries),
    )


def _milliseconds(call, device: torch.device) -> float:
    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1e3 * (time.perf_counter() - start)

    once()
    return median(once() for _ in range(REPEATS))
