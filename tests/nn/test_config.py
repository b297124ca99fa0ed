"""Configs round-trip through JSON and name what is wrong by its path."""

import pytest

from tandem.nn import AttentionConfig, ModelConfig, preset, presets

TRANS = {"heads": 2, "state": 8}
ATTENTION = {"heads": 4, "kv_heads": 2, "head_width": 8}
MOE = {"kind": "moe", "experts": 4, "top_k": 2, "hidden": 8}


def test_files_of_earlier_versions_mean_what_they_meant():
    plain = preset("nano").to_dict()
    for name in ("attention", "mamba", "ffn"):
        fields = {
            "attention": "rotary_width bias out_bias scale rope_scaling",
            "mamba": "step_min step_max conv_bias bias",
        }
        moe = "shared_hidden activation bias scores renormalize routed_scale expert_groups top_groups latent"
        for field in fields.get(name, moe).split():
            del plain[name][field]
    for field in ("embedding_scale", "residual_scale", "logit_scale"):
        del plain[field]
    assert ModelConfig.from_dict(plain) == preset("nano")


@pytest.mark.parametrize("name", presets())
def test_presets_round_trip(name: str):
    assert ModelConfig.from_json(preset(name).to_json()) == preset(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 1.5}, "model.vocab_size=1.5 must be of type int"),
        ({"nonsense": 1}, "model.nonsense is not a known key"),
        ({"ffn": {"kind": "x"}}, "model.ffn.kind='x'"),
        ({"mamba": {"heads": 3, "groups": 2}}, "mamba.groups=2 does not divide mamba.heads=3"),
        ({"attention": None}, "model.attention=null"),
        ({"attention": {"heads": 4, "kv_heads": 3, "head_width": 8}}, "attention.kv_heads=3 does not divide"),
        ({"pattern": "TF"}, "model.transmamba=null but model.pattern='TF' has 'T' layers"),
        ({"transmamba": {**TRANS, "schedule": [0, -1]}}, "has the TransPoint -1; use 0"),
        ({"transmamba": {**TRANS, "schedule": "v0"}}, "schedule='v0' is unknown; use one of attention"),
        ({"transmamba": {**TRANS, "gate": "all"}}, "transmamba.gate='all' is unknown; use one of ssm, both, none"),
        ({"transmamba": {**TRANS, "gate": 1}}, "model.transmamba.gate=1 must be of type str"),
        ({"transmamba": {**TRANS, "state": 7}}, "transmamba.state=7 is odd"),
        ({"transmamba": {**TRANS, "heads": 0}}, "transmamba.heads=0 must be 1 or more"),
        ({"transmamba": {**TRANS, "rope_alpha": 0.5}}, "transmamba.rope_alpha=0.5 is below 1"),
        ({"pattern": "TT", "transmamba": {**TRANS, "schedule": [1]}}, "has 1 TransPoints for 2 T layers; give one a"),
        ({"tie_embeddings": 1}, "model.tie_embeddings=1 must be of type bool"),
        ({"logit_scale": 0.0}, "model.logit_scale=0.0 must be a number above 0"),
        (
            {"attention": {**ATTENTION, "rotary_width": 3}},
            "attention.rotary_width=3 must be even, 2 or more and at most",
        ),
        ({"attention": {**ATTENTION, "rotary_width": 10}}, "rotary_width=10 must be even, .* attention.head_width=8"),
        (
            {"attention": {**ATTENTION, "rope_scaling": {"kind": "moe"}}},
            "rope_scaling.kind='moe' is unknown; use one of linear",
        ),
        (
            {"attention": {**ATTENTION, "rope_scaling": {"kind": "yarn", "factor": 2.0}}},
            "model.attention.rope_scaling.original_context is missing",
        ),
        (
            {"attention": {**ATTENTION, "rope_scaling": {"kind": "pair", "factors": [1.0, 2.0]}}},
            "rope_scaling.factors has 2 numbers for 4 pairs",
        ),
        (
            {"attention": {**ATTENTION, "rope_scaling": {"kind": "pair", "factors": [1.0, "x"]}}},
            r"rope_scaling.factors\[1\]='x' must be of type float",
        ),
        ({"attention": {**ATTENTION, "scale": -1.0}}, "attention.scale=-1.0 must be a number above 0"),
        ({"mamba": {"heads": 2, "step_min": 0.2, "step_max": 0.1}}, "mamba.step_min=0.2 must be 0 or more and below"),
        (
            {"ffn": {"kind": "dense", "hidden": 8, "activation": "mish"}},
            "dense.activation='mish' is unknown; use one of",
        ),
        ({"ffn": {**MOE, "activation": "mish"}}, "moe.activation='mish' is unknown; use one of swiglu"),
        ({"ffn": {**MOE, "scores": "sparsemax"}}, "moe.scores='sparsemax' is unknown; use softmax or sigmoid"),
        ({"ffn": {**MOE, "shared": 0, "shared_hidden": 8}}, "moe.shared_hidden=8 but moe.shared=0"),
        ({"ffn": {**MOE, "latent": 0}}, "moe.latent=0 must be 1 or more"),
        ({"ffn": {**MOE, "routed_scale": 0}}, "moe.routed_scale=0.0 must be a number above 0"),
        (
            {"ffn": {**MOE, "expert_groups": 3}},
            r"moe.expert_groups=3 does not divide moe.experts=4; use one of \[1, 2, 4\]",
        ),
        ({"ffn": {**MOE, "expert_groups": 4}}, "moe.top_groups=1 of 4 groups leaves 1 of 4 experts for moe.top_k=2"),
        ({"ffn": {**MOE, "expert_groups": 2, "top_groups": 3}}, "moe.top_groups=3 of 2 groups"),
        ({"ffn": {**MOE, "kind": []}}, r"model.ffn.kind=\[\] is unknown; use one of dense, moe"),
        ({"width": 10**30}, "model.width=10{30} is more than a model can have; use less than 2147483648"),
    ],
)
def test_wrong_values_are_named(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_dict({**preset("nano").to_dict(), **changes})


def test_missing_key_is_named():
    plain = preset("nano").to_dict()
    del plain["width"]
    with pytest.raises(ValueError, match=r"model\.width is missing"):
        ModelConfig.from_dict(plain)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="preset='huge' is unknown; use one of nano"):
        preset("huge")


@pytest.mark.parametrize(
    ("alpha", "width", "base"), [(50, 80, 552_756), (50, 128, 532_032), (1000, 80, 11_937_766), (1000, 128, 11_158_840)]
)
def test_ntk_base_is_the_published_one(alpha: float, width: int, base: float):
    config = AttentionConfig(heads=1, kv_heads=1, head_width=width, rope_alpha=alpha)
    assert config.rotary_base == pytest.approx(base, abs=1)
