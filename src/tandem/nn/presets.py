"""Named model shapes: plain functions that return a config."""

from collections.abc import Callable

from tandem.nn.config import AttentionConfig, MambaConfig, ModelConfig, MoEConfig
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


_PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "nano": nano,
    "mini": mini,
    "small": small,
    "turbos-560b": turbos_560b,
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
