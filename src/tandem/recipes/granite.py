"""GraniteMoeHybrid, the peer of the benchmarks: the shape at which GPUs are compared, and any shape of ours as its config."""

from typing import Any

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


def granite_config(transformers: Any, shape: ModelConfig) -> Any:
    """The same shape as a config of `transformers`; every feed-forward of it is a mixture of experts.

    Args:
        transformers: the module, which is an extra and slow to import.
    """
    attention, mamba, ffn = shape.attention, shape.mamba, shape.ffn
    assert attention is not None
    assert mamba is not None
    assert isinstance(ffn, MoEConfig)
    kinds = ["attention" if symbol == "A" else "mamba" for symbol in shape.layers if symbol in "AM"]
    return transformers.GraniteMoeHybridConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=ffn.hidden,
        shared_intermediate_size=ffn.shared_width,
        num_hidden_layers=len(kinds),
        layer_types=kinds,
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        num_local_experts=ffn.experts,
        num_experts_per_tok=ffn.top_k,
        mamba_n_heads=mamba.heads,
        mamba_d_head=mamba.head_width,
        mamba_d_state=mamba.state,
        mamba_n_groups=mamba.groups,
        tie_word_embeddings=shape.tie_embeddings,
        position_embedding_type="rope" if attention.rope else "nope",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
