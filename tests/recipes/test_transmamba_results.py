"""Tables of the comparison: shares of one round's time, and means with their range."""

import pytest
import torch
from recipe_toys import toy_transmamba

from tandem.plan import flops, transmamba_twins
from tandem.recipes.transmamba_results import _change_line, _speed_lines, _speeds
from tandem.recipes.transmamba_speed import model_for


def test_times_are_shares_of_the_first_model_in_the_same_round():
    models = {"transformer": transmamba_twins(toy_transmamba())["attention"], "v9": toy_transmamba()}
    row = _speeds(models, {"transformer": [100.0, 50.0, 80.0], "v9": [200.0, 50.0, 100.0]}, 128)["v9"]
    assert row["time_relative"] == pytest.approx([0.5, 0.8, 1.0])
    assert row["tokens_per_second_median"] == 100
    with torch.device("meta"):
        assert row["training_flops_per_token"] == flops(model_for(models["v9"], 128), context=128).training
    lines = list(_speed_lines({128: _speeds(models, {"transformer": [100.0], "v9": [80.0]}, 128)}))
    assert lines[0].startswith("| model | tokens/s at 128 | time | FLOPs |")
    assert lines[-1].startswith("| v9 | 80 | 1.25 (1.25–1.25) |")


def test_a_change_is_told_before_and_after():
    change = {
        "before": {"bits_per_byte": [2.0, 3.0], "exact": [0.0, 0.5], "margin": [0.1, 0.3]},
        "after": {"bits_per_byte": [1.0, 1.5], "exact": [0.5, 1.0], "margin": [0.2, 0.2]},
    }
    line = _change_line("mamba", change)
    assert line.startswith(
        "| mamba | 2.500 (2.000–3.000) | 1.250 (1.000–1.500) | 0.25 (0–0.5) | 0.75 (0.5–1) | 0.2 (0.1–0.3) |"
    )
