"""segment_anything's `SamAutomaticMaskGenerator` with a build behind it: its predictor is replaced, all else stays.

    python examples/drop_in_automatic.py engines/built/vit_h sam_vit_h_4b8939.pth photo.jpg objects.png

Each line that changes stands below what it was; the one below an empty `before:` is new. Writes one grey level for each
object, 0 where there is none, the smallest object on top.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from segment_anything import SamAutomaticMaskGenerator

# before: from segment_anything import sam_model_registry
from sparsesam_deploy import SparseSamPredictor, load, load_checkpoint

folder, checkpoint, photo, output = sys.argv[1:]
# before: sam = sam_model_registry["vit_h"](checkpoint=checkpoint)
sam = load_checkpoint(Path(checkpoint)).sam
generator = SamAutomaticMaskGenerator(sam, points_per_side=8)  # 32 if it is not given: 16 times the decoder's time
# before:
generator.predictor = SparseSamPredictor(sam, load(folder, runtime="onnxruntime", device="cpu"))

image = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
objects = sorted(generator.generate(image), key=lambda entry: -entry["area"])
labels = np.zeros(image.shape[:2], np.uint16)
for number, entry in enumerate(objects, start=1):
    labels[entry["segmentation"]] = number
Image.fromarray(labels).save(output)
print(f"{len(objects)} objects")
