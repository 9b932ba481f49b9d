"""What a graph asks for, and whether a network is that: with stand-ins for layers, and with RTX's own parser."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sparsesam_deploy.engines import graph as graph_module
from sparsesam_deploy.engines.audit import audit_network
from sparsesam_deploy.engines.graph import CustomNode, GraphFacts, TensorFacts
from sparsesam_deploy.errors import InvalidInput

from .graphs import DIM, ROWS, dynamic_batch, graph, matmul_softmax, node, save, stripe_attention, weight

X, Y = TensorFacts("x", "HALF", (1, 4)), TensorFacts("y", "HALF", (1, 4))
CUSTOM = CustomNode("block0", "StripeAttention", "1", "")
ASKED = GraphFacts(
    dtype="fp16",
    inputs=(X,),
    outputs=(Y,),
    custom_nodes=(CUSTOM,),
    products={"qkv": "HALF", "scores": "FLOAT", "norm": "FLOAT"},
    cast_products=frozenset({"scores"}),
)


# --- stand-ins ---------------------------------------------------------------------------------------------------


def tensor(name="t", dtype="HALF", shape=(1, 4)):
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name=dtype), shape=shape)


def layer(kind, name, dtypes=("HALF", "HALF"), metadata=None):
    *inputs, output = (tensor(dtype=dtype) for dtype in dtypes)
    return SimpleNamespace(
        type=SimpleNamespace(name=kind),
        name=name,
        metadata=f"[ONNX Layer: {name}]" if metadata is None else metadata,
        num_inputs=len(inputs) + 1,
        num_outputs=1,
        get_input=lambda i: (*inputs, None)[i],  # TensorRT gives None for an optional input left out
        get_output=lambda i: output,
    )


def network(*layers, inputs=(X,), outputs=(Y,)):
    def tensors(facts):
        return [tensor(fact.name, fact.dtype, fact.shape) for fact in facts]

    return SimpleNamespace(
        num_layers=len(layers),
        get_layer=lambda i: layers[i],
        num_inputs=len(inputs),
        get_input=lambda i: tensors(inputs)[i],
        num_outputs=len(outputs),
        get_output=lambda i: tensors(outputs)[i],
    )


QKV = layer("MATRIX_MULTIPLY", "qkv")
SCORES = layer("MATRIX_MULTIPLY", "scores_3", ("FLOAT", "FLOAT"), "[ONNX Layer: scores | block0 (StripeAttention)]")
PLUGIN = layer("PLUGIN_V3", "block0")


def test_a_network_as_asked_passes():
    report = audit_network(network(QKV, SCORES, layer("SOFTMAX", "p", ("FLOAT", "FLOAT"))), ASKED, plugins=False)
    assert report.passed
    assert report.layers == {"MATRIX_MULTIPLY": 2, "SOFTMAX": 1}
    assert report.precision == {"MATRIX_MULTIPLY": {"HALF": 1, "FLOAT": 1}}
    assert report.fp32_islands == ("scores in block0 (StripeAttention)",)
    assert report.custom_nodes == {"block0": "function body"}


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        (
            layer("CONVOLUTION", "patches", ("FLOAT", "FLOAT"), metadata=""),
            "patches (CONVOLUTION) computes in FLOAT, but the graph asks for HALF",
        ),
        (
            layer("MATRIX_MULTIPLY", "qkv_7", ("BF16", "BF16"), "[ONNX Layer: qkv]"),
            "qkv (MATRIX_MULTIPLY) computes in BF16, but the graph asks for HALF",
        ),
        (
            layer("MATRIX_MULTIPLY", "qkv", ("HALF", "FLOAT", "FLOAT")),
            "qkv (MATRIX_MULTIPLY) computes in FLOAT and HALF, but the graph asks for HALF",
        ),
        (
            layer("MATRIX_MULTIPLY", "scores", ("HALF", "HALF")),
            "scores (MATRIX_MULTIPLY) computes in HALF, but the graph asks for FLOAT",
        ),
        (
            layer("MATRIX_MULTIPLY", "norm", ("FLOAT", "FLOAT")),
            "norm (MATRIX_MULTIPLY) computes in FLOAT, but fp16 was asked for and no Cast leads there",
        ),
    ],
    ids=["fp32 convolution", "bf16", "mixed", "lost island", "oversight"],
)
def test_another_precision_is_a_finding(wrong, finding):
    assert audit_network(network(QKV, wrong), ASKED, plugins=False).findings == (finding,)


def test_integer_products_have_no_precision_to_miss():
    assert audit_network(network(layer("MATRIX_MULTIPLY", "i", ("INT32", "INT32"))), ASKED, plugins=False).passed


@pytest.mark.parametrize("kind", ["PLUGIN", "PLUGIN_V2", "PLUGIN_V3"])
def test_plugins_are_seen(kind):
    report = audit_network(network(QKV, layer(kind, "block0")), ASKED, plugins=True)
    assert report.passed
    assert report.custom_nodes == {"block0": "plugin"}


@pytest.mark.parametrize(
    ("layers", "plugins", "finding"),
    [
        (
            (QKV,),
            True,
            "block0 (StripeAttention) fell back to its function body, because the plugin library has no "
            "StripeAttention version 1 in namespace ''",
        ),
        ((QKV, PLUGIN), False, "block0 (StripeAttention) became a plugin, but its function body was asked for"),
    ],
    ids=["plugin missing", "plugin unasked"],
)
def test_the_other_realisation_is_a_finding(layers, plugins, finding):
    assert audit_network(network(*layers), ASKED, plugins).findings == (finding,)


@pytest.mark.parametrize(
    ("built", "finding"),
    [
        ((replace(X, name="z"),), "the inputs are z, but the graph has x"),
        ((X, Y), "the inputs are x, y, but the graph has x"),
        ((replace(X, dtype="FLOAT"),), "input x is FLOAT, but the graph has HALF"),
        ((replace(X, shape=(2, 4)),), "input x has shape (2, 4), but the graph has (1, 4)"),
        ((replace(X, shape=(1, 4, 1)),), "input x has shape (1, 4, 1), but the graph has (1, 4)"),
    ],
    ids=["name", "number", "dtype", "size", "rank"],
)
def test_other_inputs_are_findings(built, finding):
    assert audit_network(network(QKV, inputs=built), ASKED, plugins=False).findings == (finding,)


def test_dynamic_sizes_match_any():
    assert audit_network(network(QKV, outputs=(replace(Y, shape=(-1, 4)),)), ASKED, plugins=False).passed


# --- what graphs ask for -----------------------------------------------------------------------------------------


def read(model, folder):
    return GraphFacts.read(save(model, folder))


def test_inputs_outputs_and_precision(tmp_path):
    facts = read(dynamic_batch(), tmp_path)
    assert facts.inputs == (TensorFacts("x", "HALF", (-1, 3, 64, 64), ("batch",)),)
    assert facts.outputs == (TensorFacts("y", "HALF", (-1, DIM, 4, 4), ("batch",)),)
    assert (facts.dtype, facts.products, facts.cast_products) == ("fp16", {"patches": "HALF"}, frozenset())


def test_functions_are_looked_into_and_their_casts_found(tmp_path):
    facts = read(stripe_attention(), tmp_path)
    assert facts.products == {"scores": "FLOAT", "values": "HALF"}
    assert facts.cast_products == {"scores"}
    assert facts.custom_nodes == (CUSTOM, replace(CUSTOM, name="block1"))


def test_unnamed_nodes_go_by_their_output(tmp_path):
    model = graph([node("MatMul", ["x", "w"], ["y"])], [("x", [1, DIM])], [("y", [1, DIM])], [weight("w", (DIM, DIM))])
    assert set(read(model, tmp_path).products) == {"node_of_y"}


def test_float32_that_nothing_cast_is_no_decision(tmp_path):
    """Neither float32 from the start, nor bytes converted to float32, nor what is computed from them."""
    nodes = [
        node("Cast", ["bytes"], ["wide"], to=TensorProto.FLOAT),
        node("MatMul", ["wide", "w"], ["a"], name="from bytes"),
        node("MatMul", ["x", "w"], ["b"], name="from the start"),
        node("Add", ["a", "b"], ["c"]),
        node("MatMul", ["c", "w"], ["y"], name="later"),
    ]
    model = graph(nodes, [("x", [4, DIM], "fp32")], [("y", [4, DIM], "fp32")], [weight("w", (DIM, DIM), "fp32")])
    model.graph.input.append(onnx.helper.make_tensor_value_info("bytes", TensorProto.UINT8, [4, DIM]))
    facts = read(model, tmp_path)
    assert set(facts.products.values()) == {"FLOAT"}
    assert facts.cast_products == frozenset()


def test_float32_computed_from_casts_and_shapes_is_a_decision(tmp_path):
    nodes = [
        node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        node("LayerNormalization", ["wide", "scale"], ["norm"]),
        node("Shape", ["x"], ["size"], start=1),
        node("Cast", ["size"], ["length"], to=TensorProto.FLOAT),
        node("Div", ["norm", "length"], ["mean"]),
        node("MatMul", ["mean", "w"], ["product"], name="island"),
        node("Cast", ["product"], ["y"], to=TensorProto.FLOAT16),
    ]
    weights = [weight("w", (DIM, DIM), "fp32"), weight("scale", (DIM,), "fp32")]
    assert read(graph(nodes, [("x", [1, DIM])], [("y", [1, DIM])], weights), tmp_path).cast_products == {"island"}


# --- unusable files ----------------------------------------------------------------------------------------------


def missing(folder):
    return folder / "nothing.onnx"


def garbage(folder):
    (folder / "a.onnx").write_bytes(b"hello world" * 100)  # RTX's parser takes this for an empty graph
    return folder / "a.onnx"


def empty(folder):
    (folder / "a.onnx").touch()
    return folder / "a.onnx"


def truncated(folder):
    path = save(matmul_softmax(), folder)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def without_precision(folder):
    return save(graph([node("Relu", ["x"], ["y"])], [("x", [1])], [("y", [1])], dtype=None), folder)


def other_precision(folder):
    model = matmul_softmax()
    onnx.helper.set_model_props(model, {"sparsesam.dtype": "int8"})
    return save(model, folder)


def external(folder):
    path = folder / "encoder.onnx"
    onnx.save(matmul_softmax(), path, save_as_external_data=True, location="encoder.onnx.data", size_threshold=0)
    return path


def without_weights(folder):
    path = external(folder)
    (folder / "encoder.onnx.data").unlink()
    return path


def with_truncated_weights(folder):
    path = external(folder)
    (folder / "encoder.onnx.data").write_bytes(bytes(10))
    return path


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        (missing, r"cannot read \S+nothing.onnx: no such file or directory; name an ONNX file"),
        (lambda folder: folder, "cannot read .*: is a directory"),
        (garbage, "a.onnx is not an ONNX file, or is cut short|a.onnx holds no ONNX graph"),
        (empty, "a.onnx holds no ONNX graph; export it again"),
        (truncated, "encoder.onnx is not an ONNX file, or is cut short; export it again"),
        (without_precision, "encoder.onnx has no valid sparsesam.dtype in its metadata; export it again"),
        (other_precision, "encoder.onnx has no valid sparsesam.dtype"),
        (without_weights, r"keeps its weights in \S+encoder.onnx.data, which is missing; put it there or export"),
        (with_truncated_weights, r"encoder.onnx.data, which holds the weights of \S+, is cut short at 10 bytes"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_unusable_files(tmp_path, file, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        GraphFacts.read(file(tmp_path))


def test_contents_of_large_weights_are_not_copied_about(tmp_path, monkeypatch):
    """Of a model of 1.3 GB only the structure goes through inlining and shape inference; shape vectors stay."""
    sizes = []
    inline = graph_module.inliner.inline_local_functions
    monkeypatch.setattr(
        graph_module.inliner, "inline_local_functions", lambda model: sizes.append(model.ByteSize()) or inline(model)
    )
    large = onnx.numpy_helper.from_array(np.zeros((DIM, 4096), np.float16), "w")
    shape = onnx.numpy_helper.from_array(np.array([1, ROWS, DIM]), "shape")
    nodes = [node("Reshape", ["x", "shape"], ["r"]), node("MatMul", ["r", "w"], ["y"], name="product")]
    model = graph(nodes, [("x", [ROWS, DIM])], [("y", [1, ROWS, 4096])], [large, shape])
    assert read(model, tmp_path).products == {"product": "HALF"}
    assert sizes[0] < 1000


# --- RTX's parser ------------------------------------------------------------------------------------------------


def audit_with_rtx(path, asked=None):
    rtx = pytest.importorskip("tensorrt_rtx")
    logger = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(logger)
    parsed = builder.create_network(0)
    parser = rtx.OnnxParser(parsed, logger)
    assert parser.parse_from_file(str(path))
    return audit_network(parsed, asked or GraphFacts.read(path), plugins=False)


@pytest.mark.parametrize("model", [matmul_softmax, dynamic_batch, stripe_attention])
def test_rtx_takes_our_graphs_as_asked(tmp_path, model):
    report = audit_with_rtx(save(model(), tmp_path))
    assert report.findings == ()
    assert sum(report.layers.values()) > 0


def test_the_functions_products_are_told_apart(tmp_path):
    report = audit_with_rtx(save(stripe_attention(), tmp_path))
    assert report.precision == {"MATRIX_MULTIPLY": {"FLOAT": 2, "HALF": 2}}
    assert len(report.fp32_islands) == 2


def test_rtx_builds_doubles_in_float32_and_the_audit_says_so(tmp_path):
    model = graph([node("Relu", ["x"], ["y"])], [("x", [1])], [("y", [1])])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert audit_with_rtx(save(model, tmp_path)).findings == (
        "input x is FLOAT, but the graph has DOUBLE",
        "output y is FLOAT, but the graph has DOUBLE",
    )


def test_the_network_of_another_file_is_found_out(tmp_path):
    asked = GraphFacts.read(save(matmul_softmax("fp16"), tmp_path, "asked.onnx"))
    report = audit_with_rtx(save(matmul_softmax("bf16"), tmp_path, "built.onnx"), asked)
    assert len(report.findings) == 3  # input, output and the product
    assert not report.passed
