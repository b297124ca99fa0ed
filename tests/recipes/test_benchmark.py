"""The arithmetic of a comparison."""

from dataclasses import replace

import pytest
import torch

from tandem.plan import flops
from tandem.recipes.benchmark import SHAPE, Ceiling, Comparison, compare

COMPARISON = Comparison(
    work="decode-16", ours=(2.0, 1.0, 4.0), peer=(1.0, 0.5, 8.0), tokens=(512, 32), peer_precision="float32"
)


def test_ratios_are_of_tokens_a_second_in_each_pair():
    # 512/2 over 32/1, 512/1 over 32/0.5, 512/4 over 32/8.
    assert COMPARISON.ratios == [8, 8, 32]


def test_a_row_has_medians_and_the_range():
    # Medians of the seconds are 2 and 1: 512/2 and 32/1 tokens a second.
    assert COMPARISON.row() == ["decode-16", "256", "32 (float32)", "8.00 (8.00–32.00)"]


def test_shares_are_of_products_or_of_memory():
    ceiling = Ceiling(matmul=100e9, read=50e9, value_bytes=2)
    # 2,048 tokens in 2 s.
    train = replace(COMPARISON, work="train", ours=(2.0,), peer=(2.0,), tokens=(2048, 2048)).share(ceiling)
    operations = flops(SHAPE, lengths=[512]).training
    assert train == f"{1024 * operations / 100e9:.0%} of 100 GFLOP/s"
    # 16 states of 6 layers of 8 × 64 × 128 float32, read and written, and all weights, in 2 s / 32 a step.
    moved = 2 * 16 * 6 * 8 * 64 * 128 * 4 + 2 * 19_586_448
    assert COMPARISON.share(ceiling) == f"{moved / (2 / 32) / 50e9:.0%} of 50 GB/s"


def test_a_measured_ceiling_is_plausible():
    ceiling = Ceiling.measure(torch.float32)
    assert 1e8 < ceiling.matmul < 1e14
    assert 1e8 < ceiling.read < 1e12


def test_no_pairs_are_a_mistake():
    with pytest.raises(ValueError, match="pairs=0 is below 1; use 5 or more"):
        compare("train", pairs=0)


def test_layers_are_compiled_for_training_alone():
    with pytest.raises(ValueError, match="peer_compiled=True is for train, not for decode"):
        compare("decode", peer_compiled=True)
