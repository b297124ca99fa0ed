"""What must hold of every preset, in its own arrangement of layers with small shapes of the same proportions.

Packed = separate, prefill + decode = forward, causality, and the float32 island.
"""

from dataclasses import replace

import pytest
import torch

from tandem.nn import HybridLM, MambaConfig, ModelConfig, MoEConfig, SequenceLayout, preset
from tandem.nn.presets import presets

# One token, shorter than the convolution, on the chunk grid, and off it on both sides.
LENGTHS = [1, 3, 8, 17]


def scaled(name: str) -> ModelConfig:
    """The preset with its layers, groups and query heads per key head, but narrow; capacity as in the preset."""
    config = preset(name)
    attention, mamba, trans, ffn = config.attention, config.mamba, config.transmamba, config.ffn
    assert ffn is not None
    return config.replace(
        vocab_size=61,
        width=32,
        attention=attention
        and replace(attention, heads=2 * attention.heads // attention.kv_heads, kv_heads=2, head_width=8),
        mamba=mamba and replace(mamba, **narrow(mamba)),
        transmamba=trans and replace(trans, **narrow(trans), schedule_length=max(LENGTHS)),
        ffn=replace(ffn, experts=4, hidden=16) if isinstance(ffn, MoEConfig) else replace(ffn, hidden=16),
        context=64,
    )


def narrow(shape: MambaConfig) -> dict[str, int]:
    """A shape with at most two groups of at most four heads."""
    heads = 2 * min(shape.heads // shape.groups, 4)
    return {"groups": min(shape.groups, 2), "heads": heads, "head_width": 4, "state": 8, "chunk": 8}


@pytest.fixture(params=presets())
def model(request: pytest.FixtureRequest) -> HybridLM:
    torch.manual_seed(0)
    return HybridLM(scaled(request.param)).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor, SequenceLayout]:
    torch.manual_seed(1)
    return *torch.randint(0, 61, (2, sum(LENGTHS))), SequenceLayout.from_lengths(LENGTHS, chunk=8)


@pytest.mark.parametrize("name", presets())
def test_the_small_shape_has_the_presets_layers(name: str):
    own, small = preset(name), scaled(name)
    assert small.layers == own.layers
    for shape, other in ((small.attention, own.attention), (small.transmamba, own.transmamba)):
        assert (shape is None) == (other is None)
    if small.attention and own.attention:
        assert small.attention.heads // small.attention.kv_heads == own.attention.heads // own.attention.kv_heads


def test_packed_equals_separate_loss_and_gradients(model: HybridLM):
    model.double()
    tokens, targets, layout = batch()
    loss = model.loss(tokens, layout, targets)
    loss.nll_sum.backward()
    packed = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    nll = 0.0
    for ids, wanted in zip(tokens.split(LENGTHS), targets.split(LENGTHS), strict=True):
        one = model.loss(ids, SequenceLayout.from_lengths([len(ids)], chunk=8), wanted).nll_sum
        one.backward()
        nll += float(one.detach())
    assert float(loss.nll_sum.detach()) == pytest.approx(nll, abs=1e-9)
    assert loss.weight_sum == len(tokens)
    for name, parameter in model.named_parameters():
        nothing = torch.zeros_like(parameter)  # an SSM's decays where no document reaches the TransPoint
        got, want = (nothing if grad is None else grad for grad in (packed[name], parameter.grad))
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9, msg=name)


@torch.no_grad()
def test_prefill_and_decode_equal_forward(model: HybridLM):
    """Prompts of one token, below, on and above the chunk; then every further token alone."""
    tokens, _, layout = batch()
    rows, whole = tokens.split(LENGTHS), model(tokens, layout).split(LENGTHS)
    prompts = [1, 1, 5, 9]
    state = model.new_state(len(LENGTHS))
    got = model(torch.cat([row[:n] for row, n in zip(rows, prompts, strict=True)]), state.layout(prompts), state)
    for logits, want, n in zip(got.split(prompts), whole, prompts, strict=True):
        torch.testing.assert_close(logits, want[:n], atol=1e-4, rtol=1e-4)
    for document, length in enumerate(LENGTHS):
        one = state.select([document])
        for position in range(prompts[document], length):
            logits = model.next_logits(rows[document][position, None], one.layout([1]), one)
            torch.testing.assert_close(logits[0], whole[document][position], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("position", [1, 5, 20])
def test_a_token_changes_nothing_before_it_nor_in_another_document(model: HybridLM, position: int):
    model.double()
    tokens, _, layout = batch()
    before = model(tokens, layout)
    tokens[position] = (tokens[position] + 1) % 61
    changed = ((model(tokens, layout) - before).abs().amax(1) > 1e-10).tolist()
    end = next(end for end in torch.tensor(LENGTHS).cumsum(0).tolist() if position < end)
    assert not any(changed[:position] + changed[end:])
    assert changed[position]
    # Something later in the document sees it: the mixers carry it on.
    assert any(changed[position + 1 : end])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_island_keeps_its_bits_through_a_cast_and_back(model: HybridLM, dtype: torch.dtype):
    island = {name: p.clone() for name, p in model.named_parameters() if ".island." in name}
    assert {name.rsplit(".", 1)[1] for name in island} >= {"A_log", "dt_bias", "D"}
    model.to(dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if name in island else dtype), name
    assert all(s.state_SHPN.dtype == torch.float32 for s in model.new_state(1).layers if hasattr(s, "state_SHPN"))
    for name, parameter in model.float().named_parameters():
        if name in island:
            assert torch.equal(parameter, island[name]), name
