"""The recipe that ``tune`` writes is TOML whatever the files are called that it is about."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest
import tomlkit

from sparsesam_deploy.accuracy.tuning.run import recipe
from sparsesam_deploy.model.config import FAMILIES, SparsityConfig
from sparsesam_deploy.recipe import ExportRecipe

DEPTH = FAMILIES["nano"].depth
SPARSITY = SparsityConfig(
    (1.0, 0.0625) * (DEPTH // 2),
    (0.3, 1.0) * (DEPTH // 2),
    (0.2, 1.0) * (DEPTH // 2),
    routing="share-quadtree",
    windowed_routing="share-variance",
)
NAMES = {
    "newline": 'x.pth\nrouting = "skip-sobel"\n',
    "carriage-return": "x.pth\rorder = 'ranked'",
    "quotes": 'x"\'".pth',
    "triple-quotes": "x\"\"\"'''.pth",
    "backslash": "x\\u0000\\.pth",
    "hash": "x # y.pth",
    "control": "x\x00\x1b\x7f.pth",
    "other-line-ends": "x\u2028\u0085y.pth",
    "no-text": "x\udcff.pth",
    "beyond": "x\U0001f600é.pth",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_recipe_is_what_was_chosen_whatever_the_checkpoint_is_called(tmp_path, name):
    command = shlex.join(["sparsesam-export", "tune", "--checkpoint", name])
    loss = SimpleNamespace(mean=0.0033, low=-0.0006, high=0.0062)
    chosen = SimpleNamespace(
        scheduled=SimpleNamespace(sparsity=SPARSITY),
        validation=SimpleNamespace(loss=loss),
        cost=SimpleNamespace(gemm=0.58, flops=0.6),
    )
    document = SimpleNamespace(
        provenance=SimpleNamespace(command=command, model=name, created="2026-11-21"),
        validation=SimpleNamespace(images=6),
    )
    (tmp_path / "recipe.toml").write_text(recipe(document, chosen), encoding="utf-8")
    read = ExportRecipe.merge(tmp_path / "recipe.toml", {"model": "nano"})
    assert read.sparsity == SPARSITY
    text = (tmp_path / "recipe.toml").read_text(encoding="utf-8")
    assert text.startswith("# sparsesam-export tune --checkpoint ") and "mean IoU -0.0033 [-0.0062, +0.0006]" in text
    assert len(tomlkit.parse(text)) == 6 and sum(line.startswith("#") for line in text.splitlines()) == 4
