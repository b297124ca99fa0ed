"""The language-model task: packed tokens in, nats a token and bits a byte out.

Shapes: T tokens, F feed-forward layers with experts, E experts.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tandem.data import Batch, ValidationBatches
from tandem.nn import HybridLM
from tandem.train.config import OptimizerConfig, TrainConfig
from tandem.train.optimizer import param_groups


class LanguageModelTask:
    """Next-token prediction with a `HybridLM`.

    Args:
        model: trained in place, on the device it is on.
        config: its `precision` decides the number format of the forward pass.
        validation: held-out text; without it nothing is validated.
    """

    def __init__(self, model: HybridLM, config: TrainConfig, validation: ValidationBatches | None = None) -> None:
        self.model = model
        self.config = config
        self.validation = validation
        self._device = next(model.parameters()).device

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    def param_groups(self, config: OptimizerConfig) -> list[dict[str, Any]]:
        """Matrices, routed experts and what is not decayed."""
        return param_groups(self.model, config)

    def step(self, batch: Batch) -> dict[str, Any]:
        """One forward pass; `loss` is nats a token, and the objective adds the experts' balance loss to it."""
        loss = self._loss(batch)
        values = {
            "objective": loss.total,
            "loss": loss.nll_sum / loss.weight_sum,
            "weight": loss.weight_sum,
            "tokens": int(batch.weights_T.count_nonzero()),
        }
        load_FE = loss.aux.expert_load
        if load_FE is None:
            return values
        return {
            **values,
            "balance_loss": loss.aux.balance_loss,
            "busiest_expert": busiest_expert(load_FE),
            "expert_load": load_FE,
        }

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Loss in nats a token and bits a byte over all of the held-out text; empty without one."""
        if self.validation is None:
            return {}
        self.model.eval()
        nats = tokens = 0.0
        for batch in self.validation:
            loss = self._loss(batch)
            nats += float(loss.nll_sum)
            tokens += float(loss.weight_sum)
        self.model.train()
        bits = nats / math.log(2)
        return {"loss": nats / tokens, "bits_per_byte": bits / self.validation.bytes, "tokens": int(tokens)}

    def _loss(self, batch: Batch) -> Any:
        batch = batch if self._device.type == "cpu" else batch.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.model.loss(batch.tokens_T, batch.layout, batch.targets_T, batch.weights_T)


def busiest_expert(load_FE: Tensor) -> Tensor:
    """Load of the busiest expert relative to an even share, of the worst layer: 1 is balanced, E is collapse."""
    return load_FE.max() * load_FE.shape[-1] / load_FE.sum(-1).mean()
