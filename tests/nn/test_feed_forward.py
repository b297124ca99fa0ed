"""Routing: capacity with recycling, the printed balance loss, the selection bias."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    HybridLM,
    MambaConfig,
    MixtureOfExperts,
    ModelConfig,
    MoEConfig,
    SequenceLayout,
    TransMambaConfig,
    recycle,
)


@given(tokens=st.integers(1, 40), experts=st.integers(2, 8), seed=st.integers(0, 999))
def test_recycling_fills_no_expert_beyond_capacity_and_moves_only_overflow(tokens: int, experts: int, seed: int):
    torch.manual_seed(seed)
    skew = torch.rand(tokens, experts) + torch.arange(experts) * 0.3
    chosen_TK = skew.topk(2).indices
    capacity = -(-3 * 2 * tokens // (2 * experts))
    got_TK = recycle(chosen_TK, experts, capacity, torch.Generator().manual_seed(seed))
    before, after = (torch.bincount(c.flatten(), minlength=experts) for c in (chosen_TK, got_TK))
    assert after.max() <= capacity
    assert (got_TK != chosen_TK).sum() >= (before - capacity).clamp(min=0).sum()
    if before.max() <= capacity:
        assert torch.equal(got_TK, chosen_TK)


@given(tokens=st.integers(1, 12), experts=st.integers(2, 6), choices=st.integers(1, 3), seed=st.integers(0, 999))
def test_recycling_serves_first_choices_first_and_gives_no_token_an_expert_twice_if_it_can(
    tokens: int, experts: int, choices: int, seed: int
):
    torch.manual_seed(seed)
    choices = min(choices, experts)
    chosen_TK = (torch.rand(tokens, experts) + torch.arange(experts) * 0.3).topk(choices).indices
    capacity = -(-tokens * choices // experts)
    got = recycle(chosen_TK, experts, capacity, torch.Generator().manual_seed(seed)).tolist()
    served, moved = Counter[int](), []
    for slot, token in product(range(choices), range(tokens)):
        expert = int(chosen_TK[token, slot])
        served[expert] += 1
        if served[expert] <= capacity:
            assert got[token][slot] == expert
        else:
            moved.append((token, slot))
    others = {(token, slot): got[token][:slot] + got[token][slot + 1 :] for token, slot in moved}
    load = Counter(expert for row in got for expert in row)
    for place in moved:
        mine = got[place[0]][place[1]]
        if mine in others[place]:  # then neither a free expert nor an exchange with another move helps
            assert not [e for e in range(experts) if load[e] < capacity and e not in others[place]]
            assert not [at for at in moved if got[at[0]][at[1]] not in others[place] and mine not in others[at]]


def test_every_weight_is_drawn(monkeypatch: pytest.MonkeyPatch):
    """Memory that was not written to may hold anything; here it holds no numbers. Outputs into the stream are smaller."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: empty(*shape, **options).fill_(math.nan))
    moe = MoEConfig(experts=4, top_k=2, hidden=128, latent=64, bias=True, selection_bias=True)
    dense = DenseConfig(hidden=128, bias=True)
    model = HybridLM(ModelConfig(vocab_size=64, width=96, pattern="FE" * 8, ffn=moe, experts=dense))
    mixers = ModelConfig(
        vocab_size=64,
        width=96,
        pattern="AMT",
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=16, bias=True, out_bias=True),
        mamba=MambaConfig(heads=2, head_width=16, state=16, bias=True),
        transmamba=TransMambaConfig(heads=2, head_width=16, state=16, bias=True),
        tie_embeddings=False,
    )
    for tensor in (*model.state_dict().values(), *HybridLM(mixers).state_dict().values()):
        assert tensor.isfinite().all()
    for name, tensor in model.named_parameters():
        if tensor.ndim < 2:
            continue
        inputs = tensor.shape[1] if tensor.ndim == 3 or "embedding" not in name else 96
        into_stream = name.endswith(("mixer.down.weight", "shared.down.weight", "down_EFD"))
        want = inputs**-0.5 * (0.25 if into_stream else 0.1 if "island" in name else 1)
        assert tensor.std().item() == pytest.approx(want, rel=0.15), name


def mixture(**changes: object) -> MixtureOfExperts:
    torch.manual_seed(0)
    layer = MixtureOfExperts(MoEConfig(experts=4, top_k=2, hidden=8, **changes), 16)
    layer.init_weights(1.0)
    return layer


def test_the_fast_path_is_taken_only_where_it_is_right():
    plain = mixture(shared_hidden=24)
    assert plain.is_plain
    options = {"activation": "relu2", "bias": True, "scores": "sigmoid", "renormalize": False, "routed_scale": 2.0}
    for name, value in {**options, "expert_groups": 2, "latent": 8}.items():
        assert not mixture(**{name: value}).is_plain, name


def test_balance_loss_is_the_printed_formula():
    layer, x_TD = mixture(), torch.randn(50, 16)
    _, routing = layer(x_TD, SequenceLayout.from_lengths([50]))
    p_E = torch.softmax(x_TD @ layer.island.weight.t(), -1).mean(0)
    f_E = torch.stack([(routing.expert_TK == e).any(1).float().mean() for e in range(4)])
    torch.testing.assert_close(routing.balance_loss, 16 * (f_E * p_E).mean())


def test_capacity_acts_in_training_only():
    layer = mixture(capacity_factor=1.0)
    layer.island.weight.data.mul_(100)
    x_TD, layout = torch.randn(64, 16) + 1, SequenceLayout.from_lengths([64])
    layer.train()
    assert layer(x_TD, layout)[1].load_E.tolist() == [0.25] * 4
    layer.eval()
    assert layer(x_TD, layout)[1].load_E.max() > 0.3


def test_selection_bias_moves_towards_an_even_load_and_leaves_weights_alone():
    layer, x_TD = mixture(selection_bias=True, bias_rate=0.002), torch.randn(256, 16) + 1
    layer.island.weight.data.mul_(5)
    layout = SequenceLayout.from_lengths([256])
    first = layer(x_TD, layout)[1].load_E
    for _ in range(300):
        layer.update_bias(layer(x_TD, layout)[1].load_E)
    assert layer(x_TD, layout)[1].load_E.std() < 0.5 * first.std()


def test_recycling_repeats_from_the_generator_state():
    ffn = MoEConfig(experts=4, top_k=2, hidden=8, capacity_factor=1.0)
    model = HybridLM(ModelConfig(vocab_size=20, width=8, pattern="F", ffn=ffn)).train()
    tokens, layout = torch.randint(0, 20, (40,)), SequenceLayout.from_lengths([40])
    state = model.generator_state()
    first = model.hidden(tokens, layout)[1].routes[0]
    model.load_generator_state(state)
    assert torch.equal(model.hidden(tokens, layout)[1].routes[0], first)
