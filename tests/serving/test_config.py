"""Every config.pbtxt against Triton's protobuf schema, and against the rules by which the server accepts a model."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelInstanceGroup

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.export.options import ExportOptions
from tests.serving.builds import BATCHED, HQ, STATIC, declared, make_build
from tests.serving.triton_server import check_ensemble, read_configs

ANY = -1
IMAGE, EMBEDDING = [3, 1024, 1024], [256, 64, 64]


def configs(repository):
    return read_configs(repository.output)


def dims(config):
    return {tensor.name: list(tensor.dims) for tensor in (*config.input, *config.output)}


@pytest.fixture(params=[BATCHED, STATIC, HQ])
def any_build(request, tmp_path):
    files = declared(tmp_path / "onnx", request.param)
    batch = (1, 1, 1) if request.param == STATIC else (1, 2, 4)
    return make_build(tmp_path / "sm90", files, export=ExportOptions("fp32", batch=batch))


@pytest.mark.parametrize("platform", ["tensorrt_plan", "onnxruntime"])
def test_the_server_accepts_the_ensemble(any_build, write, platform):
    found = configs(write(any_build, platform=platform, decoder_platform=platform))
    parts = ("", "_decoder", "_embed", "_encoder", "_image", "_masks", "_predict", "_prompts")
    assert sorted(found) == [f"sam{part}" for part in parts]
    for name in ("sam", "sam_embed", "sam_predict"):
        check_ensemble(found[name], found)
    for name, config in found.items():
        assert config.name == name and config.HasField("version_policy")
        assert bool(config.instance_group) == (config.platform != "ensemble")
        for sample in config.model_warmup:
            assert {key: list(entry.dims) for key, entry in sample.inputs.items()}.keys() == {
                tensor.name for tensor in config.input
            }
            assert all(dim > 0 for entry in sample.inputs.values() for dim in entry.dims)
            assert 1 <= sample.batch_size <= max(1, config.max_batch_size)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found["sam"].ensemble_scheduling.step[1].input_map.update({"image": "original_size"}),
        lambda found: found["sam_decoder"].input[0].dims.__setitem__(1, 128),
        lambda found: found["sam"].ensemble_scheduling.step[3].output_map.update({"low_res_masks": "original_size"}),
        lambda found: found["sam"].ensemble_scheduling.step[4].input_map.pop("iou_candidates"),
    ],
    ids=["type", "shape", "two-sources", "unmapped"],
)
def test_the_check_of_ensembles_notices(build, write, spoil):
    found = configs(write(build))
    spoil(found)
    with pytest.raises(AssertionError):
        check_ensemble(found["sam"], found)


def test_a_dynamic_encoder_is_batched(build, write):
    encoder = configs(write(build, max_queue_delay_us=500))["sam_encoder"]
    assert encoder.max_batch_size == 4
    assert dims(encoder) == {"image": IMAGE, "image_embeddings": EMBEDDING}
    assert encoder.dynamic_batching.max_queue_delay_microseconds == 500
    assert [sample.batch_size for sample in encoder.model_warmup] == [1, 2, 4]
    assert [spec.batch_size for spec in encoder.optimization.cuda.graph_spec] == [1, 2, 3, 4]
    assert (encoder.platform, encoder.backend) == ("tensorrt_plan", "tensorrt")


def test_a_large_batch_is_captured_in_powers_of_two(tmp_path, onnx_files, write):
    build = make_build(tmp_path / "sm90", onnx_files, export=ExportOptions("fp32", batch=(1, 8, 12)))
    encoder = configs(write(build))["sam_encoder"]
    assert [spec.batch_size for spec in encoder.optimization.cuda.graph_spec] == [1, 2, 4, 8, 12]


def test_a_static_encoder_is_not(tmp_path, write):
    build = make_build(tmp_path / "sm90", declared(tmp_path / "onnx", STATIC), export=ExportOptions("fp32"))
    encoder = configs(write(build))["sam_encoder"]
    assert encoder.max_batch_size == 0 and not encoder.HasField("dynamic_batching")
    assert dims(encoder) == {"image": [1, *IMAGE], "image_embeddings": [1, *EMBEDDING]}
    assert encoder.optimization.cuda.graphs and not encoder.optimization.cuda.graph_spec


def test_waiting_for_a_batch_that_cannot_be_is_refused(tmp_path, write):
    build = make_build(tmp_path / "sm90", declared(tmp_path / "onnx", HQ))
    with pytest.raises(InvalidInput, match="--max-queue-delay-us 500 is for batches"):
        write(build, max_queue_delay_us=500)


def test_the_decoder_takes_any_prompts_of_one_image(build, write):
    decoder = configs(write(build))["sam_decoder"]
    assert decoder.max_batch_size == 0 and not decoder.HasField("dynamic_batching")
    assert dims(decoder) == {
        "image_embeddings": [1, *EMBEDDING],
        "point_coords": [ANY, ANY, 2],
        "point_labels": [ANY, ANY],
        "mask_input": [ANY, 1, 256, 256],
        "has_mask_input": [ANY],
        "low_res_masks": [ANY, 4, 256, 256],
        "iou_predictions": [ANY, 4],
    }


def test_instances_on_chosen_gpus(build, write):
    found = configs(write(build, gpus=(0, 2), instances=3, cpu_workers=5))
    for name in ("sam_encoder", "sam_decoder"):
        (group,) = found[name].instance_group
        assert (group.kind, group.count, list(group.gpus)) == (ModelInstanceGroup.KIND_GPU, 3, [0, 2])
    for name in ("sam_image", "sam_prompts", "sam_masks"):
        (group,) = found[name].instance_group
        assert (group.kind, group.count, list(group.gpus)) == (ModelInstanceGroup.KIND_CPU, 5, [])


def test_on_the_cpu(build, write):
    found = configs(write(build, platform="onnxruntime", decoder_platform="onnxruntime", device="cpu"))
    for name in ("sam_encoder", "sam_decoder"):
        assert (found[name].platform, found[name].backend) == ("onnxruntime_onnx", "onnxruntime")
        assert found[name].instance_group[0].kind == ModelInstanceGroup.KIND_CPU
        assert not found[name].HasField("optimization") and not found[name].cc_model_filenames


def test_cache_and_graphs_only_where_asked(build, write, tmp_path):
    encoder = configs(write(build, cuda_graphs=False))["sam_encoder"]
    assert not encoder.HasField("optimization") and not encoder.HasField("response_cache")
    cached = configs(write(build, name="cached", cache_mib=64))
    assert [name for name, config in cached.items() if name.startswith("cached") and config.response_cache.enable] == [
        "cached_embed"
    ]


def test_the_request_is_what_the_readme_says(build, write):
    ensemble = configs(write(build))["sam"]
    asked = {t.name: (DataType.Name(t.data_type), list(t.dims), t.optional) for t in ensemble.input}
    assert asked == {
        "image": ("TYPE_UINT8", [ANY], False),
        "point_coords": ("TYPE_FP32", [ANY, ANY, 2], False),
        "point_labels": ("TYPE_INT32", [ANY, ANY], False),
        "multimask_output": ("TYPE_BOOL", [1], True),
    }
    answered = {t.name: (DataType.Name(t.data_type), list(t.dims)) for t in ensemble.output}
    assert answered == {
        "masks": ("TYPE_BOOL", [ANY] * 4),
        "iou_predictions": ("TYPE_FP32", [ANY, ANY]),
        "low_res_masks": ("TYPE_FP32", [ANY, ANY, 256, 256]),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../sam"}, "model name '../sam' cannot name a folder"),
        ({"device": "cpu"}, "--device cpu cannot run TensorRT engines; add --platform onnxruntime"),
        (
            {"platform": "onnxruntime", "decoder_platform": "onnxruntime", "device": "cpu", "gpus": (0,)},
            "--gpus 0 contradicts --device cpu",
        ),
        ({"gpus": (1, 1)}, "--gpus 1,1 repeats one"),
    ],
    ids=["name", "engine-on-cpu", "gpus-on-cpu", "gpu-twice"],
)
def test_options_that_contradict_are_refused(build, write, options, message):
    with pytest.raises(InvalidInput, match=message):
        write(build, **options)


def test_a_field_outside_the_schema_would_be_noticed(build, write, tmp_path):
    path = write(build).output / "sam_encoder" / "config.pbtxt"
    path.write_text(path.read_text() + "max_queue_delay: 3\n")
    with pytest.raises(text_format.ParseError, match="max_queue_delay"):
        read_configs(path.parents[1])
