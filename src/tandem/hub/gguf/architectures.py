"""What llama.cpp computes under each `general.architecture`, and where a config of ours differs from all of them.

The facts are those of llama.cpp's `src/models/` and of the loader they share. A file that asks for more than its
architecture computes does not fail there: it is read, and gives other logits. So what differs is refused here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    Llama3Scaling,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    PairScaling,
    YarnScaling,
)

FeedForward = DenseConfig | MoEConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One `general.architecture`.

    Attributes:
        mixers: kinds of mixing layers, "A" and "M".
        paired: a block is a mixer with its feed-forward; otherwise a block is one layer of ours.
        feeds: kinds of feed-forward layers, of which a model has one.
        activation: theirs.
        turns: which channels of a head RoPE turns together: "neighbors" (2k and 2k + 1), "halves" (k and k + W/2), or never.
        may_stand: RoPE can be switched off; turns_part: or kept to the first channels of a head.
        pair_factors: angles can be stretched pair by pair (Llama 3).
        qk_norm: when queries and keys are normalized, if ever.
        multipliers: embedding, residual stream, logits and attention scores have factors.
        biases: fields of our config that may be true.
        shared: whether experts have shared ones beside them.
        router: how experts are scored; "sigmoid" brings selection bias, groups, scale and a latent width with it.
        doubled: the inner width of Mamba-2 is twice the model's.
    """

    name: str
    mixers: str = "A"
    paired: bool = True
    feeds: tuple[type[FeedForward], ...] = (DenseConfig,)
    activation: str = "swiglu"
    turns: Literal["neighbors", "halves"] | None = "halves"
    may_stand: bool = False
    turns_part: bool = False
    pair_factors: bool = False
    qk_norm: Literal["before RoPE", "after RoPE"] | None = None
    multipliers: bool = False
    biases: frozenset[str] = frozenset()
    shared: tuple[bool, ...] = (False,)
    router: Literal["softmax", "sigmoid"] = "softmax"
    doubled: bool = False

    def blocks(self, config: ModelConfig) -> Sequence[str]:
        """The kind of each block: of its mixer, or of its only layer."""
        return config.layers[::2] if self.paired else config.layers

    def place(self, layer: int) -> tuple[int, str]:
        """The block of a layer of ours, and the name of the norm before it."""
        if not self.paired:
            return layer, "attn_norm"
        return layer // 2, "ffn_norm" if layer % 2 else "attn_norm"

    def differences(self, config: ModelConfig) -> Iterator[str]:
        """What this architecture would have to have to compute the model; nothing if it does."""
        yield from self._pattern(config)
        if config.attention is not None and "A" in config.layers:
            yield from self._attention(config.attention)
        if config.mamba is not None and "M" in config.layers:
            yield from self._mamba(config.mamba, config.width)
        for feed in feed_forwards(config):
            yield from self._experts(feed) if isinstance(feed, MoEConfig) else self._dense(feed)
        if not self.multipliers:
            for name in ("embedding_scale", "residual_scale", "logit_scale"):
                yield from _must(f"model.{name}", getattr(config, name), 1.0)
        if self.name == "qwen2" and config.attention is not None:
            yield from _must("attention.bias", config.attention.bias, True)
            inner = config.attention.heads * config.attention.head_width
            yield from _must("attention.heads * attention.head_width", inner, config.width)

    def _pattern(self, config: ModelConfig) -> Iterator[str]:
        feeds, layers = feed_forwards(config), config.layers
        if self.paired:
            mixers, fed = layers[::2], layers[1::2]
            fits = len(mixers) == len(fed) and set(fed) <= {"F", "E"}
            wanted = f"{' or '.join(self.mixers)} before every feed-forward"
        else:
            mixers = [symbol for symbol in layers if symbol not in "FE"]
            fits = bool(self.feeds) or len(mixers) == len(layers)
            wanted = f"layers of {', '.join(self.mixers)}{' and F' if self.feeds else ' alone'}"
        # With no layer of one kind llama.cpp has no memory to ask for it, and ends the process.
        if not fits or set(mixers) != set(self.mixers):
            each = ", of each kind one" if len(self.mixers) > 1 else ""
            yield f"model.pattern={config.pattern!r} (must be {wanted}{each})"
        elif len(feeds) > 1:
            yield f"model.pattern={config.pattern!r} (must have feed-forwards of one shape)"

    def _attention(self, shape: AttentionConfig) -> Iterator[str]:
        for name in ("bias", "out_bias"):
            yield from self._bias(f"attention.{name}", getattr(shape, name))
        yield from _must("attention.qk_norm", shape.qk_norm, self.qk_norm is not None)
        if shape.qk_norm and self.qk_norm is not None:
            yield from _must("attention.qk_norm_first", shape.qk_norm_first, self.qk_norm == "before RoPE")
        if shape.scale is not None and not self.multipliers:
            yield from _must("attention.scale", shape.scale, shape.head_width**-0.5)
        if self.turns is None or not self.may_stand:
            yield from _must("attention.rope", shape.rope, self.turns is not None)
        if shape.rope and self.turns is not None:
            yield from self._rope(shape)

    def _rope(self, shape: AttentionConfig) -> Iterator[str]:
        if not self.turns_part:
            yield from _must("attention.rotary_width", shape.turned_width, shape.head_width)
        scaling = shape.rope_scaling
        if isinstance(scaling, Llama3Scaling | PairScaling) and not self.pair_factors:
            yield f"attention.rope_scaling={type(scaling).__name__} (must be linear, yarn or null)"
        if isinstance(scaling, YarnScaling):
            yield from _must("attention.rope_scaling.slow_turns", scaling.slow_turns, 1.0)
            yield from _must("attention.rope_scaling.fast_turns", scaling.fast_turns, 32.0)
            yield from _must("attention.rope_scaling.whole_pairs", scaling.whole_pairs, True)

    def _mamba(self, shape: MambaConfig, width: int) -> Iterator[str]:
        yield from _must("mamba.norm_groups", shape.norm_groups, None, shape.groups)
        yield from _must("mamba.bias", shape.bias, False)
        yield from _must("mamba.step_min", shape.step_min, 0.0)
        yield from _must("mamba.step_max", shape.step_max, None)
        if self.doubled:
            yield from _must("mamba.heads * mamba.head_width", shape.inner, 2 * width)

    def _dense(self, shape: DenseConfig) -> Iterator[str]:
        if DenseConfig not in self.feeds:
            yield "dense feed-forwards (must be experts)"
        yield from _must("dense.activation", shape.activation, self.activation)
        yield from self._bias("dense.bias", shape.bias)

    def _experts(self, shape: MoEConfig) -> Iterator[str]:
        if MoEConfig not in self.feeds:
            yield f"moe.experts={shape.experts} (must be dense feed-forwards)"
        yield from _must("moe.activation", shape.activation, self.activation)
        yield from _must("moe.bias", shape.bias, False)
        yield from _must("moe.scores", shape.scores, self.router)
        if bool(shape.shared) not in self.shared:
            yield f"moe.shared={shape.shared} (must be {'1 or more' if True in self.shared else 0})"
        free = shape.expert_groups == shape.top_groups
        if self.router == "sigmoid":
            if not free and shape.experts // shape.expert_groups < 2:
                yield f"moe.expert_groups={shape.expert_groups} (must leave two experts a group)"
            return
        yield from _must("moe.renormalize", shape.renormalize, True)
        yield from _must("moe.routed_scale", shape.routed_scale, 1.0)
        yield from _must("moe.latent", shape.latent, None)
        yield from _must("moe.selection_bias", shape.selection_bias, False)
        if not free:
            yield f"moe.top_groups={shape.top_groups} (must be all {shape.expert_groups})"

    def _bias(self, name: str, value: bool) -> Iterator[str]:
        if name not in self.biases:
            yield from _must(name, value, False)


_ATTENTION_BIASES = frozenset({"attention.bias", "attention.out_bias"})
_BIASES = _ATTENTION_BIASES | {"dense.bias"}
ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture(name="qwen2", biases=frozenset({"attention.bias"})),
        Architecture(
            name="llama",
            feeds=(DenseConfig, MoEConfig),
            turns="neighbors",
            pair_factors=True,
            biases=_BIASES,
        ),
        Architecture(
            name="granite", turns="neighbors", may_stand=True, pair_factors=True, multipliers=True, biases=_BIASES
        ),
        Architecture(
            name="granitemoe",
            feeds=(MoEConfig,),
            turns="neighbors",
            pair_factors=True,
            multipliers=True,
            biases=_ATTENTION_BIASES,
            shared=(False, True),
        ),
        Architecture(
            name="granitehybrid",
            mixers="AM",
            feeds=(DenseConfig, MoEConfig),
            turns="neighbors",
            may_stand=True,
            turns_part=True,
            pair_factors=True,
            multipliers=True,
            biases=_BIASES,
            shared=(False, True),
            doubled=True,
        ),
        Architecture(name="mamba2", mixers="M", paired=False, feeds=(), turns=None),
        Architecture(
            name="nemotron_h",
            mixers="AM",
            paired=False,
            activation="relu2",
            turns=None,
            biases=_BIASES,
        ),
        Architecture(
            name="nemotron_h_moe",
            mixers="AM",
            paired=False,
            feeds=(MoEConfig,),
            activation="relu2",
            turns=None,
            biases=_ATTENTION_BIASES,
            shared=(True,),
            router="sigmoid",
        ),
        Architecture(name="qwen3", qk_norm="before RoPE", biases=frozenset({"attention.bias"})),
        Architecture(name="hunyuan-dense", qk_norm="after RoPE", biases=frozenset({"attention.bias"})),
        Architecture(
            name="hunyuan-moe",
            feeds=(MoEConfig,),
            qk_norm="after RoPE",
            biases=frozenset({"attention.bias"}),
            shared=(True,),
        ),
    )
}
"""By name; of several that compute a model the first is taken."""


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that computes a model.

    Raises:
        ValueError: none does; the message names what the nearest would need.
    """
    if "T" in config.layers:
        raise ValueError(
            f"llama.cpp has no TransMamba layer, and model.pattern={config.pattern!r} has T; use a directory of ours"
        )
    found = [(list(architecture.differences(config)), architecture) for architecture in ARCHITECTURES.values()]
    mixers = set(config.layers) & {"A", "M"}
    differences, nearest = min(found, key=lambda pair: (not mixers <= set(pair[1].mixers), len(pair[0])))
    if differences:
        raise ValueError(
            f"no architecture of llama.cpp computes this model; for the nearest, {nearest.name}, change "
            f"{'; '.join(differences)}"
        )
    return nearest


def feed_forwards(config: ModelConfig) -> list[FeedForward]:
    """The shapes of feed-forwards that occur, each once."""
    used = [{"F": config.ffn, "E": config.experts}.get(symbol) for symbol in dict.fromkeys(config.layers)]
    return list(dict.fromkeys(feed for feed in used if feed is not None))


def _must(name: str, value: Any, *wanted: Any) -> Iterator[str]:
    if value not in wanted:
        yield f"{name}={_shown(value)} (must be {' or '.join(map(_shown, wanted))})"


def _shown(value: Any) -> str:
    return (
        {True: "true", False: "false", None: "null"}[value]
        if value is None or value is True or value is False
        else str(value)
    )
