"""Half-precision graphs in float32: with rounding they behave like the real thing, without they are exact."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from sparsesam_deploy.parity.metrics import relative_l2
from sparsesam_deploy.parity.precision import in_float32, rounded_to, undo_rounding

TYPES = {
    "fp16": (TensorProto.FLOAT16, np.float16, torch.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, torch.bfloat16),
}
INNER = ("half", "product", "squares", "root", "normed", "curved", "weights", "mixed")
WIDTH = 48


def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    arrays = {"w": generator.normal(size=(WIDTH, WIDTH)) / 7, "scale": 1 + generator.normal(size=WIDTH) / 5}
    return {**arrays, "shift": generator.normal(size=WIDTH) / 5}


def graph(dtype: str) -> onnx.ModelProto:
    """A bit of everything an encoder has: matrix product, function, norm, GELU, softmax; float32 outside."""
    proto, numpy_type, _ = TYPES[dtype]
    body = [helper.make_node("Mul", ["square_x", "square_x"], ["square_inner"])]
    body.append(helper.make_node("Identity", ["square_inner"], ["square_out"]))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("sparsesam", 1)]
    square = helper.make_function("sparsesam", "Square", ["square_x"], ["square_out"], body, opsets[:1])
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=proto),
        helper.make_node("MatMul", ["half", "w"], ["product"]),
        helper.make_node("Square", ["product"], ["squares"], domain="sparsesam"),
        helper.make_node("Sqrt", ["squares"], ["root"]),
        helper.make_node("LayerNormalization", ["product", "scale", "shift"], ["normed"], axis=-1),
        helper.make_node("Gelu", ["normed"], ["curved"]),
        helper.make_node("Softmax", ["curved"], ["weights"], axis=-1),
        helper.make_node("Sub", ["weights", "root"], ["mixed"]),
        helper.make_node("Cast", ["mixed"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, WIDTH]) for name in "xy"]
    initializers = [numpy_helper.from_array(array.astype(numpy_type), name) for name, array in weights().items()]
    made = helper.make_graph(nodes, "bits", ends[:1], ends[1:], initializers)
    model = helper.make_model(made, functions=[square], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(dtype: str, rounded: bool) -> dict[str, np.ndarray]:
    model = in_float32(graph(dtype), INNER, rounded)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(["y", *INNER], session.run(None, {"x": image()}), strict=True))


def image() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(5, WIDTH)).astype(np.float32)


def in_torch(dtype: str, compute: torch.dtype) -> dict[str, np.ndarray]:
    """The same in eager torch, in ``compute``, with weights and input rounded to ``dtype``."""
    half = TYPES[dtype][2]
    w, scale, shift = (torch.from_numpy(array).to(half).to(compute) for array in weights().values())
    x = torch.from_numpy(image())
    values = {"half": x.to(compute)}
    values["product"] = values["half"] @ w
    values["squares"] = values["product"] * values["product"]
    values["root"] = values["squares"].sqrt()
    values["normed"] = F.layer_norm(values["product"], (WIDTH,), scale, shift)
    values["curved"] = F.gelu(values["normed"])
    values["weights"] = values["curved"].softmax(-1)
    values["y"] = values["mixed"] = values["weights"] - values["root"]
    return {name: value.float().numpy() for name, value in values.items()}


@pytest.fixture(params=TYPES)
def dtype(request) -> str:
    return request.param


@pytest.mark.parametrize("name", INNER)
def test_every_result_is_rounded(dtype, name):
    values, exact = run(dtype, rounded=True)[name], run(dtype, rounded=False)[name]
    numpy_type = TYPES[dtype][1]
    assert np.array_equal(values, values.astype(numpy_type).astype(np.float32))
    assert not np.array_equal(exact, exact.astype(numpy_type).astype(np.float32))


def test_rounding_behaves_like_eager_half_precision(dtype):
    half = TYPES[dtype][2]
    step = torch.finfo(half).eps
    emulated, eager, exact = run(dtype, rounded=True), in_torch(dtype, half), in_torch(dtype, torch.float32)
    for name in INNER[1:]:
        assert relative_l2(emulated[name], eager[name]) < step, name
        assert 0.05 * step < relative_l2(emulated[name], exact[name]) < 2 * step, name


def test_without_rounding_it_is_float32_with_rounded_weights(dtype):
    found, expected = run(dtype, rounded=False), in_torch(dtype, torch.float32)
    for name in ("y", *INNER):
        assert relative_l2(found[name], expected[name]) < 1e-6, name


def test_types_that_are_not_half_stay_as_they_are(dtype):
    model = in_float32(graph(dtype), INNER, rounded=True)
    assert {weight.data_type for weight in model.graph.initializer} == {TensorProto.FLOAT}
    rounding = [node for node in model.graph.node if node.op_type == "Cast" and node.output[0].endswith("__half")]
    assert {node.attribute[0].i for node in rounding} == {TYPES[dtype][0]}
    assert not model.functions


def test_indices_survive(dtype):
    """An integer table and what is gathered with it are neither converted nor rounded away."""
    proto, numpy_type, _ = TYPES[dtype]
    table = np.arange(WIDTH, dtype=np.int32)[::-1].copy()
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=proto),
        helper.make_node("Gather", ["half", "table"], ["picked"], axis=1),
        helper.make_node("Cast", ["picked"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, WIDTH]) for name in "xy"]
    made = helper.make_graph(nodes, "pick", ends[:1], ends[1:], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = in_float32(model, (), rounded=True)
    assert model.graph.initializer[0].data_type == TensorProto.INT32
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": image()})
    assert np.array_equal(y, image().astype(numpy_type).astype(np.float32)[:, ::-1])


# --- weights -----------------------------------------------------------------------------------------------------


def parameters(**changes: np.ndarray) -> list[torch.nn.Parameter]:
    """What `weights` of the graph are the rounding of, the matrix as torch's linear layers have it."""
    arrays = {**weights(), **changes}
    arrays["w"] = arrays["w"].T
    return [torch.nn.Parameter(torch.from_numpy(array.astype(np.float32).copy())) for array in arrays.values()]


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}


def test_rounded_weights_become_what_they_were(dtype):
    model = graph(dtype)
    assert undo_rounding(model, parameters(), TYPES[dtype][2])
    found = initializers(model)
    for name, array in weights().items():
        assert np.array_equal(found[name], array.astype(np.float32))


def test_rounded_convolutions_in_float32_do_too():
    """A bfloat16 file has them so; other float32 values stay."""
    exact = parameters()[0]
    rounded = exact.detach().bfloat16().float().numpy()
    model = graph("bf16")
    constant = np.full(3, 0.1, np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(rounded, "conv"), numpy_helper.from_array(constant, "c")])
    assert undo_rounding(model, parameters(), torch.bfloat16)
    found = initializers(model)
    assert np.array_equal(found["conv"], exact.detach().numpy()) and np.array_equal(found["c"], constant)


NEARLY = weights()["scale"] * (1 + 1e-6)
IN_DOUBT = {
    "of-another-parameter": parameters(shift=weights()["shift"] * 1.1),
    "of-either-of-two": [*parameters(), *parameters(scale=NEARLY)],
    "of-none": [],
}


@pytest.mark.parametrize("parameters", IN_DOUBT.values(), ids=IN_DOUBT)
def test_in_doubt_weights_stay_as_they_are(dtype, parameters):
    model = graph(dtype)
    assert not undo_rounding(model, parameters, TYPES[dtype][2])
    assert model == graph(dtype)


def test_parameters_are_rounded_meanwhile(dtype):
    half, (matrix, *_) = TYPES[dtype][2], parameters()
    exact = matrix.detach().clone()
    with pytest.raises(KeyError), torch.inference_mode(), rounded_to(half, [matrix]):
        assert torch.equal(matrix, exact.to(half).float()) and not torch.equal(matrix, exact)
        raise KeyError
    assert torch.equal(matrix, exact)
