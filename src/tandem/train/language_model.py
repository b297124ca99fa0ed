"""The language-model task: packed tokens in, nats a token and bits a byte out.

Shapes: T tokens, F feed-forward layers with experts, E experts.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tandem.data import Batch, ValidationBatches
from tandem.nn import Experts, HybridLM, Linear, MixtureOfExperts
from tandem.ops import FixedLayout
from tandem.precision import is_quantized
from tandem.train.config import OptimizerConfig, TrainConfig
from tandem.train.optimizer import param_groups

_FEWEST_DOCUMENTS = 16  # that a held batch has room for: an empty one costs next to nothing


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
        return {**self.values(batch), **self.counts(batch)}

    def values(self, batch: Batch) -> dict[str, Tensor]:
        """`step` without its counts."""
        loss = self._loss(batch)
        values = {"objective": loss.total, "loss": loss.nll_sum / loss.weight_sum, "weight": loss.weight_sum}
        load_FE = loss.aux.expert_load
        if load_FE is None:
            return values
        return {
            **values,
            "balance_loss": loss.aux.balance_loss,
            "busiest_expert": busiest_expert(load_FE),
            "expert_load": load_FE,
        }

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens that are learned from."""
        return {"tokens": int(batch.weights_T.count_nonzero())}

    def after_step(self, values: dict[str, Any]) -> None:
        """Moves selection biases, once a step however many batches it had."""
        if "expert_load" in values:
            self.model.balance(values["expert_load"])

    def matrices(self) -> list[nn.Parameter]:
        """What the layers multiply by; not the head, whose gradient is summed in float32 over blocks of tokens."""
        layers = self.model.layers.modules()
        return [
            parameter
            for layer in layers
            if isinstance(layer, Linear | Experts)
            for name, parameter in layer.named_parameters(recurse=False)
            if name != "bias"
        ]

    def hold(self, batch: Batch) -> Batch | None:
        """The batch on a GPU, with room for other documents.

        None where the CPU has a part in a step: experts with a capacity, and rounded products.
        """
        layers = self.model.layers.modules()
        if is_quantized(self.model) or any(
            isinstance(layer, MixtureOfExperts) and layer.config.capacity_factor is not None for layer in layers
        ):
            return None
        room = max(_FEWEST_DOCUMENTS, 1 << (batch.layout.documents - 1).bit_length())
        layout = FixedLayout.of(batch.layout, room, self._device)
        given = (batch.tokens_T, batch.targets_T, batch.weights_T)
        tokens_T, targets_T, weights_T = (tensor.to(self._device, copy=True) for tensor in given)
        return Batch(tokens_T=tokens_T, targets_T=targets_T, weights_T=weights_T, layout=layout)

    def refill(self, held: Batch, batch: Batch) -> bool:
        """Writes the batch over the one held, if it has as many tokens, and no more documents than there is room for."""
        if len(batch.tokens_T) != len(held.tokens_T) or batch.layout.documents > held.layout.documents:
            return False
        assert isinstance(held.layout, FixedLayout)
        held.layout.refill(batch.layout.lengths)
        for name in ("tokens_T", "targets_T", "weights_T"):
            tensor: Tensor = getattr(batch, name)
            sent = tensor.pin_memory() if self._device.type == "cuda" and not tensor.is_cuda else tensor
            getattr(held, name).copy_(sent, non_blocking=True)
        return True

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
        on_device = self._device.type == "cpu" or isinstance(batch.layout, FixedLayout)
        batch = batch if on_device else batch.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.model.loss(batch.tokens_T, batch.layout, batch.targets_T, batch.weights_T, balance=False)


def busiest_expert(load_FE: Tensor) -> Tensor:
    """Load of the busiest expert relative to an even share, of the worst layer: 1 is balanced, E is collapse."""
    experts_F = load_FE.isfinite().sum(-1)  # a layer with fewer experts than others has NaN in their places
    return (load_FE.nan_to_num().amax(-1) * experts_F).max()
