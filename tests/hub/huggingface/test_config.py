"""Configs of released models in our terms: published ones, old and new names of keys, and what is refused."""

import math
from typing import Any

import pytest

from tandem.hub.huggingface import MODEL_TYPES, model_config
from tandem.nn import DenseConfig, LinearScaling, Llama3Scaling, ModelConfig, MoEConfig, YarnScaling
from tandem.plan import parameters

# The shape of ibm-granite/granite-4.0-h-tiny, as its config.json spells it.
GRANITE_TINY: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "vocab_size": 100352,
    "hidden_size": 1536,
    "intermediate_size": 512,
    "num_hidden_layers": 40,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "layer_types": ["attention" if layer % 10 == 5 else "mamba" for layer in range(40)],
    "num_local_experts": 64,
    "num_experts_per_tok": 6,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12,
    "residual_multiplier": 0.22,
    "logits_scaling": 6,
    "position_embedding_type": "nope",
    "rope_theta": 10000,
    "rope_scaling": None,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
NEMOTRON: dict[str, Any] = {
    "model_type": "nemotron_h",
    "vocab_size": 64,
    "hidden_size": 32,
    "hybrid_override_pattern": "M-M*EM",
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def test_granite_tiny_has_its_published_size():
    config = model_config(GRANITE_TINY)
    counts = parameters(config)
    assert counts.total / 1e9 == pytest.approx(6.94, abs=0.03)  # "7B", 1B of them active
    assert counts.active / 1e9 == pytest.approx(1.47, abs=0.03)  # with the embedding whole
    assert config.layers.count("A") == 4
    assert config.attention is not None
    assert (config.attention.scale, config.attention.rope) == (0.0078125, False)
    assert (config.embedding_scale, config.residual_scale, config.logit_scale) == (12, 0.22, 1 / 6)


def test_old_and_new_names_mean_the_same():
    new = {"mamba": "linear_attention", "attention": "full_attention"}
    kinds = [new[kind] for kind in GRANITE_TINY["layer_types"]]
    renamed = {key: value for key, value in GRANITE_TINY.items() if key != "layer_types"}
    assert model_config({**renamed, "layers_block_type": kinds}) == model_config(GRANITE_TINY)

    listed = {key: value for key, value in NEMOTRON.items() if key != "hybrid_override_pattern"}
    blocks = ["mamba", "mlp", "linear_attention", "full_attention", "moe", "mamba"]
    assert model_config({**listed, "layers_block_type": blocks}) == model_config(NEMOTRON)

    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": None}
    assert model_config(old) == model_config(
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000}}
    )


def test_stretched_rope():
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32768}
    for given, expected, context in (
        ({"type": "linear", "factor": 4.0}, LinearScaling(factor=4.0), 128),
        ({"rope_type": "llama3", **llama3}, Llama3Scaling(factor=8.0, original_context=8192), 128),
        ({"type": "yarn", **yarn}, YarnScaling(factor=4.0, original_context=32768), 131072),
        ({"rope_type": "yarn", "factor": 4.0}, YarnScaling(factor=4.0, original_context=128), 512),
        # One of the two alone says nothing, and without a factor the two contexts do.
        ({"rope_type": "yarn", **yarn, "mscale": 0.7}, YarnScaling(factor=4.0, original_context=32768), 131072),
        (
            {"rope_type": "yarn", "original_max_position_embeddings": 32},
            YarnScaling(factor=4.0, original_context=32),
            128,
        ),
    ):
        for key in ("rope_scaling", "rope_parameters"):
            config = model_config({**LLAMA, key: given, "rope_theta": 5e5})
            assert config.attention is not None
            assert (config.attention.rope_scaling, config.attention.rope_base) == (expected, 5e5)
            assert config.context == context
            assert ModelConfig.from_json(config.to_json()) == config


def test_patterns():
    assert model_config(LLAMA).pattern == "(AF)2"
    assert model_config(NEMOTRON).pattern == "MFMAEM"
    bamba = {**GRANITE_TINY, "model_type": "bamba", "attn_layer_indices": [1, 39], "layer_types": None}
    config = model_config(bamba)
    assert config.layers[:6] == ("M", "F", "A", "F", "M", "F")
    assert config.layers[-2:] == ("A", "F")
    assert config.attention is not None
    assert config.attention.rotary_width == 64  # half of 128


def test_experts_of_nemotron():
    options = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "moe_latent_size": 16, "norm_topk_prob": False}
    config = model_config({**NEMOTRON, **options, "routed_scaling_factor": 2.5, "num_experts_per_tok": 3})
    assert isinstance(config.experts, MoEConfig)
    assert config.experts.rule == ("sigmoid", False, 2.5, 2, 1)
    assert (config.experts.latent, config.experts.activation, config.experts.selection_bias) == (16, "relu2", True)
    assert config.ffn == DenseConfig(hidden=48, activation="relu2")
    assert config.mamba is not None
    assert config.mamba.step_limits == (1e-3, math.inf)


def test_infinity_in_both_spellings():
    for infinity in (math.inf, {"__float__": "Infinity"}):
        config = model_config({**GRANITE_TINY, "time_step_limit": [0.001, infinity]})
        assert config.mamba is not None
        assert (config.mamba.step_min, config.mamba.step_max) == (0.001, None)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "gpt2"}, f"config model_type='gpt2' is not supported; supported: {', '.join(MODEL_TYPES)}"),
        ({"model_type": ["llama"]}, "is not supported; supported: llama"),
        ({"vocab_size": None}, "config lacks vocab_size"),
        ({"vocab_size": "64"}, "config vocab_size='64' must be of type int"),
        ({"attention_bias": 1}, "config attention_bias=1 must be of type bool"),
        ({"hidden_act": "mish"}, "config hidden_act='mish' is not supported; supported: silu, "),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic' is not supported; supported: default, lin",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "config rope_type='longrope' is not supported; supported: default",
        ),
        ({"rope_parameters": {"rope_type": "llama3"}}, "config lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "config factor='2' must be of type"),
        (
            {"rope_scaling": {"type": "yarn", "factor": -4.0}},
            "attention.rope_scaling.factor=-4.0 must be a number above 0",
        ),
        ({"rope_parameters": [1]}, r"config rope_parameters=\[1\] must be an object"),
        (
            {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized weights are not supported"),
        ({"num_key_value_heads": 3}, "attention.kv_heads=3 does not divide attention.heads=4"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "sliding_win",
        ),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window=true"),
        (
            {"model_type": "mamba2", "hidden_act": "gelu", "num_heads": 8},
            "hidden_act='gelu' is not supported in Mamba-2",
        ),
        ({"model_type": "mamba2", "time_step_limit": 3}, "config time_step_limit=3 must be a list of two numbers"),
        ({"model_type": "mamba2", "time_step_limit": [0, "x"]}, "time_step_limit holds 'x' where a number must be"),
        ({"model_type": "bamba", "attn_layer_indices": [0], "mamba_n_heads": 7}, "mamba_n_heads=7 of width 9 are not"),
        ({"model_type": "granitemoehybrid", "layer_types": ["mamba", "rwkv"]}, "layer_types has 'rwkv', which is not"),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["mamba"]},
            "layer_types names 1 layers, num_hidden_layers=2",
        ),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M?"}, r"hybrid_override_pattern has '\?'"),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "M", "sliding_window": 8},
            "sliding_window is not supp",
        ),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "-", "mlp_hidden_act": "glu"}, "mlp_hidden_act='glu'"),
        ({"num_attention_heads": 0}, "num_attention_heads=0 must be 1 or more"),
        ({"vocab_size": 10**30}, "model.vocab_size=10{30} is more than a model can have"),
    ],
)
def test_what_cannot_be_expressed_is_named(change: dict[str, Any], error: str):
    with pytest.raises(ValueError, match=error) as caught:
        model_config({**LLAMA, **change})
    assert "\n" not in str(caught.value)
