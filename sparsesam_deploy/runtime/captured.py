"""`CapturedEncoder`: a torch encoder without a build folder as CUDA graphs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..model.encoder import SparseSamEncoder
from .encoder import check_sizes
from .gpu_call import GpuCall
from .torch_runtime import TorchRuntime


class CapturedEncoder:
    """``encoder`` as CUDA graphs: what ``load(folder, "torch", "cuda", cuda_graph=True)`` makes of a build folder.

    The first call of each batch size records a graph, later ones replay it. Calls may come from any thread and any
    stream: they take turns, in host order, and a call returns at once, its result ready in the caller's stream and in
    memory of the caller's own. An image on the host is copied through pinned memory and may be written over at once.
    Up to 32 `CapturedEncoder` run side by side, of one encoder too: each has a stream of its own, so that they share no
    workspace of cuBLAS. Weights are read where they are at each replay; moving or casting the encoder afterwards is not
    seen.

    Args:
        encoder: with all parameters on one GPU.

    Raises:
        InvalidInput: the encoder is not on a GPU.

    Attributes:
        device: where results are made.
    """

    def __init__(self, encoder: SparseSamEncoder) -> None:
        runtime = TorchRuntime(encoder)
        self.device = runtime.device
        if self.device.type != "cuda":
            raise InvalidInput(f"the encoder is on {self.device}; a CUDA graph needs it on a GPU: encoder.cuda().")
        self._run = GpuCall(runtime, cuda_graph=True)

    def __call__(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Encode.

        Args:
            image: (B, 3, 1024, 1024), normalised and padded; any device and floating-point dtype.

        Returns:
            Image embeddings (B, 256, 64, 64), for SAM-HQ a pair of them and the outputs of the global blocks
            (num_global, B, 64, 64, C); float32, on `device`. Convolutions are not in TF32, whatever torch is set to.

        Raises:
            InvalidInput: another shape.
        """
        check_sizes(tuple(image.shape))
        # Not inference_mode, not even the caller's: memory that a graph's first call makes is written by later ones.
        with torch.inference_mode(False), torch.no_grad():
            image = image.detach().to(self.device if image.is_cuda else image.device, torch.float32)
            embeddings, *interm = self._run(image.contiguous())
        return (embeddings, interm[0]) if interm else embeddings
