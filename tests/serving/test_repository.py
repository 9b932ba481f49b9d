"""What is in a repository, how more gets into it, what is refused, and what the server is told."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc.model_config_pb2 import DataType

from sparsesam_deploy.engines.manifest import FileRecord
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.errors import CheckFailed, EnvironmentProblem, InvalidInput
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.serving.models import image as image_model
from sparsesam_deploy.serving.models import masks as masks_model
from sparsesam_deploy.serving.models import prompts as prompts_model
from tests.serving.builds import LIBRARY, REGISTRATION, declared, make_build
from tests.serving.triton_server import matches, read_configs

LATER = EngineOptions(version_compatible=True)
ON_CPU = {"platform": "onnxruntime", "decoder_platform": "onnxruntime", "device": "cpu"}


def content(repository: Path) -> dict[str, bytes]:
    """Every file but the lock that writers take."""
    files = (path for path in sorted(repository.rglob("*")) if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(repository)): path.read_bytes() for path in files}


def test_engines_are_served(build, write):
    files = content(write(build).output)
    models = {name for name in files if "/" in name and not name.endswith("config.pbtxt")}
    assert models == {
        *("sam/1/.keep", "sam_embed/1/.keep", "sam_predict/1/.keep"),
        "sam_encoder/1/sm90.plan",
        "sam_decoder/1/sm90.plan",
        "sam_image/1/model.py",
        "sam_prompts/1/model.py",
        "sam_masks/1/model.py",
    }
    assert files["sam_encoder/1/sm90.plan"] == b"encoder.engine for SM90"
    assert files["sam_decoder/1/sm90.plan"] == b"decoder.engine for SM90"
    assert files["sam_image/1/model.py"] == Path(image_model.__file__).read_bytes()
    assert files["sam_prompts/1/model.py"] == Path(prompts_model.__file__).read_bytes()
    assert files["sam_masks/1/model.py"] == Path(masks_model.__file__).read_bytes()
    assert {name for name in files if "/" not in name} == {"Dockerfile", "README-sam-1.md"}


def test_onnx_files_are_served(build, write):
    files = content(write(build, **ON_CPU).output)
    assert files["sam_encoder/1/model.onnx"] == (build / "encoder.onnx").read_bytes()
    assert files["sam_decoder/1/model.onnx"] == (build / "decoder.onnx").read_bytes()
    assert not any(name.endswith(".plan") for name in files)


def test_a_decoder_in_onnx_beside_an_engine(tmp_path, onnx_files, write):
    build = make_build(tmp_path / "sm90", onnx_files, decoder_engine=None)
    files = content(write(build, decoder_platform="onnxruntime").output)
    assert {"sam_encoder/1/sm90.plan", "sam_decoder/1/model.onnx"} <= set(files)


def test_every_gpu_gets_its_engine(tmp_path, onnx_files, write):
    builds = [
        make_build(tmp_path / name, onnx_files, compute_capabilities=(name,)) for name in ("SM89", "SM90", "SM120")
    ]
    written = write(*builds)
    files, configs = content(written.output), read_configs(written.output)
    for part in ("encoder", "decoder"):
        plans = dict(configs[f"sam_{part}"].cc_model_filenames)
        assert plans == {"8.9": "sm89.plan", "9.0": "sm90.plan", "12.0": "sm120.plan"}
        assert files[f"sam_{part}/1/sm120.plan"] == f"{part}.engine for SM120".encode()


def test_another_version_leaves_the_first(tmp_path, build, onnx_files, write):
    first = content(write(build).output)
    newer = make_build(tmp_path / "newer", onnx_files, builder_version="10.14.1.48")
    files = content(write(newer, version=2).output)
    assert {name: data for name, data in files.items() if name in first} == first
    added = {"sam/2/.keep", "sam_encoder/2/sm90.plan", "sam_image/2/model.py", "README-sam-2.md"}
    assert added <= set(files) - set(first)
    assert b"10.14.1.48" in files["README-sam-2.md"]


def test_another_model_beside_the_first(build, write):
    write(build)
    parts = ["", "_decoder", "_embed", "_encoder", "_image", "_masks", "_predict", "_prompts"]
    found = sorted(read_configs(write(build, name="face").output))
    assert found == [name + part for name in ("face", "sam") for part in parts]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has a version 1; give --version 2, --name, or another --output"),
        ({"version": 2, "instances": 2}, "is for all versions of sam_encoder, and these options would change it"),
    ],
    ids=["same-version", "other-configuration"],
)
def test_nothing_is_overwritten(build, write, options, message):
    before = content(write(build).output)
    with pytest.raises(InvalidInput, match=message):
        write(build, **options)
    assert content(build.parent / "repository") == before


def test_what_fails_half_way_leaves_nothing(build, write, monkeypatch):
    monkeypatch.setattr("sparsesam_deploy.serving.repository.readme", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(build)
    assert content(build.parent / "repository") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"builder": "tensorrt-rtx"}, "are of tensorrt-rtx, which Triton's tensorrt backend cannot load"),
        ({"decoder_engine": None}, "has no decoder.engine; build it again, or serve decoder.onnx"),
        ({"decoder_engine": None, "decoder_onnx": None}, "has no decoder.onnx"),
        ({"export": ExportOptions("fp32", batch=(2, 4, 8))}, "takes 2 images or more at once.*--batch 1,4,8"),
    ],
    ids=["rtx", "no-decoder-engine", "no-decoder", "batch-of-two"],
)
def test_builds_that_cannot_be_served(tmp_path, onnx_files, write, changes, message):
    with pytest.raises(InvalidInput, match=message):
        write(make_build(tmp_path / "sm90", onnx_files, **changes))
    assert not (tmp_path / "repository").exists()


def test_rtx_builds_are_served_as_onnx(tmp_path, onnx_files, write):
    build = make_build(tmp_path / "rtx", onnx_files, builder="tensorrt-rtx")
    assert "sam_encoder/1/model.onnx" in content(write(build, **ON_CPU).output)


@pytest.mark.parametrize("name", ["encoder.engine", "decoder.engine", "decoder.onnx"])
def test_files_that_are_not_the_manifests(build, write, name):
    path = build / name
    data = path.read_bytes()
    path.unlink()  # the ONNX files are links
    path.write_bytes(data[:-1] + b"?")
    with pytest.raises(CheckFailed, match=re.escape(name)):
        write(build)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "both hold an engine for compute capability 9.0; leave one out"),
        ({"compute_capabilities": ("SM89",), "export": ExportOptions("fp16", batch=(1, 2, 4))}, "differ in export"),
        ({"compute_capabilities": ("SM89",), "builder_version": "11.1.0"}, "differ in builder_version"),
        (
            {"compute_capabilities": ("SM89",), "engine_options": LATER},
            "differ in version_compatible",
        ),
    ],
    ids=["same-gpu", "precision", "tensorrt", "version-compatible"],
)
def test_builds_that_are_not_one_model(tmp_path, build, onnx_files, write, changes, message):
    with pytest.raises(InvalidInput, match=message):
        write(build, make_build(tmp_path / "other", onnx_files, **changes))


def test_two_onnx_files_are_refused(tmp_path, build, onnx_files, write):
    other = make_build(tmp_path / "other", onnx_files, compute_capabilities=("SM89",))
    with pytest.raises(InvalidInput, match="serves one ONNX file on every GPU"):
        write(build, other, **ON_CPU)


@pytest.fixture
def plugin_build(tmp_path, onnx_files) -> Path:
    return make_build(tmp_path / "sm90", onnx_files, plugin_library=b"plugins")


def test_plugins_come_along_and_are_loaded(plugin_build, write):
    written = write(plugin_build)
    files = content(written.output)
    assert files[LIBRARY] == b"plugins" and files[REGISTRATION] == b"registers them"
    plugins = f"--backend-config=tensorrt,plugins=/models/{REGISTRATION}"
    assert list(written.launch.server) == ["tritonserver", "--model-repository=/models", plugins]


@pytest.mark.parametrize("there", [True, False], ids=["library", "library-deleted"])
def test_embedded_plugins_need_no_library_but_the_setting(tmp_path, onnx_files, write, there):
    """The setting is the only one by which Triton allows an engine to bring host code."""
    build = make_build(tmp_path / "sm90", onnx_files, plugin_library=b"plugins", embedded=True)
    for name in () if there else (LIBRARY, REGISTRATION):
        (build / name).unlink()
    written = write(build)
    assert not [name for name in content(written.output) if name.endswith(".so")]
    setting = "--backend-config=tensorrt,version-compatible=true"
    assert list(written.launch.server) == ["tritonserver", "--model-repository=/models", setting]
    assert "to the last digit" in written.launch.container


def test_an_embedded_encoder_that_is_not_served_needs_no_setting(tmp_path, onnx_files, write):
    build = make_build(tmp_path / "sm90", onnx_files, plugin_library=b"plugins", embedded=True)
    server = write(build, platform="onnxruntime").launch.server
    assert list(server) == ["tritonserver", "--model-repository=/models"]


def test_the_registering_library_from_elsewhere(tmp_path, plugin_build, write):
    (tmp_path / "built").mkdir()
    library = (plugin_build / REGISTRATION).rename(tmp_path / "built" / REGISTRATION)
    with pytest.raises(InvalidInput, match="name the one that was built with the plugin library"):
        write(plugin_build)
    assert content(write(plugin_build, registration_library=library).output)[REGISTRATION] == b"registers them"


def test_a_registering_library_for_nothing_is_refused(tmp_path, build, write):
    with pytest.raises(InvalidInput, match="is not needed"):
        write(build, registration_library=tmp_path / REGISTRATION)


def test_one_server_has_one_plugin_library(tmp_path, plugin_build, onnx_files, write):
    write(plugin_build)
    other = make_build(tmp_path / "other", onnx_files, plugin_library=b"other plugins")
    with pytest.raises(InvalidInput, match="is another library"):
        write(other, name="other", registration_library=plugin_build / REGISTRATION)


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({}, {}, []),
        (
            {"engine_options": LATER},
            {},
            ["--backend-config=tensorrt,version-compatible=true"],
        ),
        ({}, {"cache_mib": 64}, ["--cache-config=local,size=67108864"]),
        ({"engine_options": LATER}, ON_CPU, []),
    ],
    ids=["plain", "version-compatible", "cache", "onnx"],
)
def test_the_server_command(tmp_path, onnx_files, write, changes, options, expected):
    written = write(make_build(tmp_path / "sm90", onnx_files, **changes), **options)
    assert list(written.launch.server) == ["tritonserver", "--model-repository=/models", *expected]
    docker = shlex.split(written.launch.docker)
    assert docker[-len(written.launch.server) :] == list(written.launch.server)
    assert f"{written.output.resolve()}:/models:ro" in docker
    assert ("--gpus" in docker) == (options != ON_CPU)
    text = (written.output / "README-sam-1.md").read_text()
    assert written.launch.docker in text and written.launch.container in text


def test_the_readme_names_the_tensorrt_that_is_needed(build, write):
    container = write(build).launch.container
    assert "10.13.3.9, to the last digit" in container and "ONNX Runtime" not in container


@pytest.mark.parametrize("document", ["README-sam-1.md", "docs/serving.md"])
def test_the_request_that_is_shown_runs(build, write, monkeypatch, document):
    """Its code, up to the network."""
    folder = write(build).output if document.startswith("README") else Path(__file__).parents[2]
    code = re.search(r"```python\n(.*?)```", (folder / document).read_text(), re.DOTALL)[1]
    sent = {}

    class Answer:
        def as_numpy(self, name):
            return name

    def infer(self, name, inputs):
        sent.update(name=name, inputs={each.name(): (each.datatype(), each.shape()) for each in inputs})
        return Answer()

    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient.infer", infer)
    monkeypatch.setattr("numpy.fromfile", lambda _, dtype: np.zeros(9, dtype))
    namespace = {}
    exec(code, namespace)
    assert namespace["masks"] == "masks" and sent["name"] == "sam"
    ensemble = read_configs(write(build, version=2).output)["sam"]
    assert set(sent["inputs"]) == {each.name for each in ensemble.input}
    for each in ensemble.input:
        kind, shape = sent["inputs"][each.name]
        assert f"TYPE_{kind}" == DataType.Name(each.data_type) and matches(shape, each.dims)


def test_without_tritonclient(build, write, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("tritonclient")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentProblem, match=re.escape("pip install 'sparsesam-deploy[serving]'")):
        write(build)


def test_weights_beside_the_onnx_file_come_along(tmp_path, write):
    """A ViT-H's, above 2 GB."""
    files = declared(tmp_path / "onnx")
    (tmp_path / "weights").write_bytes(b"weights")
    record = FileRecord.of(tmp_path / "weights").model_copy(update={"name": "encoder.onnx.data"})
    build = make_build(tmp_path / "sm90", files, weight_files=(record,))
    (build / "encoder.onnx.data").write_bytes(b"weights")
    assert content(write(build, **ON_CPU).output)["sam_encoder/1/encoder.onnx.data"] == b"weights"
    (build / "encoder.onnx.data").write_bytes(b"changed")
    with pytest.raises(CheckFailed, match="has changed since"):
        write(build, **ON_CPU, version=2)
