"""Which architecture computes a config, and what is said where none does."""

import dataclasses
from typing import Any

import pytest

from tandem.hub.gguf import ARCHITECTURES, architecture_of
from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    YarnScaling,
    preset,
)

ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm=False)
STILL = dataclasses.replace(ATTENTION, rope=False)
MAMBA = MambaConfig(heads=4, head_width=32, state=16)
DENSE = DenseConfig(hidden=96)
EXPERTS = MoEConfig(experts=4, top_k=2, hidden=32)
RELU2 = DenseConfig(hidden=96, activation="relu2")
ROUTED = MoEConfig(experts=4, top_k=2, hidden=32, activation="relu2", scores="sigmoid", selection_bias=True)


def model(pattern: str, **shapes: Any) -> ModelConfig:
    return ModelConfig(vocab_size=300, width=64, pattern=pattern, **shapes)


HYBRID = model("MFAF", attention=ATTENTION, mamba=MAMBA, ffn=EXPERTS)
MIXED = model("MAFM", attention=STILL, mamba=MAMBA, ffn=ROUTED)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (model("(AF)2", attention=ATTENTION, ffn=DENSE), "llama"),
        (model("(AF)2", attention=dataclasses.replace(ATTENTION, bias=True), ffn=DENSE), "qwen2"),
        (model("(AF)2", attention=dataclasses.replace(ATTENTION, bias=True, out_bias=True), ffn=DENSE), "llama"),
        (model("AF", attention=STILL, ffn=DENSE), "granite"),
        (model("AF", attention=dataclasses.replace(ATTENTION, scale=0.1), ffn=DENSE), "granite"),
        (model("AF", attention=ATTENTION, ffn=DENSE, logit_scale=0.5), "granite"),
        (model("AF", attention=ATTENTION, ffn=EXPERTS), "granitemoe"),
        (model("AF", attention=ATTENTION, ffn=dataclasses.replace(EXPERTS, shared=0)), "llama"),
        (HYBRID, "granitehybrid"),
        (model("MFAF", attention=STILL, mamba=MAMBA, ffn=DENSE), "granitehybrid"),
        (model("MM", mamba=MAMBA), "mamba2"),
        (model("MFAM", attention=STILL, mamba=MAMBA, ffn=RELU2), "nemotron_h"),
        (MIXED, "nemotron_h_moe"),
        (model("MEAM", attention=STILL, mamba=MAMBA, experts=ROUTED), "nemotron_h_moe"),
        (model("AF", attention=dataclasses.replace(ATTENTION, qk_norm=True), ffn=DENSE), "hunyuan-dense"),
        (model("AF", attention=dataclasses.replace(ATTENTION, qk_norm=True), ffn=EXPERTS), "hunyuan-moe"),
        (
            model("AF", attention=dataclasses.replace(ATTENTION, qk_norm=True, qk_norm_first=True), ffn=DENSE),
            "qwen3",
        ),
    ],
)
def test_the_architecture_that_computes_a_config(config: ModelConfig, name: str):
    assert architecture_of(config) is ARCHITECTURES[name]


def with_attention(**changes: Any) -> ModelConfig:
    return HYBRID.replace(attention=dataclasses.replace(ATTENTION, **changes))


def with_mamba(**changes: Any) -> ModelConfig:
    return HYBRID.replace(mamba=dataclasses.replace(MAMBA, **changes))


def with_experts(**changes: Any) -> ModelConfig:
    return HYBRID.replace(ffn=dataclasses.replace(EXPERTS, **changes))


def with_router(**changes: Any) -> ModelConfig:
    return MIXED.replace(ffn=dataclasses.replace(ROUTED, **changes))


@pytest.mark.parametrize(
    ("config", "difference"),
    [
        (with_attention(qk_norm=True), "granitehybrid, change attention.qk_norm=true (must be false)"),
        (
            with_attention(rope_scaling=YarnScaling(factor=2.0, original_context=64, fast_turns=16.0)),
            "attention.rope_scaling.fast_turns=16.0 (must be 32.0)",
        ),
        (with_mamba(heads=2), "mamba.heads * mamba.head_width=64 (must be 128)"),
        (with_mamba(norm_groups=2), "mamba.norm_groups=2 (must be null or 1)"),
        (with_mamba(bias=True), "mamba.bias=true (must be false)"),
        (with_mamba(step_min=0.001), "mamba.step_min=0.001 (must be 0.0)"),
        (with_mamba(step_max=0.1), "mamba.step_max=0.1 (must be null)"),
        (with_experts(activation="geglu"), "moe.activation=geglu (must be swiglu)"),
        (with_experts(bias=True), "moe.bias=true (must be false)"),
        (with_experts(scores="sigmoid"), "moe.scores=sigmoid (must be softmax)"),
        (with_experts(renormalize=False), "moe.renormalize=false (must be true)"),
        (with_experts(routed_scale=2.5), "moe.routed_scale=2.5 (must be 1.0)"),
        (with_experts(latent=16), "moe.latent=16 (must be null)"),
        (with_experts(selection_bias=True), "moe.selection_bias=true (must be false)"),
        (with_experts(expert_groups=2), "moe.top_groups=1 (must be all 2)"),
        (with_router(shared=0), "nemotron_h_moe, change moe.shared=0 (must be 1 or more)"),
        (with_router(expert_groups=4, top_groups=3), "moe.expert_groups=4 (must leave two experts a group)"),
        (MIXED.replace(attention=ATTENTION), "attention.rope=true (must be false)"),
        (MIXED.replace(logit_scale=0.5), "model.logit_scale=0.5 (must be 1.0)"),
        (
            HYBRID.replace(pattern="MFAFM"),
            "granitehybrid, change model.pattern='MFAFM' (must be A or M before every feed-forward, of each kind one)",
        ),
        (
            model("MF", mamba=MAMBA, ffn=DENSE),
            "granitehybrid, change model.pattern='MF' (must be A or M before every feed",
        ),
        (
            model("MFM", mamba=MAMBA, ffn=RELU2),
            "nemotron_h, change model.pattern='MFM' (must be layers of A, M and F, of",
        ),
        (
            model("MFEA", attention=STILL, mamba=MAMBA, ffn=RELU2, experts=ROUTED),
            "model.pattern='MFEA' (must have feed-forwards of one shape)",
        ),
    ],
)
def test_what_no_architecture_computes_is_named(config: ModelConfig, difference: str):
    with pytest.raises(
        ValueError, match=r"no architecture of llama\.cpp computes this model; for the nearest, "
    ) as caught:
        architecture_of(config)
    assert difference in str(caught.value)
    assert "\n" not in str(caught.value)


def test_our_presets_are_not_llama_cpps():
    with pytest.raises(ValueError, match=r"attention\.qk_norm=true \(must be false\)") as caught:
        architecture_of(preset("nano"))
    assert "for the nearest, granitehybrid, change model.pattern='(MF)2 AMF (MF)2' (must be A or M" in str(caught.value)


def test_transmamba_is_refused_by_name():
    with pytest.raises(ValueError, match=r"llama\.cpp has no TransMamba layer, and model\.pattern='\(TF\)8' has T;"):
        architecture_of(preset("transmamba-nano"))
