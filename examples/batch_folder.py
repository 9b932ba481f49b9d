"""Encode every photo of a folder, several at once, and keep the embeddings: prompts can then be answered at any time.

    python examples/batch_folder.py engines/built/nano photos embeddings

Writes `embeddings/NAME.npy`, (1, 256, 64, 64) float32, for each photo; `official_client.py` reads such a file. The
batch is the one that the build is made for (`--batch 1,4,8` at `sparsesam-export build`: usually 4).
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sparsesam_deploy import load
from sparsesam_deploy.model.image import preprocess, read_image
from sparsesam_deploy.model.image_files import image_files

folder, photos, output = map(Path, sys.argv[1:])
encoder = load(folder, runtime="onnxruntime", device="cpu")  # load(folder) takes the engine, on a GPU
names = image_files(photos)  # in sub-folders too; raises where there is none
for start in range(0, len(names), encoder.batch.opt):
    batch = names[start : start + encoder.batch.opt]
    images = [preprocess(read_image(photos / name)).tensor for name in batch]
    images += images[-1:] * (encoder.batch.min - len(images))  # the last batch, where the build takes no smaller one
    embeddings = encoder(torch.cat(images))  # of a SAM-HQ model a pair, see `Encoder`
    for name, embedding in zip(batch, embeddings, strict=False):
        path = output / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, embedding[None].cpu().numpy())
    print(f"{start + len(batch)} of {len(names)}")
