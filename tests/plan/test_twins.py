"""Twins are counted in the modules that they build, not in the closed form that sized them."""

import pytest
import torch

from tandem.nn import DenseConfig, HybridLM, MambaConfig, ModelConfig, TransMambaConfig, preset, presets
from tandem.plan import all_attention, all_mamba, equal_parameters, memory, parameters, transmamba_twins

TWINS = {"A": all_attention, "M": all_mamba}


def built(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in HybridLM(config).parameters())


@pytest.mark.parametrize("symbol", TWINS)
@pytest.mark.parametrize("name", presets())
def test_twins_have_as_many_parameters(name: str, symbol: str):
    hybrid = preset(name)
    twin = equal_parameters(TWINS[symbol](hybrid), parameters(hybrid).total)
    assert built(twin) == pytest.approx(parameters(hybrid).total, rel=0.01)
    assert parameters(twin).active == pytest.approx(parameters(hybrid).active, rel=0.015)
    assert twin.layers == tuple(symbol if layer in "AMT" else layer for layer in hybrid.layers)
    same = ("vocab_size", "width", "context", "tie_embeddings")
    assert [getattr(twin, field) for field in same] == [getattr(hybrid, field) for field in same]


TRANSMAMBA = [name for name in presets() if "T" in preset(name).layers]


@pytest.mark.parametrize("name", TRANSMAMBA)
def test_transmambas_twins_differ_in_mixers_and_feed_forwards_only(name: str):
    config = preset(name)
    half = len(config.layers) // 4
    patterns = {"attention": "AF" * 2 * half, "mamba": "MF" * 2 * half, "hybrid": "MFAF" * half}
    twins = transmamba_twins(config)
    assert {kind: "".join(twin.layers) for kind, twin in twins.items()} == patterns
    shape = config.transmamba
    assert shape is not None
    for twin in twins.values():
        assert built(twin) == pytest.approx(parameters(config).total, rel=0.001)
        attention, mamba = twin.attention, twin.mamba
        assert attention is not None
        assert mamba is not None
        assert (attention.heads, attention.kv_heads, attention.head_width) == (shape.groups, shape.groups, shape.state)
        assert (attention.qk_norm, attention.rotary_base) == (False, shape.rotary_base)
        assert (mamba.inner, mamba.conv_width, mamba.chunk) == (shape.inner, shape.conv_width, shape.chunk)
        assert twin.chunk == config.chunk  # so that one layout serves all


def test_the_all_mamba_twin_of_transmamba_has_the_same_shapes():
    config = preset("transmamba-nano")
    assert built(transmamba_twins(config)["mamba"]) == parameters(config).total
    assert transmamba_twins(config)["mamba"].ffn == config.ffn


def test_a_transmamba_twin_takes_over_what_the_layer_says_of_its_attention():
    shape = TransMambaConfig(heads=8, groups=2, head_width=4, state=6, rope_mode="none", scale=0.5)
    twin = all_attention(ModelConfig(vocab_size=8, width=4, pattern="TF", transmamba=shape, ffn=DenseConfig(hidden=4)))
    assert twin.attention is not None
    assert (twin.attention.rope, twin.attention.scale, twin.attention.heads) == (False, 0.5, 2)
    assert twin.transmamba is None


def test_only_transmamba_has_twins_of_transmamba():
    with pytest.raises(ValueError, match="has no T layers, so it has no twins of TransMamba"):
        transmamba_twins(preset("nano"))


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
    kept = equal_parameters(hybrid, 10_000_000, keep_mixers=True)
    assert (kept.attention, kept.mamba) == (hybrid.attention, hybrid.mamba)
    assert parameters(kept).total == pytest.approx(10_000_000, rel=0.01)
    with pytest.raises(ValueError, match=r"comes to \d[\d,]+ parameters and not within 1% of 1,000;"):
        equal_parameters(all_mamba(hybrid), 1000)
    lone = hybrid.replace(pattern="A")
    with pytest.raises(ValueError, match="not within 0% of"):
        equal_parameters(lone, parameters(lone).total + 1, tolerance=0)
