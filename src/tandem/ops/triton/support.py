"""Whether Triton kernels can work on given tensors."""

import functools
import importlib.util
import os

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def triton_for(*tensors: Tensor | None) -> bool:
    """Whether the kernels can work on these: float32 or narrower, on a CUDA GPU, or anywhere under Triton's interpreter.

    `TANDEM_KERNELS=off` switches them off, as it does those of the CPU.
    """
    if not _available():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if any(tensor.dtype not in _DTYPES for tensor in given):
        return False
    return interpreted() or all(tensor.device.type == "cuda" for tensor in given)


@functools.cache
def interpreted() -> bool:
    """Whether Triton runs its kernels in Python on the CPU (TRITON_INTERPRET=1), as the tests do."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _available() -> bool:
    return os.environ.get("TANDEM_KERNELS") != "off" and importlib.util.find_spec("triton") is not None
