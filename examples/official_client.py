"""A program written for the ONNX decoder that segment_anything exports, and what becomes of it with `decoder.onnx`.

    python examples/official_client.py engines/built/nano embeddings/photo.jpg.npy photo.jpg 330 40 mask.png

The prompt is a point inside the object. Each line that changes stands below what it was, new ones below an empty
`before:`. What differs:

1. There is no `orig_im_size`: masks come at 256x256 and are scaled to the photo outside. The outputs are
   `low_res_masks` and `iou_predictions`, where the official model has `masks` in front.
2. All four masks come, whichever kind of prompt is asked: the first is for boxes, the others are for points. The
   official model chooses among them with `--return-single-mask`.
3. Inputs may hold N prompts on the one image: coordinates (N, P, 2), labels (N, P), masks (N, 1, 256, 256), and
   `has_mask_input` (N). The official model takes one.
"""

import sys

import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageOps
from segment_anything.utils.transforms import ResizeLongestSide

# before:
from sparsesam_deploy.model.image import upscale_masks

folder, embedding, photo, x, y, output = sys.argv[1:]
width, height = ImageOps.exif_transpose(Image.open(photo)).size
# before: session = onnxruntime.InferenceSession("sam_onnx_example.onnx", providers=["CPUExecutionProvider"])
session = onnxruntime.InferenceSession(f"{folder}/decoder.onnx", providers=["CPUExecutionProvider"])

transform = ResizeLongestSide(1024)
points = np.array([[float(x), float(y)], [0, 0]])[None]  # the second one pads a prompt that has no box: label -1
inputs = {
    "image_embeddings": np.load(embedding),
    "point_coords": transform.apply_coords(points, (height, width)).astype(np.float32),
    "point_labels": np.array([[1, -1]], np.float32),
    "mask_input": np.zeros((1, 1, 256, 256), np.float32),
    "has_mask_input": np.zeros(1, np.float32),
    # before: "orig_im_size": np.array([height, width], np.float32),
    # no input any more
}
# before: masks, scores, low_res_masks = session.run(None, inputs)
low_res_masks, scores = session.run(["low_res_masks", "iou_predictions"], inputs)
# before:
input_size = transform.get_preprocess_shape(height, width, 1024)
# before:
masks = upscale_masks(torch.from_numpy(low_res_masks), input_size, (height, width)).numpy()
# before: best = 0
best = 1 + scores[0, 1:].argmax()
Image.fromarray(masks[0, best] > 0).save(output)
