"""What each half of a block costs at each density: counted multiplications, or milliseconds measured on a device."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from ...errors import InvalidInput
from ...model.attention import ImageState
from ...model.checkpoint import LoadedSam
from ...model.config import DENSE, IMAGE_SIZE, Routing
from ...model.encoder import SparseBlock, SparseSamEncoder
from ...model.layers import cast_copy
from ...ops.backend import Backend
from ...progress import Advance
from ...runtime.timing import Call, milliseconds
from ..evaluation.multiplications import attention_work, mlp_work
from ..report.records import Knob
from .schedule import Move, Schedule, SearchSpace

REPEATS = 9


class Entry(BaseModel):
    """One half of a block at one density."""

    knob: Knob
    density: float
    cost: float


class CostTable(BaseModel):
    """The cost of an encoder as a sum: ``fixed`` for patch embedding and neck, and the halves of all blocks.

    Blocks of one kind cost the same. ``measure`` is ``flops`` (shares of the dense blocks' multiplications) or ``ms``;
    ``routing`` is that of the MLPs; ``device`` says where milliseconds were measured, and of what.
    """

    measure: Literal["flops", "ms"]
    family: str
    routing: Routing
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
        densities, costs = zip(*known, strict=True)
        return float(np.interp(density, densities, costs))

    def total(self, schedule: Schedule, space: SearchSpace) -> float:
        """The cost of an encoder by ``schedule``, one of ``space``."""
        return self.fixed + sum(self.of(knob, getattr(schedule, knob)[block]) for block, knob in space.knobs())

    @classmethod
    def read(cls, path: Path, space: SearchSpace) -> CostTable:
        """A table that was written as JSON, for a search of ``space``.

        Raises:
            InvalidInput: it is unreadable, malformed, incomplete, not of milliseconds, or of another model family or
                routing.
        """
        try:
            table = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidInput(f"cost table {path} cannot be read ({reason}); measure it again.") from error
        if table.measure != "ms" or not all(0 < entry.cost < math.inf for entry in table.entries):
            raise InvalidInput(f"cost table {path} is not of milliseconds; give one measured by `tune --target-ms`.")
        family = space.config.family
        if table.family != family:
            raise InvalidInput(f"cost table {path} is of {table.family}, not of {family}; measure it on this model.")
        if table.routing != space.routing:
            raise InvalidInput(
                f"cost table {path} is of {table.routing}, not of {space.routing}; measure it with that --routing."
            )
        for knob, ladder in space.ladders.items():
            for density in ladder:
                table.of(knob, density)
        return table


def _example(loaded: LoadedSam, space: SearchSpace, knob: Knob, density: float, backend: Backend) -> SparseBlock:
    """A block of which that knob has that density."""
    block = next(index for index, name in space.knobs() if name == knob)
    schedule = space.dense.after(Move(block, knob, 1.0, density))
    return SparseSamEncoder(loaded.sam.image_encoder, loaded.config, schedule.sparsity, backend=backend).blocks[block]


def counted_table(loaded: LoadedSam, space: SearchSpace) -> CostTable:
    """Multiplications, as shares of the dense blocks' sum."""
    work = {}
    for knob, ladder in space.ladders.items():
        for density in ladder:
            part = mlp_work if knob == "mlp" else attention_work
            found = part(_example(loaded, space, knob, density, "reference"), loaded.config)
            work[knob, density] = found.gemm + found.attention
    dense = sum(work[knob, 1.0] for _, knob in space.knobs())
    entries = tuple(Entry(knob=knob, density=density, cost=cost / dense) for (knob, density), cost in work.items())
    family, routing = loaded.config.family, space.routing
    return CostTable(measure="flops", family=family, routing=routing, device="counted", fixed=0.0, entries=entries)


@torch.inference_mode()
def measured_table(
    loaded: LoadedSam,
    space: SearchSpace,
    device: torch.device,
    backend: Backend,
    dtype: torch.dtype,
    advance: Advance,
) -> CostTable:
    """Milliseconds of each half of a block on ``device``, median of nine; the others of its kind cost the same."""
    stream = torch.randn(1, loaded.config.num_tokens, loaded.config.embed_dim, dtype=dtype, device=device)
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=dtype, device=device)
    pairs = [(knob, density) for knob, ladder in space.ladders.items() for density in ladder]
    entries = []
    for index, (knob, density) in enumerate(pairs):
        advance(index / len(pairs), f"{knob} at {density:g}")
        block = cast_copy(_example(loaded, space, knob, density, backend), dtype).to(device)
        half = (
            (lambda block=block: block.mlp(stream, ImageState()))
            if knob == "mlp"
            else (lambda block=block: block.attend(stream, ImageState()))
        )
        entries.append(Entry(knob=knob, density=density, cost=_milliseconds(half, device)))
    dense = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, DENSE, backend=backend)
    encoder = cast_copy(dense, dtype).to(device)
    fixed = _milliseconds(lambda: encoder.finish(encoder.embed(image)), device)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return CostTable(
        measure="ms",
        family=loaded.config.family,
        routing=space.routing,
        device=f"{words}, PyTorch {torch.__version__} {backend} {str(dtype).removeprefix('torch.')}",
        fixed=fixed,
        entries=tuple(entries),
    )


def _milliseconds(call: Call, device: torch.device) -> float:
    call()
    return median(milliseconds(call, device) for _ in range(REPEATS))
