"""The benchmark of TransMamba layers: every token is somewhere once, and rounds are added up as rounds."""

import pytest
import torch

from tandem.nn import DenseConfig, ModelConfig, TransMambaConfig, preset
from tandem.recipes.switching import SwitchRow, _layers, measure_switching, total_ratios

SMALL = ModelConfig(
    vocab_size=16,
    width=16,
    pattern="TF",
    transmamba=TransMambaConfig(heads=2, groups=2, head_width=8, state=8, chunk=8),
    ffn=DenseConfig(hidden=8),
)


def test_a_row_for_each_transpoint_and_nothing_where_there_are_no_tokens():
    rows = measure_switching(SMALL, length=64, rounds=2)
    assert [row.transpoint for row in rows] == [0, 1, 2, 4, 8, 16, 32, 64]
    assert all(len(row.ours) == 2 and min(row.ours) > 0 for row in rows)
    assert max(rows[0].attention) < min(rows[0].mamba)
    assert max(rows[-1].mamba) < min(rows[-1].attention)


def test_the_two_layers_have_the_widths_of_the_one():
    shape = preset("transmamba-400m").transmamba
    assert shape is not None
    with torch.device("meta"):
        trans, attention, mamba = _layers(preset("transmamba-400m"), shape, 5)
    assert trans.into.weight.shape == mamba.into.weight.shape
    assert attention.qkv.weight.shape[0] == 3 * 16 * 128
    assert attention.out.weight.shape == trans.out.weight.shape == mamba.out.weight.shape


def test_totals_are_sums_of_a_round():
    rows = [
        SwitchRow(transpoint=0, ours=(2.0, 3.0), attention=(0.0, 0.0), mamba=(2.0, 2.0)),
        SwitchRow(transpoint=8, ours=(4.0, 9.0), attention=(1.0, 3.0), mamba=(1.0, 1.0)),
    ]
    assert rows[1].ratios == [2.0, 2.25]
    assert total_ratios(rows) == [1.5, 2.0]


@pytest.mark.parametrize(
    ("config", "length", "rounds", "message"),
    [
        (preset("nano"), 64, 1, "has no T layers; use a model with some"),
        (SMALL, 63, 1, "length=63 and rounds=1 must be 64 or more"),
        (SMALL, 64, 0, "and rounds=0 must be"),
    ],
)
def test_mistakes_are_named(config: ModelConfig, length: int, rounds: int, message: str):
    with pytest.raises(ValueError, match=message):
        measure_switching(config, length=length, rounds=rounds)
