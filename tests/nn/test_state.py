"""Slots whose lengths only the device knows, against a decode state."""

import pytest
import torch

from tandem.nn import AttentionConfig, DecodePool, DecodeState, HybridLM, MambaConfig, ModelConfig, MoEConfig

CONFIG = ModelConfig(
    vocab_size=50,
    width=16,
    pattern="MFAF",
    attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
    mamba=MambaConfig(heads=2, head_width=8, state=4, chunk=8),
    ffn=MoEConfig(experts=4, top_k=2, hidden=8),
)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]


@pytest.fixture(scope="module")
def model() -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(CONFIG).double().eval()


def prefilled(model: HybridLM) -> DecodeState:
    state = model.new_state(len(PROMPTS))
    model.hidden(torch.tensor([k for prompt in PROMPTS for k in prompt]), state.layout(list(map(len, PROMPTS))), state)
    return state


def pool_of(model: HybridLM, slots: int, tokens: int, state: DecodeState) -> DecodePool:
    pool = DecodePool.empty(CONFIG, slots, tokens, torch.float64, torch.device("cpu"))
    pool.load(state)
    return pool


@torch.no_grad()
def test_a_step_is_that_of_the_state_and_idle_slots_stay_short(model: HybridLM):
    state = prefilled(model)
    pool = pool_of(model, 4, 64, state)
    assert pool.capacity == 64
    for token in (11, 12):
        want = model.next_logits(torch.tensor([token] * 3), state.layout([1] * 3), state)
        have = model.next_logits(torch.tensor([token] * 4), pool.layout(), pool)
        torch.testing.assert_close(have[:3], want)
    assert pool.lengths_S.tolist() == [5, 3, 7, 0]


@torch.no_grad()
def test_slots_move_and_grow(model: HybridLM):
    state = prefilled(model)
    pool = pool_of(model, 4, 64, state)
    pool.gather([2, 0])
    pool.use([5, 3])
    pool.reserve(100)
    assert pool.capacity >= 100
    assert pool.steps_S.tolist() == [1, 1, 0, 0]
    kept, part = state.select([2, 0]), pool.first(2)
    want = model.next_logits(torch.tensor([11, 12]), kept.layout([1, 1]), kept)
    torch.testing.assert_close(model.next_logits(torch.tensor([11, 12]), part.layout(), part), want)
    assert pool.lengths_S.tolist() == [6, 4, 0, 0]  # the first slots are the same memory


@torch.no_grad()
def test_a_layout_of_something_else_is_refused(model: HybridLM):
    state = prefilled(model)
    pool = pool_of(model, 4, 64, state)
    with pytest.raises(ValueError, match=r"layout is not a step of this pool; use pool\.layout\(\)"):
        model.next_logits(torch.tensor([1] * 3), state.layout([1] * 3), pool)
    with pytest.raises(ValueError, match=r"layout\.starts=.* differ from state\.lengths"):
        model.next_logits(torch.tensor([1] * 4), pool.layout(), state)
