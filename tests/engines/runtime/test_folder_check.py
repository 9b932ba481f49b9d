"""A folder is refused for the same reasons and by the same order as in Python, before anything is loaded."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsesam_deploy.engines.manifest import MANIFEST, EngineManifest
from sparsesam_deploy.errors import CheckFailed, InvalidInput
from tests.engines.runtime.conftest import run
from tests.engines.runtime.folders import BUILDER_VERSION, LIBRARY, make_folder
from tests.engines.runtime.library import CHECK_FAILED, INVALID_INPUT, Library, Refused


@pytest.fixture
def folder(tmp_path) -> Path:
    make_folder(tmp_path)
    return tmp_path


def refusal(core: Library, *arguments) -> Refused:
    with pytest.raises(Refused) as caught:
        core.check_folder(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 1000 and sentence.endswith(".")
    return caught.value


def edit(folder: Path, change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def put(path: str, value):
    """A change of one value, named like ``engine.name``."""

    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[int(key) if key.isdigit() else key]
        content[last] = value

    return change


def drop(path: str):
    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[key]
        del content[last]

    return change


# --- folders that pass -------------------------------------------------------------------------------------------


def test_what_python_writes_passes(core, folder):
    core.check_folder(folder)
    core.check_folder(folder / MANIFEST)
    core.check_folder(folder, BUILDER_VERSION, "SM89")


def test_an_encoder_alone_without_plugins_passes(core, tmp_path):
    make_folder(tmp_path, decoder=None, plugins=())
    (tmp_path / LIBRARY).unlink()
    core.check_folder(tmp_path)


def test_embedded_plugins_need_no_library(core, tmp_path):
    make_folder(tmp_path, embedded=True)
    (tmp_path / LIBRARY).unlink()
    core.check_folder(tmp_path)


@pytest.mark.parametrize(
    ("compatible", "installed", "loads"),
    [
        (True, BUILDER_VERSION, True),
        (True, "10.14.1.48", True),
        (True, "11.4.0.106", True),
        (True, "10.9.0.34", False),
        (False, "10.14.1.48", False),
        (False, "10.13.0.035", True),
        (True, "99999999999999999999999.0", True),
    ],
)
def test_version_compatible_engines_load_with_later_releases(core, tmp_path, compatible, installed, loads):
    manifest = make_folder(tmp_path, version_compatible=compatible)
    try:
        manifest.check(tmp_path, builder_version=installed)
    except CheckFailed:
        assert not loads, "the case contradicts Python"
    if loads:
        core.check_folder(tmp_path, installed)
    else:
        assert refusal(core, tmp_path, installed).status == CHECK_FAILED


# --- machines and files that do not fit --------------------------------------------------------------------------

REBUILD = r"rebuild with `sparsesam-export build --builder tensorrt --output \S+`"


def test_other_builders_are_refused_by_name(core, tmp_path):
    make_folder(tmp_path, builder="tensorrt-rtx", builder_version="1.7.1.116")
    error = refusal(core, tmp_path)
    assert error.status == CHECK_FAILED
    assert re.search(
        r"encoder.engine was built by tensorrt-rtx 1.7.1.116, but this runtime runs engines of tensorrt; " + REBUILD,
        str(error),
    )


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (
            ("10.14.1.48", None),
            rf"was built by tensorrt 10.13.0.35, but 10.14.1.48 is installed; {REBUILD} or install TensorRT 10.13.0.35",
        ),
        ((None, "SM90"), r"was built for SM80, SM89, but this GPU is SM90; rebuild here with `sparsesam-export build"),
    ],
    ids=["version", "gpu"],
)
def test_another_machine_is_refused(core, folder, machine, sentence):
    error = refusal(core, folder, *machine)
    assert error.status == CHECK_FAILED
    assert re.search(sentence, str(error))


FILES = {
    "no engine": ("encoder.engine", None, r"encoder.engine, named by its manifest, is missing; " + REBUILD),
    "truncated engine": ("encoder.engine", b"in image", r"has 8 bytes, but its manifest says \d+; " + REBUILD),
    "edited engine": ("encoder.engine", "flip", r"encoder.engine has changed since its manifest was written"),
    "no decoder": ("decoder.engine", None, r"decoder.engine, named by its manifest, is missing; " + REBUILD),
    "edited decoder": ("decoder.engine", "flip", r"decoder.engine has changed since its manifest was written"),
    "no library": (
        LIBRARY,
        None,
        r"encoder.engine needs the plugins RoutedMlp, StripeAttention of \S+, which is missing; copy the library",
    ),
    "other library": (LIBRARY, b"another one", rf"of another {LIBRARY} than \S+; restore the library or {REBUILD}"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), FILES.values(), ids=FILES.keys())
def test_another_file_is_refused(core, folder, name, content, sentence):
    before = (folder / name).read_bytes()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(bytes([before[0] ^ 1]) + before[1:] if content == "flip" else content)
    with pytest.raises(CheckFailed):
        EngineManifest.read(folder / MANIFEST).check(folder)
    error = refusal(core, folder)
    assert error.status == CHECK_FAILED
    assert re.search(sentence, str(error))


def test_the_order_of_refusals(core, folder):
    """Everything is wrong at once; each refusal appears when those before it are mended."""
    good = {name: (folder / name).read_bytes() for name in ("encoder.engine", "decoder.engine", LIBRARY)}
    for name, content in good.items():
        (folder / name).write_bytes(content[::-1])
    (folder / "decoder.engine").unlink()
    edit(folder, put("schema_version", 1))
    edit(folder, put("builder", "tensorrt-rtx"))
    machine = ["1.0", "SM1"]
    assert "schema version 1" in str(refusal(core, folder, *machine))
    edit(folder, put("schema_version", 4))
    assert "built by tensorrt-rtx" in str(refusal(core, folder, *machine))
    edit(folder, put("builder", "tensorrt"))
    assert "1.0 is installed" in str(refusal(core, folder, *machine))
    machine[0] = BUILDER_VERSION
    assert "this GPU is SM1;" in str(refusal(core, folder, *machine))
    machine[1] = "SM80"
    assert "decoder.engine, named by its manifest, is missing" in str(refusal(core, folder, *machine))
    (folder / "decoder.engine").write_bytes(good["decoder.engine"][::-1])
    for name, sentence in ((LIBRARY, "of another lib"), ("encoder.engine", "changed"), ("decoder.engine", "changed")):
        message = str(refusal(core, folder, *machine))
        assert sentence in message and name in message
        (folder / name).write_bytes(good[name])
    core.check_folder(folder, *machine)


# --- files that are no manifest ----------------------------------------------------------------------------------


def rewrite(change):
    def apply(folder):
        path = folder / MANIFEST
        path.write_bytes(change(path.read_bytes()))

    return apply


def field(change):
    return lambda folder: edit(folder, change)


UNUSABLE = {
    "empty": (rewrite(lambda _: b""), "is not an engine manifest (invalid JSON"),
    "truncated": (rewrite(lambda content: content[:300]), "is not an engine manifest (invalid JSON"),
    "not json": (rewrite(lambda _: b"\x89PNG\r\n\x1a\n"), "is not an engine manifest (invalid JSON"),
    "not text": (rewrite(lambda _: b'{"schema_version": 4, "family": "\xff"}'), "(invalid JSON"),
    "a list": (rewrite(lambda _: b"[1]"), "(should be an object)"),
    "two documents": (rewrite(lambda content: content + content), "(invalid JSON"),
    "no version": (field(drop("schema_version")), "(schema_version: field required)"),
    "older": (field(put("schema_version", 3)), "has schema version 3, this runtime reads 4; install"),
    "newer": (field(put("schema_version", 5)), "has schema version 5, this runtime reads 4; install"),
    "version as text": (field(put("schema_version", "4")), "(schema_version: should be an integer"),
    "no builder": (field(drop("builder")), "(builder: field required)"),
    "other builder": (field(put("builder", "tvm")), "(builder: should be one of tensorrt, tensorrt-rtx)"),
    "other precision": (field(put("precision", "int8")), "(precision: should be one of bf16, fp16, fp32)"),
    "no decoder field": (field(drop("decoder_engine")), "(decoder_engine: field required)"),
    "number as text": (field(put("batch.min", "1")), "(batch.min: should be an integer from 1 to 65536)"),
    "batch 0": (field(put("batch.min", 0)), "(batch.min: should be an integer"),
    "batch reversed": (field(put("batch.max", 1)), "(batch.max: should be an integer from 2 to 65536)"),
    "fraction": (field(put("engine.bytes", 1.5)), "(engine.bytes: should be an integer"),
    "negative size": (field(put("engine.bytes", -1)), "(engine.bytes: should be an integer"),
    "size over 64 bits": (field(put("engine.bytes", 1 << 70)), "(engine.bytes: should be an integer"),
    "size over 63 bits": (field(put("engine.bytes", (1 << 64) - 1)), "(engine.bytes: should be an integer"),
    "text as number": (field(put("family", 7)), "(family: should be a string)"),
    "flag as number": (field(put("version_compatible", 1)), "(version_compatible: should be true or false)"),
    "short hash": (field(put("engine.sha256", "abc")), "(engine.sha256: should be a SHA-256"),
    "upper-case hash": (field(put("engine.sha256", "A" * 64)), "(engine.sha256: should be a SHA-256"),
    "no gpu": (field(put("compute_capabilities", [])), "(compute_capabilities: should name at least one GPU)"),
    "gpu as text": (field(put("compute_capabilities", "SM89")), "(compute_capabilities: should be a list)"),
    "gpu as number": (field(put("compute_capabilities", [89])), "(compute_capabilities.0: should be a string)"),
    "embedded as number": (field(put("plugins.0.embedded", 1)), "(plugins.0.embedded: should be true or false)"),
    "plugins as object": (field(put("plugins", {})), "(plugins: should be a list)"),
    "path as library": (field(put("plugins.0.library", "../x.so")), "(plugins.0.library: should be a file name"),
    "path as decoder": (field(put("decoder_engine.name", "a/b")), "(decoder_engine.name: should be a file name"),
    "absolute path": (field(put("engine.name", "/etc/passwd")), "(engine.name: should be a file name"),
    "backslash": (field(put("engine.name", "..\\x")), "(engine.name: should be a file name"),
    "parent folder": (field(put("engine.name", "..")), "(engine.name: should be a file name"),
    "no name": (field(put("engine.name", "")), "(engine.name: should be a file name"),
    "infinite": (rewrite(lambda content: content.replace(b"123.675", b"1e999")), "(invalid JSON"),
    "deeply nested": (
        rewrite(lambda _: b'{"schema_version": 4, "parity": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "(nested deeper than 64 levels)",
    ),
}
BEYOND_PYTHON = {
    "nul in a name": (field(put("engine.name", "a\0b")), "(engine.name: should hold no NUL)"),
    "image size": (field(put("preprocessing.image_size", 512)), "(preprocessing.image_size: should be an integer from"),
    "pixel mean": (field(put("preprocessing.pixel_mean", [1, 2, 3])), "(preprocessing.pixel_mean: should be SAM's own"),
    "pixel std": (field(put("preprocessing.pixel_std", [1])), "(preprocessing.pixel_std: should be SAM's own"),
}
"""What Python leaves to its callers; the C++ runtime prepares images itself and hands names to C functions."""
UNUSABLE_IN_PYTHON = {name: case for name, case in UNUSABLE.items() if not name.startswith(("batch ", "size over "))}


@pytest.mark.parametrize(("change", "sentence"), (UNUSABLE | BEYOND_PYTHON).values(), ids=UNUSABLE | BEYOND_PYTHON)
def test_unusable_manifests(core, folder, change, sentence):
    change(folder)
    error = refusal(core, folder)
    assert error.status == INVALID_INPUT
    assert sentence in str(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("change", [case for case, _ in UNUSABLE_IN_PYTHON.values()], ids=UNUSABLE_IN_PYTHON.keys())
def test_python_refuses_them_too(folder, change):
    change(folder)
    with pytest.raises(InvalidInput):
        EngineManifest.read(folder / MANIFEST)


def test_a_huge_file_is_not_even_parsed(core, folder):
    with open(folder / MANIFEST, "wb") as file:
        file.truncate(100 << 20)
    assert "is larger than any engine manifest (8 MiB)" in str(refusal(core, folder))


def test_what_cannot_be_read(core, folder):
    assert "cannot read" in str(refusal(core, folder / "nowhere"))
    assert "no such file or directory; name a folder made by" in str(refusal(core, folder / "nowhere"))
    os.mkfifo(folder / "pipe")
    assert "not a regular file" in str(refusal(core, folder / "pipe"))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()
    assert "is a directory" in str(refusal(core, folder))
    assert "path is NULL" in str(refusal_of_null(core))


def refusal_of_null(core: Library) -> Refused:
    with pytest.raises(Refused) as caught:
        core.call("check_folder", None, None, None)
    return caught.value


def test_long_messages_are_cut(core, folder):
    deep = folder / "/".join(["a" * 200] * 15)
    with pytest.raises(Refused) as caught:
        core.check_folder(deep)
    assert len(str(caught.value)) == 2047


def test_many_threads_at_once(core, folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    make_folder(other, builder="tensorrt-rtx")

    def check(index):
        if index % 2 == 0:
            return core.check_folder(folder, BUILDER_VERSION, "SM80")
        return str(refusal(core, other))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(check, range(200)))
    assert set(results[::2]) == {None}
    assert len(set(results[1::2])) == 1 and "tensorrt-rtx" in results[1]


# --- the command, with sanitisers --------------------------------------------------------------------------------


def test_the_command(sanitised_build, folder):
    command = sanitised_build / "sparsesam-check"
    fine = run(command, folder, "--tensorrt", BUILDER_VERSION, "--compute-capability", "SM89")
    assert (fine.returncode, fine.stdout, fine.stderr) == (0, f"ok: {folder}\n", "")
    failed = run(command, folder, "--tensorrt", "10.0.0.1")
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
    assert run(command, folder / "nowhere").returncode == 2
    assert (
        run(command).returncode == run(command, folder, folder).returncode == run(command, "--colour").returncode == 2
    )
    assert run(command, "--help").stdout.startswith("usage: sparsesam-check DIR")
    assert run(command, "--version").stdout == "sparsesam-check 0.1.0\n"


CASES = UNUSABLE | BEYOND_PYTHON


@pytest.mark.parametrize("change", [case for case, _ in CASES.values()], ids=CASES.keys())
def test_unusable_manifests_under_sanitisers(sanitised_build, folder, change):
    change(folder)
    assert run(sanitised_build / "sparsesam-check", folder).returncode == INVALID_INPUT


@pytest.mark.parametrize(("name", "content", "sentence"), FILES.values(), ids=FILES.keys())
def test_other_files_under_sanitisers(sanitised_build, folder, name, content, sentence):
    (folder / name).unlink()
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    assert run(sanitised_build / "sparsesam-check", folder).returncode == CHECK_FAILED
