"""``plugin_host``, the C++ program that drives the plugins through TensorRT's plugin interface alone, as functions."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from checks.plugin_nodes import Node

LIBRARY, HOST = "libsparsesam_plugins.so", "plugin_host"
TYPES = {torch.float16: "half", torch.bfloat16: "bf16", torch.float32: "float", torch.int32: "int32"}
TENSORRT_TYPES = {0: torch.float32, 1: torch.float16, 3: torch.int32, 7: torch.bfloat16}
"""nvinfer1::DataType, the same in all releases."""


class HostFailed(Exception):
    """The host program stopped; its output is the message."""


def run_host(
    build: Path, script: Iterable[str], runtime: Path | None = None, environment: dict[str, str] | None = None
) -> list[str]:
    """The answers to a script, see ``plugins/tests/plugin_host.cpp``.

    ``build`` is the folder that the plugins were built in, ``runtime`` a TensorRT library whose registry is to load
    the plugins.

    Raises:
        HostFailed: the program crashed or could not do what it was told.
    """
    command = [build / HOST, build / LIBRARY, *([runtime] if runtime else [])]
    return drive(command, script, environment)


def drive(command: Iterable[object], script: Iterable[str], environment: dict[str, str] | None = None) -> list[str]:
    """As `run_host`, by the whole command."""
    finished = subprocess.run(
        [str(word) for word in command],
        input="\n".join(script),
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise HostFailed(f"exit {finished.returncode}\n{finished.stdout}{finished.stderr}")
    return finished.stdout.splitlines()


def node_script(node_type: str, attributes: dict[str, int | float]) -> list[str]:
    """The lines that say what to create."""
    kinds = {int: "int32", float: "float32"}
    return [f"node {node_type}", *(f"field {kinds[type(value)]} {name} {value}" for name, value in attributes.items())]


def input_lines(node: Node, folder: Path | None = None) -> list[str]:
    """The lines that describe the node's inputs, whose content goes into files where there is a folder for them."""
    lines = []
    for name, tensor in node.inputs.items():
        path = "-" if folder is None else folder / name
        if folder is not None:
            path.write_bytes(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        lines.append(f"input {TYPES[tensor.dtype]} {path} {' '.join(map(str, tensor.shape))}")
    return lines


def enqueue(
    build: Path,
    node: Node,
    modes: Sequence[str],
    folder: Path,
    prefix: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> dict[str, list[list[Tensor]]]:
    """The outputs of the node on the GPU by mode, once for each execution context.

    Args:
        modes: "plain" enqueues once, "graph" replays a captured CUDA graph, "two" enqueues on two streams in turns,
            from two execution contexts.
        folder: for inputs and outputs.
        prefix: a command to run the host program under, such as compute-sanitizer.

    Raises:
        HostFailed: as `run_host`, or the plugin refused something.
    """
    script = [*node_script(node.node_type, node.attributes), *input_lines(node, folder)]
    script += [f"describe {len(node.expected[0])}", *(f"run {mode} {folder}/{mode}" for mode in modes)]
    answers = drive([*prefix, build / HOST, build / LIBRARY], script, environment)
    if "configure 0" not in answers or answers.count("enqueue 0") != len(modes):
        raise HostFailed("\n".join(answers))
    shapes = [list(map(int, line.split()[1:])) for line in answers if line.startswith("output ")]
    return {
        mode: [
            [_read(folder / f"{mode}{context}_{index}", *shape) for index, shape in enumerate(shapes)]
            for context in range(2 if mode == "two" else 1)
        ]
        for mode in modes
    }


def _read(path: Path, data_type: int, *shape: int) -> Tensor:
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=TENSORRT_TYPES[data_type]).view(shape)
