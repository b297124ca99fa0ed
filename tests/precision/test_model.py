"""A model with a recipe: what is rounded, what is not, and that decoding sees the same numbers."""

import pytest
import torch

from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    HybridLM,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    SequenceLayout,
    TransMambaConfig,
)
from tandem.precision import Operand, QuantizedExperts, QuantizedLinear, Recipe, is_quantized, quantize_model, same_for
from tandem.precision.recipe import TARGETS

ALL = same_for(TARGETS, Operand(format="E2M1", block=8))


@pytest.fixture
def model() -> HybridLM:
    """Every kind of layer."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=64,
        width=16,
        pattern="AMFETF",
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
        mamba=MambaConfig(heads=2, head_width=8, state=8, chunk=8),
        transmamba=TransMambaConfig(heads=2, head_width=8, state=8, chunk=8, schedule=(3,)),
        ffn=DenseConfig(hidden=16),
        experts=MoEConfig(experts=4, top_k=2, hidden=8, shared=1),
        context=32,
    )
    return HybridLM(config).eval()


def logits(model: HybridLM, tokens: int = 12) -> torch.Tensor:
    ids_T = torch.arange(tokens) % 64
    return model(ids_T, SequenceLayout.from_lengths([tokens], chunk=8))


def test_maps_and_experts_get_the_recipe_and_nothing_else(model: HybridLM):
    names = list(model.state_dict())
    quantize_model(model, ALL)
    with_recipe = [
        name for name, module in model.named_modules() if isinstance(module, QuantizedLinear | QuantizedExperts)
    ]
    assert [name.split(".", 2)[2] for name in with_recipe if name.startswith("layers.3.")] == [
        "mixer.experts",
        "mixer.shared.gate_up",
        "mixer.shared.down",
    ]
    assert all(name.startswith("layers.") for name in with_recipe)
    assert len(with_recipe) == 2 + 2 + 2 + 3 + 2 + 2
    assert list(model.state_dict()) == names


def test_weights_are_the_same_parameters(model: HybridLM):
    before = dict(model.named_parameters())
    quantize_model(model, ALL)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_without_targets_the_plain_model_is_back(model: HybridLM):
    want, kinds = logits(model), [type(module) for module in model.modules()]
    assert not torch.equal(logits(quantize_model(model, ALL)), want)
    assert is_quantized(model)
    quantize_model(model, Recipe())
    assert not is_quantized(model)
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(logits(model), want)


def test_a_map_can_be_left_out(model: HybridLM):
    want = logits(model)
    assert torch.equal(logits(quantize_model(model, ALL, skip=["layers.*"])), want)
    quantize_model(model, ALL, skip=["layers.0.*", "*.out"])
    assert {type(model.get_submodule(f"layers.{n}.mixer.out")).__name__ for n in (0, 1)} == {"Linear"}
    assert isinstance(model.get_submodule("layers.1.mixer.into"), QuantizedLinear)


def test_a_name_that_no_map_has_is_refused(model: HybridLM):
    with pytest.raises(ValueError, match=r"skip='head' names no map; use names such as layers\.0\.mixer\.qkv"):
        quantize_model(model, ALL, skip=["head"])


@torch.no_grad()
def test_prefill_and_decode_are_the_forward_pass(model: HybridLM):
    # Scales along features alone: a token's numbers do not depend on its neighbors.
    quantize_model(model.double(), same_for(["P1", "P2"], Operand(format="E4M3", block=8)))
    want, ids_T = logits(model), torch.arange(12) % 64
    state = model.new_state(1)
    got = [
        model(ids_T[n : n + length], SequenceLayout.from_lengths([length], chunk=8, starts=[n]), state)
        for n, length in ((0, 5), *((n, 1) for n in range(5, 12)))
    ]
    torch.testing.assert_close(torch.cat(got), want, rtol=1e-7, atol=1e-7)


def test_training_reaches_every_parameter(model: HybridLM):
    quantize_model(model.train(), ALL)
    ids_T = torch.arange(24) % 64
    model.loss(ids_T, SequenceLayout.from_lengths([24], chunk=8), ids_T.roll(-1)).total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
