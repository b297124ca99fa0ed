"""Bytes that a config needs: its decode state against context, and the memory of a training device.

Decode, a sequence of T tokens: attention keeps keys and values that grow with T, Mamba-2 a state that does not:
    KV   = 2 · G · P · b bytes a token and attention layer
    SSM  = H · P · N · 4 bytes a Mamba-2 layer: float32 always, rounding errors of the state add up over a generation
    conv = (K - 1) · (H·P + 2·G·N) · b bytes a Mamba-2 layer
with b bytes a value (2 in bf16). TransMamba has a state as Mamba-2 does, and before its TransPoint keeps keys and
values beside it, 2 · G · max(N, H·P / G) · b bytes a token (and 4 · H for step sizes that are converted at the TransPoint),
which it then drops. The letters are those of `tandem.plan.parameters`.
"""

import math
from dataclasses import dataclass

from tandem.nn import MambaConfig, ModelConfig, TransMambaConfig
from tandem.plan.activations import activation_bytes
from tandem.plan.parallel import ParallelLayout
from tandem.plan.parameters import layer_parameters
from tandem.plan.twins import all_attention

_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of a model in use.

    Attributes:
        kv_per_token: keys and values that one token adds to a sequence's decode state in attention layers.
        ssm_per_sequence, conv_per_sequence: decode state of one sequence, whatever its length.
        weights, gradients, optimizer, activations: training, on the fullest device of the layout.
        kv_until: TransPoint of each TransMamba layer, and the bytes that a token adds there before it.
    """

    kv_per_token: int
    ssm_per_sequence: int
    conv_per_sequence: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    kv_until: tuple[tuple[int, int], ...] = ()

    @property
    def fixed_per_sequence(self) -> int:
        """Decode state that does not grow with the context."""
        return self.ssm_per_sequence + self.conv_per_sequence

    @property
    def training(self) -> int:
        """What the fullest device of the layout holds during a training step."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def sequence(self, context: int) -> int:
        """Decode state of one sequence of `context` tokens."""
        return self.fixed_per_sequence + self.kv_per_token_at(context) * context

    def kv_per_token_at(self, context: int) -> int:
        """Keys and values of each token of a sequence of `context` tokens, in all layers that have not switched."""
        return self.kv_per_token + sum(size for transpoint, size in self.kv_until if context < transpoint)


def memory(config: ModelConfig, layout: ParallelLayout | None = None, *, value_bytes: int = 2) -> Memory:
    """Weighs the decode state and a training step of a config, without allocating either.

    Training follows mixed precision as Megatron-LM counts it: `value_bytes` a weight, 4 a gradient (accumulated in
    float32), 8 for AdamW's two moments and 4 more for a float32 copy of weights that are stored in less. The
    layout says who holds what; see `ParallelLayout`. The allocator's fragmentation and communication buffers are not
    counted.

    Args:
        layout: devices and micro-batch; one device by default.
        value_bytes: bytes of a weight, an activation, and a key or value: 2 for bf16, 4 for float32.
    Raises:
        ValueError: a layout that cannot hold this config, e.g. more pipeline stages than layers.
    """
    layout = layout or ParallelLayout()
    layout.check(config)
    attention, trans = config.attention, config.transmamba
    kv = 2 * attention.kv_heads * attention.head_width * value_bytes if attention else 0
    until = _before_transpoint(trans, value_bytes) if trans else 0
    shapes = [shape for shape in map(config.shape_of, config.layers) if isinstance(shape, MambaConfig)]
    recurrent = [recurrent_bytes(shape, value_bytes) for shape in shapes]
    stages = [_stage(config, layout, index, value_bytes) for index in range(layout.pipeline)]
    weights, gradients, optimizer, activations = max(stages, key=sum)
    return Memory(
        kv_per_token=kv * config.layers.count("A"),
        ssm_per_sequence=sum(ssm for ssm, _ in recurrent),
        conv_per_sequence=sum(conv for _, conv in recurrent),
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        kv_until=tuple((transpoint, until) for transpoint in config.transpoints),
    )


def crossing(config: ModelConfig, *, value_bytes: int = 2) -> float:
    """Context in tokens from which on a hybrid's decode state is smaller than its all-attention twin's.

    Raises:
        ValueError: no attention shape, or no layer of Mamba-2 or TransMamba, so that the two never cross.
    """
    if not {"M", "T"} & set(config.layers):
        raise ValueError(f"model.pattern={config.pattern!r} has no M or T layer; its all-attention twin is itself")
    hybrid = memory(config, value_bytes=value_bytes)
    twin = memory(all_attention(config), value_bytes=value_bytes)
    # Between two TransPoints both are straight lines, and the hybrid only drops where it passes one.
    starts = sorted({0, *(transpoint for transpoint, _ in hybrid.kv_until)})
    return next(
        max(start, hybrid.fixed_per_sequence / saved)
        for start, end in zip(starts, [*starts[1:], math.inf], strict=True)
        if (saved := twin.kv_per_token - hybrid.kv_per_token_at(start)) > 0 and hybrid.fixed_per_sequence / saved < end
    )


def recurrent_bytes(shape: MambaConfig, value_bytes: int = 2) -> tuple[int, int]:
    """Decode state of one sequence in one layer, whatever its length: bytes of the SSM's state, and of the convolution's."""
    return shape.inner * shape.state * _FLOAT32, (shape.conv - 1) * shape.conv_width * value_bytes


def _before_transpoint(shape: TransMambaConfig, value_bytes: int) -> int:
    """Bytes a token of keys, values and step sizes; the narrower of keys and values is filled up with zeros."""
    steps = _FLOAT32 * shape.heads if shape.keeps_steps else 0
    return 2 * shape.groups * shape.attention_width * value_bytes + steps


def _stage(config: ModelConfig, layout: ParallelLayout, index: int, value_bytes: int) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients, optimizer and activations on a device of one pipeline stage."""
    layers = layout.stage(config, index)
    dense, routed, largest = _parameters(config, layout, index)
    dense_replicas, routed_replicas = layout.data * layout.context, layout.data * layout.context // layout.expert

    def held(from_shard: int) -> float:
        """Parameters kept by this device of a kind of buffer that is sharded from this ZeRO stage on."""
        sharded = layout.shard >= from_shard
        return dense / (dense_replicas if sharded else 1) + routed / (routed_replicas if sharded else 1)

    gathered = largest if layout.shard >= 3 else 0
    master = _FLOAT32 if value_bytes < _FLOAT32 else 0
    return (
        round((held(3) + gathered) * value_bytes),
        round(held(2) * _FLOAT32),
        round(held(1) * (2 * _FLOAT32 + master)),
        round(activation_bytes(config, layout, layers, index, value_bytes)),
    )


def _parameters(config: ModelConfig, layout: ParallelLayout, index: int) -> tuple[float, float, float]:
    """Parameters of one stage after tensor and expert splits: dense, routed experts, and those of the largest layer."""
    counts = [layer_parameters(config, symbol)[0] for symbol in layout.stage(config, index)]
    routed = [layer["experts"] / (layout.tensor * layout.expert) for layer in counts]
    dense = [(layer.total() - layer["experts"]) / layout.tensor for layer in counts]
    return sum(dense) + _ends(config, layout, index), sum(routed), max(map(sum, zip(dense, routed, strict=True)))


def _ends(config: ModelConfig, layout: ParallelLayout, index: int) -> float:
    """Parameters outside the layers; a tied vocabulary matrix is copied when embedding and head are on two stages."""
    first, last = index == 0, index == layout.pipeline - 1
    matrices = 1 if first and last and config.tie_embeddings else first + last
    return (matrices * config.vocab_size * config.width + last * config.width) / layout.tensor
