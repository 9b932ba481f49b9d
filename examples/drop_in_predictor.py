"""segment_anything's `SamPredictor` with a build behind it: three lines change, and nothing after them.

    python examples/drop_in_predictor.py engines/built/vit_h sam_vit_h_4b8939.pth photo.jpg 305 15 364 71 mask.png

Each line that changes stands below what it was. The checkpoint is the one that the build was made from; prompt encoder
and mask decoder are taken from it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

# before: from segment_anything import SamPredictor, sam_model_registry
from sparsesam_deploy import SparseSamPredictor, load, load_checkpoint

folder, checkpoint, photo, *box, output = sys.argv[1:]
# before: sam = sam_model_registry["vit_h"](checkpoint=checkpoint)
sam = load_checkpoint(Path(checkpoint)).sam
# before: predictor = SamPredictor(sam)
predictor = SparseSamPredictor(sam, load(folder, runtime="onnxruntime", device="cpu"))

predictor.set_image(np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB")))
masks, iou, low_res_masks = predictor.predict(box=np.array(box, float), multimask_output=False)
Image.fromarray(masks[0]).save(output)
print(f"predicted IoU {iou[0]:.3f}")
