"""GraniteMoeHybrid, the peer of the benchmarks: the shape at which GPUs are compared, and any shape of ours as its config."""

from typing import Any

from tandem.hub.huggingface import released_config
from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, MoEConfig

GRANITE = ModelConfig(
    vocab_size=100_352,
    width=1024,
    pattern="(MF)5 AF (MF)9 AF (MF)4",
    attention=AttentionConfig(heads=16, kv_heads=4, head_width=64, qk_norm=False, rope=False),
    mamba=MambaConfig(heads=32, head_width=64, state=128, groups=1, chunk=128),
    ffn=MoEConfig(experts=32, top_k=4, hidden=512, shared_hidden=1024),
)
"""1.3B parameters, 0.4B of them active: 20 mixers of which 2 attention, and vocabulary and experts as in Granite 4.0 H."""


CPU_CHUNK, GPU_CHUNK = 32, 64
"""Tokens of a chunk of the peer's scan at which its PyTorch paths were fastest, of 16 to 256; released models have 256."""
COMPILED_CPU_CHUNK, COMPILED_GPU_CHUNK = 64, 32
"""The same where torch.compile has fused its layers, of 32, 64 and 128; for a GPU PyTorch 2.11 cannot compile chunks of 256."""


def granite_config(transformers: Any, shape: ModelConfig, chunk: int = CPU_CHUNK) -> Any:
    """The same shape as a config of `transformers`, whose logits are the same.

    Args:
        transformers: the module, which is an extra and slow to import.
        chunk: of its scan, in tokens; results do not depend on it.
    """
    plain = released_config(shape)
    assert plain is not None
    assert plain.pop("model_type") == "granitemoehybrid"
    del plain["architectures"]
    return transformers.GraniteMoeHybridConfig(
        **plain, mamba_chunk_size=chunk, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )


def compile_layers(model: Any) -> None:
    """Compiles each layer of the peer by itself, for shapes that stay; layers of a kind share what is compiled."""
    for layer in model.model.layers:
        layer.compile(dynamic=False)
