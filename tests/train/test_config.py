import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tandem.train import OptimizerConfig, ScheduleConfig, SpikeConfig, TrainConfig


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OptimizerConfig(lr=0.0), "train.optimizer.lr=0.0 is not above 0; try 1e-3"),
        (lambda: OptimizerConfig(lr=float("inf")), "train.optimizer.lr=inf leaves no weight finite; try 1e-3"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), "train.optimizer.betas=(0.9, 1.0) must both lie in [0, 1)"),
        (lambda: OptimizerConfig(weight_decay=-1.0), "train.optimizer.weight_decay=-1.0 is below 0"),
        (lambda: OptimizerConfig(eps=0.0), "train.optimizer.eps=0.0 is not above 0"),
        (lambda: OptimizerConfig(expert_lr_factor=0.0), "train.optimizer.expert_lr_factor=0.0 is not above 0"),
        (lambda: ScheduleConfig(warmup_steps=-1), "train.schedule.warmup_steps=-1 is below 0"),
        (lambda: ScheduleConfig(decay_fraction=0.0), "train.schedule.decay_fraction=0.0 is not in (0, 1]"),
        (lambda: ScheduleConfig(final_lr=2.0), "train.schedule.final_lr=2.0 is not in [0, 1]"),
        (lambda: SpikeConfig(grad_norm=1.0), "train.skip.grad_norm=1.0 is not above 1"),
        (lambda: SpikeConfig(loss=0.5), "train.skip.loss=0.5 is not above 1"),
        (lambda: SpikeConfig(window=1), "train.skip.window=1 is below 4"),
        (lambda: SpikeConfig(max_consecutive=0), "train.skip.max_consecutive=0 is below 1"),
        (lambda: TrainConfig(steps=0), "train.steps=0 is below 1"),
        (lambda: TrainConfig(keep_checkpoints=0), "train.keep_checkpoints=0 is below 1"),
        (lambda: TrainConfig(clip_norm=0.0), "train.clip_norm=0.0 is not above 0"),
        (lambda: TrainConfig(seed=-1), "train.seed=-1 is below 0"),
        (lambda: TrainConfig(seed=2**63), "train.seed=9223372036854775808 is 2**63 or more; use a smaller one"),
        (lambda: TrainConfig(validate_every=-1), "train.validate_every=-1 is below 0"),
        (lambda: TrainConfig(max_seconds=0.0), "train.max_seconds=0.0 is not above 0"),
        (
            lambda: TrainConfig(steps=50),
            "train.schedule.warmup_steps=100 leaves nothing of train.steps=50; use at most",
        ),
        (
            lambda: TrainConfig(steps=200, schedule=ScheduleConfig(kind="wsd", decay_fraction=0.6)),
            "train.schedule.decay_fraction=0.6 of train.steps=200 overlaps train.schedule.warmup_steps=100; use at "
            "most 0.5",
        ),
    ],
)
def test_a_wrong_value_is_one_line(build: Callable[[], Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_a_wrong_choice_is_one_line():
    """In a process of its own: here the type checker would refuse it first."""
    program = """
from tandem.train import ScheduleConfig, TrainConfig
for build in (
    lambda: ScheduleConfig(kind="linear"),
    lambda: TrainConfig(precision="fp8"),
    lambda: TrainConfig(compile="yes"),
):
    try:
        build()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "train.schedule.kind='linear' is not known; use cosine, wsd or constant",
        "train.precision='fp8' is not known; use float32 or bfloat16",
        "train.compile='yes' is not known; use auto or on or off",
    ]
