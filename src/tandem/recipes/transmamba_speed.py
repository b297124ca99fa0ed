"""How fast models train on texts of several lengths, with schedules of TransPoints spread over each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tandem.data import Packer, Source, open_shards
from tandem.nn import ModelConfig
from tandem.recipes.speed import training_speeds
from tandem.train import TrainConfig

Speeds = Mapping[str, Sequence[float]]
"""Tokens a second of each model in each round."""


def speeds_by_length(
    models: Mapping[str, ModelConfig],
    data: Path,
    settings: TrainConfig,
    device: torch.device,
    *,
    lengths: Sequence[int],
    batch_tokens: int,
    rounds: int,
) -> dict[int, Speeds]:
    """Tokens a second of all models in turn, on documents of `data` that are at least as long as each length.

    Args:
        batch_tokens: of a step, at least; one document where the length is above it.
    Raises:
        ValueError: no document of a length.
    """
    speeds: dict[int, Speeds] = {}
    shards = open_shards(data, "train")
    for length in sorted(set(lengths)):
        of_length = {name: model_for(model, length) for name, model in models.items()}
        chunk = next(iter(of_length.values())).chunk
        source = Source(shards=shards, min_length=length)
        packer = Packer([source], batch_tokens=max(batch_tokens, length), context=length, chunk=chunk)
        speeds[length] = training_speeds(of_length, packer, settings, device, rounds=rounds)
    return speeds


def model_for(model: ModelConfig, length: int) -> ModelConfig:
    """The model for texts of a length."""
    longer = model.replace(context=max(model.context, length))
    shape = model.transmamba
    return longer if shape is None or "T" not in model.layers else longer.rescheduled(shape.schedule, length)
