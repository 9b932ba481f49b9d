"""Reading a weights file without running anything in it: torch's zip and legacy formats, and safetensors."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import safetensors.torch
import torch

from ..errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"  # the legacy torch format is a chain of pickles
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` in its repository"),
    (b"<", "a web page; download the file itself, not the page that describes it"),
)
_UNKNOWN_KIND = "neither a torch nor a safetensors file; give a .pth or .safetensors file"


def _opening_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except IsADirectoryError:
        raise CheckpointError(
            f"checkpoint {path} is a folder; name the weights file in it, such as model.safetensors."
        ) from None
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint {path} does not exist; check the path, or download the file first."
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"checkpoint {path} cannot be opened: {reason}; check its permissions.") from error


def _is_safetensors(opening: bytes) -> bool:
    return opening[8:9] == b"{"  # eight bytes of length, then a JSON object


def read_tensor_file(path: Path) -> object:
    """Read a file written by ``torch.save`` or ``safetensors``; its kind is told by its content, not by its name.

    torch files are read with ``weights_only=True`` always. Tensors of zip and safetensors files stay mapped to the
    file, copy-on-write: a page costs memory once it is read, and the file must not be overwritten in place meanwhile.

    Returns:
        Whatever was saved: a dict of tensors, or dicts around one. Tensors are on the CPU.

    Raises:
        CheckpointError: the file is missing, empty, truncated, of another kind, or holds more than plain data.
    """
    opening = _opening_bytes(path)
    if not opening:
        raise CheckpointError(f"checkpoint {path} is empty; download or copy it again.")
    try:
        if _is_safetensors(opening):
            return safetensors.torch.load_file(path)
        if opening.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's hints to its own callers; what matters is raised below
                mmap = opening.startswith(_ZIP_MAGIC)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, error)) from error
    except MemoryError:
        raise
    except Exception as error:  # parsers of binary formats raise almost anything on a damaged file
        raise CheckpointError(_damage(path, error)) from error
    kinds = (kind for start, kind in _NOT_WEIGHTS if opening.lstrip().startswith(start))
    raise CheckpointError(f"checkpoint {path} is {next(kinds, _UNKNOWN_KIND)}.")


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"the Python object {found[1]}" if found else "Python objects"
    return (
        f"checkpoint {path} holds {what}, which could run code when loaded; "
        "save the weights alone with torch.save(model.state_dict(), ...) and give that file."
    )


def _damage(path: Path, error: Exception) -> str:
    if "TorchScript" in str(error):
        return f"checkpoint {path} is a TorchScript archive; give the state dict it was made from."
    return f"checkpoint {path} is truncated, damaged or no weights file; download or copy it again."
