"""Exported encoders broken on purpose, one mistake in one block, signed again so that only the numbers give it away."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from sparsesam_deploy.export.metadata import DIGEST, PREFIX, content_digest

Edit = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Fault:
    """One mistake: where it is made and what it does to the graph; windowed are all blocks but 2, 5, 8 and 11."""

    name: str
    block: int
    damage: Callable[[onnx.ModelProto, int], None]
    decision: str = ""

    @property
    def stage(self) -> str:
        """The stage that must be named for it."""
        return f"block {self.block} {self.decision}".strip()


def node_of(model: onnx.ModelProto, block: int, kind: str) -> onnx.NodeProto:
    """The node of ``block`` whose type starts with ``kind``."""
    scope = f"encoder.blocks.{block}."
    (node,) = (n for n in model.graph.node if n.name.startswith(scope) and n.op_type.startswith(kind))
    return node


def edit_table(model: onnx.ModelProto, node: onnx.NodeProto, table: str, edit: Edit) -> None:
    """Give ``node`` its own edited copy of a table, which deduplication may have shared with other blocks."""
    (index,) = (i for i, name in enumerate(node.input) if name.endswith(f".{table}"))
    (shared,) = (weight for weight in model.graph.initializer if weight.name == node.input[index])
    values = numpy_helper.to_array(shared)
    changed = np.ascontiguousarray(edit(values.copy()).astype(values.dtype))
    assert changed.shape != values.shape or not np.array_equal(changed, values)
    node.input[index] = f"{node.name}.{table}.broken"
    model.graph.initializer.append(numpy_helper.from_array(changed, node.input[index]))


def in_attention(edits: dict[str, Edit]) -> Callable[[onnx.ModelProto, int], None]:
    """Edit tables of the block's attention."""

    def damage(model: onnx.ModelProto, block: int) -> None:
        node = node_of(model, block, "StripeAttention")
        for table, edit in edits.items():
            edit_table(model, node, table, edit)

    return damage


def change_attribute(kind: str, name: str, change: Callable) -> Callable[[onnx.ModelProto, int], None]:
    """Replace an attribute of the block's node of that kind by ``change`` of it."""

    def damage(model: onnx.ModelProto, block: int) -> None:
        (attribute,) = (a for a in node_of(model, block, kind).attribute if a.name == name)
        changed = change(onnx.helper.get_attribute_value(attribute))
        attribute.CopyFrom(onnx.helper.make_attribute(name, changed))

    return damage


def add_to_count(name: str, extra: int) -> Callable[[onnx.ModelProto, int], None]:
    """Compute that many 2x2 groups in full too many, or merge that many squares, in a graph whose shapes agree."""
    change = change_attribute("RoutedMlpPack", name, lambda number: number + extra)

    def damage(model: onnx.ModelProto, block: int) -> None:
        change(model, block)
        del model.graph.value_info[:]

    return damage


def route_flattest(model: onnx.ModelProto, block: int) -> None:
    """Compute the groups with the lowest scores in full, in a function body of the block's own."""
    node = node_of(model, block, "RoutedMlpPackShareVariance")
    (body,) = (function for function in model.functions if function.name == node.op_type)
    body = onnx.FunctionProto.FromString(body.SerializeToString())
    node.op_type = body.name = f"{body.name}Broken"
    (top_k,) = (inner for inner in body.node if inner.op_type == "TopK")
    top_k.attribute.append(onnx.helper.make_attribute("largest", 0))
    model.functions.append(body)


def shifted(rel_index: np.ndarray) -> np.ndarray:
    return np.minimum(rel_index + 1, rel_index.max())


def swapped_windows(members: np.ndarray) -> np.ndarray:
    members[[6, 7]] = members[[7, 6]]
    return members


NO_BIAS: dict[str, Edit] = {"rel_pos_h": np.zeros_like, "rel_pos_w": np.zeros_like}

FAULTS = (
    Fault("windowed-without-bias", 0, in_attention(NO_BIAS)),
    Fault("windowed-rel-index-shifted", 1, in_attention({"rel_index": shifted})),
    Fault("global-without-bias", 2, in_attention(NO_BIAS)),
    Fault("window-members-swapped", 3, in_attention({"members": swapped_windows})),
    Fault("flattest-groups-routed", 4, route_flattest, "routing"),
    Fault("stripe-dropped", 5, in_attention({"keys": lambda keys: keys[:-64]})),
    Fault("gelu-tanh", 7, change_attribute("Gelu", "approximate", lambda _: "tanh")),
    Fault("global-rel-index-shifted", 8, in_attention({"rel_index": shifted})),
    Fault("scale-one-percent-off", 11, change_attribute("StripeAttention", "scale", lambda scale: 1.01 * scale)),
)
"""Each in a block of its own, so that one file can hold them all: blocks are judged alone. 6, 9 and 10 stay healthy."""


def of_another_checkpoint(model: onnx.ModelProto, block: int) -> None:
    """Say that the file was exported from ``other.pth``."""
    (entry,) = (entry for entry in model.metadata_props if entry.key == PREFIX + "checkpoint")
    entry.value = json.dumps({**json.loads(entry.value), "sha256": "b" * 64, "source": "other.pth"})


OF_ANOTHER_CHECKPOINT = Fault("of-another-checkpoint", 0, of_another_checkpoint)


def write_broken(path: Path, source: Path, faults: Sequence[Fault], signed: bool = True) -> Path:
    """Write ``source`` with ``faults`` to ``path``; ``signed`` hides the edit from the content digest."""
    model = onnx.load(source)
    for fault in faults:
        fault.damage(model, fault.block)
    if signed:
        (entry,) = (entry for entry in model.metadata_props if entry.key == DIGEST)
        entry.value = content_digest(model, path.parent)
    path.write_bytes(model.SerializeToString())
    return path
