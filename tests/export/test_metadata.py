"""What a file says about itself, weights kept beside it, and edits that its digest notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.export import writer
from sparsesam_deploy.export.metadata import load_exported, sparsity_of
from sparsesam_deploy.model.config import PRESETS, SparsityConfig
from tests.comparison import relative_error
from tests.export.models import Exported, export, export_with_weights_beside, random_image
from tests.made_once import random_checkpoint

SPARSITY = SparsityConfig(0.25, 0.4)
SIDECAR = "encoder.onnx.data"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(tmp_path_factory.mktemp("inside"), SPARSITY)


@pytest.fixture
def beside(tmp_path: Path) -> Exported:
    return export_with_weights_beside(tmp_path, SPARSITY)


@pytest.mark.parametrize("sizes", [(), (0,), (1, 127, 128), (16_383, 16_384, 3_000_000)], ids=str)
def test_written_weight_by_weight_is_what_protobuf_reads(sizes: tuple[int, ...], tmp_path: Path):
    weights = [TensorProto(name=f"w{n}", dims=[n], data_type=TensorProto.UINT8, raw_data=bytes(n)) for n in sizes]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["x"])], "g" * 200, [x], [x], weights)
    model = helper.make_model(graph, producer_name="sparsesam-deploy")
    expected = model.SerializeToString()
    writer._write(model, tmp_path / "model.onnx")
    written = onnx.load(tmp_path / "model.onnx")
    assert written == onnx.ModelProto.FromString(expected)
    assert (tmp_path / "model.onnx").stat().st_size == len(expected)


def test_nothing_is_printed_by_the_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """As onnxscript before 0.7 does; stdout is the command line's."""

    class Printed(RuntimeError):
        pass

    def exporter(*_, **__):
        print("Applied 43 of general pattern rewrite rules.")
        raise Printed

    monkeypatch.setattr(torch.onnx, "export", exporter)
    with pytest.raises(Printed):
        writer.export_module(torch.nn.Identity, {}, [], tmp_path / "model.onnx", {})
    assert capsys.readouterr().out == ""


def test_metadata_says_what_was_exported(exported: Exported):
    _, metadata = load_exported(exported.path)
    checkpoint = random_checkpoint()
    expected = {
        "kind": "encoder",
        "family": "custom",
        "dtype": "fp32",
        "order": "lattice",
        "routing": "share-variance",
        "attention_density": 0.25,
        "mlp_density": 0.4,
        "windowed_density": 1.0,
        "windowed_routing": "stripe",
        "gelu": "erf",
        "batch": [1, 1, 1],
        "checkpoint": {"source": checkpoint.name, "sha256": sha256(checkpoint.read_bytes()).hexdigest()},
        "effective_density": exported.encoder.effective_density,
    }
    assert {name: metadata[name] for name in expected} == expected
    assert metadata["preprocessing"]["pixel_mean"] == [123.675, 116.28, 103.53]
    assert {"torch", "onnx", "sparsesam-deploy"} <= set(metadata["versions"])


SPARSITIES = {
    "default": SPARSITY,
    "paper": PRESETS["paper"],
    "interleaved": SparsityConfig(0.3, 0.5, order="interleaved"),
    "shared-windows": SparsityConfig(0.3, (0.5,) * 4, (0.4, 1.0, 0.6, 1.0), windowed_routing="share-variance"),
}


@pytest.mark.parametrize("sparsity", SPARSITIES.values(), ids=SPARSITIES)
def test_sparsity_is_read_as_it_was_written(sparsity: SparsityConfig):
    assert sparsity_of(json.loads(json.dumps(asdict(sparsity)))) == sparsity


def test_files_of_another_release_are_refused(exported: Exported):
    _, metadata = load_exported(exported.path)
    del metadata["windowed_routing"]
    with pytest.raises(InvalidInput, match="does not say its windowed_routing; export it again"):
        sparsity_of(metadata)


@torch.inference_mode()
def test_external_weights_are_one_file(beside: Exported):
    assert sorted(file.name for file in beside.path.parent.iterdir()) == ["encoder.onnx", SIDECAR]
    onnx.checker.check_model(str(beside.path), full_check=True)
    (out,) = beside.run(random_image())
    assert relative_error(out, beside.encoder(random_image())) <= 1e-5
    load_exported(beside.path)


def test_edited_external_weights(beside: Exported):
    sidecar = beside.path.with_name(SIDECAR)
    content = bytearray(sidecar.read_bytes())
    content[len(content) // 2] ^= 1
    sidecar.write_bytes(content)
    with pytest.raises(CheckFailed, match="was edited after its export"):
        load_exported(beside.path)


def test_missing_external_weights(beside: Exported):
    beside.path.with_name(SIDECAR).unlink()
    with pytest.raises(InvalidInput, match=rf"weights file .*{SIDECAR} is missing; keep it beside"):
        load_exported(beside.path)


def _edit_weight(model: onnx.ModelProto) -> None:
    weight = next(weight for weight in model.graph.initializer if len(weight.raw_data) > 1000)
    weight.raw_data = weight.raw_data[:-1] + bytes([weight.raw_data[-1] ^ 1])


def _edit_attribute(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "StripeAttention")
    next(a for a in node.attribute if a.name == "scale").f *= 1.001


def _edit_function(model: onnx.ModelProto) -> None:
    softmax = next(node for node in model.functions[0].node if node.op_type == "Softmax")
    next(a for a in softmax.attribute if a.name == "axis").i = -2


def _drop_function(model: onnx.ModelProto) -> None:
    del model.functions[0]


def _rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "embeddings"


def _edit_metadata(model: onnx.ModelProto) -> None:
    (entry,) = (entry for entry in model.metadata_props if entry.key == "sparsesam.attention_density")
    entry.value = "1.0"


def _drop_metadata(model: onnx.ModelProto) -> None:
    (index,) = (i for i, entry in enumerate(model.metadata_props) if entry.key == "sparsesam.batch")
    del model.metadata_props[index]


EDITS = (
    _edit_weight,
    _edit_attribute,
    _edit_function,
    _drop_function,
    _rename_output,
    _edit_metadata,
    _drop_metadata,
)


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_noticed(edit: Callable[[onnx.ModelProto], None], exported: Exported, tmp_path: Path):
    model = exported.load()
    onnx.save(model, tmp_path / "same.onnx")
    load_exported(tmp_path / "same.onnx")
    edit(model)
    onnx.save(model, tmp_path / "edited.onnx")
    with pytest.raises(CheckFailed, match=r"edited\.onnx was edited after its export") as caught:
        load_exported(tmp_path / "edited.onnx")
    _assert_one_sentence(caught.value)


def _foreign(exported: Exported) -> bytes:
    model = exported.load()
    del model.metadata_props[:]
    return model.SerializeToString()


def _truncated(exported: Exported) -> bytes:
    return exported.path.read_bytes()[:-1000]


REFUSED = {
    "foreign": (_foreign, "was not exported by sparsesam-export"),
    "truncated": (_truncated, "is not a readable ONNX file"),
    "text": (lambda _: b"this is a text\n" * 100, "is not a readable ONNX file"),
    "empty": (lambda _: b"", "was not exported by sparsesam-export"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused(name: str, exported: Exported, tmp_path: Path):
    content, message = REFUSED[name]
    path = tmp_path / "other.onnx"
    path.write_bytes(content(exported))
    with pytest.raises(InvalidInput, match=message) as caught:
        load_exported(path)
    _assert_one_sentence(caught.value)


def test_no_such_file(tmp_path: Path):
    with pytest.raises(InvalidInput, match="does not exist; make it with") as caught:
        load_exported(tmp_path / "none.onnx")
    _assert_one_sentence(caught.value)


def _assert_one_sentence(error: Exception) -> None:
    assert str(error).endswith(".")
    assert "\n" not in str(error)
