"""AdamW, and which parameters it decays and at what rate."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tandem.train.config import OptimizerConfig

# Matrices by shape alone would miss a two-dimensional per-head A_log or D.
_NEVER_DECAYED = re.compile(r"(^|\.)(A_log|dt_bias|D|bias)$|norm")
_ROUTED_EXPERTS = re.compile(r"(^|\.)experts\.")


def param_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Splits trainable parameters into decayed, not decayed, and routed experts at their own rate.

    Not decayed: fewer than two dimensions, norms, biases, `A_log`, `dt_bias`, `D`. Routed experts are the parameters
    below a module named `experts`. Empty groups are left out; the order of parameters is that of the module.
    """
    groups: dict[str, list[Tensor]] = {"matrices": [], "experts": [], "not decayed": []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[_group_of(name, parameter)].append(parameter)
    decay = {"matrices": config.weight_decay, "experts": config.weight_decay, "not decayed": 0.0}
    factor = {"experts": config.expert_lr_factor}
    return [
        {"name": name, "params": params, "weight_decay": decay[name], "lr_factor": factor.get(name, 1.0)}
        for name, params in groups.items()
        if params
    ]


def _group_of(name: str, parameter: Tensor) -> str:
    if parameter.ndim < 2 or _NEVER_DECAYED.search(name):
        return "not decayed"
    return "experts" if _ROUTED_EXPERTS.search(name) else "matrices"


def build_optimizer(groups: Sequence[dict[str, Any]], config: OptimizerConfig) -> AdamW:
    """AdamW over `groups`, in its fused form.

    Fused is also the fastest on a CPU: 14 ms a step against 76 ms (foreach) and 51 ms (plain loop) for 19.9M
    parameters in 78 tensors, medians of 15 interleaved steps, one thread of a Xeon with AVX-512, torch 2.13.
    """
    return AdamW(list(groups), lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None, weight: float = 1.0) -> float:
    """Divides gradients by `weight`, scales them so that their norm is at most `limit`, and returns the norm before.

    A norm that is not finite is returned as it is; the gradients are then of no use and the step must be left out.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if weight != 1.0:
        for gradient in gradients:
            gradient.div_(weight)
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)
