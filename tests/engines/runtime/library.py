"""The C interface through ctypes, declared once more from its documentation."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_uint8, c_void_p
from pathlib import Path

import numpy as np

OK, CHECK_FAILED, INVALID_INPUT, ENVIRONMENT = range(4)
FLOATS = POINTER(c_float)


class Error(ctypes.Structure):
    _fields_ = (("message", c_char * 2048),)


class Image(ctypes.Structure):
    _fields_ = (("data", POINTER(c_uint8)), ("height", c_int32), ("width", c_int32), ("row_stride", c_size_t))


class Prompts(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("num_prompts", c_int32),
        ("num_points", c_int32),
        ("point_coords", FLOATS),
        ("point_labels", POINTER(c_int32)),
        ("boxes", FLOATS),
        ("mask_input", FLOATS),
    )


class Answer(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("masks", POINTER(c_uint8)),
        ("mask_indices", POINTER(c_int32)),
        ("iou", FLOATS),
        ("low_res_masks", FLOATS),
        ("iou_predictions", FLOATS),
    )


KERNEL = ctypes.CFUNCTYPE(
    c_int32, c_void_p, c_int32, POINTER(c_char_p), POINTER(FLOATS), POINTER(c_int64), POINTER(c_int32)
)


class Refused(Exception):
    """A call that did not return SPARSESAM_OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def pointer(array: np.ndarray | None, kind: type):
    """An array's memory, which the caller keeps alive; NULL for None."""
    return None if array is None else array.ctypes.data_as(POINTER(kind))


class Library:
    """A shared library; `call` raises `Refused`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.functions = ctypes.CDLL(str(path))
        self.functions.sparsesam_version.restype = c_char_p

    def call(self, name: str, *arguments: object) -> None:
        error = Error()
        status = getattr(self.functions, f"sparsesam_{name}")(*arguments, ctypes.byref(error))
        if status != OK:
            raise Refused(status, error.message.decode())
        assert error.message == b""

    def check_folder(self, path: Path, tensorrt: str | None = None, capability: str | None = None) -> None:
        encoded = (None if text is None else text.encode() for text in (tensorrt, capability))
        self.call("check_folder", str(path).encode(), *encoded)

    def preprocess(self, image: np.ndarray, stride: int = 0) -> tuple[np.ndarray, tuple[int, int]]:
        """(height, width, 3) uint8 -> (3, 1024, 1024) float32 and the size inside it."""
        tensor = np.full((3, 1024, 1024), np.nan, np.float32)
        height, width = c_int32(), c_int32()
        given = image_of(image, stride)
        inside = ctypes.byref(height), ctypes.byref(width)
        self.call("preprocess", ctypes.byref(given), pointer(tensor, c_float), *inside)
        return tensor, (height.value, width.value)

    def upscale_mask(self, low_res: np.ndarray, height: int, width: int) -> np.ndarray:
        """(256, 256) float32 -> (height, width) float32."""
        logits = np.full((max(height, 0), max(width, 0)), np.nan, np.float32)
        self.call("upscale_mask", pointer(low_res, c_float), c_int32(height), c_int32(width), pointer(logits, c_float))
        return logits


def image_of(image: np.ndarray, stride: int = 0) -> Image:
    height, width = image.shape[:2]
    return Image(pointer(image, c_uint8), height, width, stride)
