"""What the backward pass keeps of the forward pass, layer by layer.

Counted are the tensors that each layer's matrix products, norms and gates need again. The letters are those of
`tandem.plan.parameters`, with Q tokens in a chunk of the scan. Attention is counted in its fused form, whose scores are
never stored; the scan in its chunked form, whose Q × Q decays and scores are.
"""

from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import shape_of

_FLOAT32 = 4


def activation_bytes(
    config: ModelConfig, layout: ParallelLayout, layers: tuple[str, ...], stage: int, value_bytes: int
) -> float:
    """Bytes of activations on one device of a pipeline stage.

    A stage keeps them for each micro-batch in flight: pipeline - stage of them when one forward and one backward
    alternate. With checkpointing only the input of every layer stays, plus all of the largest layer while it is
    computed again. Tensor and context parallelism split both kinds evenly.
    """
    tokens = layout.tokens / layout.tensor / layout.context
    kept = [layer_values(config, symbol) * value_bytes + layer_float32(config, symbol) for symbol in layers]
    in_flight = layout.pipeline - stage
    if layout.checkpointing:
        return tokens * (in_flight * len(layers) * config.width * value_bytes + max(kept))
    return tokens * in_flight * sum(kept)


def layer_values(config: ModelConfig, symbol: str) -> float:
    """Values a token that one layer keeps in the activation's own format, its input and normalized input included."""
    width = config.width
    match shape_of(config, symbol):
        case AttentionConfig() as shape:
            # queries, keys and values as projected, queries and keys after norm and RoPE, and the output
            inner = 3 * (shape.heads + shape.kv_heads) * shape.head_width
        case MambaConfig() as shape:
            # z, x, B, C as projected, x, B, C after the convolution, the scan's output and the gated one
            inner = shape.inner + 2 * shape.conv_width + 3 * shape.inner
        case DenseConfig(hidden=hidden):
            inner = 3 * hidden
        case MoEConfig() as shape:
            # what the experts read, gate, up, product, and what they return
            inner = shape.top_k * (2 * width + 3 * shape.hidden) + 3 * shape.shared * shape.hidden
    return 2 * width + inner


def layer_float32(config: ModelConfig, symbol: str) -> float:
    """Bytes a token that one layer keeps in float32 whatever the activation's format."""
    match shape_of(config, symbol):
        case AttentionConfig() as shape:
            return _FLOAT32 * shape.heads
        case MambaConfig() as shape:
            # dt and its running sum, scores and decays of the chunk, the state at the chunk's start
            return _FLOAT32 * (
                2 * shape.heads + 2 * shape.heads * shape.chunk + shape.inner * shape.state / shape.chunk
            )
        case DenseConfig():
            return 0
        case MoEConfig() as shape:
            return _FLOAT32 * shape.experts
