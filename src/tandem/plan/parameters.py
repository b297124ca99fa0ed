"""Counts the parameters of a config in closed form, so that a model too large for any machine can be weighed.

Letters in the formulas: D model width, V vocabulary, L layers; attention: H heads, G key/value heads, P head width;
Mamba-2 and TransMamba: I = heads × head width, H heads, G groups, N state, K taps; feed-forward: E experts, k active,
S shared, F width.
"""

from collections import Counter
from dataclasses import dataclass

from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    LayerConfig,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    TransMambaConfig,
)

KINDS = (
    "embedding",
    "head",
    "attention",
    "mamba",
    "transmamba",
    "dense",
    "experts",
    "shared_expert",
    "latent",
    "router",
    "norms",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """How many parameters a model has, and how many of them one token uses.

    Attributes:
        by_kind: all parameters by kind, in the order of `KINDS`; kinds that do not occur are left out.
        active_by_kind: those that one token's forward pass multiplies with; the embedding and the head count once, whole.
    """

    by_kind: dict[str, int]
    active_by_kind: dict[str, int]

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.by_kind.values())

    @property
    def active(self) -> int:
        """Parameters that one token uses."""
        return sum(self.active_by_kind.values())


def parameters(config: ModelConfig) -> Parameters:
    """Counts a model's parameters without building it.

    >>> from tandem.nn import preset
    >>> round(parameters(preset("turbos-560b")).total / 1e9, 2)
    558.15
    """
    kinds: Counter[str] = Counter(embedding=config.vocab_size * config.width, norms=config.width)
    if not config.tie_embeddings:
        kinds["head"] = config.vocab_size * config.width
    active = Counter(kinds)
    for symbol, count in Counter(config.layers).items():
        layer, used = layer_parameters(config, symbol)
        for kind in layer:
            kinds[kind] += count * layer[kind]
            active[kind] += count * used[kind]
    return Parameters(
        by_kind={kind: kinds[kind] for kind in KINDS if kinds[kind]},
        active_by_kind={kind: active[kind] for kind in KINDS if active[kind]},
    )


def layer_parameters(config: ModelConfig, symbol: str) -> tuple[Counter[str], Counter[str]]:
    """Parameters by kind of one layer, its pre-norm included: all of them, and those that one token uses."""
    width = config.width
    shape = shape_of(config, symbol)
    match shape:
        case AttentionConfig():
            counts = Counter(attention=_attention(shape, width))
        case TransMambaConfig():  # before MambaConfig, which it is too
            counts = Counter(transmamba=_mamba(shape, width))
        case MambaConfig():
            counts = Counter(mamba=_mamba(shape, width))
        case DenseConfig():
            counts = Counter(dense=_dense(shape, width))
        case MoEConfig():
            counts = _mixture(shape, width)
    counts["norms"] = width
    active = Counter(counts)
    if isinstance(shape, MoEConfig):
        active["experts"] = counts["experts"] // shape.experts * shape.top_k
    return counts, active


def shape_of(config: ModelConfig, symbol: str) -> LayerConfig:
    """The shape of a layer symbol that the config must have."""
    shape = config.shape_of(symbol)
    if shape is None:
        raise ValueError(f"pattern symbol {symbol!r} has no shape in the config; use one of {config.layers}")
    return shape


def _attention(shape: AttentionConfig, width: int) -> int:
    """D·(2H + 2G)·P for queries, output, keys and values; 2P for the norms of queries and keys; (H + 2G)·P + D biases."""
    projections = width * 2 * (shape.heads + shape.kv_heads) * shape.head_width
    bias = (shape.heads + 2 * shape.kv_heads) * shape.head_width if shape.bias else 0
    return projections + bias + shape.out_bias * width + (2 * shape.head_width if shape.qk_norm else 0)


def _mamba(shape: MambaConfig, width: int) -> int:
    """D·(2I + 2GN + H) in, (K + 1)·(I + 2GN) convolution, 3H for A, D and dt, I for the gated norm, I·D out.

    A TransMamba layer has the same: attention reads the matrices of the SSM, and a TransPoint is no parameter.
    Biases of the projections: 2I + 2GN + H in, D out; a convolution without bias has K in place of K + 1.
    """
    projected = shape.inner + shape.conv_width + shape.heads
    maps = projected * width + shape.inner * width + (projected + width if shape.bias else 0)
    return maps + (shape.conv + shape.conv_bias) * shape.conv_width + 3 * shape.heads + shape.inner


def _dense(shape: DenseConfig, width: int) -> int:
    """3·D·F (gate, up, down), 2·D·F without a gate; 2F + D or F + D biases."""
    bias = shape.inputs * shape.hidden + width if shape.bias else 0
    return (shape.inputs + 1) * width * shape.hidden + bias


def _mixture(shape: MoEConfig, width: int) -> Counter[str]:
    """3·D·F an expert (gate, up, down), S of them shared; D·E for the router; 2·D·L for maps to and from a latent width."""
    latent = shape.latent or 0
    expert = (shape.inputs + 1) * (latent or width) * shape.hidden
    return Counter(
        experts=shape.experts * expert,
        shared_expert=_dense(shape.shared_dense, width) if shape.shared_dense else 0,
        latent=2 * width * latent + (latent + width if latent and shape.bias else 0),
        router=width * shape.experts,
    )


def readable_count(number: float, billion: str = "B") -> str:
    """A number with a letter for its size, e.g. 7.00B; "G" in place of "B" for operations."""
    for size, letter in ((1e12, "T"), (1e9, billion), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{letter}"
    return f"{number:.0f}"
