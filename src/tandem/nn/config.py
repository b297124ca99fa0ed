"""The configuration tree of a model; it mirrors the module tree and is all that a checkpoint needs to be rebuilt.

Every class is frozen, checks itself when it is made, and round-trips through JSON. `ModelConfig.build()` gives the
module; nothing is looked up by string.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from tandem.nn.pattern import parse_pattern


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _require_positive(prefix: str, config: Any, *fields: str) -> None:
    for name in fields:
        value = getattr(config, name)
        if value < 1:
            raise ValueError(f"{prefix}.{name}={value} must be 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Grouped-query attention: `heads` query heads share `kv_heads` keys and values.

    Attributes:
        qk_norm: RMSNorm over each head's queries and keys, with a learned weight a channel.
        qk_norm_first: apply it before RoPE; after RoPE, as in Tencent's code, by default.
        rope_base: base of the rotary angles at alpha 1.
        rope_alpha: NTK factor; the base becomes rope_base * alpha ** (d / (d - 2)) for head width d (TurboS: 1 at
            4K, 50 at 32K, 1000 at 256K).
    """

    heads: int
    kv_heads: int
    head_width: int
    qk_norm: bool = True
    qk_norm_first: bool = False
    rope: bool = True
    rope_base: float = 10_000.0
    rope_alpha: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("attention", self, "heads", "kv_heads", "head_width")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"attention.kv_heads={self.kv_heads} does not divide attention.heads={self.heads}; "
                f"use one of {_divisors(self.heads)}"
            )
        if self.rope and self.head_width % 2:
            raise ValueError(f"attention.head_width={self.head_width} is odd; RoPE turns pairs, use an even width")
        if self.rope_alpha < 1:
            raise ValueError(f"attention.rope_alpha={self.rope_alpha} is below 1; use 1 for the trained context")

    @property
    def rotary_base(self) -> float:
        """The base in force: rope_base * rope_alpha ** (d / (d - 2)); TurboS §2."""
        width = self.head_width
        return self.rope_base * self.rope_alpha ** (width / max(width - 2, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class MambaConfig:
    """Mamba-2: `heads` recurrences of width `head_width`; `groups` of heads share B and C.

    Attributes:
        state: N, width of the state kept for each channel.
        conv: taps of the causal depthwise convolution over x, B and C.
        chunk: tokens the scan handles as one block of matrix products; results do not depend on it.
        norm_groups: groups of the gated RMSNorm; the same as `groups` when None.
        dt_min, dt_max: range of the step sizes at initialization.
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

    def __post_init__(self) -> None:
        _require_positive("mamba", self, "heads", "head_width", "state", "groups", "conv", "chunk")
        if self.heads % self.groups:
            raise ValueError(
                f"mamba.groups={self.groups} does not divide mamba.heads={self.heads}; "
                f"use one of {_divisors(self.heads)}"
            )
        if self.norm_groups is not None and (self.norm_groups < 1 or self.inner % self.norm_groups):
            raise ValueError(f"mamba.norm_groups={self.norm_groups} does not divide heads * head_width={self.inner}")
        if not 0 < self.dt_min <= self.dt_max:
            raise ValueError(f"mamba.dt_min={self.dt_min} must be above 0 and at most mamba.dt_max={self.dt_max}")

    @property
    def inner(self) -> int:
        """Width of x and z: heads * head_width."""
        return self.heads * self.head_width

    @property
    def conv_width(self) -> int:
        """Channels that pass through the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseConfig:
    """One SwiGLU feed-forward of width `hidden`."""

    hidden: int

    def __post_init__(self) -> None:
        _require_positive("dense", self, "hidden")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoEConfig:
    """A mixture of `experts` SwiGLU experts of width `hidden`, `top_k` active a token, beside `shared` that always are.

    Attributes:
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

    def __post_init__(self) -> None:
        _require_positive("moe", self, "experts", "top_k", "hidden")
        if self.top_k > self.experts:
            raise ValueError(f"moe.top_k={self.top_k} is above moe.experts={self.experts}; choose at most all of them")
        if self.shared < 0:
            raise ValueError(f"moe.shared={self.shared} is below 0; use 0 for no shared expert")
        if self.capacity_factor is not None and self.capacity_factor < 1:
            raise ValueError(
                f"moe.capacity_factor={self.capacity_factor} is below 1, so experts could not hold all tokens; "
                "use 1 or more, or null for dropless"
            )


FeedForwardConfig = DenseConfig | MoEConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A hybrid language model: a pattern of layers and the shape of each kind.

    Attributes:
        pattern: the language of layers, e.g. "(MF)3 AMF"; see docs/layers.md.
        ffn: shape of every `F`; experts: shape of every `E`, for models that mix dense and experts.
        context: longest sequence it is meant for; generation refuses to go beyond it.
    """

    vocab_size: int
    width: int
    pattern: str
    attention: AttentionConfig | None = None
    mamba: MambaConfig | None = None
    ffn: DenseConfig | MoEConfig | None = None
    experts: DenseConfig | MoEConfig | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    context: int = 4096

    def __post_init__(self) -> None:
        _require_positive("model", self, "vocab_size", "width", "context")
        needs = {"A": "attention", "M": "mamba", "F": "ffn", "E": "experts"}
        for symbol in dict.fromkeys(self.layers):
            if symbol not in needs:
                raise ValueError(f"model.pattern={self.pattern!r} uses {symbol!r}, which this version cannot build yet")
            if getattr(self, needs[symbol]) is None:
                raise ValueError(
                    f"model.{needs[symbol]}=null but model.pattern={self.pattern!r} has {symbol!r} layers; give its shape"
                )

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The parsed pattern, one symbol a sub-layer."""
        return parse_pattern(self.pattern)

    @property
    def chunk(self) -> int:
        """Chunk length of the scan, for `SequenceLayout.from_lengths`."""
        return self.mamba.chunk if self.mamba else 128

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict; each feed-forward carries its "kind"."""
        plain = dataclasses.asdict(self)
        for name in ("ffn", "experts"):
            if plain[name] is not None:
                plain[name] = {"kind": _KIND[type(getattr(self, name))], **plain[name]}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """Rebuilds a config.

        Raises:
            ValueError: a key that is unknown or missing, or a value of the wrong type, named by its path.
        """
        return _from_dict(cls, plain, "model")

    def to_json(self) -> str:
        """The config as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parses `to_json`'s output.

        Raises:
            ValueError: not JSON, not an object, or what `from_dict` refuses.
        """
        plain = json.loads(text)
        if not isinstance(plain, dict):
            raise ValueError(f"model config is a JSON {type(plain).__name__}; it must be an object")
        return cls.from_dict(plain)


_KIND: dict[type, str] = {DenseConfig: "dense", MoEConfig: "moe"}
_BY_KIND: dict[str, type] = {kind: config for config, kind in _KIND.items()}


def _from_dict(cls: type, plain: dict[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(plain) - set(hints))
    if unknown:
        raise ValueError(f"{path}.{unknown[0]} is not a known key; known keys are {', '.join(hints)}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in plain]
    if missing:
        raise ValueError(f"{path}.{missing[0]} is missing; add it")
    return cls(**{name: _value(hints[name], value, f"{path}.{name}") for name, value in plain.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in choices:
        return None
    if isinstance(value, dict):
        return _nested([c for c in choices if dataclasses.is_dataclass(c)], dict(value), path)
    if float in choices and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    scalars = tuple(c for c in choices if c in (int, float, str, bool))
    if not isinstance(value, scalars) or (isinstance(value, bool) and bool not in scalars):
        names = " or ".join(getattr(c, "__name__", str(c)) for c in choices)
        raise ValueError(f"{path}={value!r} must be of type {names}")
    return value


def _nested(configs: list[Any], plain: dict[str, Any], path: str) -> Any:
    if not configs:
        raise ValueError(f"{path} is an object; it must be a single value")
    if len(configs) == 1:
        return _from_dict(configs[0], plain, path)
    kind = plain.pop("kind", None)
    if kind not in _BY_KIND:
        raise ValueError(f"{path}.kind={kind!r} is unknown; use one of {', '.join(_BY_KIND)}")
    return _from_dict(_BY_KIND[kind], plain, path)
