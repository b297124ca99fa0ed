"""What the backward pass keeps of the forward pass, layer by layer.

Counted are the tensors that autograd saves when PyTorch runs the layers one operation at a time; `torch.compile` saves
fewer, and the C++ kernels of a CPU (`tandem.ops.cpu`) about half. The letters are those of `tandem.plan.parameters`, with Q tokens in a chunk of the scan. The scan is counted in
its chunked form, whose Q × Q decays and scores are kept; attention in its fused form, whose scores are not. A TransMamba
layer counts as the mean of all of the model, in texts as long as its context.
"""

from statistics import fmean

from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig, TransMambaConfig
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
        case TransMambaConfig():  # before MambaConfig, which it is too
            inner = fmean(_switching_values(config, shape, transpoint) for transpoint in config.transpoints)
        case MambaConfig():
            # As projected, and x, B, C around the convolution.
            inner = shape.inner + 4 * shape.conv_width + shape.heads + _scanned_values(shape)
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
        case TransMambaConfig():
            return fmean(_switching_float32(config, shape, transpoint) for transpoint in config.transpoints)
        case MambaConfig():
            return _scanned_float32(shape)
        case DenseConfig():
            return 0
        case MoEConfig():
            return _FLOAT32 * (shape.experts + 8 * shape.top_k)


def _scanned_values(shape: MambaConfig) -> float:
    """Of a token that the scan reads: y, z and gates; B and C on the chunk grid; mixing and scores."""
    shared = shape.groups * shape.state
    return 8 * shape.inner + 4 * shared + (shape.heads + shape.groups) * shape.chunk


def _scanned_float32(shape: MambaConfig) -> float:
    """Of the same token, bytes: steps and their sums, two Q × Q tables of decays a head, the state that enters each chunk."""
    state = shape.inner * shape.state / shape.chunk
    return _FLOAT32 * (5 * shape.heads + 2 * shape.heads * shape.chunk + state)


def _switching_values(config: ModelConfig, shape: TransMambaConfig, transpoint: int) -> float:
    """Of a token of a TransMamba layer, on average over a text: values beside the layer's input and norm."""
    before, converted, scanned = _shares(config.context, transpoint, shape.chunk)
    shared, width = shape.groups * shape.state, shape.attention_width
    if not before:
        return shape.inner + 4 * shape.conv_width + shape.heads + _scanned_values(shape)
    # Turned queries and keys, values, the result (copied where it was filled up); the norm's input; cosines and sines.
    filled = width > shape.value_width
    attended = (3 + filled) * shape.groups * width + 2 * shape.inner + 2 * shape.state
    every = 2 * shape.conv_width + shape.inner + shape.heads
    if before == 1:  # values that need no filling up are a piece of the convolution's output, which stays for them
        return every + attended + (0 if filled else shape.conv_width - shape.inner)
    # Tokens are put in the order of the parts, and for the gate their inputs; keys and values on the converter's chunk grid.
    every += shape.conv_width + (1 - before) * config.width
    return every + before * attended + converted * (shape.inner + shared) + scanned * _scanned_values(shape)


def _switching_float32(config: ModelConfig, shape: TransMambaConfig, transpoint: int) -> float:
    """Bytes of the same token in float32 or int64: those of the scan, sums of attention and norm, the converter's states."""
    before, converted, scanned = _shares(config.context, transpoint, shape.chunk)
    attended = before * _FLOAT32 * (2 * shape.groups + shape.heads) + scanned * _scanned_float32(shape)
    if before in (0, 1):
        return attended
    places = 3 * 8  # where each token goes, comes from and belongs
    return attended + places + converted * _FLOAT32 * shape.inner * shape.state / shape.chunk


def _shares(context: int, transpoint: int, chunk: int) -> tuple[float, float, float]:
    """Tokens of a text before the TransPoint, those on the chunk grid of the converter, and of the scan; of all tokens.

    The converter's count only where there are tokens behind that read what it makes.
    """
    before = min(transpoint, context)
    converted, scanned = (-(-tokens // chunk) * chunk / context for tokens in (before, context - before))
    return before / context, converted, scanned
