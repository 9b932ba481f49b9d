"""The kernels compiled for GPUs that need not be there: what the TensorRT plugin library embeds, and what tests check.

Needs Triton, but no GPU and no driver. The compiler's own report says how many registers and how much memory a kernel
takes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import EnvironmentProblem
from .geometry import GRID_SIZE, WINDOW_SIZE
from .launch import settings_for
from .routed_mlp.kernels.declaration import RoutedKernel
from .routed_mlp.triton import KERNELS
from .stripe_attention import Stripe
from .stripe_attention.kernels import lattice, listed, relative_terms, window
from .triton_language import COUNT, INTERPRETED, require_triton

CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""GPUs that the plugin library carries machine code for."""
ELEMENTS = ("qkv", "qkv_bias", "rel_pos_h", "rel_pos_w", "x", "weight", "bias", "update", "rows", "out")
INT32_TABLES = ("perm", "inv_perm", "source", "members", "keys", "tiles", "tile_in_stripe", "keep", "row_of_token")
FLOAT32_SCRATCH = ("terms", "scratch")
FLOAT32_SCALARS = ("scale", "log2_e", "epsilon")
ARGUMENT_TYPES = {
    **dict.fromkeys(ELEMENTS, "*{element}"),
    **dict.fromkeys(INT32_TABLES, "*i32"),
    **dict.fromkeys(FLOAT32_SCRATCH, "*fp32"),
    **dict.fromkeys(FLOAT32_SCALARS, "fp32"),
}
"""What kernels call their arguments, counts and scores aside, and Triton's type of each."""
SCORES = re.compile(r"(\w+_)?scores")
"""What they call their float32 scores."""
LAUNCH_EXTRAS = ("global_scratch_size", "profile_scratch_size", "launch_cooperative_grid", "launch_pdl")
"""What a kernel may ask of its launcher besides a grid and shared memory; ours must ask for none of it."""

Element = Literal["fp16", "bf16", "fp32"]


@dataclass(frozen=True)
class Variant:
    """One form of a kernel, as the encoder launches it on the 64x64 grid.

    Attributes:
        name: unique among the variants of one width.
        setting: its name in the launch table.
        kernel: the Triton function.
        width: head_dim of an attention, embed_dim of a routed MLP.
        constants: what it is compiled for, by the block that the launch table says.
    """

    name: str
    setting: str
    kernel: Any
    width: int
    constants: Callable[[int], dict[str, int]]


@dataclass(frozen=True)
class Compiled:
    """Machine code for one GPU, and what the compiler says about it.

    Attributes:
        entry: the function's name in the code.
        cubin, ptx: the code, and its portable form.
        registers: per thread.
        stack: bytes per thread; more than 0 means that registers were spilled.
        shared: bytes of dynamic shared memory per program.
        num_warps: warps per program.
    """

    entry: str
    cubin: bytes
    ptx: str
    registers: int
    stack: int
    shared: int
    num_warps: int


def attention_variants(head_dim: int) -> list[Variant]:
    """Every form of the attention kernels that an encoder of this head_dim may launch."""
    some = torch.empty(0)
    stripe = Stripe(some.expand(GRID_SIZE, 0), perm=some, keys=some)
    stripes = {
        "listed": stripe,
        "listed_own_tile": replace(stripe, tiles=some),
        "listed_windowed": Stripe(some.expand(WINDOW_SIZE, 0), keys=some, members=some),
    }
    return [
        Variant(
            "lattice",
            "stripe_attention.lattice",
            lattice._lattice_attention,
            head_dim,
            partial(lattice.lattice_constants, GRID_SIZE, head_dim),
        ),
        Variant(
            "window",
            "stripe_attention.window",
            window._window_attention,
            head_dim,
            partial(window.window_constants, WINDOW_SIZE, head_dim),
        ),
        *(
            Variant(
                name,
                f"stripe_attention.{name.removesuffix('_windowed')}",
                listed._listed_attention,
                head_dim,
                partial(listed.listed_constants, stripe, head_dim),
            )
            for name, stripe in stripes.items()
        ),
        *(
            Variant(
                name,
                "stripe_attention.relative_terms",
                relative_terms._relative_terms,
                head_dim,
                partial(_terms_constants, side, head_dim),
            )
            for name, side in (("relative_terms", GRID_SIZE), ("relative_terms_windowed", WINDOW_SIZE))
        ),
    ]


def _terms_constants(side: int, head_dim: int, _block: int) -> dict[str, int]:
    """For any block that the launch table says: this kernel has one block a line of the grid."""
    return relative_terms.relative_terms_constants(side, head_dim)


def routed_mlp_variants(embed_dim: int) -> list[Variant]:
    """Every form of the kernels around a routed MLP that an encoder of this embed_dim may launch."""
    return [
        Variant(kernel.name, kernel.entry, kernel.function, embed_dim, partial(_routed_constants, kernel, embed_dim))
        for kernel in KERNELS
    ]


def _routed_constants(kernel: RoutedKernel, embed_dim: int, block: int) -> dict[str, int]:
    return {**kernel.constants(embed_dim), "BLOCK": block}


def compile_variant(variant: Variant, capability: str, element: Element, ptx_version: int | None = None) -> Compiled:
    """Compile for ``capability``, such as ``9.0``, with the launch settings of that GPU.

    ``ptx_version``, such as 80, writes PTX that drivers of that age take; None leaves it to Triton.

    Raises:
        EnvironmentProblem: Triton is not installed, or runs as an interpreter.
    """
    require_triton()
    if INTERPRETED.value:
        raise EnvironmentProblem("kernels are interpreted, not compiled; unset TRITON_INTERPRET and start again.")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    kernel, launch = variant.kernel, settings_for(variant.setting, capability, variant.width)
    constants: dict[str, int | str] = {**constants_of(variant, capability)}
    if "PRECISION" in kernel.arg_names:
        constants["PRECISION"] = "ieee" if element == "fp32" else "tf32"
    arguments = arguments_of(variant, element)
    source = ASTSource(
        kernel,
        {name: arguments.get(name, "constexpr") for name in kernel.arg_names},
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
        {  # TensorRT and torch align tensors to more
            (index,): [["tt.divisibility", 16]]
            for index, name in enumerate(kernel.arg_names)
            if arguments.get(name, "").startswith("*")
        },
    )
    options = launch.options | ({} if ptx_version is None else {"ptx_version": ptx_version})
    compiled = compile(source, target=GPUTarget("cuda", int(capability.replace(".", "")), 32), options=options)
    cubin, metadata = compiled.asm["cubin"], compiled.metadata
    extras = {name: getattr(metadata, name) for name in LAUNCH_EXTRAS if getattr(metadata, name, 0)}
    if extras or metadata.num_ctas != 1:
        raise EnvironmentProblem(
            f"this Triton compiles {variant.name} for a launch with {extras or 'clusters'}, which the plugin library "
            "does not do; install another release of Triton (3.6 to 3.9 do not)."
        )
    registers, stack = _resources(cubin)
    ptx = compiled.asm["ptx"]
    return Compiled(metadata.name, cubin, ptx, registers, stack, metadata.shared, metadata.num_warps)


def constants_of(variant: Variant, capability: str) -> dict[str, int]:
    """What the variant is compiled for on that GPU, without the precision of float32 products."""
    return variant.constants(settings_for(variant.setting, capability, variant.width).block)


def arguments_of(variant: Variant, element: Element) -> dict[str, str]:
    """What a launch passes, in this order: the arguments that are no constants, with their Triton types."""
    constants = {*constants_of(variant, CAPABILITIES[0]), "PRECISION"}
    return {name: _type(name, element) for name in variant.kernel.arg_names if name not in constants}


def _type(name: str, element: Element) -> str:
    """What an argument of any kernel is, by its name; KeyError for one that `ARGUMENT_TYPES` does not have."""
    if COUNT.fullmatch(name):
        return "i32"
    return "*fp32" if SCORES.fullmatch(name) else ARGUMENT_TYPES[name].format(element=element)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes per thread, as cuobjdump reads them from machine code."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    if found is None:
        raise EnvironmentProblem(
            f"{command[0]} says nothing of registers: {report.strip()[:300]!r}; install another release of Triton."
        )
    return int(found[1]), int(found[2])
