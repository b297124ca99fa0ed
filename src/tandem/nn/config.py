"""The configuration tree of a model; it mirrors the module tree and is all that a checkpoint needs to be rebuilt.

Every class is frozen, checks itself when it is made, and round-trips through JSON. `ModelConfig.build()` gives the
module; nothing is looked up by string.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from tandem.nn.checks import divisors, require_above_zero, require_positive
from tandem.nn.pattern import parse_pattern
from tandem.nn.plain import from_plain, to_plain
from tandem.nn.rope import LinearScaling, Llama3Scaling, PairScaling, RopeScaling, YarnScaling, ntk_base
from tandem.nn.schedule import SCHEDULE_LENGTH, transpoints
from tandem.ops import ACTIVATIONS, GATED, RoutingRule


def _require_activation(prefix: str, name: str) -> None:
    if name not in ACTIVATIONS:
        raise ValueError(f"{prefix}.activation={name!r} is unknown; use one of {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Grouped-query attention: `heads` query heads share `kv_heads` keys and values.

    Attributes:
        qk_norm: RMSNorm over each head's queries and keys, with a learned weight a channel.
        qk_norm_first: apply it before RoPE; after RoPE, as in Tencent's code, by default.
        rope_base: base of the rotary angles at alpha 1.
        rope_alpha: NTK factor; the base becomes rope_base * alpha ** (d / (d - 2)) for head width d (TurboS: 1 at
            4K, 50 at 32K, 1000 at 256K).
        rope_scaling: how the angles reach beyond the context of the first training; None leaves them as they are.
        rotary_width: how many of a head's first channels RoPE turns (Bamba: half of them); all when None.
        bias: queries, keys and values have one; out_bias: so has the output.
        scale: factor of the scores before the softmax (Granite's attention_multiplier); head_width ** -0.5 when None.
    """

    heads: int
    kv_heads: int
    head_width: int
    qk_norm: bool = True
    qk_norm_first: bool = False
    rope: bool = True
    rope_base: float = 10_000.0
    rope_alpha: float = 1.0
    rope_scaling: RopeScaling | None = None
    rotary_width: int | None = None
    bias: bool = False
    out_bias: bool = False
    scale: float | None = None

    def __post_init__(self) -> None:
        require_positive("attention", self, "heads", "kv_heads", "head_width")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"attention.kv_heads={self.kv_heads} does not divide attention.heads={self.heads}; "
                f"use one of {divisors(self.heads)}"
            )
        if self.scale is not None:
            require_above_zero("attention", self, "scale")
        if self.rotary_width is not None and (self.rotary_width % 2 or not 2 <= self.rotary_width <= self.head_width):
            raise ValueError(
                f"attention.rotary_width={self.rotary_width} must be even, 2 or more and at most "
                f"attention.head_width={self.head_width}"
            )
        if self.rope and self.rotary_width is None and self.head_width % 2:
            raise ValueError(f"attention.head_width={self.head_width} is odd; RoPE turns pairs, use an even width")
        if self.rope_alpha < 1:
            raise ValueError(f"attention.rope_alpha={self.rope_alpha} is below 1; use 1 for the trained context")
        if isinstance(self.rope_scaling, PairScaling) and len(self.rope_scaling.factors) != self.turned_width // 2:
            raise ValueError(
                f"attention.rope_scaling.factors has {len(self.rope_scaling.factors)} numbers for "
                f"{self.turned_width // 2} pairs of channels; give one a pair"
            )

    @property
    def turned_width(self) -> int:
        """How many of a head's first channels RoPE turns."""
        return self.rotary_width or self.head_width

    @property
    def rotary_base(self) -> float:
        """The base in force: rope_base * rope_alpha ** (d / (d - 2)) for d channels that turn; TurboS §2."""
        return ntk_base(self.rope_base, self.rope_alpha, self.turned_width)


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaConfig:
    """Mamba-2: `heads` recurrences of width `head_width`; `groups` of heads share B and C.

    Attributes:
        state: N, width of the state kept for each channel.
        conv: taps of the causal depthwise convolution over x, B and C.
        chunk: tokens the scan handles as one block of matrix products; results do not depend on it.
        norm_groups: groups of the gated RMSNorm; the same as `groups` when None.
        dt_min, dt_max: range of the step sizes at initialization.
        step_min, step_max: every step size is kept between them, after softplus, in training, prefill and decoding alike;
            no upper limit when None. (`transformers` and mamba_ssm leave the limits out in a decode step, so that theirs
            depends on how a text was cut; here prefill and decoding equal one forward pass.)
        conv_bias: the convolution has a bias; bias: so have the projections in and out.
    """

    heads: int
    head_width: int = 64
    state: int = 128
    groups: int = 1
    conv: int = 4
    chunk: int = 64
    norm_groups: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    step_min: float = 0.0
    step_max: float | None = None
    conv_bias: bool = True
    bias: bool = False
    _field: ClassVar[str] = "mamba"

    def __post_init__(self) -> None:
        require_positive(self._field, self, "heads", "head_width", "state", "groups", "conv", "chunk")
        if self.heads % self.groups:
            raise ValueError(
                f"{self._field}.groups={self.groups} does not divide {self._field}.heads={self.heads}; "
                f"use one of {divisors(self.heads)}"
            )
        if self.norm_groups is not None and (self.norm_groups < 1 or self.inner % self.norm_groups):
            raise ValueError(
                f"{self._field}.norm_groups={self.norm_groups} does not divide heads * head_width={self.inner}"
            )
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(
                f"{self._field}.dt_min={self.dt_min} must be above 0 and at most {self._field}.dt_max={self.dt_max}"
            )
        least, most = self.step_limits
        if not 0 <= least < most:
            raise ValueError(
                f"{self._field}.step_min={least} must be 0 or more and below {self._field}.step_max={self.step_max}"
            )

    @property
    def inner(self) -> int:
        """Width of x and z: heads * head_width."""
        return self.heads * self.head_width

    @property
    def step_limits(self) -> tuple[float, float]:
        """Least and greatest step size."""
        return self.step_min, math.inf if self.step_max is None else self.step_max

    @property
    def conv_width(self) -> int:
        """Channels that pass through the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state


@dataclass(frozen=True, kw_only=True, slots=True)
class TransMambaConfig(MambaConfig):
    """TransMamba: the parameters of one Mamba-2 layer, read as attention up to the TransPoint and as an SSM behind it.

    Queries are C, keys are B and values are x, after the convolution: `groups` attention heads of width `state`, each over
    the values of heads / groups heads. With groups = heads it is ordinary multi-head attention. The paper (arXiv 2503.24067)
    is silent about most of the options below; where it is not, that is said.

    Attributes:
        schedule: TransPoints, as in `tandem.nn.transpoints`: a name, or one a layer. Parameters do not depend on it.
        schedule_length: tokens that a named schedule is spread over.
        rope_mode: "attn" turns queries and keys inside attention only; "both" turns B and C at every position, so that the
            SSM reads turned ones too; "none" turns nothing. The paper gives a base and no place.
        rope_base, rope_alpha: as in `AttentionConfig`.
        scale: factor of the scores; state ** -0.5 when None (the paper's equation 2 prints none).
        gate: tokens multiplied by silu(z): "ssm" (those behind the TransPoint), "both" or "none". In the paper's ablation
            attention is best without.
        norm: likewise, tokens that pass through the RMSNorm before the output.
        skip: likewise, tokens to which D x is added.
        convert: start the SSM from the converted prefix; False is an ablation that starts it from zeros.
        cache: what decoding keeps before the TransPoint beside keys and values: "running" moves the state on with every
            token, "convert" keeps step sizes and converts at the TransPoint. Both give the same.
    """

    schedule: str | tuple[int, ...] = "v9"
    schedule_length: int = SCHEDULE_LENGTH
    rope_mode: str = "attn"
    rope_base: float = 10_000.0
    rope_alpha: float = 1.0
    scale: float | None = None
    gate: str = "ssm"
    norm: str = "both"
    skip: str = "ssm"
    convert: bool = True
    cache: str = "running"
    _field: ClassVar[str] = "transmamba"

    def __post_init__(self) -> None:
        MambaConfig.__post_init__(self)  # super() does not find its way in a class with slots
        if self.scale is not None:
            require_above_zero("transmamba", self, "scale")
        if self.rope_alpha < 1:
            raise ValueError(f"transmamba.rope_alpha={self.rope_alpha} is below 1; use 1 for the trained context")
        if self.rope_mode != "none" and self.state % 2:
            raise ValueError(f"transmamba.state={self.state} is odd; RoPE turns pairs, use an even width")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"transmamba.{name}={getattr(self, name)!r} is unknown; use one of {', '.join(known)}")
        layers = 1 if isinstance(self.schedule, str) else len(self.schedule)
        transpoints(self.schedule, layers, self.schedule_length)

    @property
    def rotary_base(self) -> float:
        """The base in force, as in `AttentionConfig`."""
        return ntk_base(self.rope_base, self.rope_alpha, self.state)

    @property
    def value_width(self) -> int:
        """Width of the values of one attention head: heads / groups heads side by side."""
        return self.inner // self.groups

    @property
    def attention_width(self) -> int:
        """Channels of queries, keys and values in attention: the wider of state and value width, the other ends in zeros."""
        return max(self.state, self.value_width)

    @property
    def keeps_steps(self) -> bool:
        """Whether decoding keeps step sizes beside keys and values."""
        return self.convert and self.cache == "convert"


_CHOICES: dict[str, tuple[str, ...]] = {
    "rope_mode": ("attn", "both", "none"),
    **dict.fromkeys(("gate", "norm", "skip"), ("ssm", "both", "none")),
    "cache": ("running", "convert"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseConfig:
    """One feed-forward of width `hidden`.

    Attributes:
        activation: swiglu, geglu, geglu_tanh and reglu are gated, with two matrices into the hidden width; relu2, silu, gelu,
            gelu_tanh and relu have one.
        bias: both maps have one.
    """

    hidden: int
    activation: str = "swiglu"
    bias: bool = False

    def __post_init__(self) -> None:
        require_positive("dense", self, "hidden")
        _require_activation("dense", self.activation)

    @property
    def inputs(self) -> int:
        """Matrices into the hidden width: 2 with a gate, else 1."""
        return 2 if self.activation in GATED else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """A mixture of `experts` experts of width `hidden`, `top_k` active a token, beside `shared` that always are.

    Attributes:
        shared_hidden: width of the shared experts together; shared * hidden when None.
        activation: of all experts, as in `DenseConfig`.
        bias: the shared expert and the maps to and from `latent` have one; the routed experts never do.
        scores: "softmax" over all experts, or "sigmoid" of each, which then need not add up to anything.
        renormalize: weights of the chosen experts are divided by their sum; routed_scale: then multiplied by this.
        expert_groups, top_groups: experts lie in equal groups and a token chooses among the best `top_groups`, ranked by
            the sum of their two best scores (DeepSeek-V3, arXiv 2412.19437 §2.1.2); 1 and 1 is free choice.
        latent: width in which the routed experts work, between a map from the model's width and one back to it; None is
            the model's width and no maps.
        capacity_factor: in training only, an expert takes at most ceil(factor * top_k * T / experts) tokens and the
            overflow is recycled to experts with room (Hunyuan-Large); None is dropless.
        balance_weight: factor of the balance loss E² · mean_e(f_e · p_e), averaged over layers.
        selection_bias: adds a bias, trained by load and not by gradient, to the scores that select (not to those
            that weigh), as in auxiliary-loss-free balancing; `bias_rate` is its step.
    """

    experts: int
    top_k: int
    hidden: int
    shared: int = 1
    capacity_factor: float | None = None
    balance_weight: float = 0.01
    selection_bias: bool = False
    bias_rate: float = 1e-3
    shared_hidden: int | None = None
    activation: str = "swiglu"
    bias: bool = False
    scores: str = "softmax"
    renormalize: bool = True
    routed_scale: float = 1.0
    expert_groups: int = 1
    top_groups: int = 1
    latent: int | None = None

    def __post_init__(self) -> None:
        require_positive("moe", self, "experts", "top_k", "hidden", "expert_groups", "top_groups")
        _require_activation("moe", self.activation)
        require_above_zero("moe", self, "routed_scale")
        for name in ("shared_hidden", "latent"):
            if getattr(self, name) is not None:
                require_positive("moe", self, name)
        if self.shared_hidden is not None and not self.shared:
            raise ValueError(f"moe.shared_hidden={self.shared_hidden} but moe.shared=0; use 1, or leave the width out")
        if self.scores not in ("softmax", "sigmoid"):
            raise ValueError(f"moe.scores={self.scores!r} is unknown; use softmax or sigmoid")
        self._check_groups()
        if self.top_k > self.experts:
            raise ValueError(f"moe.top_k={self.top_k} is above moe.experts={self.experts}; choose at most all of them")
        if self.shared < 0:
            raise ValueError(f"moe.shared={self.shared} is below 0; use 0 for no shared expert")
        if self.capacity_factor is not None and self.capacity_factor < 1:
            raise ValueError(
                f"moe.capacity_factor={self.capacity_factor} is below 1, so experts could not hold all tokens; "
                "use 1 or more, or null for dropless"
            )

    def _check_groups(self) -> None:
        if self.experts % self.expert_groups:
            raise ValueError(
                f"moe.expert_groups={self.expert_groups} does not divide moe.experts={self.experts}; "
                f"use one of {divisors(self.experts)}"
            )
        open_experts = self.experts // self.expert_groups * self.top_groups
        if self.top_groups > self.expert_groups or open_experts < self.top_k:
            raise ValueError(
                f"moe.top_groups={self.top_groups} of {self.expert_groups} groups leaves {open_experts} of "
                f"{self.experts} experts for moe.top_k={self.top_k}; use at most all groups, and enough of them"
            )

    @property
    def inputs(self) -> int:
        """Matrices into an expert's hidden width: 2 with a gate, else 1."""
        return 2 if self.activation in GATED else 1

    @property
    def shared_width(self) -> int:
        """Width of the shared experts together, 0 without any."""
        return self.shared * self.hidden if self.shared_hidden is None else self.shared_hidden

    @property
    def shared_dense(self) -> DenseConfig | None:
        """Shape of the shared experts, which are one dense feed-forward; None without any."""
        if not self.shared:
            return None
        return DenseConfig(hidden=self.shared_width, activation=self.activation, bias=self.bias)

    @property
    def rule(self) -> RoutingRule:
        """How scores become choices and weights."""
        return RoutingRule(self.scores, self.renormalize, self.routed_scale, self.expert_groups, self.top_groups)


FeedForwardConfig = DenseConfig | MoEConfig
LayerConfig = AttentionConfig | MambaConfig | TransMambaConfig | DenseConfig | MoEConfig
SHAPES = {"A": "attention", "M": "mamba", "T": "transmamba", "F": "ffn", "E": "experts"}
"""Which part of a `ModelConfig` gives the shape of a layer symbol."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A hybrid language model: a pattern of layers and the shape of each kind.

    Attributes:
        pattern: the language of layers, e.g. "(MF)3 AMF"; see docs/layers.md.
        ffn: shape of every `F`; experts: shape of every `E`, for models that mix dense and experts.
        context: longest sequence it is meant for; generation refuses to go beyond it.
        embedding_scale: factor of the embedding; residual_scale: of what each layer adds to the residual stream;
            logit_scale: of the logits (Granite's embedding_multiplier, residual_multiplier and 1 / logits_scaling).
    """

    vocab_size: int
    width: int
    pattern: str
    attention: AttentionConfig | None = None
    mamba: MambaConfig | None = None
    transmamba: TransMambaConfig | None = None
    ffn: DenseConfig | MoEConfig | None = None
    experts: DenseConfig | MoEConfig | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    context: int = 4096
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        require_positive("model", self, "vocab_size", "width", "context")
        require_above_zero("model", self, "embedding_scale", "residual_scale", "logit_scale")
        for symbol in dict.fromkeys(self.layers):
            if self.shape_of(symbol) is None:
                raise ValueError(
                    f"model.{SHAPES[symbol]}=null but model.pattern={self.pattern!r} has {symbol!r} layers; give its shape"
                )
        if "T" in self.layers:
            _ = self.transpoints

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The parsed pattern, one symbol a sub-layer."""
        return parse_pattern(self.pattern)

    def shape_of(self, symbol: str) -> "LayerConfig | None":
        """The part of the config that gives the shape of a layer symbol."""
        return getattr(self, SHAPES[symbol])

    @property
    def chunk(self) -> int:
        """Chunk length of the scan, for `SequenceLayout.from_lengths`."""
        scanned = self.mamba or self.transmamba
        return scanned.chunk if scanned else 128

    @cached_property
    def transpoints(self) -> tuple[int, ...]:
        """The TransPoint of each `T` layer, in order; none without such layers.

        Raises:
            ValueError: a list of TransPoints that is not one a layer.
        """
        shape, layers = self.transmamba, self.layers.count("T")
        return transpoints(shape.schedule, layers, shape.schedule_length) if shape and layers else ()

    def rescheduled(self, schedule: str | Sequence[int], length: int | None = None) -> Self:
        """The same model with other TransPoints, for which its weights need no change.

        Args:
            schedule: as in `tandem.nn.transpoints`.
            length: tokens that a named schedule is spread over; as before when None.
        Raises:
            ValueError: a model without `T` layers, or what `transpoints` refuses.
        """
        shape = self.transmamba
        if shape is None or "T" not in self.layers:
            raise ValueError(f"schedule={schedule!r} needs T layers, but model.pattern={self.pattern!r} has none")
        schedule = schedule if isinstance(schedule, str) else tuple(schedule)
        spread = shape.schedule_length if length is None else length
        return self.replace(transmamba=dataclasses.replace(shape, schedule=schedule, schedule_length=spread))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict; each feed-forward and scaling of RoPE carries its "kind"."""
        return to_plain(self, _KIND)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Rebuilds a config.

        Raises:
            ValueError: a key that is unknown or missing, or a value of the wrong type, named by its path.
        """
        return from_plain(cls, plain, "model", _KIND)

    def to_json(self) -> str:
        """The config as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parses `to_json`'s output.

        Raises:
            ValueError: not JSON, not an object, or what `from_dict` refuses.
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"model config is not JSON ({error}); write one with ModelConfig.to_json()") from error
        if not isinstance(plain, dict):
            raise ValueError(f"model config is a JSON {type(plain).__name__}; it must be an object")
        return cls.from_dict(plain)


_KIND: dict[type, str] = {
    DenseConfig: "dense",
    MoEConfig: "moe",
    LinearScaling: "linear",
    Llama3Scaling: "llama3",
    YarnScaling: "yarn",
    PairScaling: "pair",
}
