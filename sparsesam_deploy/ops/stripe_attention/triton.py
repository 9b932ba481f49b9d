"""``stripe_attention`` on a GPU: the same signature as the reference, one kernel for each kind of stripe."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InvalidInput
from ..triton_language import require_launchable
from .kernels.lattice import lattice_attention
from .kernels.listed import listed_attention
from .kernels.window import window_attention
from .stripe import Stripe

HEAD_DIMS = (32, 48, 64, 80, 96, 128)
ALIGNMENT = 16
"""Bytes of one load; the kernels rely on rows that start at a multiple of it."""


def stripe_attention(
    qkv: Tensor, qkv_bias: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, stripe: Stripe, num_heads: int
) -> Tensor:
    """Attend over the stripe, the own tile where ``stripe`` has tiles, and nothing else; see the reference.

    Products are float32 sums of the inputs' type, softmax and bias are float32, probabilities are rounded to the
    inputs' type. Allocates the result and float32 scratch for the position terms, `relative_terms`. Never
    synchronises with the host.

    Raises:
        EnvironmentProblem: Triton is not installed.
        InvalidInput: the tensors are not on a GPU, not contiguous, of mixed dtypes, or of a head_dim without kernel.
    """
    require_launchable(qkv)
    head_dim = qkv.shape[2] // 3 // num_heads
    if head_dim not in HEAD_DIMS:
        raise InvalidInput(f"head_dim {head_dim} has no kernel, only {HEAD_DIMS} have; use backend 'reference'.")
    if not qkv.is_contiguous():
        raise InvalidInput(f"qkv has strides {qkv.stride()}; make it contiguous, as its linear layer writes it.")
    if qkv_bias.dtype != qkv.dtype:
        raise InvalidInput(f"qkv is {qkv.dtype} and its bias {qkv_bias.dtype}; cast the bias to the same dtype.")
    if any(tensor.data_ptr() % ALIGNMENT for tensor in (qkv, qkv_bias)):
        raise InvalidInput(f"qkv or its bias does not start at a multiple of {ALIGNMENT} bytes; clone() the tensor.")
    tensors = qkv, rel_pos_h, rel_pos_w
    with torch.cuda.device_of(qkv):  # Triton launches on the current GPU
        if stripe.lattice_offsets is not None:
            assert stripe.perm is not None and stripe.inv_perm is not None
            return lattice_attention(*tensors, stripe.perm, stripe.inv_perm, stripe.lattice_offsets, num_heads)
        if stripe.members is not None and stripe.keys is None:
            return window_attention(qkv, qkv_bias, *tensors[1:], stripe.members, num_heads)
        return listed_attention(qkv, qkv_bias, *tensors[1:], stripe, num_heads)
