"""Stretched frequencies against those of `transformers`, and against what their papers promise."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tandem.nn import (
    Attention,
    AttentionConfig,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    PairScaling,
    RopeScaling,
    YarnScaling,
    preset,
)

BASES = st.sampled_from([100.0, 1e4, 5e5])
WIDTHS = st.sampled_from([8, 64, 128])
CONTEXTS = st.sampled_from([64, 8192, 32768])
FACTORS = st.sampled_from([1.0, 2.0, 8.0, 32.0])


def frequencies(scaling: RopeScaling | None, width: int, base: float) -> torch.Tensor:
    config = AttentionConfig(heads=1, kv_heads=1, head_width=width, rope_base=base, rope_scaling=scaling)
    rope = Attention(config, 16, 1e-5).rope
    assert rope is not None
    return rope.frequency_K


def theirs(width: int, base: float, **rope: Any) -> tuple[torch.Tensor, float]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")
    rules = pytest.importorskip("transformers.modeling_rope_utils")
    config = transformers.LlamaConfig(
        hidden_size=16, num_attention_heads=1, head_dim=width, rope_parameters={"rope_theta": base, **rope}
    )
    return rules.ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))


@given(WIDTHS, BASES, FACTORS, CONTEXTS, st.sampled_from([(1.0, 4.0), (0.5, 9.0)]))
def test_frequencies_are_those_of_transformers(
    width: int, base: float, factor: float, context: int, turns: tuple[float, float]
):
    slow, fast = turns
    want, _ = theirs(width, base, rope_type="linear", factor=factor)
    assert torch.equal(frequencies(LinearScaling(factor=factor), width, base), want)
    llama3 = {"low_freq_factor": slow, "high_freq_factor": fast, "original_max_position_embeddings": context}
    want, _ = theirs(width, base, rope_type="llama3", factor=factor, **llama3)
    ours = Llama3Scaling(factor=factor, original_context=context, slow_turns=slow, fast_turns=fast)
    torch.testing.assert_close(frequencies(ours, width, base), want, rtol=1e-6, atol=0)


@given(WIDTHS, BASES, FACTORS, CONTEXTS, st.booleans(), st.sampled_from([None, 1.2]))
def test_yarn_is_that_of_transformers(
    width: int, base: float, factor: float, context: int, whole: bool, attention: float | None
):
    yarn = {"original_max_position_embeddings": context, "truncate": whole, "beta_fast": 24.0, "beta_slow": 1.5}
    want, amplitude = theirs(width, base, rope_type="yarn", factor=factor, attention_factor=attention, **yarn)
    ours = YarnScaling(
        factor=factor,
        original_context=context,
        slow_turns=1.5,
        fast_turns=24.0,
        whole_pairs=whole,
        attention_factor=attention,
    )
    torch.testing.assert_close(frequencies(ours, width, base), want, rtol=1e-6, atol=0)
    assert ours.amplitude == pytest.approx(amplitude)


def test_fast_pairs_stay_and_slow_ones_stretch():
    plain = frequencies(None, 128, 5e5)
    turns = 8192 * plain.double() / (2 * math.pi)
    stretched = frequencies(Llama3Scaling(factor=8.0, original_context=8192), 128, 5e5)
    assert torch.equal(stretched[turns > 4], plain[turns > 4])
    torch.testing.assert_close(stretched[turns < 1], plain[turns < 1] / 8, rtol=1e-6, atol=0)
    yarn = frequencies(YarnScaling(factor=8.0, original_context=8192), 128, 5e5)
    assert torch.equal(yarn[turns > 40], plain[turns > 40])
    torch.testing.assert_close(yarn[turns < 0.7], plain[turns < 0.7] / 8, rtol=1e-6, atol=0)
    assert YarnScaling(factor=math.e**10, original_context=8).amplitude == pytest.approx(2)
    pairs = frequencies(PairScaling(factors=(1.0, 2.0, 4.0, 8.0)), 8, 1e4)
    torch.testing.assert_close(pairs, frequencies(None, 8, 1e4) / torch.tensor([1.0, 2.0, 4.0, 8.0]))


def test_frequencies_survive_casts_and_the_meta_device():
    config = AttentionConfig(heads=1, kv_heads=1, head_width=64)
    with torch.device("meta"):
        attention = Attention(config, 16, 1e-5)
    want = frequencies(None, 64, 1e4)
    for changed in (attention, attention.to_empty(device="cpu"), attention.bfloat16(), attention.half()):
        assert changed.rope is not None
        assert changed.rope.frequency_K.dtype == torch.float32
        assert torch.equal(changed.rope.frequency_K, want)
    assert not any("rope" in name for name in attention.state_dict())


@pytest.mark.parametrize(
    "scaling",
    [
        LinearScaling(factor=2.0),
        Llama3Scaling(factor=8.0, original_context=8192),
        YarnScaling(factor=4.0, original_context=64, attention_factor=1.1),
        PairScaling(factors=tuple(float(k + 1) for k in range(32))),
    ],
)
def test_every_kind_round_trips_through_json(scaling: RopeScaling):
    nano = preset("nano")
    attention = AttentionConfig(heads=4, kv_heads=2, head_width=64, rope_scaling=scaling)
    config = nano.replace(attention=attention)
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearScaling(factor=0.0), "attention.rope_scaling.factor=0.0 must be a number above 0"),
        (lambda: Llama3Scaling(factor=2.0, original_context=0), "original_context=0 must be 1 or more"),
        (
            lambda: YarnScaling(factor=2.0, original_context=8, slow_turns=32.0),
            "slow_turns=32.0 must be below attention.rope_scaling.fast_turns=32.0",
        ),
        (lambda: PairScaling(factors=(1.0, -1.0)), "attention.rope_scaling.factors holds -1.0"),
    ],
)
def test_impossible_scalings_are_named(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()
