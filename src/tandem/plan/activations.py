"""What the backward pass keeps of the forward pass, layer by layer.

Counted are the tensors that autograd saves when PyTorch runs the layers one operation at a time; `torch.compile` saves
fewer, and the C++ kernels of a CPU (`tandem.ops.cpu`) about half. The letters are those of `tandem.plan.parameters`, with Q tokens in a chunk of the scan. The scan is counted in
its chunked form, whose Q × Q decays and scores are kept; attention in its fused form, whose scores are not.
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
    loss = _loss_bytes(config, layout, tokens, value_bytes) if stage == layout.pipeline - 1 else 0
    in_flight = layout.pipeline - stage
    if layout.checkpointing:
        return tokens * (in_flight * len(layers) * config.width * value_bytes + max(kept)) + loss
    return tokens * in_flight * sum(kept) + loss


def _loss_bytes(config: ModelConfig, layout: ParallelLayout, tokens: float, value_bytes: int) -> float:
    """The last norm, and the gradients that the blockwise cross-entropy makes in its forward pass: of D and of V·D."""
    return tokens * 4 * config.width * value_bytes + _FLOAT32 * config.vocab_size * config.width / layout.tensor


def layer_values(config: ModelConfig, symbol: str) -> float:
    """Values a token that one layer keeps in the activation's own format, its input and its norm's included."""
    shape = shape_of(config, symbol)
    match shape:
        case AttentionConfig():
            # As projected, turned, normed and scaled, the output, and the cosines and sines of two rotations.
            inner = 5 * (shape.heads + shape.kv_heads) * shape.head_width + 2 * shape.head_width
        case MambaConfig():
            # As projected; x, B, C around the convolution; y, z and gates; B and C on the chunk grid; mixing, scores.
            projected = shape.inner + shape.conv_width + shape.heads
            on_grid = 4 * shape.groups * shape.state + (shape.heads + shape.groups) * shape.chunk
            inner = projected + 3 * shape.conv_width + 8 * shape.inner + on_grid
        case DenseConfig():
            inner = 2 * shape.inputs * shape.hidden
        case MoEConfig():
            # What each expert reads and returns, in its own width; gate and up, silu and product.
            hidden = shape.top_k * shape.hidden + shape.shared_width
            inner = 2 * shape.top_k * (shape.latent or config.width) + 2 * shape.inputs * hidden
            inner += 2 * (shape.latent or 0)
    return 3 * config.width + inner


def layer_float32(config: ModelConfig, symbol: str) -> float:
    """Bytes a token that one layer keeps in float32 or int64 whatever the activation's format."""
    shape = shape_of(config, symbol)
    match shape:
        case AttentionConfig():
            return _FLOAT32 * (2 * shape.heads + shape.kv_heads)
        case MambaConfig():
            # Steps and their sums, two Q × Q tables of decays a head, the state that enters each chunk.
            state = shape.inner * shape.state / shape.chunk
            return _FLOAT32 * (5 * shape.heads + 2 * shape.heads * shape.chunk + state)
        case DenseConfig():
            return 0
        case MoEConfig():
            return _FLOAT32 * (shape.experts + 8 * shape.top_k)
