"""The launch settings of the GPU kernels, measured anew: every candidate is checked first and timed then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..artifacts import output_file
from ..errors import CheckFailed, EnvironmentProblem, SparseSamError
from ..model.config import FAMILIES, SamConfig
from ..ops.launch import Launch, compute_capability, forced, launch_settings, read_settings, write_settings
from ..ops.routed_mlp.triton import KERNELS
from ..ops.triton_language import INTERPRETED, require_triton
from ..parity.metrics import relative_l2
from ..progress import Advance, Stages
from ..provenance import Provenance
from ..runtime.timing import Call, graph_replay, milliseconds
from .report import Trial, Tuned, TuningReport
from .workloads import WORKLOADS, Workload, width_of

TOLERANCE = 2e-3
"""Relative, in L2, to float32: results and the probabilities of an attention are rounded to float16."""
CALLS, WARM_UP, REPLAYS = 20, 3, 25
"""Calls in one CUDA graph, which hide what starting a graph takes, and how often it is replayed before and for timing.
"""
MIN_VALUES, MAX_VALUES = 8, 128
"""Values that a thread works on at a time. Fewer than 8 are less than one load of 16 bytes of float16, so threads idle.
A thread has 255 registers: with more than half of them in values, what is left does not hold addresses and
temporaries, and registers spill to memory."""


@dataclass(frozen=True)
class Grid:
    """The candidates of one kernel, before those that a thread's registers exclude.

    Attributes:
        blocks, warps, stages: as in `Launch`.
        values: float32 values that are live for one row of the block, by width.
    """

    blocks: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]
    values: Callable[[int], int]


POWERS = (1, 2, 4, 8)
ATTENTION = Grid((64, 128), (4, 8), (1, 2, 3, 4), lambda head_dim: head_dim + 64)  # results and scores of one tile
OWN_TILE = replace(ATTENTION, blocks=(64,))  # a block is the query's own tile
GRIDS: dict[str, Grid] = {
    # one line of the grid, whatever the block: a 64 x 64 product; no loop
    "stripe_attention.relative_terms": Grid((1,), POWERS, (1,), lambda head_dim: 64 * 64),
    "stripe_attention.lattice": ATTENTION,
    "stripe_attention.window": ATTENTION,
    "stripe_attention.listed": ATTENTION,
    "stripe_attention.listed_own_tile": OWN_TILE,
    # no loop that loads the stream
    **{kernel.entry: Grid(POWERS, POWERS, (1,), kernel.live_values) for kernel in KERNELS},
}
"""By the kernel's name in the launch table."""


def candidates(current: Launch) -> list[Launch]:
    """The settings to measure for ``current.kernel`` at ``current.width``: the current ones first, none twice."""
    grid = GRIDS[current.kernel]
    settings = [(current.block, current.num_warps, current.num_stages)]
    for block, num_warps, num_stages in product(grid.blocks, grid.warps, grid.stages):
        if MIN_VALUES <= block * grid.values(current.width) / (32 * num_warps) <= MAX_VALUES:
            settings.append((block, num_warps, num_stages))
    return [
        replace(current, block=block, num_warps=num_warps, num_stages=num_stages)
        for block, num_warps, num_stages in dict.fromkeys(settings)
    ]


def tune_kernels(models: Sequence[str], output: Path, stages: Stages) -> TuningReport:
    """Measure all kernels on this machine's GPU and write the winners.

    A table that is at ``output`` already keeps its entries for what is not measured: other GPUs, other widths.

    Args:
        models: which encoders' shapes to measure, names of `FAMILIES`.
        output: where the table goes.
        stages: shows progress.

    Raises:
        EnvironmentProblem: no GPU, no Triton, or too little GPU memory.
        CheckFailed: no settings of any kernel work, or a launch made the GPU unusable for this process.
        InvalidInput: ``output`` cannot be written, or is there and no launch table.
    """
    device = current_gpu()
    with output_file(output) as partial:
        partial.touch()  # a place that cannot be written is known before minutes of measuring
        before = read_settings(output) if output.exists() else ()
        with stages("tune kernels") as advance:
            results = tuple(tune(models, device, graph_time, advance))
        report = TuningReport(Provenance.here(device), results, output)
        if not report.entries:
            raise CheckFailed(
                f"no launch settings work on {report.gpu}, the first because of: "
                f"{results[0].current.reason}; use backend 'reference' there."
            )
        entries = {(entry.kernel, entry.compute_capability, entry.width): entry for entry in (*before, *report.entries)}
        write_settings(partial, entries.values())
    return report


def current_gpu() -> torch.device:
    """Where kernels are timed; raises EnvironmentProblem where they cannot be."""
    require_triton()
    if not torch.cuda.is_available():
        raise EnvironmentProblem(
            "torch finds no GPU, and launch settings can only be measured on the GPU they are for; run tune-kernels "
            "there, with a CUDA build of torch."
        )
    if INTERPRETED.value:
        raise EnvironmentProblem("kernels are interpreted, not compiled; unset TRITON_INTERPRET and start again.")
    return torch.device("cuda", torch.cuda.current_device())


def problems(models: Sequence[str]) -> dict[tuple[str, int], SamConfig]:
    """What to measure: each kernel at each width that ``models`` have, on the largest model of that width."""
    largest_last = sorted((FAMILIES[name] for name in models), key=lambda config: config.embed_dim)
    return {(kernel, width_of(kernel, config)): config for kernel in WORKLOADS for config in largest_last}


def tune(
    models: Sequence[str],
    device: torch.device,
    clock: Callable[[Call], float],
    advance: Advance = lambda share, words: None,
) -> Iterator[Tuned]:
    """Try all candidates of all kernels. ``clock`` gives the microseconds of one call. Raises as `tune_kernels`."""
    wanted = problems(models)
    current = {key: _current(*key, device) for key in wanted}
    total, done = sum(len(candidates(launch)) for launch in current.values()), 0
    for (kernel, width), config in wanted.items():
        try:
            workload = WORKLOADS[kernel](config, device)
        except torch.OutOfMemoryError:
            raise EnvironmentProblem(
                f"too little free GPU memory to check {kernel} on {config.family}; end other programs on the GPU or "
                "choose a smaller --model."
            ) from None
        trials = []
        for launch in candidates(current[kernel, width]):
            trials.append(try_launch(workload, launch, clock))
            done += 1
            advance(done / total, f"{kernel} {width} {trials[-1].words}")
        yield Tuned(kernel, width, config.family, tuple(trials))


def _current(kernel: str, width: int, device: torch.device) -> Launch:
    """What is launched now, as an entry for this GPU and this width."""
    launch = launch_settings(kernel, device, width)
    return replace(launch, compute_capability=compute_capability(device), width=width)


def try_launch(workload: Workload, launch: Launch, clock: Callable[[Call], float]) -> Trial:
    """Check one candidate against the reference, and time it if it is right."""
    try:
        with forced(launch):
            with _poisoned_memory():
                answer = workload.answer(workload.run())
            error = relative_l2(answer, workload.expected)
            if error > TOLERANCE:
                return Trial(launch, reason=f"wrong result, relative error {error:.2g} above {TOLERANCE:g}")
            return Trial(launch, clock(workload.run))
    except SparseSamError:
        raise
    except Exception as error:  # compiler, launcher and driver have classes of their own for what a GPU cannot do
        trial = Trial(launch, reason=(str(error).strip() or type(error).__name__).splitlines()[0][:160])
    if workload.expected.is_cuda:
        try:
            torch.cuda.synchronize()
        except RuntimeError:  # nothing runs in this process after, for example, an illegal address
            raise CheckFailed(
                f"launching {launch.kernel} at width {launch.width} with {trial.words} made the GPU unusable for this "
                f"process ({trial.reason}); nothing was written. Report it, and tune the models that it does not "
                "concern with --model."
            ) from None
    return trial


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """New tensors are filled with NaN, which torch does when it is told to be deterministic.

    Without it a result would be allocated where the candidate before left the right one, unwritten parts and all.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic: Any = torch.utils.deterministic  # at run time it has more than it declares
    fill = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = fill


def graph_time(run: Call) -> float:
    """Microseconds of one call on the current GPU, median over replays of a CUDA graph of several calls."""

    def calls() -> None:
        for _ in range(CALLS):
            run()

    replay, device = graph_replay(calls), torch.device("cuda")
    for _ in range(WARM_UP):
        replay()
    return 1000 / CALLS * median(milliseconds(replay, device) for _ in range(REPLAYS))
