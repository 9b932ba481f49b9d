"""A sparse Segment Anything image encoder, from a stock checkpoint into production.

The public API, imported when it is asked for, so that ``import sparsesam_deploy`` takes no time:

- `load_checkpoint`: a Segment Anything checkpoint.
- `SparsityConfig`, `SparseSamEncoder`: how much of its encoder to compute, and that encoder in PyTorch.
- `SparseSamPredictor`: masks of an image, as segment_anything's ``SamPredictor`` gives them.
- `load`: a folder written by ``sparsesam-export build``, as an image encoder.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.checkpoint import load_checkpoint
    from .model.config import SparsityConfig
    from .model.encoder import SparseSamEncoder
    from .model.predictor import SparseSamPredictor
    from .runtime.loading import load

__all__ = ["SparseSamEncoder", "SparseSamPredictor", "SparsityConfig", "load", "load_checkpoint"]

_MODULES = {
    "SparseSamEncoder": ".model.encoder",
    "SparseSamPredictor": ".model.predictor",
    "SparsityConfig": ".model.config",
    "load": ".runtime.loading",
    "load_checkpoint": ".model.checkpoint",
}

try:
    __version__ = version("sparsesam-deploy")
except PackageNotFoundError:  # a copy of the repository on a machine where nothing can be installed
    __version__ = "0+not.installed"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
