"""How fast models train on texts of several lengths, with schedules of TransPoints spread over each."""

from collections.abc import Mapping, Sequence

import torch

from tandem.data import Packer, Source, open_shards
from tandem.nn import ModelConfig
from tandem.recipes.pretrain import PretrainConfig
from tandem.recipes.speed import training_speeds

Speeds = Mapping[str, Sequence[float]]
"""Tokens a second of each model in each round."""


def speeds_by_length(
    models: Mapping[str, ModelConfig],
    training: PretrainConfig,
    device: torch.device,
    *,
    longer: Sequence[int],
    rounds: int,
) -> dict[int, Speeds]:
    """Tokens a second of all models in turn: on the batches of a training, then on texts of other lengths.

    Args:
        training: its batches are those measured at its context.
        longer: lengths at which a batch is whole texts of the first directory of data; one text where that is more than
            the tokens of a batch.
    Raises:
        ValueError: no document of a length.
    """
    shards = [open_shards(directory, "train") for directory in training.data]
    mixture = [Source(shards=each, weight=weight) for each, weight in zip(shards, training.weights, strict=True)]
    speeds: dict[int, Speeds] = {}
    for length in dict.fromkeys((training.context, *longer)):
        of_length = {name: model_for(model, length) for name, model in models.items()}
        packer = Packer(
            mixture if length == training.context else [Source(shards=shards[0], min_length=length)],
            batch_tokens=max(training.batch_tokens, length),
            context=length,
            chunk=next(iter(of_length.values())).chunk,
        )
        speeds[length] = training_speeds(of_length, packer, training.train, device, rounds=rounds)
    return speeds


def model_for(model: ModelConfig, length: int) -> ModelConfig:
    """The model for texts of a length."""
    longer = model.replace(context=max(model.context, length))
    shape = model.transmamba
    return longer if shape is None or "T" not in model.layers else longer.rescheduled(shape.schedule, length)
