"""Triton, or where it is not installed a stand-in that lets kernels be defined and refuses to launch them.

``TRITON_INTERPRET=1``, set before the first import, makes kernels run on the CPU.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..errors import InvalidInput
from ..optional import not_installed

COUNT = re.compile(r"num_\w+|\w+_(step|stride)|grid_size")
"""What kernels call their integer arguments."""

try:
    import triton
    import triton.language as tl

    jit = triton.jit
    INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
except ImportError:
    triton = tl = INTERPRETED = None

    class _Unavailable:
        """A kernel without Triton: it can be imported, not launched."""

        def __init__(self, function: Callable[..., Any]) -> None:
            self.__name__, self.__doc__ = function.__name__, function.__doc__

        def __getitem__(self, grid: Any) -> None:
            require_triton()

    jit = _Unavailable


def kernel(function: Callable[..., Any]) -> Any:
    """`jit` for what is launched: compiled once for all values of its integers, as it is ahead of time.

    Triton would compile it anew for a 1 and for a multiple of 16, with other registers than those we have checked.
    """
    if triton is None:
        return jit(function)
    return jit(
        function, do_not_specialize=[name for name in inspect.signature(function).parameters if COUNT.fullmatch(name)]
    )


def require_triton() -> None:
    """Raise EnvironmentProblem where Triton is not installed."""
    if triton is None:
        raise not_installed("backend 'triton'", ["triton"], "triton", ", or use backend 'reference'")


@jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """a @ b + acc in float32; ``PRECISION`` matters for float32 inputs alone."""
    if INTERPRETED:  # the interpreter of Triton 3.9 multiplies the bit patterns of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


def require_launchable(x: Tensor) -> None:
    """Raise where kernels cannot run on the device of ``x``."""
    require_triton()
    if not (x.is_cuda or INTERPRETED.value):
        raise InvalidInput(
            f"backend 'triton' was given a tensor on {x.device}; move model and input to a GPU, use backend "
            "'reference', or set TRITON_INTERPRET=1 before the program starts to run kernels slowly on the CPU."
        )
