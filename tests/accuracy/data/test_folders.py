"""Folders with label maps, masks or nothing, against the arrays the files were made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsesam_deploy.accuracy.data.dataset import BadImage
from sparsesam_deploy.accuracy.data.folders import LabelMaps, MaskPairs, Unlabelled
from sparsesam_deploy.errors import InvalidInput

HOLDOUT = Path(__file__).parents[2] / "data" / "holdout"
HEIGHT, WIDTH = 12, 16
ORIENTATION = 0x0112


def save(path: Path, values: np.ndarray | None = None, orientation: int | None = None, **more) -> Path:
    """An image of ``values``; without them an RGB photo of the usual size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8) if values is None else values
    picture = Image.fromarray(pixels)
    if orientation:
        more["exif"] = picture.getexif()
        more["exif"][ORIENTATION] = orientation
    picture.save(path, **more)
    return path


def label_map(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """Vertical stripes of background and of each value."""
    return np.repeat(np.resize([0, *values], WIDTH)[None], HEIGHT, 0).astype(dtype)


def disc() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return ((y - 5) ** 2 + (x - 7) ** 2 < 16) * np.uint8(255)


# --- label maps --------------------------------------------------------------------------------------------------


def palette(labels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(labels).convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([7, 7, 7] * 256)  # all of one colour: what counts is the index
    return picture


@pytest.mark.parametrize("kind", ["8-bit", "16-bit", "palette", "1-bit"])
@pytest.mark.parametrize("ending", ["", "_labels"], ids=["same-stem", "ending"])
def test_every_value_but_zero_is_an_object(tmp_path, kind, ending):
    values = {"8-bit": (1, 7, 255), "16-bit": (1, 300, 65535), "palette": (2, 3, 255), "1-bit": (1,)}[kind]
    labels = label_map(*values, dtype=np.uint16 if kind == "16-bit" else np.uint8)
    photo, target = save(tmp_path / "im" / "a.jpg"), tmp_path / "maps" / f"a{ending}.png"
    target.parent.mkdir()
    picture = {"palette": palette, "1-bit": lambda a: Image.fromarray(a * np.uint8(255)).convert("1")}.get(kind)
    (picture or Image.fromarray)(labels).save(target)

    found = LabelMaps(tmp_path / "im", tmp_path / "maps")
    assert (found.names, found.has_truth, found.left_out) == (["a.jpg"], True, {})
    image = found.load(0)
    assert image.objects == tuple(map(str, values))
    assert (image.masks.dtype, image.problems) == (np.bool_, ())
    assert np.array_equal(image.masks, [labels == value for value in values])
    assert np.array_equal(image.pixels, np.array(Image.open(photo)))


def test_values_to_ignore_are_no_objects(tmp_path):
    save(tmp_path / "im" / "a.png")
    save(tmp_path / "maps" / "a.png", label_map(1, 255))
    assert LabelMaps(tmp_path / "im", tmp_path / "maps", ignore={255}).load(0).objects == ("1",)
    with pytest.raises(BadImage, match="is all background"):
        LabelMaps(tmp_path / "im", tmp_path / "maps", ignore={1, 255}).load(0)


def test_the_holdout_folder_holds_images_and_label_maps_together():
    found = LabelMaps(HOLDOUT, HOLDOUT)
    entries = json.loads((HOLDOUT / "holdout.json").read_text())["images"]
    assert found.names == [entry["image"] for entry in entries]
    labels = np.array(Image.open(HOLDOUT / entries[3]["labels"]))
    image = found.load(3)
    assert image.objects == tuple(str(value) for value in np.unique(labels) if value)
    assert np.array_equal(image.masks, [labels == int(name) for name in image.objects])


def test_sub_folders_match_by_path_and_names_are_in_order(tmp_path):
    for number, name in enumerate(["b/x.png", "a/x.png", "a/deep/x.png"], 1):
        save(tmp_path / "im" / name)
        save(tmp_path / "maps" / name, label_map(number))
    found = LabelMaps(tmp_path / "im", tmp_path / "maps")
    assert found.names == ["a/deep/x.png", "a/x.png", "b/x.png"]
    assert [found.load(index).objects for index in range(3)] == [("3",), ("2",), ("1",)]


@pytest.mark.parametrize(("images", "labels"), [("", "maps"), ("im", "")], ids=["maps-inside", "images-inside"])
def test_one_folder_may_lie_in_the_other(tmp_path, images, labels):
    save(tmp_path / images / "a.png")
    save(tmp_path / labels / "a.png", label_map(1))
    found = LabelMaps(tmp_path / images, tmp_path / labels)
    assert (found.names, found.left_out) == (["a.png"], {})
    assert found.load(0).objects == ("1",)


def test_an_image_called_labels_keeps_its_own_map(tmp_path):
    for name in ("a.jpg", "a_labels.jpg"):
        save(tmp_path / "im" / name)
    save(tmp_path / "maps" / "a.png", label_map(1))
    save(tmp_path / "maps" / "a_labels.png", label_map(2))
    found = LabelMaps(tmp_path / "im", tmp_path / "maps")
    assert [found.load(index).objects for index in range(2)] == [("1",), ("2",)]


# --- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "LA", "P", "16-bit", "jpeg"])
def test_the_object_is_where_its_mask_is_bright(tmp_path, kind):
    save(tmp_path / "im" / "sub" / "a.jpg")
    target = tmp_path / "gt" / "sub" / ("a.jpg" if kind == "jpeg" else "a.png")
    if kind == "16-bit":
        save(target, disc().astype(np.uint16) * 257)
    else:
        target.parent.mkdir(parents=True)
        Image.fromarray(disc()).convert("L" if kind == "jpeg" else kind).save(target)
    found = MaskPairs(tmp_path / "im", tmp_path / "gt")
    assert (found.names, found.has_truth, found.left_out) == (["sub/a.jpg"], True, {})
    image = found.load(0)
    assert image.objects == (f"sub/{target.name}",)
    assert image.masks.dtype == np.bool_
    assert np.array_equal(image.masks, [disc() > 127])


def test_grey_is_cut_between_127_and_128(tmp_path):
    save(tmp_path / "im" / "a.png")
    ramp = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
    save(tmp_path / "gt" / "a.png", ramp)
    assert np.array_equal(MaskPairs(tmp_path / "im", tmp_path / "gt").load(0).masks[0], ramp >= 128)


def test_one_pixel_is_a_mask(tmp_path):
    save(tmp_path / "im" / "a.png")
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[3, 4] = 255
    save(tmp_path / "gt" / "a.png", values)
    assert np.argwhere(MaskPairs(tmp_path / "im", tmp_path / "gt").load(0).masks).tolist() == [[0, 3, 4]]


# --- what is wrong with pairs ------------------------------------------------------------------------------------

READERS = {"label maps": LabelMaps, "masks": MaskPairs}
both = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@both
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (None, r"image \S+/a\.png has no (mask|label map) in \S+; add one"),
        (b"not an image", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n broken", "cannot be read"),
        (np.full((WIDTH, HEIGHT), 255, np.uint8), "is 12x16 pixels, the image upright 16x12"),
        (np.zeros((HEIGHT, WIDTH), np.uint8), "is all background|is empty: no pixel is brighter than 127"),
    ],
    ids=["absent", "text", "cut", "other-size", "empty"],
)
def test_one_bad_pair_is_named_with_both_files_and_bad_alone(tmp_path, reader, broken, message):
    for name in ("a.png", "b.png"):
        save(tmp_path / "im" / name)
        save(tmp_path / "gt" / name, disc())
    label = tmp_path / "gt" / "a.png"
    if broken is None:
        label.unlink()
    elif isinstance(broken, bytes):
        label.write_bytes(broken)
    else:
        save(label, broken)
    found = reader(tmp_path / "im", tmp_path / "gt")
    with pytest.raises(BadImage, match=message) as caught:
        found.load(0)
    assert str(tmp_path / "im" / "a.png") in str(caught.value)
    assert str(label if broken is not None else tmp_path / "gt") in str(caught.value)
    assert found.load(1).masks.shape == (1, HEIGHT, WIDTH)


@both
def test_a_broken_image_is_bad(tmp_path, reader):
    save(tmp_path / "im" / "a.png").write_bytes(b"not an image")
    save(tmp_path / "gt" / "a.png", disc())
    with pytest.raises(BadImage, match=re.escape(str(tmp_path / "im" / "a.png"))):
        reader(tmp_path / "im", tmp_path / "gt").load(0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "pixels of mode RGB; save it as palette, 8-bit or 16-bit grey"),
        (np.full((HEIGHT, WIDTH), 70_000, np.int32), "values beyond 16 bits"),
    ],
    ids=["rgb", "32-bit"],
)
def test_colours_and_wide_values_are_no_labels(tmp_path, values, message):
    save(tmp_path / "im" / "a.png")
    (tmp_path / "maps").mkdir()
    picture = Image.fromarray(values)
    picture.save(tmp_path / "maps" / "a.png", format="PNG" if values.ndim == 3 else "TIFF")
    with pytest.raises(BadImage, match=message):
        LabelMaps(tmp_path / "im", tmp_path / "maps").load(0)


def test_a_photo_taken_for_a_label_map_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsesam_deploy.accuracy.data.files.MAX_MASK_BYTES", 100 * HEIGHT * WIDTH)
    save(tmp_path / "im" / "a.png")
    save(tmp_path / "maps" / "a.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16))
    with pytest.raises(BadImage, match="191 objects, whose masks of 16x12 pixels need"):
        LabelMaps(tmp_path / "im", tmp_path / "maps").load(0)


@both
def test_exif_counts_for_the_image_and_for_the_labels(tmp_path, reader):
    stored = np.ascontiguousarray(np.rot90(disc()))  # orientation 6 turns it back by a quarter
    for name in ("upright", "stored", "alike"):
        save(tmp_path / "im" / f"{name}.jpg", np.repeat(stored[:, :, None], 3, 2), orientation=6)
    save(tmp_path / "gt" / "upright.png", disc())
    save(tmp_path / "gt" / "stored.png", stored)
    save(tmp_path / "gt" / "alike.png", stored, orientation=6)
    found = reader(tmp_path / "im", tmp_path / "gt")
    alike, wrong, upright = (found.names.index(f"{name}.jpg") for name in ("alike", "stored", "upright"))
    assert np.array_equal(found.load(upright).masks[0], disc() > 127)
    assert np.array_equal(found.load(alike).masks[0], disc() > 127)
    with pytest.raises(BadImage, match="is 12x16 pixels, the image upright 16x12; give it the image's size"):
        found.load(wrong)


@both
def test_labels_without_an_image_are_counted(tmp_path, reader):
    save(tmp_path / "im" / "a.png")
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "gt" / name, disc())
    assert [*reader(tmp_path / "im", tmp_path / "gt").left_out.values()] == [2]


@both
def test_hidden_files_and_others_are_no_images(tmp_path, reader):
    save(tmp_path / "im" / "a.PNG")
    save(tmp_path / "gt" / "a.png", disc())
    for name in ("im/._a.png", "im/.cache/b.png", "im/readme.txt", "gt/._a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    found = reader(tmp_path / "im", tmp_path / "gt")
    assert (found.names, found.left_out) == (["a.PNG"], {})


REFUSED = {
    "two images": (["im/a.png", "im/a.jpg", "gt/a.png"], "have the same stem"),
    "no image": (["im/a.txt", "gt/a.png"], "holds no image"),
    "no partners": (["im/a.png", "gt/b.png"], "none of the 1 images in .* has a (mask|label map) in"),
    "no folder": (["im/a.png"], "is not a folder"),
}


@both
@pytest.mark.parametrize(("files", "message"), REFUSED.values(), ids=REFUSED)
def test_folders_that_do_not_match_are_refused(tmp_path, reader, files, message):
    for name in files:
        save(tmp_path / name, disc(), format="PNG")
    with pytest.raises(InvalidInput, match=message) as caught:
        reader(tmp_path / "im", tmp_path / "gt")
    assert str(tmp_path) in str(caught.value)


def test_two_labels_of_one_image_are_refused(tmp_path):
    for name in ("im/a.png", "gt/a.png", "gt/a_labels.png"):
        save(tmp_path / name, disc())
    with pytest.raises(InvalidInput, match=r"a\.png and \S+a_labels\.png are of one image"):
        LabelMaps(tmp_path / "im", tmp_path / "gt")
    save(tmp_path / "gt" / "a.bmp", disc())
    with pytest.raises(InvalidInput, match="have the same stem"):
        MaskPairs(tmp_path / "im", tmp_path / "gt")


def test_masks_need_a_folder_of_their_own(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(InvalidInput, match="are the same folder"):
        MaskPairs(tmp_path, tmp_path)


# --- identity and progress ---------------------------------------------------------------------------------------


@both
def test_the_fingerprint_follows_labels_and_images(tmp_path, reader):
    def make(folder: str, values: np.ndarray) -> str:
        for name in ("a.png", "b.png"):
            save(tmp_path / folder / "im" / name)
            save(tmp_path / folder / "gt" / name, values if name == "a.png" else disc(), compress_level=0)
        shares: list[float] = []
        found = reader(tmp_path / folder / "im", tmp_path / folder / "gt", progress=shares.append)
        assert shares == [0.5, 1.0]
        return found.fingerprint

    changed = np.roll(disc(), 1)
    original = make("first", disc())
    assert make("copy", disc()) == original
    assert make("changed", changed) != original
    sizes = {(tmp_path / folder / "gt" / "a.png").stat().st_size for folder in ("first", "changed")}
    assert len(sizes) == 1  # so that it is the content that counts
    with open(tmp_path / "copy" / "im" / "b.png", "ab") as longer:
        longer.write(b"\0")
    assert reader(tmp_path / "copy" / "im", tmp_path / "copy" / "gt").fingerprint != original


def test_what_is_ignored_is_part_of_the_fingerprint(tmp_path):
    save(tmp_path / "im" / "a.png")
    save(tmp_path / "gt" / "a.png", disc())
    plain, ignoring = (LabelMaps(tmp_path / "im", tmp_path / "gt", ignore) for ignore in ((), (3,)))
    assert plain.fingerprint != ignoring.fingerprint


# --- no labels ---------------------------------------------------------------------------------------------------


def test_images_alone_have_no_masks(tmp_path):
    photo = save(tmp_path / "b" / "x.png")
    save(tmp_path / "a.png")
    found = Unlabelled(tmp_path)
    assert (found.names, found.has_truth, found.left_out) == (["a.png", "b/x.png"], False, {})
    image = found.load(1)
    assert (image.masks, image.objects, image.problems) == (None, (), ())
    assert np.array_equal(image.pixels, np.array(Image.open(photo)))

    alone = Unlabelled(photo)
    assert alone.names == ["x.png"]
    assert np.array_equal(alone.load(0).pixels, image.pixels)
    assert alone.fingerprint != found.fingerprint


def test_what_holds_no_image_is_refused_and_a_broken_one_is_bad(tmp_path):
    with pytest.raises(InvalidInput, match="holds no image"):
        Unlabelled(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        Unlabelled(tmp_path / "absent")
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(BadImage, match=r"a\.png is not an image that Pillow knows"):
        Unlabelled(tmp_path).load(0)
