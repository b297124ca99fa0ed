"""Keys of llama.cpp and our config: what is written, what older files leave out, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from tandem.hub.gguf import ARCHITECTURES, architecture_of
from tandem.hub.gguf.metadata import Metadata, read, shortest, written
from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    LinearScaling,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    PairScaling,
    YarnScaling,
)

ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm=False)
HYBRID = ModelConfig(
    vocab_size=300,
    width=64,
    pattern="MFAFMF",
    attention=AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm=False, rope=False, scale=0.0078125),
    mamba=MambaConfig(heads=4, head_width=32, state=16, groups=2),
    ffn=MoEConfig(experts=4, top_k=2, hidden=48, shared_hidden=64, balance_weight=0.0),
    embedding_scale=12.0,
    residual_scale=0.22,
    logit_scale=1 / 6,
    context=1024,
)
LLAMA = ModelConfig(vocab_size=300, width=64, pattern="(AF)2", attention=ATTENTION, ffn=DenseConfig(hidden=96))


def again(config: ModelConfig, drop: tuple[str, ...] = (), **changes: Any) -> ModelConfig:
    """The config read from what is written about it, with some keys dropped or changed."""
    architecture = architecture_of(config)
    keys: dict[str, Any] = {
        **written(config, architecture),
        **{f"{architecture.name}.{k}": v for k, v in changes.items()},
    }
    for key in drop:
        del keys[f"{architecture.name}.{key}"]
    names = [f"blk.{k}.ffn_down.weight" for k in range(9)] + ["blk.0.ssm_conv1d.bias"]
    tensors = names if config.tie_embeddings else [*names, "output.weight"]
    return read(Metadata(Path("x.gguf"), architecture, keys, tensors), config.vocab_size)


def test_a_granite_hybrid_as_llama_cpp_spells_it():
    keys = written(HYBRID, ARCHITECTURES["granitehybrid"])
    plain = {key.removeprefix("granitehybrid."): value for key, value in keys.items()}
    assert plain["attention.head_count_kv"] == [0, 2, 0]  # a block without is recurrent
    assert plain["logit_scale"] == 6.0  # they divide by it
    assert plain["rope.scaling.finetuned"] is False  # their switch of RoPE
    assert (plain["ssm.inner_size"], plain["ssm.time_step_rank"], plain["ssm.group_count"]) == (128, 4, 2)
    assert (plain["feed_forward_length"], plain["expert_shared_feed_forward_length"]) == (48, 64)
    assert plain["block_count"] == 3


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        LLAMA.replace(tie_embeddings=False, norm_eps=1e-6),
        LLAMA.replace(attention=AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm=True)),
        HYBRID,
        ModelConfig(vocab_size=300, width=64, pattern="(M)3", mamba=MambaConfig(heads=4, head_width=32, state=16)),
    ],
)
def test_a_config_comes_back(config: ModelConfig):
    expected = config.replace(pattern=config.pattern if "(" in config.pattern else "".join(config.layers))
    assert again(config) == expected


def test_what_older_files_leave_out():
    assert (
        again(LLAMA, drop=("vocab_size", "attention.key_length", "attention.value_length", "rope.dimension_count"))
        == LLAMA
    )
    assert again(LLAMA, drop=("rope.freq_base",)) == LLAMA
    assert again(LLAMA, **{"attention.head_count_kv": [2, 2]}) == LLAMA


def test_stretched_rope():
    attention = again(LLAMA, **{"rope.scale_linear": 4.0}).attention
    assert attention is not None
    assert attention.rope_scaling == LinearScaling(factor=4.0)
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
    attention = again(LLAMA, **yarn).attention
    assert attention is not None
    assert attention.rope_scaling == YarnScaling(factor=4.0, original_context=64)
    attention = again(LLAMA, **yarn, **{"rope.scaling.attn_factor": 0.5}).attention
    assert attention is not None
    assert attention.rope_scaling is not None
    assert attention.rope_scaling.amplitude == pytest.approx(0.5 * 1.138629436)
    pairs = Metadata(
        Path("x.gguf"), ARCHITECTURES["llama"], written(LLAMA, ARCHITECTURES["llama"]), ["a"] * 9, (2.0,) * 8
    )
    attention = read(pairs, 300).attention
    assert attention is not None
    assert attention.rope_scaling == PairScaling(factors=(2.0,) * 8)


def test_multi_token_prediction_is_left_out():
    keys = {"block_count": 4, "nextn_predict_layers": 1, "attention.head_count_kv": [0, 2, 0, 2]}
    assert again(HYBRID, **keys).layers == HYBRID.layers


def test_numbers_of_a_file_are_the_shortest_decimals():
    for value in (1e-5, 1e-6, 0.22, 0.0078125, 5e5, 12.0):
        import struct

        [stored] = struct.unpack("<f", struct.pack("<f", value))
        assert shortest(stored) == value
