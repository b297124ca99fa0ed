"""Named model shapes: plain functions that return a config."""

from collections.abc import Callable

from tandem.nn.config import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig, TransMambaConfig
from tandem.nn.pattern import hybrid_pattern


def nano() -> ModelConfig:
    """About 5M active parameters: what two CPU cores train in minutes."""
    return ModelConfig(
        vocab_size=4096,
        width=256,
        pattern="(MF)2 AMF (MF)2",
        attention=AttentionConfig(heads=4, kv_heads=2, head_width=64),
        mamba=MambaConfig(heads=8, head_width=64, state=64),
        ffn=MoEConfig(experts=8, top_k=2, hidden=192),
        context=2048,
    )


def mini() -> ModelConfig:
    """About 30M parameters, for an afternoon on a CPU or minutes on a GPU."""
    return ModelConfig(
        vocab_size=8192,
        width=384,
        pattern="(MF)3 AMF (MF)3",
        attention=AttentionConfig(heads=6, kv_heads=2, head_width=64),
        mamba=MambaConfig(heads=12, head_width=64, state=128),
        ffn=MoEConfig(experts=8, top_k=2, hidden=256),
        context=4096,
    )


def small() -> ModelConfig:
    """About 300M parameters, for one GPU."""
    return ModelConfig(
        vocab_size=32768,
        width=1024,
        pattern="((MF)3 AMF)3 (MF)2",
        attention=AttentionConfig(heads=16, kv_heads=4, head_width=64),
        mamba=MambaConfig(heads=32, head_width=64, state=128, chunk=128),
        ffn=MoEConfig(experts=8, top_k=2, hidden=448),
        context=8192,
    )


def turbos_560b() -> ModelConfig:
    """Hunyuan-TurboS (arXiv 2505.15431): published sizes, with the notes' choice where the paper is silent.

    Head widths (80 in attention, 64 in Mamba-2), tied embeddings and the order of layers (option C of
    `hybrid_pattern`) are inferred from the 56B active / 560B total that the paper claims.
    """
    return ModelConfig(
        vocab_size=128_512,
        width=5120,
        pattern=hybrid_pattern(total=128, attention=7, ffn=64, option="C"),
        attention=AttentionConfig(heads=64, kv_heads=8, head_width=80),
        mamba=MambaConfig(heads=64, head_width=64, state=128, groups=16, chunk=128),
        ffn=MoEConfig(experts=32, top_k=2, hidden=17_024, capacity_factor=1.5),
        context=4096,
    )


def transmamba_nano() -> ModelConfig:
    """About 4M parameters with all eight TransPoints of schedule V9, for texts of 512 tokens: two CPU cores train it."""
    return ModelConfig(
        vocab_size=4096,
        width=192,
        pattern="(TF)8",
        transmamba=TransMambaConfig(heads=3, groups=3, head_width=64, state=64, schedule_length=512),
        ffn=DenseConfig(hidden=384),
        context=512,
    )


def transmamba_400m() -> ModelConfig:
    """TransMamba-400M (arXiv 2503.24067, Table 8): 415M parameters in 24 sub-layers, 818M with the embeddings."""
    return _transmamba(layers=12)


def transmamba_1_5b() -> ModelConfig:
    """TransMamba-1.5B (arXiv 2503.24067, Table 8): 64 sub-layers, 1.51B parameters with the embeddings."""
    return _transmamba(layers=32)


def _transmamba(layers: int) -> ModelConfig:
    """Published: width 1536, 16 heads, feed-forwards of 4096, a feed-forward a mixer, V9 over 8,192 tokens.

    Not published: widths of heads and state, groups, vocabulary. Sixteen attention heads of 128 with Mamba-2's usual state
    of 128, and a vocabulary of 131,072 with two matrices, are the choice with which both published sizes come out.
    """
    return ModelConfig(
        vocab_size=131_072,
        width=1536,
        pattern=f"(TF){layers}",
        transmamba=TransMambaConfig(heads=16, groups=16, head_width=128, state=128, chunk=128),
        ffn=DenseConfig(hidden=4096),
        tie_embeddings=False,
        context=8192,
    )


_PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "nano": nano,
    "mini": mini,
    "small": small,
    "turbos-560b": turbos_560b,
    "transmamba-nano": transmamba_nano,
    "transmamba-400m": transmamba_400m,
    "transmamba-1.5b": transmamba_1_5b,
}


def presets() -> tuple[str, ...]:
    """The names `preset` knows."""
    return tuple(_PRESETS)


def preset(name: str) -> ModelConfig:
    """The named config.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in _PRESETS:
        raise ValueError(f"preset={name!r} is unknown; use one of {', '.join(_PRESETS)}")
    return _PRESETS[name]()
