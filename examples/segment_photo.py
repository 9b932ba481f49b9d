"""Segment an object in a photo with ONNX Runtime, NumPy and Pillow alone: torch and this package are not imported.

    python examples/segment_photo.py engines/built/nano photo.jpg 305 15 364 71 mask.png

The folder holds `encoder.onnx` and `decoder.onnx`; the numbers are the corners of a box around the object, in pixels.
A SAM-HQ model has a second output of the encoder, `interm_embeddings`, which its decoder takes as well.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

EXTENT, BILINEAR = Image.Transform.EXTENT, Image.Resampling.BILINEAR

folder, path, *box, output = sys.argv[1:]
photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
width, height = (int(side * (1024 / max(photo.size)) + 0.5) for side in photo.size)
pixels = np.asarray(photo.resize((width, height), BILINEAR), np.float32)
mean, std = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
image = np.zeros((1, 3, 1024, 1024), np.float32)  # padded right and below
image[0, :, :height, :width] = ((pixels - mean) / std).transpose(2, 0, 1)

names = (f"{folder}/encoder.onnx", f"{folder}/decoder.onnx")
encoder, decoder = (onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"]) for name in names)
prompt = {
    "image_embeddings": encoder.run(["image_embeddings"], {"image": image})[0],
    "point_coords": np.array(box, np.float32).reshape(1, 2, 2) * np.float32([width, height]) / np.float32(photo.size),
    "point_labels": np.float32([[2, 3]]),  # the upper left and the lower right corner of a box
    "mask_input": np.zeros((1, 1, 256, 256), np.float32),
    "has_mask_input": np.zeros(1, np.float32),
}
masks = decoder.run(["low_res_masks"], prompt)[0]  # (1, 4, 256, 256); the first of the four answers a box

# `resize` would average where it shrinks; SAM interpolates, as `transform` does.
square = Image.fromarray(masks[0, 0]).transform((1024, 1024), EXTENT, (0, 0, 256, 256), BILINEAR)
logits = square.crop((0, 0, width, height)).transform(photo.size, EXTENT, (0, 0, width, height), BILINEAR)
Image.fromarray(np.asarray(logits) > 0).save(output)
