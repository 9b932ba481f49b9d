"""Which files are images is told once, for `verify --images` as for `evaluate --images`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from sparsesam_deploy.accuracy.data.folders import Unlabelled
from sparsesam_deploy.errors import InvalidInput
from sparsesam_deploy.model.image import read_image
from sparsesam_deploy.model.image_files import IMAGE_SUFFIXES, files_in, image_files
from sparsesam_deploy.parity.samples import user_samples

DECODER = {".avif": "avif", ".jp2": "jpg_2000", ".webp": "webp"}
"""What Pillow may have been built without."""


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((30, 40, 3), (200, 100, 50), np.uint8)).save(path)
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked into")
    return folder


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_what_counts_as_an_image_can_be_read(tmp_path, suffix):
    if suffix in DECODER and not features.check(DECODER[suffix]):
        pytest.skip(f"Pillow has no {DECODER[suffix]} here")
    path = save(tmp_path / f"photo{suffix}")
    assert image_files(tmp_path) == [Path(path.name)]
    assert np.abs(read_image(path).astype(int) - (200, 100, 50)).max() <= 8  # some compress with loss, GIF by palette


def test_sub_folders_are_searched_and_hidden_files_are_not_found(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/deep/er.Tiff", "a.webp", "notes.txt", "noend", "video.mp4")
    touch(tmp_path, "._b.JPG", "__MACOSX/._z.png", ".hidden/c.png", "a/.thumbnails/z.png", ".png")
    (tmp_path / "folder.png").mkdir()
    assert [file.as_posix() for file in image_files(tmp_path)] == ["a.webp", "a/deep/er.Tiff", "a/z.png", "b.JPG"]


def test_a_hidden_folder_can_be_named(tmp_path):
    assert image_files(touch(tmp_path / ".cache" / "images", "a.png")) == [Path("a.png")]


def test_a_folder_inside_the_folder_can_be_left_out(tmp_path):
    touch(tmp_path, "a.png", "masks/a.png", "masks2/b.png")
    assert image_files(tmp_path, besides=tmp_path / "masks") == [Path("a.png"), Path("masks2/b.png")]
    assert image_files(tmp_path / "masks", besides=tmp_path) == [Path("a.png")]


def test_other_suffixes_can_be_asked_for(tmp_path):
    touch(tmp_path, "a.png", "a.jpg", "more/b.PNG")
    assert files_in(tmp_path, {".png"}) == [Path("a.png"), Path("more/b.PNG")]


@pytest.mark.parametrize("names", [(), ("notes.txt", "._a.png", ".cache/b.png")], ids=["empty", "none"])
def test_no_image_says_where_and_for_what_it_looked(tmp_path, names):
    touch(tmp_path, *names)
    for read in (image_files, Unlabelled, lambda folder: user_samples([folder])):
        with pytest.raises(InvalidInput) as caught:
            read(tmp_path)
        words = str(caught.value)
        assert words.startswith(f"folder {tmp_path} holds no image, nor do its sub-folders (looked for .avif, .bmp, ")
        assert all(suffix in words for suffix in IMAGE_SUFFIXES) and words.endswith("name a folder that does.")


@pytest.mark.parametrize("name", ["absent", "a.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    touch(tmp_path, "a.png")
    with pytest.raises(InvalidInput, match=rf"{name} is not a folder; name the folder that holds the images"):
        image_files(tmp_path / name)


def test_every_command_finds_the_same_images(tmp_path):
    for name in ("b.gif", "a/c.ppm", "a/._c.ppm", ".d.png", "e.bmp"):
        save(tmp_path / name)
    found = [sample.name for sample in user_samples([tmp_path])]
    assert found == Unlabelled(tmp_path).names == ["a/c.ppm", "b.gif", "e.bmp"]
