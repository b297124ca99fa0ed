import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from train_toys import Noise

from tandem.train.randomness import load_random_state, random_state, repeatable, seed_everything


def draw(module: nn.Module):
    # The global NumPy generator is the one that must come back.
    return [random.random(), np.random.rand(), torch.rand(2).tolist(), module(torch.zeros(2)).tolist()]  # noqa: NPY002


def test_every_generator_comes_back(tmp_path: Path):
    module = nn.Sequential(Noise(), nn.Sequential(Noise()))
    torch.save(random_state(module), tmp_path / "state.pt")
    first = [draw(module), draw(module)]
    load_random_state(torch.load(tmp_path / "state.pt", weights_only=True), module)
    again = [draw(module), draw(module)]
    # Python's generator is compared in a process without the type checker, which draws from it.
    assert [row[1:] for row in first] == [row[1:] for row in again]


def test_python_and_seeds():
    program = """
import random, torch
from torch import nn
from tandem.train.randomness import load_random_state, random_state, seed_everything
module = nn.Linear(1, 1)
seed_everything(5)
state = random_state(module)
first = random.random()
load_random_state(state, module)
assert random.random() == first
seed_everything(5)
assert random.random() == first
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_seed_fixes_numpy_and_torch():
    drawn = []
    for seed in (1, 1, 2, 2**40):
        seed_everything(seed)
        drawn.append((np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_repeatable_changes_settings_for_a_gpu_only_and_puts_them_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.enabled
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.enabled
    assert torch.utils.deterministic.fill_uninitialized_memory
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
