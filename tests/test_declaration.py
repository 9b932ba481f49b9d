"""A setting is declared once: what it is on the command line, in a recipe, a manifest and a file is derived."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from sparsesam_deploy.declaration import Setting, check_settings, read_settings, settings_of
from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.config import DENSITIES


@dataclass(frozen=True)
class Declared:
    word: Annotated[Literal["a", "b"], Field(description="A word.")] = "a"
    number: Annotated[int | None, Field(description="A number.", ge=2, le=5, examples=["N"])] = None
    pair: Annotated[tuple[int, int], Field(description="Two.")] = (1, 2)
    flag: Annotated[bool, Field(description="Yes or no.")] = False
    inner: str = "no setting"

    def __post_init__(self) -> None:
        check_settings(self)


def test_settings_are_read_from_annotations():
    assert settings_of(Declared) == (
        Setting("word", Literal["a", "b"], "a", "A word."),
        Setting("number", int, None, "A number.", 2, 5, "N"),
        Setting("pair", tuple[int, int], (1, 2), "Two."),
        Setting("flag", bool, False, "Yes or no."),
    )
    assert settings_of(Declared)[0].choices == ("a", "b") and settings_of(Declared)[1].choices == ()


def test_values_are_read_strictly():
    assert read_settings(Declared, {"word": "b", "pair": [3, 4]}) == Declared("b", pair=(3, 4))
    for values, sentence in (
        ({"word": "c"}, "word: Input should be 'a' or 'b', not 'c'."),
        ({"number": True}, "number: Input should be a valid integer, not True."),
        ({"pair": [1]}, "pair: Field required, not"),
        ({"flag": 1}, "flag: Input should be a valid boolean, not 1."),
    ):
        with pytest.raises(InvalidInput) as caught:
            read_settings(Declared, values)
        assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"word": "c"}, "word 'c' is unknown; choose one of a, b."),
        ({"number": 1}, "number 1 is out of range; give 2 to 5, or leave it out."),
        ({"number": 6}, "number 6 is out of range; give 2 to 5, or leave it out."),
    ],
)
def test_values_are_checked_where_they_are_given_in_python(values, sentence):
    with pytest.raises(InvalidInput) as caught:
        Declared(**values)
    assert str(caught.value) == sentence


def test_densities_are_found_by_their_type():
    assert DENSITIES == ("attention_density", "mlp_density", "windowed_density")


MADE_UP = """
import json, sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from sparsesam_deploy.model import config

folder = Path(sys.argv[1])


@dataclass(frozen=True)
class SparsityConfig(config.SparsityConfig):
    made_up: Annotated[Literal["low", "high"], Field(description="Invented by a test.")] = "low"


config.SparsityConfig = SparsityConfig
config.PRESETS = {name: SparsityConfig(**vars(preset)) for name, preset in config.PRESETS.items()}

from sparsesam_deploy import pipeline
from sparsesam_deploy.cli.main import cli
from sparsesam_deploy.engines.manifest import EngineManifest
from sparsesam_deploy.export.metadata import load_exported, sparsity_of
from sparsesam_deploy.recipe import ExportRecipe

pipeline.export_decoder = lambda loaded, path, dtype: path.touch()  # has no such setting, and takes seconds
options = {option.name: option for option in cli.commands["onnx"].params}
variants = {option.name: option for option in cli.commands["evaluate"].params}
(folder / "recipe.toml").write_text('model = "nano"\\nmade_up = "high"\\n')
cli.main(["onnx", "--recipe", str(folder / "recipe.toml"), "--output", str(folder)], standalone_mode=False)
_, metadata = load_exported(folder / "encoder.onnx")
schema = EngineManifest.model_json_schema()["$defs"]["SparsityConfig"]["properties"]["made_up"]
print(json.dumps({
    "option": [list(options["made_up"].type.choices), options["made_up"].help],
    "evaluate": variants["made_up"].multiple,
    "option beats recipe": ExportRecipe.merge(folder / "recipe.toml", {"made_up": "low"}).sparsity.made_up,
    "recipe": ExportRecipe.merge(folder / "recipe.toml", {}).sparsity.made_up,
    "metadata": metadata["made_up"],
    "read back": sparsity_of(metadata).made_up,
    "manifest": schema["enum"],
}))
"""


def test_a_made_up_setting_arrives_everywhere(tmp_path: Path):
    """In a process of its own, in which `SparsityConfig` has one setting more when everything else is imported."""
    command = [sys.executable, "-c", MADE_UP.replace("\\\\n", "\\n"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "option": [["low", "high"], "Invented by a test.  [preset: low]"],
        "evaluate": True,
        "option beats recipe": "low",
        "recipe": "high",
        "metadata": "high",
        "read back": "high",
        "manifest": ["low", "high"],
    }
