"""Which model is timed when, with a clock that the test moves."""

from itertools import count
from pathlib import Path

import pytest
import torch
from recipe_toys import toy_hybrid

from tandem.data import Packer, open_shards
from tandem.plan import all_attention
from tandem.recipes import speed
from tandem.recipes.speed import training_speeds
from tandem.train import TrainConfig


@pytest.fixture
def packer(shards: Path) -> Packer:
    return Packer(open_shards(shards, "train"), batch_tokens=64, context=32, chunk=8)


def test_models_take_turns_and_tokens_are_divided_by_seconds(packer: Packer, monkeypatch: pytest.MonkeyPatch):
    ticks = count()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(ticks) ** 2))
    models = {"hybrid": toy_hybrid(), "attention": all_attention(toy_hybrid())}
    speeds = training_speeds(models, packer, TrainConfig(), torch.device("cpu"), rounds=2, steps=3)
    # Two warm-ups read the clock at 0, 1, 2, 3; then each model in turn between ticks n and n + 1: n² to (n + 1)².
    assert speeds == {
        "hybrid": (3 * 64 / (25 - 16), 3 * 64 / (81 - 64)),
        "attention": (3 * 64 / (49 - 36), 3 * 64 / (121 - 100)),
    }


def test_steps_train(packer: Packer):
    model = speed.HybridLM(toy_hybrid())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    speed._trainer(model, TrainConfig())(next(packer))
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_rounds(packer: Packer):
    with pytest.raises(ValueError, match="rounds=0 and steps=10 must both be 1 or more"):
        training_speeds({}, packer, TrainConfig(), torch.device("cpu"), rounds=0)
