"""Speeds at several lengths: which models, and which texts, are timed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import toy_hybrid, toy_transmamba

from tandem.data import Packer
from tandem.nn import ModelConfig, preset
from tandem.recipes import transmamba_speed
from tandem.recipes.pretrain import PretrainConfig
from tandem.recipes.transmamba_speed import model_for, speeds_by_length
from tandem.train import TrainConfig


@pytest.fixture
def training(tmp_path: Path, shards: Path) -> PretrainConfig:
    train = TrainConfig(steps=200)
    return PretrainConfig(
        run_dir=tmp_path, data=(shards, shards), weights=(3, 1), context=16, batch_tokens=64, train=train
    )


def test_named_schedules_are_spread_over_the_length():
    v9 = preset("transmamba-nano")
    assert model_for(v9, 1024).transpoints == tuple(2 * point for point in v9.transpoints)
    assert model_for(v9, 1024).context == 1024
    assert model_for(v9, 64).context == 512
    assert model_for(preset("nano"), 4096).context == 4096


def test_batches_are_those_of_the_training_and_then_whole_texts(
    training: PretrainConfig, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[Packer, Mapping[str, ModelConfig]]] = []

    def record(models: Mapping[str, ModelConfig], data: Packer, *_: Any, rounds: int) -> dict[str, tuple[float, ...]]:
        seen.append((data, models))
        return dict.fromkeys(models, (1.0,) * rounds)

    monkeypatch.setattr(transmamba_speed, "training_speeds", record)
    models = {"t": toy_transmamba(), "h": toy_hybrid()}
    speeds = speeds_by_length(models, training, torch.device("cpu"), longer=(40, 100), rounds=2)
    assert {length: set(of) for length, of in speeds.items()} == {length: {"t", "h"} for length in (16, 40, 100)}
    (first, _), (second, _), (third, longest) = seen
    assert [source.weight for source in first.sources] == [3, 1]
    assert (first.context, first.batch_tokens) == (16, 64)
    assert (second.context, second.batch_tokens) == (40, 64)
    assert (third.context, third.batch_tokens) == (100, 100)
    assert next(third).layout.lengths == (100,)
    assert longest["t"].context == 100


def test_real_steps_are_timed(training: PretrainConfig):
    speeds = speeds_by_length({"t": toy_transmamba()}, training, torch.device("cpu"), longer=(), rounds=2)
    assert len(speeds[16]["t"]) == 2
    assert min(speeds[16]["t"]) > 0


def test_a_length_that_no_text_has(training: PretrainConfig):
    with pytest.raises(ValueError, match="has no document within its bounds"):
        speeds_by_length({"t": toy_transmamba()}, training, torch.device("cpu"), longer=(5000,), rounds=1)
