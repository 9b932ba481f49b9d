"""Build folders of small models with random weights, as `sparsesam-export build` leaves them."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sparsesam_deploy.engines.folder import BuildFolder
from sparsesam_deploy.engines.options import EngineOptions
from sparsesam_deploy.export.encoder import export_encoder
from sparsesam_deploy.export.options import ExportOptions
from sparsesam_deploy.model.checkpoint import LoadedSam, load_checkpoint
from sparsesam_deploy.model.config import SamConfig, SparsityConfig
from sparsesam_deploy.model.encoder import SparseSamEncoder
from sparsesam_deploy.pipeline import make_engine
from sparsesam_deploy.progress import Stages
from tests.helpers import save_random_checkpoint

CHECKPOINT = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Build:
    """A build, with the checkpoint beside it, and the torch encoder it came from."""

    folder: Path
    loaded: LoadedSam
    encoder: SparseSamEncoder


def make_build(
    folder: Path, config: SamConfig, sparsity: SparsityConfig, dtype: str, batch: tuple[int, int, int]
) -> Build:
    save_random_checkpoint(folder / CHECKPOINT, config)
    loaded = load_checkpoint(folder / CHECKPOINT)
    encoder = SparseSamEncoder(loaded.sam.image_encoder, loaded.config, sparsity)
    files, stages = BuildFolder(folder), Stages(Console(file=io.StringIO()))
    export_encoder(encoder, loaded, files.encoder_onnx, ExportOptions(dtype, batch=batch))
    make_engine(files, "tensorrt-rtx", EngineOptions(), None, stages).write(files.manifest_path)
    return Build(folder, loaded, encoder)


def make_engine_again(source: Path, folder: Path, builder: str, batch: tuple[int, int, int]) -> Path:
    """The same encoder with another builder's engine, in ``folder``."""
    files, stages = BuildFolder(folder), Stages(Console(file=io.StringIO()))
    shutil.copyfile(BuildFolder(source).encoder_onnx, files.encoder_onnx)
    make_engine(files, builder, EngineOptions(), None, stages).write(files.manifest_path)
    return folder
