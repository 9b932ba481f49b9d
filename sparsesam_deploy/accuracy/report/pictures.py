"""Photographs with masks and kept tokens drawn into them, as data addresses that stand inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ...ops.geometry import GRID_SIZE
from ...optional import importing

LONGEST_SIDE = 640
THUMBNAIL_SIDE = 384
VEIL_SIDE = 256  # 4 pixels for each token: sharp where a token ends, small as PNG
QUALITY = 80
CONTEXT = 0.45  # of the object's own extent, on each side of it
LEAST_CONTEXT = 32
KEPT_OPACITY, LEFT_OUT_OPACITY = 0.45, 0.6

MASK = (29, 200, 180)
LOST = (240, 110, 20)
GAINED = (60, 140, 255)
TRUTH = (255, 224, 102)
WHITE = (255, 255, 255)
BLACK = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Case:
    """One object of one image, masked by the dense and by a sparse encoder for the same prompt.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        truth: (H, W) bool, None without ground truth.
        dense, sparse: (H, W) bool.
        box: the prompt, XYXY in pixels of the image, None where it is points.
        points: the prompt's points, XY in pixels of the image.
        iou, dense_iou: to the ground truth (without one, to the dense mask); agreement: between the two masks.
    """

    variant: str
    image: str
    object: str
    prompt: str
    pixels: np.ndarray
    truth: np.ndarray | None
    dense: np.ndarray
    sparse: np.ndarray
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float], ...]
    iou: float
    dense_iou: float
    agreement: float


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What one block of one variant keeps on one image.

    Attributes:
        what: in words, "MLP rows computed in full" or "keys of global attention".
        kept: (64, 64) float in [0, 1] on the padded 1024x1024 input.
        pixels: (H, W, 3) uint8 RGB; the image fills the input's top left, its longest side is 1024 there.
    """

    variant: str
    image: str
    block: int
    what: str
    kept: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class CasePictures:
    """Data addresses of three pictures of ``width`` x ``height``; ``cropped`` says they do not show the whole image."""

    dense: str
    sparse: str
    difference: str
    width: int
    height: int
    cropped: bool


def case_pictures(case: Case) -> CasePictures:
    """Draw a case, cut to the object and what surrounds it: half of the worst objects are specks in their images."""
    top, bottom, left, right = _surroundings(case)
    height, width = bottom - top, right - left
    scale = LONGEST_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    photo = np.asarray(Image.fromarray(case.pixels[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC))

    def scaled(mask: np.ndarray | None) -> np.ndarray:
        if mask is None:
            return np.zeros(size[::-1], bool)
        cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
        return np.asarray(cut.resize(size, Image.Resampling.BILINEAR)) >= 128

    def finished(picture: np.ndarray) -> str:
        _outline(picture, scaled(case.truth), TRUTH, 2)
        image = Image.fromarray(picture.astype(np.uint8))
        _draw_prompt(image, case, scale, (left, top))
        return _data(image, "JPEG")

    dense, sparse = scaled(case.dense), scaled(case.sparse)
    grey = np.repeat(photo.mean(2, keepdims=True) * 0.7 + 40, 3, 2)
    _fill(grey, dense & sparse, WHITE, 0.25)
    _fill(grey, dense & ~sparse, LOST, 0.8)
    _fill(grey, sparse & ~dense, GAINED, 0.8)
    return CasePictures(
        finished(_masked(photo, dense)),
        finished(_masked(photo, sparse)),
        finished(grey),
        *size,
        cropped=(height, width) != case.pixels.shape[:2],
    )


def thumbnail(pixels: np.ndarray) -> str:
    """A photograph to lie behind veils."""
    image = Image.fromarray(pixels)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return _data(image, "JPEG")


def veil(kept: KeptTokens) -> str:
    """A transparent picture in the proportions of the image: colour over what is kept, black over what is not."""
    height, width = kept.pixels.shape[:2]
    scale = VEIL_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    share = np.clip(kept.kept, 0, 1).repeat(VEIL_SIDE // GRID_SIZE, 0).repeat(VEIL_SIDE // GRID_SIZE, 1)
    share = share[: size[1], : size[0], None]
    opacity = KEPT_OPACITY * share + LEFT_OUT_OPACITY * (1 - share)
    picture = np.concatenate((share * np.array(MASK), 255 * opacity), 2)
    return _data(Image.fromarray(picture.round().astype(np.uint8), "RGBA"), "PNG")


def kept_share(kept: KeptTokens) -> float:
    """Mean of ``kept`` over the tokens that lie on the image, at least in part."""
    height, width = kept.pixels.shape[:2]
    tokens = GRID_SIZE / max(height, width)  # for each pixel of the image
    return float(kept.kept[: int(np.ceil(height * tokens)), : int(np.ceil(width * tokens))].mean())


def _surroundings(case: Case) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is shown; the whole image where there is neither mask nor prompt."""
    marked = case.dense | case.sparse | (False if case.truth is None else case.truth)
    columns, rows = np.flatnonzero(marked.any(0)), np.flatnonzero(marked.any(1))
    prompts = [*case.points, *((case.box[:2], case.box[2:]) if case.box else ())]
    xs, ys = [*columns, *(p[0] for p in prompts)], [*rows, *(p[1] for p in prompts)]
    height, width = case.pixels.shape[:2]
    if not xs:
        return 0, height, 0, width
    context = max(LEAST_CONTEXT, CONTEXT * max(max(xs) - min(xs), max(ys) - min(ys)))
    top, bottom = _stretch(min(ys), max(ys), context, height)
    left, right = _stretch(min(xs), max(xs), context, width)
    return top, bottom, left, right


def _stretch(low: float, high: float, context: float, size: int) -> tuple[int, int]:
    """From ``context`` before ``low`` to as much after ``high``, in a picture of ``size``; prompts may lie outside."""
    low, high = np.clip((low, high), 0, size - 1)
    return int(max(0, low - context)), int(min(size, high + context + 1))


def _masked(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    picture = photo.astype(np.float32)
    _fill(picture, mask, MASK, 0.45)
    _outline(picture, mask, MASK, 2)
    return picture


def _fill(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float) -> None:
    picture[mask] = (1 - strength) * picture[mask] + strength * np.asarray(colour, np.float32)


def _outline(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
    """A line just inside the edge of ``mask``; none where the mask leaves the picture."""
    with importing("scipy", "a report's pictures"):
        from scipy.ndimage import binary_erosion
    picture[mask & ~binary_erosion(mask, iterations=width, border_value=1)] = colour


def _draw_prompt(image: Image.Image, case: Case, scale: float, origin: tuple[int, int]) -> None:
    pen = ImageDraw.Draw(image)

    def place(x: float, y: float) -> tuple[float, float]:
        return (x - origin[0]) * scale, (y - origin[1]) * scale

    if case.box is not None:
        (x0, y0), (x1, y1) = place(*case.box[:2]), place(*case.box[2:])
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        pen.rectangle(corners, outline=BLACK, width=5)
        pen.rectangle(corners, outline=WHITE, width=3)
    for point in case.points:
        x, y = place(*point)
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill=WHITE, outline=BLACK, width=2)


def _data(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    options = {"quality": QUALITY, "optimize": True} if format == "JPEG" else {"optimize": True}
    image.save(file, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
