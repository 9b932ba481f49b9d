"""The table of launch settings: which entry counts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.ops.ahead_of_time import attention_variants, routed_mlp_variants
from sparsesam_deploy.ops.launch import SHIPPED_SETTINGS, read_settings, settings_for

KERNEL = "stripe_attention.lattice"


def table(folder: Path, *entries: tuple[str, int, object], kernel: str = KERNEL, name: str = "launch.toml") -> str:
    """Entries of (compute capability, width, block)."""
    path = folder / name
    path.write_text(
        "".join(
            f'[[launch]]\nkernel = "{kernel}"\ncompute_capability = "{capability}"\nwidth = {width}\n'
            f'block = {block}\nnum_warps = 4\nnum_stages = 2\nmeasured = "never"\n'
            for capability, width, block in entries
        )
    )
    return str(path)


def test_the_most_specific_entry_counts(tmp_path):
    path = table(tmp_path, ("any", 0, 1), ("any", 64, 2), ("9.0", 0, 4), ("9.0", 64, 8))
    found = [settings_for(KERNEL, gpu, width, path).block for gpu in ("8.0", "9.0") for width in (80, 64)]
    assert found == [1, 2, 4, 8]


def test_the_users_table_comes_first_and_the_shipped_one_fills_in(tmp_path):
    path = table(tmp_path, ("any", 0, 32))
    assert settings_for(KERNEL, "any", 128, path).block == 32
    shipped = next(entry for entry in read_settings(SHIPPED_SETTINGS) if entry.kernel == "routed_mlp.unpack")
    assert settings_for("routed_mlp.unpack", "9.0", 768, path) == shipped


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("[[launch]]\nkernel = 3\n", "missing"),
        ("nonsense", "launch settings"),
        ("", "'launch'"),
    ],
    ids=("fields", "no-toml", "empty"),
)
def test_no_table_is_refused(tmp_path, words, message):
    path = tmp_path / "launch.toml"
    path.write_text(words)
    with pytest.raises(InvalidInput, match=message) as caught:
        read_settings(path)
    assert str(path) in str(caught.value) and "tune-kernels" in str(caught.value)


@pytest.mark.parametrize("block", ("48", "0", '"64"', "true", "64.0"))
def test_a_block_that_no_kernel_takes_is_refused(tmp_path, block):
    with pytest.raises(InvalidInput, match="is not a power of two"):
        read_settings(Path(table(tmp_path, ("any", 0, block))))


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        settings_for(KERNEL, "9.0", 64, str(tmp_path / "none.toml"))


def test_every_kernel_has_an_entry_for_any_gpu_and_width():
    for variant in (*attention_variants(64), *routed_mlp_variants(768)):
        assert settings_for(variant.setting, "99.9", 12345).block >= 1
