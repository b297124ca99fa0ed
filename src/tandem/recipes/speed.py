"""How fast models train, one against the other: whole training steps in turn, on the same batches."""

import time
from collections.abc import Callable, Mapping

import torch

from tandem.data import Batch, Packer
from tandem.nn import HybridLM, ModelConfig
from tandem.train import LanguageModelTask, TrainConfig, build_optimizer, repeatable

_WARM_UP = 5


def training_speeds(
    models: Mapping[str, ModelConfig],
    data: Packer,
    config: TrainConfig,
    device: torch.device,
    *,
    rounds: int = 7,
    steps: int = 10,
) -> dict[str, tuple[float, ...]]:
    """Tokens a second of each model in each round; a round times `steps` steps of one model after the other.

    A step is forward, backward, clipping and AdamW, in the number format of `config`. As the machine's speed drifts, only
    numbers of one round should be divided by one another.

    Raises:
        ValueError: fewer than one round or step.
    """
    if rounds < 1 or steps < 1:
        raise ValueError(f"rounds={rounds} and steps={steps} must both be 1 or more")
    with repeatable(device):
        step_of = {name: _trainer(HybridLM(model).to(device), config) for name, model in models.items()}
        batches = [next(data) for _ in range(steps)]
        for step in step_of.values():
            _seconds(step, batches[:_WARM_UP], device)
        tokens = steps * data.batch_tokens
        speeds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(rounds):
            for name, step in step_of.items():
                speeds[name].append(tokens / _seconds(step, batches, device))
    return {name: tuple(values) for name, values in speeds.items()}


def _trainer(model: HybridLM, config: TrainConfig) -> Callable[[Batch], None]:
    task = LanguageModelTask(model.train(), config)
    optimizer = build_optimizer(task.param_groups(config.optimizer), config.optimizer)

    def step(batch: Batch) -> None:
        task.step(batch)["objective"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()

    return step


def _seconds(step: Callable[[Batch], None], batches: list[Batch], device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    for batch in batches:
        step(batch)
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    """A GPU is given work ahead of time; the clock stops when it has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
