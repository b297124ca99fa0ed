"""Whether Triton kernels can work on given tensors."""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Read once: neither changes in a process, and torch.compile cannot follow a search for a module.
_available = os.environ.get("TANDEM_KERNELS") != "off" and importlib.util.find_spec("triton") is not None
_interpreted = os.environ.get("TRITON_INTERPRET") == "1"


def triton_for(*tensors: Tensor | None) -> bool:
    """Whether the kernels can work on these: float32 or narrower, on a CUDA GPU, or anywhere under Triton's interpreter.

    `TANDEM_KERNELS=off` switches them off, as it does those of the CPU.
    """
    if not _available:
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if any(tensor.dtype not in _DTYPES for tensor in given):
        return False
    return interpreted() or all(tensor.device.type == "cuda" for tensor in given)


def interpreted() -> bool:
    """Whether Triton runs its kernels in Python on the CPU (TRITON_INTERPRET=1), as the tests do."""
    return _interpreted


@contextmanager
def without_triton() -> Iterator[None]:
    """PyTorch's forms run inside, so that they can be measured against the kernels."""
    global _available  # noqa: PLW0603 # a switch of the process, like the variable
    before, _available = _available, False
    try:
        yield
    finally:
        _available = before


def opaque(
    fake: Callable[..., Any], mutates: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function that launches kernels an operator to torch.compile, `tandem::` and its name, with `fake` for shapes.

    Outside a compiled region it is called as it is: an operator's dispatch takes the CPU longer than the launch.
    """

    def decorate(launch: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(launch)
        def launch_there(*given: Any) -> Any:
            tensor = given[0]
            if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
                return launch(*given)
            with torch.cuda.device_of(tensor):  # Triton launches on the current device, wherever the tensors lie
                return launch(*given)

        operator = torch.library.custom_op(f"tandem::{launch.__name__.strip('_')}", launch_there, mutates_args=mutates)
        operator.register_fake(fake)

        @functools.wraps(launch)
        def call(*given: Any) -> Any:
            return operator(*given) if torch.compiler.is_compiling() else launch_there(*given)

        return call

    return decorate


def ceil_div(count: int, size: int) -> int:
    """Blocks of `size` that hold `count`."""
    return -(-count // size)


def power_of_two(count: int) -> int:
    """The smallest power of two that is not below `count`: widths of tiles are powers of two."""
    return 1 << (count - 1).bit_length()
