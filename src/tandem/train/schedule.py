"""Learning-rate schedules: pure functions of the step, so that a resumed run follows the same curve."""

import math

from torch.optim import Optimizer

from tandem.train.config import ScheduleConfig, TrainConfig


def learning_rate_factor(config: ScheduleConfig, step: int, steps: int) -> float:
    """The share of the peak learning rate at one optimizer step.

    With W warm-up steps, final fraction f and N steps, for step s in 1 … N:

        warm-up    s / W                                    s ≤ W, all kinds
        cosine     f + (1 - f) (1 + cos πp) / 2             p = (s - W) / (N - W)
        wsd        1 - (1 - f) √p                           p = max(0, 1 - (N - s) / (decay_fraction · N))
        constant   1

    The square root is the decay that Hägele et al. (2024, arXiv 2405.18392 §4) found best.

    >>> learning_rate_factor(ScheduleConfig(kind="cosine", warmup_steps=10, final_lr=0.1), 10, 110)
    1.0
    """
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    if config.kind == "cosine":
        share = (step - config.warmup_steps) / (steps - config.warmup_steps)
        return config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * share)) / 2
    if config.kind == "wsd":
        share = max(0.0, 1 - (steps - step) / (config.decay_fraction * steps))
        return 1 - (1 - config.final_lr) * math.sqrt(share)
    return 1.0


def set_learning_rate(optimizer: Optimizer, config: TrainConfig, step: int) -> float:
    """Sets every group's rate for `step`, scaled by the group's `lr_factor`, and returns the unscaled one."""
    rate = config.optimizer.lr * learning_rate_factor(config.schedule, step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)
    return rate
