"""What `sparsesam-run` reads and writes whatever the format: told apart by content, upright, and whole."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.engines.runtime.conftest import run
from tests.engines.runtime.pictures import RGB, make_jpeg, make_png, turned_jpeg, turned_png


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("little", [True, False], ids=["little", "big"])
@pytest.mark.parametrize("make", [turned_png, turned_jpeg], ids=["png", "jpeg"])
def test_images_are_turned_as_exif_says(decode, pillow, make, little, orientation):
    content = make(orientation, little=little)
    stored, got = decode(make(1)), decode(content)
    assert np.array_equal(got, pillow(content))
    assert got.shape[:2] == (stored.shape[1::-1] if orientation in (5, 6, 7, 8) else stored.shape[:2])
    assert np.array_equal(got, stored) == (orientation in (0, 1, 9))


@pytest.mark.parametrize("content", [make_png(RGB, 8, 3, 4), make_jpeg("RGB", 3, 4)], ids=["png", "jpeg"])
def test_the_name_says_nothing(sanitised_build, tmp_path, content):
    probe = sanitised_build / "tests" / "image_probe"
    for name in ("a.png", "a.jpg", "a.txt", "a"):
        (tmp_path / name).write_bytes(content)
        assert run(probe, tmp_path / name, tmp_path / "out.raw").returncode == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a", b"GIF89a" + bytes(99), b"\n" * 5000])
def test_other_formats_are_refused(decode, content):
    assert decode(content).endswith("image is neither PNG nor JPEG; convert it to one of them.\n")


def test_masks_are_written_whole_or_not_at_all(sanitised_build, tmp_path):
    probe = sanitised_build / "tests" / "image_probe"
    mask = np.random.default_rng(0).integers(0, 2, (13, 37), np.uint8)
    (tmp_path / "mask.raw").write_bytes(mask.tobytes())
    assert run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "mask.png").returncode == 0
    with Image.open(tmp_path / "mask.png") as written:
        assert written.mode == "L"
        assert np.array_equal(np.array(written), mask * 255)
    failed = run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "nowhere" / "mask.png")
    assert failed.returncode == 2
    assert "cannot write to" in failed.stderr and "No such file or directory; check the path" in failed.stderr
    (tmp_path / "taken.png").mkdir()
    assert run(probe, 13, 37, tmp_path / "mask.raw", tmp_path / "taken.png").returncode == 2
    assert not list(tmp_path.glob("*.partial"))


def test_a_missing_image(sanitised_build, tmp_path):
    missing = run(sanitised_build / "tests" / "image_probe", tmp_path / "nothing.jpg", tmp_path / "out")
    assert missing.returncode == 2
    assert "cannot read image" in missing.stderr and "No such file or directory; check the path" in missing.stderr
