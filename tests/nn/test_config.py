"""Configs round-trip through JSON and name what is wrong by its path."""

import pytest

from tandem.nn import AttentionConfig, ModelConfig, preset, presets


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
        ({"pattern": "TF"}, "cannot build yet"),
        ({"tie_embeddings": 1}, "model.tie_embeddings=1 must be of type bool"),
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
