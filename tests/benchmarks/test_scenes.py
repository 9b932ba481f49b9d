"""Four scenes to a frame: every pixel and every mask where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy import HOLDOUT, holdout
from benchmarks.scenes import HalfSize


def test_frames_hold_the_scenes_and_their_objects():
    full, half = holdout(), holdout(half_size=True)
    assert len(half.names) == 3 and half.names[1] == "04.png+05.png+06.png+07.png"
    assert half.fingerprint != full.fingerprint
    frame = half.load(1)
    assert frame.pixels.shape == (1024, 1024, 3)
    found = dict(zip(frame.objects, frame.masks, strict=True))
    corners = ((0, 0), (0, 512), (512, 0), (512, 512))
    for (top, left), scene in zip(corners, range(4, 8), strict=True):
        pixels = np.asarray(Image.open(HOLDOUT / f"{scene:02d}.png").convert("RGB"))
        height, width = pixels.shape[:2]
        assert (frame.pixels[top : top + height, left : left + width] == pixels).all()
        assert not frame.pixels[top + height : top + 512, left : left + 512].any()
        image = full.load(scene)
        for name, mask in zip(image.objects, image.masks, strict=True):
            in_frame = found.pop(f"{scene:02d}.png:{name}")
            assert (in_frame[top : top + height, left : left + width] == mask).all()
            assert in_frame.sum() == mask.sum()
    assert not found


def test_scenes_that_fill_no_frame_are_refused():
    class Five:
        names = tuple("abcde")

    with pytest.raises(ValueError, match="5 images do not fill frames of four"):
        HalfSize(Five())
