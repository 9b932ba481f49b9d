"""From a torch module to a checked ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from ..errors import EnvironmentProblem
from ..ops import function_body, routed_mlp, stripe_attention
from ..ops.routed_mlp.onnx import function_bodies as routed_mlp_bodies
from ..ops.stripe_attention.onnx import function_bodies as stripe_attention_bodies
from .metadata import DIGEST, content_digest, set_metadata

OPSET = function_body.OPSET
IR_VERSION = 10
MAX_PROTO_BYTES = 2**31 - 2**20
"""Above this, protobuf cannot hold the file and weights go to one file beside it."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
