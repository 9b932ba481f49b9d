"""``sparsesam-export triton-server``: what it prints, and the exit codes of what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.serving.builds import make_build
from tests.serving.triton_server import read_configs


def test_options_arrive_and_the_command_is_printed(sparsesam_export, build, tmp_path):
    outcome = sparsesam_export(
        *("triton-server", build, "-o", tmp_path / "repository", "--name", "coins", "--gpus", "0,1"),
        *("--instances", 2, "--cache-mib", 8, "--max-queue-delay-us", 0, "--no-cuda-graphs"),
    )
    assert outcome.code == 0, outcome.err
    assert "encoder batches: up to 4 images" in outcome.out and "tritonserver --model-repository=/models" in outcome.out
    encoder = read_configs(tmp_path / "repository")["coins_encoder"]
    assert list(encoder.instance_group[0].gpus) == [0, 1] and encoder.instance_group[0].count == 2
    assert read_configs(tmp_path / "repository")["coins_embed"].response_cache.enable
    assert encoder.HasField("dynamic_batching")
    assert not encoder.HasField("optimization")


def test_json_is_one_document(sparsesam_export, build, tmp_path):
    outcome = sparsesam_export("triton-server", build, "-o", tmp_path / "repository", "--json")
    printed = json.loads(outcome.out)
    assert printed["models"] == [
        *("sam_encoder", "sam_decoder", "sam_image", "sam_prompts", "sam_masks"),
        *("sam_embed", "sam_predict", "sam"),
    ]
    assert printed["server_command"] == "tritonserver --model-repository=/models"
    assert printed["max_batch_size"] == 4 and printed["version"] == 1


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
def test_a_file_that_someone_edited_is_named(sparsesam_export, build, tmp_path, as_json):
    (tmp_path / "repository").mkdir()
    edited = tmp_path / "repository" / "Dockerfile"
    edited.write_text("FROM mine\n")
    outcome = sparsesam_export("triton-server", build, "-o", tmp_path / "repository", *["--json"] * as_json)
    assert edited.read_text() == "FROM mine\n"
    if as_json:
        assert json.loads(outcome.out)["kept"] == [str(edited)]
    else:
        assert f"left as it is, though this release writes another: {edited}\n" in outcome.out


def test_the_decoder_follows_the_encoder_unless_told(sparsesam_export, build, tmp_path):
    sparsesam_export("triton-server", build, "-o", tmp_path / "one", "--platform", "onnxruntime", "--device", "cpu")
    sparsesam_export("triton-server", build, "-o", tmp_path / "two", "--decoder-platform", "onnxruntime")
    backends = [
        {name: read_configs(tmp_path / folder)[f"sam_{name}"].backend for name in ("encoder", "decoder")}
        for folder in ("one", "two")
    ]
    assert backends == [
        {"encoder": "onnxruntime", "decoder": "onnxruntime"},
        {"encoder": "tensorrt", "decoder": "onnxruntime"},
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "0,x"), "--gpus 0,x: 'x' is no GPU number"),
        (("--gpus", "0,²"), "--gpus 0,²: '²' is no GPU number"),
        (("--platform", "tensorrt"), "'tensorrt' is not one of"),
        (("--instances", "0"), "0 is not in the range"),
        (("--device", "cpu"), "--device cpu cannot run TensorRT engines"),
    ],
    ids=["gpus", "superscript", "platform", "instances", "device"],
)
def test_unusable_options(sparsesam_export, build, tmp_path, arguments, message):
    outcome = sparsesam_export("triton-server", build, "-o", tmp_path / "repository", *arguments)
    assert outcome.code == 2 and message in outcome.err
    assert not (tmp_path / "repository").exists()


def test_an_rtx_build_says_what_to_do(sparsesam_export, onnx_files, tmp_path):
    build = make_build(tmp_path / "rtx", onnx_files, builder="tensorrt-rtx")
    outcome = sparsesam_export("triton-server", build, "-o", tmp_path / "repository")
    assert outcome.code == 2 and "--platform onnxruntime" in outcome.err and "Traceback" not in outcome.err


def test_a_folder_that_is_no_build(sparsesam_export, tmp_path):
    outcome = sparsesam_export("triton-server", tmp_path, "-o", tmp_path / "repository")
    assert outcome.code == 2 and "manifest.json" in outcome.err
