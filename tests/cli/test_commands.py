"""The command line as its users meet it: one whole build of the shipped model, and what each command prints."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from benchmarks.export_cost import LIMITS
from sparsesam_deploy import load
from sparsesam_deploy.cli import main as cli
from sparsesam_deploy.engines.cuda import cuda_devices
from sparsesam_deploy.engines.options import RTX_COMPUTE_CAPABILITIES
from sparsesam_deploy.errors import CheckFailed
from sparsesam_deploy.model.config import PRESETS
from sparsesam_deploy.parity import tolerance
from sparsesam_deploy.parity.samples import SHIPPED

FILES = {"encoder.onnx", "decoder.onnx", "encoder.engine", "decoder.engine", "manifest.json", "parity.json"}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()


@pytest.fixture(scope="module")
def built(built_as_the_readme_says) -> tuple[Path, dict, dict]:
    """One real build of the nano model by the console script: its folder, manifest and parity report."""
    folder = built_as_the_readme_says / "engines" / "built" / "nano"
    manifest, parity = (json.loads((folder / name).read_text()) for name in ("manifest.json", "parity.json"))
    return folder, manifest, parity


def test_build_writes_what_it_promises(built):
    folder, manifest, parity = built
    assert visible(folder) == FILES | {"overlay.png"}
    assert parity["summary"]["passed"] and manifest["parity"]["passed"]
    assert manifest["engine"]["bytes"] == (folder / "encoder.engine").stat().st_size > 1 << 20
    assert manifest["sparsity"]["attention_density"] == 0.25 and manifest["sparsity"]["mlp_density"] == 0.5
    assert manifest["export"]["dtype"] == "fp16"
    assert manifest["compute_capabilities"] == [
        "SM80",
        "SM86",
        "SM89",
        "SM120",
    ]
    assert {record["name"] for record in manifest["stages"]} >= {"load checkpoint", "verify"}


def test_an_export_keeps_to_its_limit(built):
    """As `benchmarks.export_cost` has it for a model of ViT-B's depth."""
    stages = {record["name"]: record["seconds"] for record in built[1]["stages"]}
    exported = sum(stages[name] for name in ("load checkpoint", "export encoder, fp16", "export decoder, fp16"))
    assert 0 < exported <= LIMITS["nano"]["seconds"]


def engine_runs_here() -> bool:
    """Whether this machine's first GPU is one that tensorrt-rtx engines are built for."""
    devices = cuda_devices()
    return bool(devices) and devices[0].compute_capability in RTX_COMPUTE_CAPABILITIES


def test_parity_report_says_whether_the_engine_ran(built):
    _, _, parity = built
    ran = [image["engine"] is not None for image in parity["images"]]
    assert ran == [engine_runs_here()] * 2
    assert parity["engine"].startswith("run: " if engine_runs_here() else "not run: no device: ")


def test_exported_files_open_elsewhere(built):
    folder, *_ = built
    for name in ("encoder.onnx", "decoder.onnx"):
        onnx.checker.check_model(str(folder / name), full_check=True)
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    (embeddings,) = session.run(None, {"image": np.zeros((1, 3, 1024, 1024), np.float32)})
    assert embeddings.shape == (1, 256, 64, 64) and np.isfinite(embeddings).all()


def test_the_overlay_is_drawn(built):
    """What it shows: ``tests/parity/test_overlay.py``."""
    with Image.open(built[0] / "overlay.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("name", ["", "encoder.onnx", "decoder.onnx", "encoder.engine", "manifest.json"])
def test_inspect_describes_every_product(built, sparsesam_export, name):
    result = sparsesam_export("inspect", built[0] / name, "--json")
    assert result.code == 0
    described = json.loads(result.out)
    assert described["family"] == "nano"
    assert sparsesam_export("inspect", built[0] / name).out.count("\n") >= 10


@pytest.fixture
def copy_of_build(built, tmp_path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes((built[0] / name).read_bytes())
    return tmp_path


def test_engine_that_changed_is_refused(copy_of_build, sparsesam_export):
    engine = copy_of_build / "encoder.engine"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    for command in (("verify", copy_of_build, "--model", "nano"), ("inspect", copy_of_build)):
        result = sparsesam_export(*command)
        assert result.code == 1
        assert "has changed since its manifest was written; rebuild with" in result.err


def test_onnx_that_was_edited_is_refused(copy_of_build, sparsesam_export):
    path = copy_of_build / "encoder.onnx"
    model = onnx.load(path)
    weight = next(w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16 and len(w.dims) == 2)
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, path)
    result = sparsesam_export("verify", copy_of_build, "--model", "nano")
    assert result.code == 1 and "encoder.onnx" in result.err
    result = sparsesam_export("engine", path, "--builder", "tensorrt-rtx", "--output", copy_of_build / "again")
    assert result.code == 1 and "was edited after its export" in result.err
    assert visible(copy_of_build / "again") == set()


def test_verify_refuses_another_checkpoint(built, sparsesam_export, tiny_checkpoint):
    result = sparsesam_export("verify", built[0], "--checkpoint", tiny_checkpoint)
    assert result.code == 1 and "was exported from sam_vit_nano" in result.err


pytestmark = pytest.mark.usefixtures("four_points")

TINY_BUILD = ("--builder", "tensorrt-rtx", "--images", SHIPPED / "astronaut.png")


def test_onnx_then_engine_then_verify(tiny_checkpoint, sparsesam_export, tmp_path):
    exported, engine = tmp_path / "exported", tmp_path / "engine"
    result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, "--dtype", "fp32", "--output", exported)
    assert result.code == 0 and visible(exported) == {"encoder.onnx", "decoder.onnx"}
    engine.mkdir()
    (engine / "parity.json").write_text("{}")  # of an engine that was here before
    result = sparsesam_export("engine", exported / "encoder.onnx", "--builder", "tensorrt-rtx", "--output", engine)
    assert result.code == 0 and visible(engine) == FILES - {"parity.json"}
    arguments = (
        "--checkpoint",
        tiny_checkpoint,
        "--images",
        SHIPPED / "astronaut.png",
        "--overlay",
        tmp_path / "o.png",
    )
    result = sparsesam_export("verify", engine, *arguments)
    assert result.code == 0, result.err
    assert "astronaut.png" in result.out.replace("\n", "")
    assert f"engine: {'run: ' if engine_runs_here() else 'not run: no device'}" in result.out
    assert (tmp_path / "o.png").is_file()


def test_failed_parity_is_exit_1_and_goes_to_rejected(tiny_checkpoint, sparsesam_export, tmp_path, monkeypatch):
    strict = replace(tolerance.TOLERANCES["fp16"], block=1e-9)
    monkeypatch.setitem(tolerance.TOLERANCES, "fp16", strict)
    result = sparsesam_export("build", "--checkpoint", tiny_checkpoint, *TINY_BUILD, "--output", tmp_path / "out")
    assert result.code == 1
    assert "FAILED" in result.out and "embedding loses precision" in result.out
    rejected = tmp_path / "out" / "rejected"
    assert visible(tmp_path / "out") == {"rejected"} and visible(rejected) == FILES
    with pytest.raises(CheckFailed, match="says that this build failed its parity check"):
        load(rejected, "onnxruntime", "cpu")
    looked_at = sparsesam_export("inspect", rejected, "--json")
    assert looked_at.code == 0 and json.loads(looked_at.out)["parity"]["passed"] is False
    monkeypatch.undo()
    judged = sparsesam_export("verify", rejected, "--checkpoint", tiny_checkpoint, *TINY_BUILD[2:])
    assert judged.code == 0  # it is judged anew, whatever its manifest says


def test_accuracy_floor(tiny_export, tiny_checkpoint, sparsesam_export):
    photo = SHIPPED / "astronaut.png"
    arguments = ("verify", tiny_export, "--checkpoint", tiny_checkpoint, "--images", photo, "--json")
    failed = sparsesam_export(*arguments, "--min-dense-iou", "0.9999")
    assert failed.code == 1 and "mask IoU to dense" in json.loads(failed.out)["failures"][0]


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_help_has_an_example(sparsesam_export, command):
    result = sparsesam_export(command, "--help")
    assert result.code == 0 and f"Example:\n    sparsesam-export {command} " in result.out and "--json" in result.out


def test_doctor_reports_builders(sparsesam_export):
    result = sparsesam_export("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.out)["findings"]}
    assert {"python", "torch", "onnx", "tensorrt", "tensorrt-rtx", "plugin library"} <= set(findings)
    assert findings["tensorrt-rtx"]["status"] == "ok"
    problems = [finding for finding in findings.values() if finding["status"] == "problem"]
    assert result.code == (3 if problems else 0)


def test_doctor_prints_remedies_to_the_letter(sparsesam_export, monkeypatch, tmp_path):
    """Square brackets are markup to rich and part of pip's words for extras; no terminal is too narrow to copy one."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "40")
    assert "pip install 'sparsesam-deploy[tensorrt]'" in sparsesam_export("doctor").out


def test_recipe_and_options_give_the_same_choice(sparsesam_export, tiny_checkpoint, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'checkpoint = "tiny.safetensors"\ndensity = 0.5\norder = "interleaved"\ndtype = "fp32"\ninline = true\n'
    )
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    assert sparsesam_export("onnx", "--recipe", recipe, "--density", "0.3", "--output", tmp_path / "a").code == 0
    described = json.loads(sparsesam_export("inspect", tmp_path / "a" / "encoder.onnx", "--json").out)
    assert (described["attention_density"], described["mlp_density"]) == (0.3, 0.3)
    assert (described["order"], described["dtype"], described["routing"]) == ("interleaved", "fp32", "share-variance")
    assert described["windowed_routing"] == "stripe"
    assert described["inline"] is True and described["custom_nodes"] == {}


def test_windows_share_rows_on_request(sparsesam_export, tiny_checkpoint, tmp_path):
    asked = ("--windowed-density", "0.5", "--windowed-routing", "share-variance")
    result = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, *asked, "--output", tmp_path)
    assert result.code == 0, result.err
    described = json.loads(sparsesam_export("inspect", tmp_path / "encoder.onnx", "--json").out)
    assert (described["windowed_density"], described["windowed_routing"]) == (0.5, "share-variance")
    assert described["effective_density"]["windowed_rows"] == pytest.approx(0.5, abs=1e-3)
    too_few = ("--windowed-density", "0.2", *asked[2:])
    refused = sparsesam_export("onnx", "--checkpoint", tiny_checkpoint, *too_few, "--output", tmp_path / "none")
    assert refused.code == 2
    assert "windowed_density 0.2 is below 0.25" in refused.err


def test_shipped_recipes_are_valid(sparsesam_export, tiny_checkpoint, tmp_path):
    from sparsesam_deploy.recipe import ExportRecipe, shipped_recipes

    def merged(name: str) -> ExportRecipe:
        return ExportRecipe.merge(Path(name), {} if "nano" in name else {"checkpoint": tiny_checkpoint})

    assert set(shipped_recipes()) == {"nano", "nano-tuned", "server", "paper", "dense"}
    assert merged("nano").sparsity == merged("server").sparsity == PRESETS["default"]
    assert merged("server").export.batch == (1, 4, 8)
    tuned = merged("nano-tuned").sparsity
    assert len(tuned.mlp_density) == 12 and tuned.windowed_routing == "share-variance"
    assert merged("paper").sparsity == PRESETS["paper"]
    assert (merged("dense").sparsity.attention_density, merged("dense").sparsity.mlp_density) == (1, 1)


def test_batch_is_built_and_judged(tiny_checkpoint, sparsesam_export, tmp_path):
    notes = tmp_path / "rejected" / "notes.txt"  # the user's own, whatever the folder is called
    notes.parent.mkdir()
    notes.touch()
    reports = ("--json", "--junit", tmp_path / "parity.xml")
    result = sparsesam_export(
        "build", "--checkpoint", tiny_checkpoint, *TINY_BUILD, "--batch", "2,3,4", "--output", tmp_path, *reports
    )
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "manifest.json").read_text())["export"]["batch"] == [2, 3, 4]
    assert notes.exists()
    printed = json.loads(result.out)
    for name in ("manifest", "parity"):
        assert printed[name] == json.loads((tmp_path / f"{name}.json").read_text())
    suite = ElementTree.parse(tmp_path / "parity.xml").getroot()
    assert int(suite.get("tests")) == len(suite.findall("testcase")) > 0
    assert suite.get("failures") == "0" and not suite.findall("testcase/failure")
