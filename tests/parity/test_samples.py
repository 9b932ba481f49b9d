"""What a check runs on: the shipped photos by boxes, anybody's images by a grid of points."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.errors import ImageError, InvalidInput
from sparsesam_deploy.model.decoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PADDING, POSITIVE
from sparsesam_deploy.parity.samples import shipped_samples, user_samples


def save(path, mode: str = "RGB", size: tuple[int, int] = (40, 20)):
    """A gradient of ``size`` (width, height)."""
    grey = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0]).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(path)
    return path


# --- shipped -----------------------------------------------------------------------------------------------------


def test_the_shipped_photos_are_24_coins_and_a_face():
    samples = {sample.name: sample for sample in shipped_samples()}
    assert {name: len(sample.boxes) for name, sample in samples.items()} == {"coins.png": 24, "astronaut.png": 1}
    for sample in samples.values():
        height, width = sample.pixels.shape[:2]
        assert (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] > sample.boxes[:, :2] + 5).all()
        assert (sample.boxes[:, 2:] <= (width, height)).all()


def test_boxes_are_scaled_as_the_image_is():
    (coins,) = (sample for sample in shipped_samples() if sample.name == "coins.png")
    height, width = coins.pixels.shape[:2]
    assert width > height
    prompts = coins.prompts()
    assert prompts.point_coords.reshape(-1, 4) == pytest.approx(coins.boxes * 1024 / width, rel=2e-3)
    assert np.array_equal(prompts.point_labels, [[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]] * 24)
    assert coins.preprocessed().original_size == (height, width)


# --- the user's --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (1, 1), (1024, 3)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_image_is_asked_by_16_points_inside_it(tmp_path, size):
    (sample,) = user_samples([save(tmp_path / "photo.png", size=size)])
    assert sample.boxes is None
    assert len({tuple(point) for point in sample.points}) == len(sample.points) == 16
    assert (sample.points > 0).all() and (sample.points < size).all()
    assert sample.points.mean(0) == pytest.approx([side / 2 for side in size])
    prompts = sample.prompts()
    assert np.array_equal(prompts.point_labels, [[POSITIVE, PADDING]] * 16)
    scaled = prompts.point_coords[:, 0]
    assert scaled == pytest.approx(sample.points * (np.array(sample.preprocessed().input_size[::-1]) / size), rel=1e-6)
    assert scaled.max() < 1024


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = save(tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png"), mode)
    (sample,) = user_samples([path])
    assert (sample.pixels.shape, sample.pixels.dtype) == ((20, 40, 3), np.uint8)


def test_a_folder_stands_for_its_images_in_order_of_name(tmp_path):
    """Those in sub-folders too, whose names would otherwise not tell them apart."""
    for name in ("b.PNG", "a.jpg", "c.webp"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "more").mkdir()
    save(tmp_path / "more" / "d.png")
    save(tmp_path / "single.bmp")
    samples = user_samples([tmp_path / "single.bmp", tmp_path])
    names = [sample.name for sample in samples]
    assert names == ["single.bmp", "a.jpg", "b.PNG", "c.webp", "more/d.png", "single.bmp"]
    assert {sample.pixels.shape for sample in samples} == {(20, 40, 3)}


@pytest.mark.parametrize("content", [(), ("notes.txt",)], ids=["empty", "no-image"])
def test_a_folder_without_images_is_refused(tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("not an image")
    with pytest.raises(InvalidInput, match=re.escape(f"folder {tmp_path} holds no image, nor do its sub-folders")):
        user_samples([tmp_path])


def test_no_folder_hides_behind_another(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    save(tmp_path / "full" / "a.png")
    with pytest.raises(InvalidInput, match="empty holds no image"):
        user_samples([tmp_path / "full", tmp_path / "empty"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("photo.png", b"not an image", "is not an image that Pillow knows"),
        ("photo.png", b"\x89PNG\r\n\x1a\n broken", "photo.png"),
        ("photo.jpg", b"", "is not an image that Pillow knows"),
        ("absent.png", None, "does not exist"),
    ],
    ids=["text", "truncated", "empty", "absent"],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=re.escape(str(tmp_path / name))) as caught:
        user_samples([tmp_path / name])
    assert message in str(caught.value)


def test_one_bad_file_in_a_folder_is_an_error_not_a_gap(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"b\.png"):
        user_samples([tmp_path])
