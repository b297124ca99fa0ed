"""Twins are counted in the modules that they build, not in the closed form that sized them."""

import pytest
import torch

from tandem.nn import DenseConfig, HybridLM, MambaConfig, ModelConfig, preset, presets
from tandem.plan import all_attention, all_mamba, equal_parameters, memory, parameters

TWINS = {"A": all_attention, "M": all_mamba}


def built(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HybridLM(config).parameters())


@pytest.mark.parametrize("symbol", TWINS)
@pytest.mark.parametrize("name", presets())
def test_twins_have_as_many_parameters(name: str, symbol: str):
    hybrid = preset(name)
    twin = equal_parameters(TWINS[symbol](hybrid), parameters(hybrid).total)
    assert built(twin) == pytest.approx(built(hybrid), rel=0.01)
    assert parameters(twin).active == pytest.approx(parameters(hybrid).active, rel=0.015)
    other = {"A": "M", "M": "A"}[symbol]
    assert twin.layers == tuple(symbol if layer == other else layer for layer in hybrid.layers)
    same = ("vocab_size", "width", "context", "tie_embeddings")
    assert [getattr(twin, field) for field in same] == [getattr(hybrid, field) for field in same]


def test_resizing_leaves_the_twins_keys_and_values_alone():
    hybrid = preset("nano")
    twin = all_attention(hybrid)
    assert memory(equal_parameters(twin, parameters(hybrid).total)).kv_per_token == memory(twin).kv_per_token


def test_a_model_without_the_mixer_has_no_twin():
    mamba = ModelConfig(vocab_size=64, width=16, pattern="MF", mamba=MambaConfig(heads=2), ffn=DenseConfig(hidden=8))
    with pytest.raises(ValueError, match=r"model\.attention=null, so there is no all-attention twin"):
        all_attention(mamba)
    with pytest.raises(ValueError, match=r"model\.mamba=null, so there is no all-Mamba-2 twin"):
        all_mamba(preset("nano").replace(pattern="AF", mamba=None))


def test_what_cannot_be_matched_is_told():
    hybrid = preset("nano")
    with pytest.raises(ValueError, match="has both A and M"):
        equal_parameters(hybrid, 10_000_000)
    with pytest.raises(ValueError, match=r"comes to \d[\d,]+ parameters and not within 1% of 1,000;"):
        equal_parameters(all_mamba(hybrid), 1000)
    lone = hybrid.replace(pattern="A")
    with pytest.raises(ValueError, match="not within 0% of"):
        equal_parameters(lone, parameters(lone).total + 1, tolerance=0)
