"""What the plugins launched on a machine without a GPU, run by Triton's interpreter.

The plugins' host code talks to a stand-in for the CUDA driver (``plugins/tests/fake_driver.cpp``), whose memory is a
file and whose launches are lines in a log. Here those launches are carried out on that memory, argument by argument:
which kernel, which grid, which pointers and numbers, all as the C++ code chose them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsesam_deploy.ops.ahead_of_time import (
    Variant,
    arguments_of,
    attention_variants,
    constants_of,
    routed_mlp_variants,
)

BASE = 0x200000000000
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "i32": torch.int32}
FORMATS = {"i32": "i", "fp32": "f"}
SHARED_ATTRIBUTE = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""


@dataclass(frozen=True)
class Launch:
    """One line of the log: the image as the build's table has it, the grid and the raw arguments."""

    image: dict[str, Any]
    grid: tuple[int, int, int]
    arguments: bytes


def environment(build: Path, folder: Path, capability: str = "90") -> dict[str, str]:
    """Variables that put the stand-in in the driver's place, with its files in ``folder``."""
    return {
        "LD_LIBRARY_PATH": str(build / "fake_driver"),
        "SPARSESAM_FAKE_DRIVER": str(folder),
        "SPARSESAM_FAKE_CAPABILITY": capability,
    }


def launches(build: Path, folder: Path) -> list[Launch]:
    """The launches in order, each with the image it came from, whose block and shared memory they must have."""
    blob = (build / "kernels" / "kernels.bin").read_bytes()
    table = json.loads((build / "kernels" / "kernels.json").read_text())
    images = {_digest(blob[image["offset"] : image["offset"] + image["size"]]): image for image in table}
    found, shared_allowed = [], {}
    for line in (folder / "launches").read_text().splitlines():
        kind, library, *words = line.split()
        if kind == "attribute":
            assert int(words[0]) == SHARED_ATTRIBUTE
            shared_allowed[library] = int(words[1])
        elif kind == "launch":
            image = images[_digest((folder / f"library{library}").read_bytes())]
            *numbers, arguments = words
            grid, block, shared = tuple(map(int, numbers[:3])), tuple(map(int, numbers[3:6])), int(numbers[6])
            assert block == (32 * image["num_warps"], 1, 1)
            assert shared == image["shared"] and shared_allowed.get(library, 0) == shared
            found.append(Launch(image, grid, bytes.fromhex(arguments)))
    return found


def _digest(code: bytes) -> str:
    return hashlib.sha256(code.rstrip(b"\0")).hexdigest()


def memory(folder: Path) -> Tensor:
    """The stand-in's memory as bytes; writing to them writes to the file."""
    path = folder / "memory"
    return torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)


def variant_of(image: dict[str, Any]) -> Variant:
    of_width = attention_variants(image["width"]) + routed_mlp_variants(image["width"])
    return next(variant for variant in of_width if variant.name == image["kernel"])


def run(launch: Launch, bytes_: Tensor) -> None:
    """Carry out one launch under the interpreter."""
    variant = variant_of(launch.image)
    types = arguments_of(variant, launch.image["element"])
    layout = "".join(FORMATS.get(kind, "P") for kind in types.values()) + "PP"
    assert struct.calcsize("@" + layout) == len(launch.arguments)
    *values, global_scratch, profile_scratch = struct.unpack("@" + layout, launch.arguments)
    assert global_scratch == profile_scratch == 0
    arguments = {
        name: bytes_[value - BASE :].view(DTYPES[kind[1:]]) if kind.startswith("*") else value
        for (name, kind), value in zip(types.items(), values, strict=True)
    }
    constants = constants_of(variant, "9.0")
    if "PRECISION" in variant.kernel.arg_names:
        constants["PRECISION"] = "tf32"
    variant.kernel[launch.grid](**arguments, **constants)
