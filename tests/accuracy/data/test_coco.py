"""COCO instance JSON against pycocotools' own reading of the same file, and what may be wrong with one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sparsesam_deploy.accuracy.data.coco import CocoDataset
from sparsesam_deploy.accuracy.data.dataset import BadImage
from sparsesam_deploy.errors import InvalidInput
from tests.accuracy.data.instances import (
    HEIGHT,
    ORDERS,
    SIZE,
    SQUARE,
    TRIANGLE,
    WIDTH,
    annotation,
    compressed,
    image,
    random_mask,
    run_lengths,
    write,
)
from tests.holdout import scenes

HOLDOUT = Path(__file__).parents[2] / "data" / "holdout"


def dataset(folder: Path, images: list, annotations: list, **more) -> CocoDataset:
    return CocoDataset(write(folder, images, annotations, **more), folder)


# --- the masks ---------------------------------------------------------------------------------------------------

SEGMENTATIONS = {
    "polygon": [TRIANGLE],
    "two polygons": [TRIANGLE, SQUARE],
    "overlapping polygons": [TRIANGLE, [0, 0, 15, 0, 15, 15, 0, 15]],
    "integers": [[1, 1, 9, 1, 9, 9]],
    "partly outside": [[-10.0, -5.0, 12.0, 6.0, 40.0, 60.0, -3.5, 30.0]],
    "all around": [[-50.0, -50.0, 90.0, -50.0, 90.0, 90.0, -50.0, 90.0]],
    "one part outside": [TRIANGLE, [100.0, 100.0, 120.0, 100.0, 120.0, 120.0]],
    "run lengths": {"size": SIZE, "counts": run_lengths(random_mask(1))},
    "run lengths from the first pixel": {"size": SIZE, "counts": run_lengths(np.ones((HEIGHT, WIDTH), bool))},
    "compressed": compressed(random_mask(2)),
    "compressed, large shape": compressed(np.tri(HEIGHT, WIDTH, dtype=bool)),
    "one pixel": compressed(np.arange(HEIGHT * WIDTH).reshape(SIZE) == 77),
}


@pytest.mark.parametrize("order", ORDERS, ids=["images-first", "annotations-first"])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_are_those_of_pycocotools(tmp_path, order):
    entries = [annotation(10 + n, 1 + n % 2, value) for n, value in enumerate(SEGMENTATIONS.values())]
    file = write(tmp_path, [image(2, "b.png"), image(1, "sub/a.png")], entries, order)
    ours, theirs = CocoDataset(file, tmp_path), COCO(str(file))
    assert ours.names == ["b.png", "sub/a.png"]
    for index, image_id in enumerate((2, 1)):
        expected = {str(entry["id"]): theirs.annToMask(entry) for entry in theirs.imgToAnns[image_id]}
        found = ours.load(index)
        assert found.objects == tuple(expected)
        assert (found.masks.dtype, found.masks.flags.c_contiguous, found.problems) == (np.bool_, True, ())
        assert np.array_equal(found.masks, np.stack([*expected.values()]))
        assert np.array_equal(found.pixels, np.full((HEIGHT, WIDTH, 3), (10, 20, 30)))


def test_the_holdout_file_holds_the_scenes():
    ours, expected = CocoDataset(HOLDOUT / "instances.json", HOLDOUT), scenes()
    assert ours.names == [scene.source for scene in expected]
    assert ours.left_out == {}
    for index, scene in enumerate(expected):
        found = ours.load(index)
        assert np.array_equal(found.pixels, scene.image)
        assert np.array_equal(found.masks, scene.masks)
    entries = json.loads((HOLDOUT / "instances.json").read_text())["annotations"]
    boxes = np.concatenate([scene.boxes for scene in expected])
    assert [entry["id"] for entry in entries] == [*range(1, 62)]
    assert [entry["area"] for entry in entries] == [int(mask.sum()) for scene in expected for mask in scene.masks]
    assert np.array_equal([e["bbox"] for e in entries], np.c_[boxes[:, :2], boxes[:, 2:] - boxes[:, :2] + 1])


# --- what is left out, and what is wrong -------------------------------------------------------------------------


def test_conventions_leave_out_and_count(tmp_path):
    found = dataset(
        tmp_path,
        [image(1, "a.png"), image(2, "bare.png"), image(3, "crowded.png")],
        [
            annotation(1, 1),
            annotation(2, 1, compressed(random_mask(0)), iscrowd=1),
            annotation(3, 3, {"size": SIZE, "counts": run_lengths(random_mask(0))}, iscrowd=1),
            annotation(4, 99),
        ],
    )
    assert found.names == ["a.png"]
    assert found.load(0).objects == ("1",)
    assert found.left_out == {
        "crowd annotations": 2,
        "annotations of images that are not listed": 1,
        "images without objects": 2,
    }


def test_a_bad_annotation_is_named_and_the_others_are_kept(tmp_path):
    outside = [100.0, 100.0, 120.0, 100.0, 120.0, 120.0]
    found = dataset(
        tmp_path,
        [image(1, "a.png"), image(2, "b.png")],
        [
            annotation(5, 1, []),
            annotation(6, 1),
            annotation(7, 2, [outside]),
            annotation(8, 2, None),
        ],
    )
    first = found.load(0)
    assert first.objects == ("6",)
    (problem,) = first.problems
    assert problem == (
        f"annotation 5 of image {tmp_path / 'a.png'} in {tmp_path / 'instances.json'} "
        "has no segmentation; correct or remove it."
    )
    with pytest.raises(BadImage, match=re.escape(f"annotation 7 of image {tmp_path / 'b.png'} in")):
        found.load(1)


def test_a_repeated_annotation_id_is_a_problem_of_the_later_one(tmp_path):
    images, entries = [image(1, "a.png"), image(2, "b.png")], [annotation(3, 2), annotation(3, 1), annotation(4, 1)]
    found = dataset(tmp_path, images, entries)
    assert found.load(1).objects == ("3",)
    assert found.load(0).objects == ("4",)
    (problem,) = found.load(0).problems
    assert "annotation 3 of image" in problem and "has the id of an earlier annotation" in problem


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([image(1, "a.png"), image(1, "b.png")], [], "image number 2 of .* has the id 1 of an earlier image"),
        ([image(1, "a.png"), image(2, "./a.png")], [], "has the file name 'a.png' of an earlier image"),
        ([image(1, "/etc/passwd.png")], [], "leads out of the folder of images"),
        ([image(1, "../a.png")], [], "leads out of the folder of images"),
        ([image(1, "sub/../../a.png")], [], "leads out of the folder of images"),
        ([image(1, "sub\\..\\..\\a.png")], [], "leads out of the folder of images"),
        ([image(1, "C:a.png")], [], "leads out of the folder of images"),
        ([image(1, "C:\\a.png")], [], "leads out of the folder of images"),
        ([image(1, "\\\\server\\share\\a.png")], [], "leads out of the folder of images"),
        ([image(1, "a\0.png")], [], "leads out of the folder of images"),
        ([image(1, "")], [], "name a file in the folder"),
        ([image(1, "..")], [], "name a file in the folder"),
        ([image(1, None)], [], "name a file in the folder"),
        ([image("1", "a.png")], [], "\"id\" '1', not an integer"),
        ([image(1, "a.png", width=0)], [], "is 0x24 pixels"),
        ([image(1, "a.png", width=10**9)], [], "is 1000000000x24 pixels"),
        ([image(1, "a.png", width=None)], [], '"width" None, not an integer'),
        (["a.png"], [], '"id" None, not an integer'),
        ([], [], 'lists no "images"'),
        ([image(1, "a.png")], [], "has no annotation of an object"),
        ([image(1, "a.png")], [annotation(1, 2)], "has no annotation of an object"),
        ([image(1, "a.png")], [annotation("x", 1)], "annotation number 1 of .* has \"id\" 'x', not an integer"),
        ([image(1, "a.png")], [annotation(1, 1), {"id": 2}], 'annotation number 2 of .* has "image_id" None'),
        ([image(1, "a.png")], [[]], '"id" None, not an integer'),
        ([image(1, "long" * 2000 + ".jpg")], [annotation(1, 1)], "none of the 1 images of .* name their folder"),
        ([image(1, "not there.png")], [annotation(1, 1)], "none of the 1 images of .* name their folder"),
    ],
)
def test_a_file_that_does_not_say_what_is_what_is_refused(tmp_path, images, annotations, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        dataset(tmp_path, images, annotations)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).count("\n") == 0


GOOD_IMAGES = b'{"images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}], "annotations": '


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\x89PNG\r\n", "is not JSON"),
        (b'{"images": [{"id": 1, "file_na', "is not JSON"),
        (GOOD_IMAGES + b'[{"id": 1, "image_id": 1, "segmentation": [[NaN, 1, 2, 3, 4, 5]]}]}', "is not JSON"),
        (GOOD_IMAGES + b'[{"id": 1, "image_id": 1, "segmentation": [[1e999, 1, 2, 3, 4, 5]]}]}', "is not JSON|finite"),
        (b'{"images": {"id": 1}}', 'lists no "images"'),
        (b"[]", 'lists no "images"'),
        (GOOD_IMAGES + b"3}", "has no annotation"),
        (None, "cannot be read"),
    ],
    ids=["empty", "png", "cut", "nan", "overflow", "no-list", "list", "no-annotations", "absent"],
)
def test_what_is_no_instance_file_is_refused_by_name(tmp_path, content, message):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    file = tmp_path / "instances.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        CocoDataset(file, tmp_path).load(0)
    assert str(file) in str(caught.value)
    assert str(caught.value).count("\n") == 0


# --- the images --------------------------------------------------------------------------------------------------


def save_turned(path: Path, stored: tuple[int, int], orientation: int) -> None:
    picture = Image.new("RGB", stored)
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


def test_annotations_of_the_upright_image_are_used_and_of_the_stored_pixels_refused(tmp_path):
    file = write(tmp_path, [image(1, "upright.jpg"), image(2, "stored.jpg")], [annotation(1, 1), annotation(2, 2)])
    save_turned(tmp_path / "upright.jpg", (HEIGHT, WIDTH), 6)
    save_turned(tmp_path / "stored.jpg", (WIDTH, HEIGHT), 6)
    found = CocoDataset(file, tmp_path)
    assert found.load(0).pixels.shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(BadImage, match=r"stored\.jpg is 24x32 pixels when its EXIF .* as stored, 32x24; remove the"):
        found.load(1)


def test_an_image_of_another_size_absent_or_broken_is_bad_alone(tmp_path):
    names = ["other.png", "absent.png", "broken.png", "good.png"]
    file = write(
        tmp_path, [image(n, name) for n, name in enumerate(names)], [annotation(n, n) for n in range(len(names))]
    )
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "other.png")
    (tmp_path / "absent.png").unlink()
    (tmp_path / "broken.png").write_bytes(b"not an image")
    found = CocoDataset(file, tmp_path)
    for index, message in enumerate([r"is 24x32 pixels, but 32x24 in .*instances", "does not exist", "Pillow"]):
        with pytest.raises(BadImage, match=message) as caught:
            found.load(index)
        assert str(tmp_path / names[index]) in str(caught.value)
    assert found.load(3).masks.shape == (1, HEIGHT, WIDTH)


def test_masks_that_cannot_fit_are_refused_before_they_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsesam_deploy.accuracy.data.files.MAX_MASK_BYTES", 2 * HEIGHT * WIDTH)
    found = dataset(tmp_path, [image(1, "a.png"), image(2, "b.png")], [annotation(n, 1 + n // 3) for n in range(5)])
    with pytest.raises(BadImage, match="3 objects, whose masks of 32x24 pixels need"):
        found.load(0)
    assert len(found.load(1).masks) == 2


# --- identity and progress ---------------------------------------------------------------------------------------


def test_the_fingerprint_follows_labels_and_images_and_nothing_else(tmp_path):
    images, entries = [image(1, "a.png"), image(2, "bare.png")], [annotation(1, 1)]
    (tmp_path / "first").mkdir()
    (tmp_path / "copy").mkdir()
    first = dataset(tmp_path / "first", images, entries)
    assert len(bytes.fromhex(first.fingerprint)) == hashlib.sha256().digest_size
    copied = dataset(tmp_path / "copy", images, entries)
    assert copied.fingerprint == first.fingerprint
    assert dataset(tmp_path / "copy", images, [annotation(1, 1, (TRIANGLE,))]).fingerprint != first.fingerprint
    file = write(tmp_path / "copy", images, entries)
    with open(tmp_path / "copy" / "bare.png", "ab") as longer:
        longer.write(b"\0")
    assert CocoDataset(file, tmp_path / "copy").fingerprint == first.fingerprint
    with open(tmp_path / "copy" / "a.png", "ab") as longer:
        longer.write(b"\0")
    assert CocoDataset(file, tmp_path / "copy").fingerprint != first.fingerprint


def test_progress_rises_to_one(tmp_path):
    entries = [annotation(n, 1, [TRIANGLE * 50]) for n in range(1000)]
    file = write(tmp_path, [image(1, "a.png")], entries)
    assert file.stat().st_size > 1_000_000
    shares: list[float] = []
    CocoDataset(file, tmp_path, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len({*shares}) >= 8
