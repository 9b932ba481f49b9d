"""ONNX -> engine: build it, audit what was built against what was asked, write the manifest a loader checks; load it.

``from sparsesam_deploy.engines import load`` opens a build folder as an image encoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load` is imported when it is asked for: building needs nothing of the runtime."""
    if name == "load":
        from .runtime.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
