"""The whole runtime on stand-ins for TensorRT and CUDA: what it binds, refuses and answers, up to the masks of SAM."""

from __future__ import annotations

import ctypes
import json
from ctypes import c_float, c_int32, c_uint8, c_void_p
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparsesam_deploy.engines.manifest import EngineManifest, ParitySummary
from sparsesam_deploy.model.decoder import SamDecoder
from tests.engines.runtime.conftest import run
from tests.engines.runtime.folders import ENCODER, HQ_DECODER, HQ_ENCODER, LIBRARY, make_folder
from tests.engines.runtime.library import KERNEL, OK, Answer, Library, Prompts, Refused, image_of, pointer
from tests.engines.runtime.pictures import turned_jpeg
from tests.helpers import TINY, random_sam


def test_engines_under_sanitisers(sanitised_build, tmp_path):
    make_folder(tmp_path / "sam")
    make_folder(tmp_path / "hq", encoder=HQ_ENCODER, decoder=HQ_DECODER)
    make_folder(tmp_path / "encoder_only", decoder=None, plugins=())
    make_folder(tmp_path / "embedded", encoder="host_code\n" + ENCODER, embedded=True)
    (tmp_path / "embedded" / LIBRARY).unlink()
    make_folder(tmp_path / "host_code", encoder="host_code\n" + ENCODER)
    make_folder(tmp_path / "broken_engine", encoder="\x7fELF is no engine")
    make_folder(tmp_path / "broken_plugin", library="a broken library")
    make_folder(tmp_path / "failed_parity", parity=ParitySummary(passed=False))
    strict = {"ASAN_OPTIONS": "detect_stack_use_after_return=1"}  # a log scope left behind is such a use
    done = run(sanitised_build / "tests" / "engine_tests", tmp_path, env=strict)
    assert (done.returncode, done.stdout) == (0, "engine tests passed\n"), done.stderr


def test_units_under_sanitisers(sanitised_build):
    done = run(sanitised_build / "tests" / "unit_tests")
    assert (done.returncode, done.stdout) == (0, "unit tests passed\n"), done.stderr


# --- the answers are SAM's ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam():
    return random_sam(TINY)


@pytest.fixture(scope="module")
def predictor(stand_in, sam, tmp_path_factory):
    """`predict` of the C interface, with torch's SAM in the place of TensorRT's engines."""
    decoder = SamDecoder(sam, TINY)

    @torch.inference_mode()
    def compute(_, count, names, data, shapes, ranks):
        dims = np.ctypeslib.as_array(shapes, (count, 8))
        tensors = {}
        for i in range(count):
            shape = [int(size) for size in dims[i, : ranks[i]]]
            tensors[names[i].decode()] = (data[i], shape)

        def read(name):
            memory, shape = tensors[name]
            return torch.from_numpy(np.ctypeslib.as_array(memory, shape).copy())

        def write(name, value):
            np.ctypeslib.as_array(tensors[name][0], tuple(value.shape))[...] = value.numpy()

        if "image" in tensors:
            write("image_embeddings", sam.image_encoder(read("image")))
        else:
            inputs = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input")
            masks, iou = decoder(*map(read, inputs))
            write("low_res_masks", masks)
            write("iou_predictions", iou)
        return 0

    folder = tmp_path_factory.mktemp("engine")
    make_folder(folder)
    kernel = KERNEL(compute)
    stand_in.functions.stand_in_set_kernel(kernel, None)
    engine, context = c_void_p(), c_void_p()
    stand_in.call("engine_load", str(folder).encode(), None, ctypes.byref(engine))
    stand_in.call("context_create", engine, ctypes.byref(context))
    yield Predictor(stand_in, context)
    stand_in.functions.sparsesam_context_destroy(context)
    stand_in.functions.sparsesam_engine_destroy(engine)
    stand_in.functions.stand_in_set_kernel(KERNEL(), None)


class Predictor:
    def __init__(self, library: Library, context: c_void_p) -> None:
        self.library, self.context, self.size = library, context, (0, 0)

    def set_image(self, image: np.ndarray) -> None:
        given = image_of(image)
        self.library.call("encode_image", self.context, ctypes.byref(given), None)
        self.size = image.shape[:2]

    def predict(self, points=None, labels=None, boxes=None, mask_input=None):
        """Arrays (N, P, 2), (N, P), (N, 4), (N, 256, 256) -> masks (N, H, W), their indices, all logits, all IoU."""
        count = len(points if points is not None else boxes)
        per_prompt = 0 if points is None else points.shape[1]
        arrays = [None if array is None else array.astype(np.float32) for array in (points, boxes, mask_input)]
        labels = None if labels is None else labels.astype(np.int32)
        prompts = Prompts(
            ctypes.sizeof(Prompts),
            count,
            per_prompt,
            pointer(arrays[0], c_float),
            pointer(labels, c_int32),
            *(pointer(array, c_float) for array in arrays[1:]),
        )
        masks, indices = np.full((count, *self.size), 9, np.uint8), np.full(count, -1, np.int32)
        best, logits = np.zeros(count, np.float32), np.zeros((count, 4, 256, 256), np.float32)
        iou = np.zeros((count, 4), np.float32)
        answer = Answer(
            ctypes.sizeof(Answer),
            pointer(masks, c_uint8),
            pointer(indices, c_int32),
            *(pointer(array, c_float) for array in (best, logits, iou)),
        )
        self.library.call("predict", self.context, ctypes.byref(prompts), ctypes.byref(answer), None)
        assert np.array_equal(best, iou[np.arange(count), indices])
        return masks, indices, logits, iou


@pytest.fixture(scope="module")
def reference(sam, picture):
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    return predictor


@pytest.fixture(scope="module")
def picture():
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (12, 9, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((301, 403), Image.Resampling.BICUBIC))


def agrees(masks: np.ndarray, expected: np.ndarray) -> bool:
    """The same but for pixels on the edge: logits that differ in the last bits."""
    return bool((masks.astype(bool) != expected).mean() < 1e-4) and 0.001 < expected.mean() < 0.999


POINTS, LABELS = np.array([[[120, 200], [30, 40], [250.5, 380.25]]]), np.array([[1, 0, 1]])
BOXES = np.array([[20, 30, 200, 310], [100.5, 5, 290, 399]])


def test_boxes(predictor, reference, picture):
    predictor.set_image(picture)
    masks, indices, logits, iou = predictor.predict(boxes=BOXES)
    for i, box in enumerate(BOXES):
        expected, expected_iou, expected_logits = reference.predict(box=box, multimask_output=False)
        assert indices[i] == 0
        assert np.abs(logits[i, 0] - expected_logits[0]).max() < 1e-3 * np.abs(expected_logits).max()
        assert np.abs(iou[i, 0] - expected_iou[0]) < 1e-4
        assert agrees(masks[i], expected[0])


def test_points_and_points_with_a_box(predictor, reference, picture):
    predictor.set_image(picture)
    masks, indices, logits, _ = predictor.predict(points=POINTS, labels=LABELS)
    expected, expected_iou, expected_logits = reference.predict(POINTS[0], LABELS[0])
    assert indices[0] == 1 + expected_iou.argmax()
    assert np.abs(logits[0, 1:] - expected_logits).max() < 1e-3 * np.abs(expected_logits).max()
    assert agrees(masks[0], expected[expected_iou.argmax()])
    masks, indices, logits, _ = predictor.predict(points=POINTS, labels=LABELS, boxes=BOXES[:1])
    expected, _, expected_logits = reference.predict(POINTS[0], LABELS[0], box=BOXES[0], multimask_output=False)
    assert indices[0] == 0
    assert np.abs(logits[0, 0] - expected_logits[0]).max() < 1e-3 * np.abs(expected_logits).max()
    assert agrees(masks[0], expected[0])


def test_an_earlier_answer_as_prompt(predictor, reference, picture):
    predictor.set_image(picture)
    _, _, earlier = reference.predict(box=BOXES[0], multimask_output=False)
    _, _, logits, _ = predictor.predict(boxes=BOXES[:1], mask_input=earlier)
    _, _, expected = reference.predict(box=BOXES[0], mask_input=earlier, multimask_output=False)
    assert np.abs(logits[0, 0] - expected[0]).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(expected - earlier).max() > 1e-2 * np.abs(expected).max(), "the mask made no difference"


def test_null_and_misuse(stand_in, predictor):
    with pytest.raises(Refused, match="context is NULL"):
        stand_in.call("predict", None, None, None, None)
    with pytest.raises(Refused, match="sparsesam_prompts is NULL"):
        stand_in.call("predict", predictor.context, None, None, None)
    with pytest.raises(Refused, match=r"sparsesam_prompts.struct_size is 0, this library knows \d+ bytes"):
        stand_in.call("predict", predictor.context, ctypes.byref(Prompts()), ctypes.byref(Answer()), None)
    with pytest.raises(Refused, match="engine is NULL"):
        stand_in.call("context_create", None, ctypes.byref(c_void_p()))


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    make_folder(tmp_path / "engine")
    Image.new("RGB", (40, 30)).save(tmp_path / "in.png")
    return tmp_path


def test_the_command_refuses_before_it_runs(sanitised_build, folder):
    """The stand-in computes nothing in a process of its own, so that a run ends at the first kernel."""
    command = sanitised_build / "tests" / "sparsesam-run-stand-in"
    engine, image, mask = folder / "engine", folder / "in.png", folder / "mask.png"
    prompt = ("--box", "1,2,30,20", "-o", mask)
    ran = run(command, engine, image, *prompt)
    assert ran.returncode == 1 and "encoder.engine does not run (TensorRT refuses a kernel" in ran.stderr
    assert [line.split()[0] for line in ran.stderr.splitlines()] == ["read", "load", "encode", "error:"]
    assert not mask.exists()
    assert "has no area" not in ran.stderr
    for code, words in (
        (2, (engine, image, "-o", mask)),
        (2, (engine, image, "--box", "1,2,3", "-o", mask)),
        (2, (engine, folder / "nothing.png", *prompt)),
        (2, (folder / "nowhere", image, *prompt)),
        (3, (engine, image, *prompt, "--device", "7")),
    ):
        done = run(command, *words)
        assert done.returncode == code, done.stderr
        assert done.stderr.splitlines()[-1].startswith("error: ") and done.stdout == ""
    assert run(command, "--help").stdout.startswith("usage: sparsesam-run DIR IMAGE -o MASK.png")


def test_the_commands_answer(sanitised_build, folder, monkeypatch):
    """A kernel that a library sets at load stands in for the engines: mask 0 is positive left of the middle. The image
    is a phone's, 40 pixels wide when it is turned upright."""
    (folder / "in.jpg").write_bytes(turned_jpeg(6, height=40, width=30))
    source = folder / "kernel.cpp"
    source.write_text(
        '#include "stand_in.h"\n#include <cstring>\n'
        "static int32_t compute(void*, int32_t count, const char* const* names, float* const* data, const int64_t*,\n"
        "                       const int32_t*) {\n"
        "  for (int32_t i = 0; i < count; ++i) {\n"
        '    if (std::strcmp(names[i], "low_res_masks") == 0)\n'
        "      for (int p = 0; p < 4 * 65536; ++p) data[i][p] = p % 256 < 128 ? 5.0f : -5.0f;\n"
        '    if (std::strcmp(names[i], "iou_predictions") == 0)\n'
        "      for (int k = 0; k < 4; ++k) data[i][k] = 0.75f;\n"
        "  }\n  return 0;\n}\n"
        "__attribute__((constructor)) static void start() { stand_in_set_kernel(compute, nullptr); }\n"
    )
    include = Path(__file__).parents[3] / "engines" / "runtime" / "tests" / "stand_in"
    tests = sanitised_build / "tests"
    options = ("-shared", "-fPIC", f"-I{include}", f"-L{tests}", "-o", folder / "kernel.so")
    built = run("g++", source, *options, "-lsparsesam_stand_in")
    assert built.returncode == 0, built.stderr
    asan = run("g++", "-print-file-name=libasan.so").stdout.strip()
    done = run(
        tests / "sparsesam-run-stand-in",
        *(folder / "engine", folder / "in.jpg", "--box", "1,2,30,20", "-o", folder / "mask.png", "--json"),
        env={"LD_PRELOAD": f"{asan} {folder / 'kernel.so'}", "LD_LIBRARY_PATH": str(tests)},
    )
    assert done.returncode == OK, done.stderr
    answer = json.loads(done.stdout)
    with Image.open(folder / "mask.png") as image:
        mask = np.array(image)
    expected = np.zeros((30, 40), np.uint8)
    expected[:, :20] = 255
    assert np.array_equal(mask, expected)
    assert answer["pixels"] == 600 and answer["mask_index"] == 0 and answer["predicted_iou"] == 0.75
    assert (answer["height"], answer["width"], answer["family"], answer["precision"]) == (30, 40, "vit_b", "fp16")
    assert list(answer["seconds"]) == ["read", "load", "encode", "predict", "write"]
    assert EngineManifest.read(folder / "engine" / "manifest.json").export.dtype == "fp16"
