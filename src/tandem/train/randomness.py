"""All sources of chance that a run draws from, as one value that can be saved and put back."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state(module: nn.Module) -> dict[str, Any]:
    """The state of every generator: the global ones, and those of modules that have `generator_state()`.

    The dict holds only what `torch.load(weights_only=True)` accepts.
    """
    # The global NumPy generator is saved because a task may call code that still draws from it.
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "modules": {name: owner.generator_state() for name, owner in _owners(module).items()},
    }


def load_random_state(state: dict[str, Any], module: nn.Module) -> None:
    """Puts every generator back to where `random_state` found it."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    # A run may go on with fewer GPUs than it was saved with, or on none.
    for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)
    for name, owner in _owners(module).items():
        if name in state["modules"]:
            owner.load_generator_state(state["modules"][name])


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, sums on a GPU are made in an order that is the same every time, so that equal runs end with equal bits.

    cuDNN is switched off: it plans anew for every new shape, and the shape of a packed batch depends on its documents.
    PyTorch's own kernel of the short convolution needs no plan.
    On a CPU PyTorch keeps its order by itself, given the number of threads.
    """
    if device.type == "cpu":
        yield
        return
    settings: Any = torch.utils.deterministic  # a module whose one setting the type checker does not see
    before, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    # cuBLAS keeps its order only with workspaces of a fixed size, read when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Every new tensor would be filled with NaN, a kernel each, to show reads that ours do not make.
    settings.fill_uninitialized_memory = False
    try:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


def _owners(module: nn.Module) -> dict[str, Any]:
    return {
        name: part
        for name, part in module.named_modules()
        if hasattr(part, "generator_state") and hasattr(part, "load_generator_state")
    }
