"""Load a weights file: the result is a `Sam` and its `SamConfig`, or an error that says in a sentence why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from ..artifacts import sha256_file
from ..errors import CheckpointError
from . import huggingface
from .config import PIXEL_MEAN, PIXEL_STD, SamConfig
from .detect import PATCH_EMBED, detect_config
from .position_tables import fit_position_tables
from .sam import build_sam, sam_from_tensors
from .tensor_file import read_tensor_file

NANO_CHECKPOINT = Path(__file__).parents[1] / "assets" / "sam_vit_nano_fp16.safetensors"

_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
_PIXEL_STATISTICS = {"pixel_mean": PIXEL_MEAN, "pixel_std": PIXEL_STD}
_LOOKALIKES = (
    ("image_encoder.trunk.", "SAM 2"),
    ("vision_encoder.backbone.", "SAM 2"),
    ("patch_embed.seq.", "MobileSAM (a TinyViT)"),
    ("image_encoder.backbone.", "EfficientViT-SAM"),
    ("layer1.0.conv1.", "a ResNet"),
)
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class LoadedSam:
    """A Segment Anything model and where it came from.

    ``sam`` is in eval mode on the CPU, its parameters are fp32 and need no gradient; ``sha256`` is the hash of the
    file, ``source`` its name.
    """

    sam: Sam
    config: SamConfig
    sha256: str
    source: str


def load_nano() -> LoadedSam:
    """Load the 9.5 M parameter model that ships with the package."""
    return load_checkpoint(NANO_CHECKPOINT)


def load_checkpoint(path: Path) -> LoadedSam:
    """Load any ViT Segment Anything checkpoint: official, SAM-HQ, fine-tuned or Hugging Face, ``.pth`` or safetensors.

    The model's size is read from names and shapes. Names may carry a prefix (``module.``, ``sam.``), the state dict
    may sit in a training checkpoint; every tensor of it must belong to the model and none may be missing. fp32 tensors
    stay mapped to the file, so loading takes about the size of the model in memory.

    Raises:
        CheckpointError: the file cannot be read safely, is no ViT Segment Anything model, or is incomplete or not
            finite.
    """
    tensors = _official_tensors(_state_dict(read_tensor_file(path), path), path)
    config = detect_config(tensors, path)
    expected = build_sam(config).state_dict()
    _check_names(tensors, expected, config, path)
    for name in tensors:  # one by one, so that a half-precision tensor is freed when its fp32 copy exists
        tensors[name] = _float32(name, tensors[name], path)
    fit_position_tables(tensors, config)
    _check_shapes(tensors, expected, config, path)
    return LoadedSam(sam_from_tensors(config, tensors), config, sha256_file(path), path.name)


def _state_dict(content: object, path: Path) -> Mapping[object, object]:
    """Find the mapping that has the image encoder's tensors in it, through the wrappers that training scripts use."""
    for _ in range(len(_WRAPPERS)):  # a hostile file may nest without end
        if not isinstance(content, Mapping):
            break
        if _prefix(content) is not None:
            return content
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    lookalike = next((what for mark, what in _LOOKALIKES if any(mark in name for name in names)), None)
    what = (
        f"looks like {lookalike}"
        if lookalike
        else f"holds {_some(names, 'item')}"
        if names
        else "holds nothing by name"
    )
    raise CheckpointError(
        f"checkpoint {path} {what}, and has no {PATCH_EMBED}; "
        "give a Segment Anything checkpoint with a ViT encoder (SAM, SAM-HQ, or a fine-tune of them)."
    )


def _prefix(names: Iterable[object]) -> str | None:
    """What stands before every official or Hugging Face name; None where neither is to be found."""
    for name in map(str, names):
        for anchor in (PATCH_EMBED, huggingface.ANCHOR):
            if name.endswith(anchor):
                return name.removesuffix(anchor)
    return None


def _official_tensors(content: Mapping[object, object], path: Path) -> dict[str, Tensor]:
    prefix = _prefix(content) or ""
    tensors = _renamed(content, lambda name: name.removeprefix(prefix), path)
    if huggingface.ANCHOR in tensors:
        tensors = _renamed(tensors, huggingface.official_name, path)
    for name, expected in _PIXEL_STATISTICS.items():
        values = tensors.pop(name, None)
        if values is None:
            continue
        if not values.is_floating_point() or values.flatten().tolist() != torch.tensor(expected).to(values).tolist():
            raise CheckpointError(
                f"checkpoint {path} normalises images with {name} {values.flatten().tolist()}, and only SAM's "
                f"{list(expected)} is supported; fold the difference into {PATCH_EMBED} and remove {name}."
            )
    return tensors


def _renamed(
    content: Mapping[object, object] | Mapping[str, Tensor], rename: Callable[[str], str], path: Path
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for key, value in content.items():
        name = rename(str(key))
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"checkpoint {path} holds a {type(value).__name__} named {key} among its tensors; "
                "save the model's state_dict() alone and give that file."
            )
        if value.layout != torch.strided or value.is_meta or value.nbytes > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"checkpoint {path} stores {key} as {value.dtype} ({value.layout}, {value.device}), not number by "
                "number; save the model as fp32, bf16 or fp16."
            )
        if name in tensors and not torch.equal(tensors[name], value):
            raise CheckpointError(f"checkpoint {path} holds two different tensors for {name}; remove one of them.")
        tensors[name] = value
    return tensors


def _float32(name: str, tensor: Tensor, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"checkpoint {path} stores {name} as {tensor.dtype}, not as floating-point numbers; "
            "save the model as fp32, bf16 or fp16."
        )
    tensor = tensor.detach().to(torch.float32).contiguous()
    # NaN and Inf both survive min and max, which need no temporary the size of the tensor.
    if tensor.numel() and not all(torch.isfinite(extreme) for extreme in torch.aminmax(tensor)):
        raise CheckpointError(
            f"checkpoint {path} has NaN or Inf in {name}; use a checkpoint from before training diverged."
        )
    return tensor


def _describe(config: SamConfig) -> str:
    return f"a {config.family}{' HQ' if config.hq else ''} Segment Anything model"


def _check_names(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: SamConfig, path: Path) -> None:
    if missing := [name for name in expected if name not in tensors]:
        raise CheckpointError(
            f"checkpoint {path} lacks {_some(missing)} of {_describe(config)}; give a complete checkpoint."
        )
    if unmatched := [name for name in tensors if name not in expected]:
        raise CheckpointError(
            f"checkpoint {path} holds {_some(unmatched)} that {_describe(config)} has no place for; "
            "remove them if they are not part of the model."
        )


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], config: SamConfig, path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"checkpoint {path} has {name} of shape {tuple(tensor.shape)} where {_describe(config)} has "
                f"{tuple(expected[name].shape)}; only the original architecture at patch size 16 is supported."
            )


def _some(names: list[str], noun: str = "tensor") -> str:
    """``7 tensors (first, second, third, ...)``."""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {noun}{'s' * (len(names) != 1)} ({', '.join(names[:_SHOWN])}{more})"
