"""Routing: capacity with recycling, the printed balance loss, the selection bias."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.nn import HybridLM, MixtureOfExperts, ModelConfig, MoEConfig, SequenceLayout, recycle


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
