"""The arithmetic of a row, and what is checked before anything is timed, on a tiny model."""

from dataclasses import replace

import pytest
import torch

from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, MoEConfig
from tandem.recipes.gpu_decoding import Decoding, measure_decoding, random_model, shortfall, step_bytes
from tandem.serve import Sampling, generate_batch

ROW = Decoding(
    batch=32,
    ours=(0.2, 0.4, 0.1),
    first=(0.074, 0.074, 0.074),
    peer=(4.0, 4.0, 1.0),
    same=32,
    behind=0.123,
    step_bytes=3e9,
)
TINY = ModelConfig(
    vocab_size=64,
    width=16,
    pattern="MFAF",
    attention=AttentionConfig(heads=2, kv_heads=1, head_width=8, qk_norm=False, rope=False),
    mamba=MambaConfig(heads=4, head_width=8, state=8, chunk=8),
    ffn=MoEConfig(experts=4, top_k=2, hidden=8),
)


def test_a_row_has_medians_ranges_and_the_share_of_a_copy():
    # 0.2 s less 0.074 s over 63 steps are 2 ms; 32 · 64 tokens in 0.2 s; 3 GB in 2 ms of 3 TB/s.
    assert ROW.cells(3e12) == [
        *("32", "32/32 the same, 0.12 σ behind", "10,240 (5,120–20,480)", "512 (512–2,048)", "10.0 (10.0–20.0)"),
        *("74.0", "2.000", "16,000", "50%"),
    ]
    assert replace(ROW, peer=()).cells(3e12)[3:5] == ["–", "–"]


def test_a_step_moves_the_weights_of_chosen_experts_and_states_both_ways():
    expert, experts = 3 * 16 * 8, 2 * 4
    state, cache = 4 * 8 * 8 * 4, 2 * 8 * 2 * 160
    both = [step_bytes(TINY, batch) for batch in (1, 2)]
    # A token leaves half of all experts out, two tokens a quarter.
    assert both[1] - both[0] == pytest.approx(2 * experts * expert / 4 + 2 * state + cache)


def test_greedy_tokens_are_close_to_the_best_and_others_are_not():
    torch.manual_seed(0)
    model = random_model(TINY, "cpu")
    prompts = [list(range(10)), list(range(20, 30))]
    rows = generate_batch(model, prompts, sampling=Sampling(temperature=0), max_tokens=8)
    assert shortfall(model, prompts, rows) < 0.1
    assert shortfall(model, prompts, [[(token + 9) % 64 for token in row] for row in rows]) > 0.5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_a_remedy():
    with pytest.raises(ValueError, match="run on a machine with an NVIDIA GPU"):
        measure_decoding("cuda")
