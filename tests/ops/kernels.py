"""What tests of the Triton kernels share: where they run, how exact they are, and launches in larger blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsesam_deploy.ops.launch import SETTINGS_VARIABLE, SHIPPED_SETTINGS, read_settings, settings_for

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""On the CPU kernels run under Triton's interpreter, see ``tests/conftest.py``."""

KERNEL_TOLERANCE = {"fp32": 1e-5, "fp16": 1.5e-3, "bf16": 1e-2}
"""Relative, in L2, against float64: accumulation is float32, probabilities are rounded to the inputs' type."""


def launch_in_blocks(monkeypatch: pytest.MonkeyPatch, folder: Path, block: int) -> None:
    """Let every kernel take ``block`` rows at a time under the interpreter, whose time goes by operations, not by rows.

    A GPU launches as its table says: such blocks would not fit its registers.
    """
    if DEVICE.type == "cuda":
        return
    path = folder / "launch.toml"
    path.write_text(
        "".join(
            f'[[launch]]\nkernel = "{kernel}"\ncompute_capability = "any"\nwidth = 0\nblock = {block}\n'
            'num_warps = 4\nnum_stages = 1\nmeasured = "for tests"\n'
            for kernel in sorted({entry.kernel for entry in read_settings(SHIPPED_SETTINGS)})
        )
    )
    monkeypatch.setenv(SETTINGS_VARIABLE, str(path))
    settings_for.cache_clear()
