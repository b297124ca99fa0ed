"""A task and a stream that satisfy the loop's protocols and use every kind of random state."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.train import OptimizerConfig, ScheduleConfig, SpikeConfig, TrainConfig, param_groups


class Stream:
    """Batches of one generator; `edit` may change or refuse the batch of a given index."""

    def __init__(
        self,
        *,
        size: int = 8,
        width: int = 16,
        limit: int | None = None,
        edit: Callable[[int, Tensor], Tensor] | None = None,
    ):
        self.generator = torch.Generator().manual_seed(7)
        self.count, self.size, self.width, self.limit, self.edit = 0, size, width, limit, edit

    def __iter__(self):
        return self

    def __next__(self):
        if self.limit is not None and self.count >= self.limit:
            raise StopIteration
        x_BD = torch.randn(self.size, self.width, generator=self.generator)
        self.count += 1
        return self.edit(self.count, x_BD) if self.edit else x_BD

    def state_dict(self):
        return {"count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Any):
        self.count = state["count"]
        self.generator.set_state(state["generator"])


class Noise(nn.Module):
    """Owns a generator, as a router that recycles overflow at random does."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.calls = 0

    def forward(self, x: Tensor):
        self.calls += 1
        return x + 0.1 * torch.randn(x.shape, generator=self.generator)

    def generator_state(self):
        return self.generator.get_state()

    def load_generator_state(self, state: Any):
        self.generator.set_state(state)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state: Any):
        self.calls = state["calls"]


class Regression:
    """Learns y = sum(x) through a tied layer, drawing from NumPy's, torch's and the module's generators.

    From Python's too when `python`: not in the tests' own process, where the type checker draws from it as well.
    """

    def __init__(self, width: int = 16, *, noisy: bool = True, python: bool = False):
        torch.manual_seed(0)
        first, last = nn.Linear(width, width), nn.Linear(width, width)
        last.weight = first.weight
        self.noisy, self.python = noisy, python
        self.network = nn.Sequential(first, nn.LayerNorm(width), nn.GELU(), last, Noise(), nn.Linear(width, 1))

    @property
    def module(self):
        return self.network

    def param_groups(self, config: OptimizerConfig):
        return param_groups(self.network, config)

    def step(self, batch: Tensor):
        if self.noisy:
            batch = batch + 0.1 * torch.randn(batch.shape) + 0.1 * np.random.rand()  # noqa: NPY002 - the global one is meant
        if self.python:
            batch = batch + 0.1 * random.random()
        layers = self.network if self.noisy else [part for part in self.network if not isinstance(part, Noise)]
        y = batch
        for layer in layers:
            y = layer(y)
        loss = (y - batch.sum(-1, keepdim=True)).square().mean()
        return {"loss": loss, "weight": float(len(batch)), "tokens": len(batch), "load": torch.ones(2, 3) / 3}

    def validate(self):
        return {"loss": 1.5, "bits_per_byte": 2.0}


def config(**changes: Any):
    defaults = {
        "steps": 20,
        "optimizer": OptimizerConfig(lr=1e-2),
        "schedule": ScheduleConfig(warmup_steps=2),
        "skip": SpikeConfig(grad_norm=None),
        "checkpoint_every": 5,
        "log_every": 1,
        "validate_every": 10,
        "compile": "off",
    }
    return TrainConfig(**{**defaults, **changes})


def parameters(task: Regression):
    return [parameter.detach().clone() for parameter in task.module.parameters()]
