"""Where a build's files lie, and one rule for what is refused, whoever reads the folder."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import sparsesam_deploy
from sparsesam_deploy.accuracy.evaluation.variants import exported_variant
from sparsesam_deploy.engines.folder import BuildFolder
from sparsesam_deploy.engines.manifest import MANIFEST, FileRecord
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.errors import CheckFailed, InvalidInput
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.config import DENSE
from sparsesam_deploy.progress import Stages
from sparsesam_deploy.serving.options import ServingOptions
from sparsesam_deploy.serving.repository import write_repository
from tests.export.models import export, load_tiny
from tests.serving.builds import make_build

FP32 = ExportOptions("fp32")


@pytest.fixture
def build(folder) -> BuildFolder:
    return BuildFolder(folder)


# --- names -------------------------------------------------------------------------------------------------------


def test_the_names_of_a_build():
    build = BuildFolder(Path("dir"))
    paths = (build.encoder_onnx, build.decoder_onnx, build.engine, build.decoder_engine)
    assert [str(path) for path in paths] == [
        "dir/encoder.onnx",
        "dir/decoder.onnx",
        "dir/encoder.engine",
        "dir/decoder.engine",
    ]
    about = (build.manifest_path, build.parity_report, build.overlay, build.rejected.manifest_path)
    assert [str(path) for path in about] == [
        "dir/manifest.json",
        "dir/parity.json",
        "dir/overlay.png",
        "dir/rejected/manifest.json",
    ]


@pytest.mark.parametrize("path", ["dir", "dir/", "dir/manifest.json", Path("dir"), Path("dir/manifest.json")], ids=str)
def test_the_folder_or_the_manifest_in_it(path):
    assert BuildFolder.of(path) == BuildFolder(Path("dir"))


def test_a_manifest_named_from_inside_its_folder(folder, manifest, monkeypatch):
    manifest.write(folder / MANIFEST)
    monkeypatch.chdir(folder)
    assert BuildFolder.of(MANIFEST).read() == BuildFolder.of(".").read() == manifest


def test_another_file_is_no_way_to_a_build(build, manifest):
    """A mistyped name must not lead to the folder it is in."""
    manifest.write(build.manifest_path)
    for path, reason in ((build.engine, "not a directory"), (build.path / "typo", "no such file or directory")):
        with pytest.raises(InvalidInput, match=f"cannot read .*: {reason}; name an engine's manifest.json"):
            BuildFolder.of(path).read()


def test_it_comes_without_torch():
    code = "import sys, sparsesam_deploy.engines.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- parity: one rule --------------------------------------------------------------------------------------------

ABSENT = object()
NO_MANIFEST = (InvalidInput, r"manifest.json is not an engine manifest \(parity")
VERDICTS = {
    "not checked": (None, None),
    "passed": ({"passed": True, "mask_iou": 0.9987}, None),
    "failed": (
        {"passed": False, "mask_iou": 0.5},
        (
            CheckFailed,
            r"build/manifest.json says that this build failed its parity check; see which with `sparsesam-export "
            r"verify \S+/build`, and rebuild with `sparsesam-export build --output \S+/build`\.",
        ),
    ),
    "passed null": ({"passed": None}, NO_MANIFEST),
    "no passed": ({"mask_iou": 0.9987}, NO_MANIFEST),
    "word": ({"passed": "yes"}, NO_MANIFEST),
    "number": ({"passed": 1}, NO_MANIFEST),
    "list": ([{"passed": True}], NO_MANIFEST),
    "true alone": (True, NO_MANIFEST),
    "absent": (ABSENT, NO_MANIFEST),
}
"""What a manifest says of parity, and who refuses it with which words; the C++ runtime has the same cases."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, decoder_of) -> Path:
    """ONNX files that run."""
    files = BuildFolder(tmp_path_factory.mktemp("exported"))
    export(files.path, DENSE)
    shutil.copyfile(decoder_of(load_tiny()), files.decoder_onnx)
    return files.path


@pytest.fixture
def served(exported, tmp_path) -> BuildFolder:
    return BuildFolder(make_build(tmp_path / "build", exported, export=FP32))


def write_triton_repository(folder: Path) -> None:
    stages = Stages(Console(file=io.StringIO()))
    write_repository([folder], folder.parent / "repository", ServingOptions(), stages)


def evaluate(folder: Path) -> None:
    exported_variant(folder, load_tiny(), "onnxruntime", None)


LOADERS = {
    "folder": lambda folder: BuildFolder.of(folder).read(),
    "load": lambda folder: sparsesam_deploy.load(folder, "onnxruntime", "cpu"),
    "triton": write_triton_repository,
    "evaluate": evaluate,
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(("parity", "refusal"), VERDICTS.values(), ids=VERDICTS)
def test_all_loaders_agree_on_parity(served, loader, parity, refusal):
    content = json.loads(served.manifest_path.read_text()) | {"parity": parity}
    if parity is ABSENT:
        del content["parity"]
    served.manifest_path.write_text(json.dumps(content))
    if refusal is None:
        loader(served.path)
    else:
        error, sentence = refusal
        with pytest.raises(error, match=sentence) as caught:
            loader(served.path)
        assert caught.type is error


def test_a_failed_build_can_be_looked_at(build, manifest):
    content = json.loads(manifest.model_dump_json()) | {"parity": {"passed": False}}
    build.manifest_path.write_text(json.dumps(content))
    assert build.read_unjudged().parity.passed is False


# --- files and machines that do not fit --------------------------------------------------------------------------


def test_an_untouched_folder_passes(build, manifest):
    build.check_engines(manifest)
    build.check_engines(manifest, builder_version="1.7.1.116", compute_capability="SM89")
    build.check_sources(manifest)


@pytest.mark.parametrize(
    ("compatible", "installed", "loads"),
    [(True, "1.7.1.116", True), (True, "1.10.0.1", True), (True, "1.7.0.200", False), (False, "1.10.0.1", False)],
)
def test_version_compatible_engines_load_with_later_releases(build, manifest, compatible, installed, loads):
    manifest = manifest.model_copy(update={"engine_options": EngineOptions(version_compatible=compatible)})
    if loads:
        build.check_engines(manifest, builder_version=installed)
    else:
        with pytest.raises(CheckFailed, match=f"but {installed} is installed"):
            build.check_engines(manifest, builder_version=installed)


def test_edited_weights_beside_the_onnx_file_are_found_out(build, manifest, folder):
    weights = folder / "encoder.onnx.data"
    weights.write_bytes(b"weights")
    manifest = manifest.model_copy(update={"weight_files": (FileRecord.of(weights),)})
    build.check_sources(manifest)
    weights.write_bytes(b"Weights")
    with pytest.raises(CheckFailed, match=r"encoder\.onnx\.data has changed"):
        build.check_sources(manifest)


REBUILD = r"rebuild with `sparsesam-export build --output \S+`"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"builder_version": "1.8.0.1"},
            r"encoder.engine was built by tensorrt-rtx 1.7.1.116, but 1.8.0.1 is installed; "
            + REBUILD
            + r" or `pip install tensorrt-rtx==1.7.1.116`",
        ),
        (
            {"compute_capability": "SM90"},
            r"encoder.engine was built for SM80, SM89, but this GPU is SM90; rebuild here with "
            r"`sparsesam-export build --builder tensorrt --output \S+`",
        ),
    ],
    ids=["runtime", "gpu"],
)
def test_another_machine_is_refused(build, manifest, given, sentence):
    with pytest.raises(CheckFailed, match=sentence):
        build.check_engines(manifest, **given)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("encoder.engine", None, r"encoder.engine, named by its manifest, is missing; " + REBUILD),
        ("encoder.engine", b"an ENGINE", r"encoder.engine has changed since its manifest was written; " + REBUILD),
        ("decoder.engine", b"another ENGINE", r"decoder.engine has changed since its manifest was written; " + REBUILD),
        ("encoder.engine", b"an eng", r"encoder.engine has 6 bytes, but its manifest says 9; " + REBUILD),
        (
            "libsparsesam.so",
            None,
            r"encoder.engine needs the plugins RoutedRows, StripeAttention of \S+libsparsesam.so, which is missing; "
            r"copy the library there or " + REBUILD,
        ),
        (
            "libsparsesam.so",
            b"another library",
            r"of another libsparsesam.so than \S+; restore the library or",
        ),
    ],
    ids=["missing", "changed", "decoder", "truncated", "no plugin library", "other plugin library"],
)
def test_another_file_is_refused(build, manifest, folder, name, content, sentence):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckFailed, match=sentence):
        build.check_engines(manifest)


def test_an_engine_without_plugins_needs_no_library(build, manifest, folder):
    (folder / "libsparsesam.so").unlink()
    build.check_engines(manifest.model_copy(update={"plugins": ()}))


def test_an_encoder_alone_needs_no_decoder(build, manifest, folder):
    for name in ("decoder.engine", "decoder.onnx"):
        (folder / name).unlink()
    manifest = manifest.model_copy(update=dict.fromkeys(("decoder_onnx", "decoder_engine", "decoder_audit")))
    build.check_engines(manifest)
    build.check_sources(manifest)


@pytest.mark.parametrize("name", ["encoder.onnx", "decoder.onnx"])
def test_an_edited_onnx_file_is_found_out(build, manifest, folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.upper())
    with pytest.raises(CheckFailed, match=rf"{name} has changed since its manifest was written; {REBUILD}"):
        build.check_sources(manifest)
