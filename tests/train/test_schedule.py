import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from tandem.train import OptimizerConfig, ScheduleConfig, TrainConfig, learning_rate_factor
from tandem.train.schedule import set_learning_rate


def test_warmup_and_cosine_equal_torch():
    warmup, steps, final = 10, 110, 0.1
    config = ScheduleConfig(kind="cosine", warmup_steps=warmup, final_lr=final)
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = SequentialLR(
        optimizer,
        [
            # The reference counts from 0: its step k is ours k + 1.
            LinearLR(optimizer, start_factor=1 / warmup, end_factor=1.0, total_iters=warmup - 1),
            CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=final),
        ],
        milestones=[warmup - 1],
    )
    for step in range(1, steps + 1):
        assert learning_rate_factor(config, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_warmup_stable_decay_in_closed_form():
    config = ScheduleConfig(kind="wsd", warmup_steps=4, decay_fraction=0.2, final_lr=0.05)
    factors = [learning_rate_factor(config, step, 100) for step in range(1, 101)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(factors[3:80]) == {1.0}
    for step in range(81, 101):
        assert factors[step - 1] == pytest.approx(1 - 0.95 * math.sqrt((step - 80) / 20))
    assert factors[-1] == pytest.approx(0.05)


@given(
    kind=st.sampled_from(["cosine", "wsd", "constant"]),
    steps=st.integers(2, 500),
    warmup=st.floats(0, 0.5),
    final=st.floats(0, 1),
)
def test_every_schedule_stays_between_zero_and_the_peak(kind: Any, steps: int, warmup: float, final: float):
    config = ScheduleConfig(kind=kind, warmup_steps=int(warmup * steps), decay_fraction=0.4, final_lr=final)
    factors = [learning_rate_factor(config, step, steps) for step in range(1, steps + 1)]
    rising, rest = factors[: config.warmup_steps], factors[config.warmup_steps :]
    assert all(0 < a < b for a, b in pairwise(rising))
    assert all(final - 1e-12 <= b <= a <= 1 for a, b in pairwise(rest))
    assert factors[-1] == pytest.approx(1.0 if kind == "constant" else final, abs=1e-12)


def test_groups_follow_with_their_factor():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_factor": f} for f in (1.0, 0.31)]
    optimizer = SGD(groups, lr=1.0)
    config = TrainConfig(optimizer=OptimizerConfig(lr=0.2), schedule=ScheduleConfig(warmup_steps=10))
    assert set_learning_rate(optimizer, config, 5) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.031])
