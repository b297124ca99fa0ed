"""The metadata of a GGUF file and our config, each from the other.

Numbers are float32 in a file. Read back, one is taken as the shortest decimal that rounds to it, so that 1e-05 stays 1e-05.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tandem.hub.gguf.architectures import Architecture, FeedForward, feed_forwards
from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    LinearScaling,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    PairScaling,
    RopeScaling,
    YarnScaling,
    yarn_amplitude,
)

Value = bool | int | float | str | list[int] | list[str]


def written(config: ModelConfig, architecture: Architecture) -> dict[str, Value]:
    """What a file says about the shape of the model, by full key."""
    keys: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.context,
        "embedding_length": config.width,
        "block_count": len(architecture.blocks(config)),
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "attention.layer_norm_epsilon": config.norm_eps,  # nemotron_h asks for both
        **_written_attention(config, architecture),
        **_written_feed_forward(config, architecture),
    }
    if config.mamba is not None and "M" in config.layers:
        shape = config.mamba
        keys |= {"ssm.conv_kernel": shape.conv, "ssm.inner_size": shape.inner, "ssm.state_size": shape.state}
        keys |= {"ssm.time_step_rank": shape.heads, "ssm.group_count": shape.groups}
    if architecture.multipliers:
        keys |= {"embedding_scale": config.embedding_scale, "residual_scale": config.residual_scale}
        keys["logit_scale"] = 1 / config.logit_scale  # they divide by it
    return {f"{architecture.name}.{key}": value for key, value in keys.items()}


def _written_attention(config: ModelConfig, architecture: Architecture) -> dict[str, Value]:
    blocks, shape = architecture.blocks(config), config.attention
    if shape is None or "A" not in blocks:
        return {"attention.head_count": 0}
    mixed = set(blocks) != {"A"}  # a block without key/value heads is recurrent
    keys: dict[str, Value] = {
        "attention.head_count": shape.heads,
        "attention.head_count_kv": [shape.kv_heads * (kind == "A") for kind in blocks] if mixed else shape.kv_heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
    }
    if architecture.multipliers and shape.scale is not None:
        keys["attention.scale"] = shape.scale
    if architecture.may_stand:
        keys["rope.scaling.finetuned"] = shape.rope  # a switch of RoPE in these architectures
    if shape.rope:
        keys |= {"rope.freq_base": shape.rotary_base, "rope.dimension_count": shape.turned_width}
        keys |= _written_scaling(shape.rope_scaling)
    return keys


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Value]:
    match scaling:
        case LinearScaling():
            return {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
        case YarnScaling():
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": scaling.factor,
                "rope.scaling.original_context_length": scaling.original_context,
                # theirs is a factor beside the one of the paper
                "rope.scaling.attn_factor": scaling.amplitude / yarn_amplitude(scaling.factor),
            }
    return {}  # nothing is stretched, or pairs are, by the tensor rope_freqs.weight


def _written_feed_forward(config: ModelConfig, architecture: Architecture) -> dict[str, Value]:
    feeds = feed_forwards(config)
    if not feeds:
        return {"feed_forward_length": [0] * len(architecture.blocks(config))}
    [shape] = feeds
    fed = [shape.hidden * (kind in "FE") for kind in architecture.blocks(config)]
    keys: dict[str, Value] = {"feed_forward_length": shape.hidden if architecture.paired else fed}
    if isinstance(shape, DenseConfig):
        return keys
    keys |= {"expert_count": shape.experts, "expert_used_count": shape.top_k}
    keys |= {"expert_feed_forward_length": shape.hidden}
    if shape.shared:
        keys |= {"expert_shared_feed_forward_length": shape.shared_width, "expert_shared_count": 1}
    if architecture.router == "sigmoid":
        keys |= {"expert_weights_norm": shape.renormalize, "expert_weights_scale": shape.routed_scale}
        if shape.top_groups < shape.expert_groups:
            keys |= {"expert_group_count": shape.expert_groups, "expert_group_used_count": shape.top_groups}
        if shape.latent:
            keys["moe_latent_size"] = shape.latent
    return keys


@dataclass(frozen=True, slots=True)
class Metadata:
    """Typed access to the keys of a file under its architecture's name, whose errors name the key.

    Attributes:
        tensors: names of the tensors beside them.
        pairs: the content of rope_freqs.weight, empty without.

    Raises (all methods):
        ValueError: a value of another type, or no value where no default is given.
    """

    path: Path
    architecture: Architecture
    plain: Mapping[str, Any]
    tensors: Collection[str]
    pairs: tuple[float, ...] = ()

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        return self._typed(key, int, default)

    @property
    def blocks(self) -> int:
        """How many there are, without those that predict several tokens at once."""
        return self.whole("block_count") - self.whole("nextn_predict_layers", 0)

    def wholes(self, key: str, default: int | None = None) -> list[int]:
        """A whole number for each block; a single one stands for all."""
        found, count = self.plain.get(self._full(key), default), self.whole("block_count")
        if isinstance(found, list):
            if len(found) != count or not all(_is(value, int) for value in found):
                raise self.wrong(key, f"{count} whole numbers")
            return found[: self.blocks]
        return [self.whole(key, default)] * self.blocks

    def same(self, key: str, kinds: Sequence[str], *which: str, default: int | None = None) -> int:
        """The whole number that all blocks of some kinds have."""
        values = {value for value, kind in zip(self.wholes(key, default), kinds, strict=True) if kind in which}
        if len(values) != 1:
            raise self.wrong(key, "the same number for all layers of a kind")
        return values.pop()

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._typed(key, bool, default)

    def word(self, key: str, default: str) -> str:
        """A string."""
        return self._typed(key, str, default)

    def number(self, key: str, default: float | None = None) -> float:
        """A number, as the shortest decimal that is the same float32."""
        return shortest(float(self._typed(key, (int, float), default)))

    def has(self, key: str) -> bool:
        """Whether the file names it."""
        return self._full(key) in self.plain

    def _typed(self, key: str, kind: Any, default: Any) -> Any:
        found = self.plain.get(self._full(key), default)
        if found is None:
            raise ValueError(f"{self.path} has no {self._full(key)}; use a file of a whole model")
        if not _is(found, kind):
            raise self.wrong(key, "a number" if isinstance(kind, tuple) else f"of type {kind.__name__}")
        return found

    def wrong(self, key: str, wanted: str) -> ValueError:
        """What to raise about a value."""
        found = self.plain.get(self._full(key))
        shown = f"{len(found)} values" if isinstance(found, list) and len(found) > 8 else repr(found)
        return ValueError(f"{self.path} has {self._full(key)}={shown}, which must be {wanted}")

    def _full(self, key: str) -> str:
        return f"{self.architecture.name}.{key}"


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)


def shortest(value: float) -> float:
    """The shortest decimal that rounds to the same float32."""
    return float(str(np.float32(value))) if np.isfinite(np.float32(value)) else value


def read(metadata: Metadata, vocab_size: int) -> ModelConfig:
    """The config of a file.

    Raises:
        ValueError: a key that is missing, of the wrong type, or asks for what cannot be expressed; named.
    """
    architecture, kinds = metadata.architecture, _kinds(metadata)
    eps = "attention.layer_norm_rms_epsilon"
    scales = ("embedding_scale", "residual_scale", "logit_scale")
    # As in llama.cpp, 0 is no scale.
    embedding, residual, logits = (
        (metadata.number(name, 1.0) or 1.0) if architecture.multipliers else 1.0 for name in scales
    )
    return ModelConfig(
        vocab_size=vocab_size,
        width=metadata.whole("embedding_length"),
        pattern=_pattern(kinds, architecture.paired),
        attention=_read_attention(metadata, kinds) if "A" in kinds else None,
        mamba=_read_mamba(metadata) if "M" in kinds else None,
        ffn=_read_feed_forward(metadata, kinds) if architecture.paired or "F" in kinds else None,
        norm_eps=metadata.number(eps if metadata.has(eps) else "attention.layer_norm_epsilon"),
        tie_embeddings="output.weight" not in metadata.tensors,
        context=metadata.whole("context_length"),
        embedding_scale=embedding,
        residual_scale=residual,
        logit_scale=1 / logits,
    )


def _kinds(metadata: Metadata) -> list[str]:
    """The kind of each block: of its mixer, or of its only layer."""
    architecture, blocks = metadata.architecture, metadata.blocks
    if not 0 < blocks <= len(metadata.tensors):
        raise ValueError(f"{metadata.path} has {blocks} blocks and {len(metadata.tensors)} tensors; copy it again")
    if len(architecture.mixers) == 1:
        return [architecture.mixers] * blocks
    heads = metadata.wholes("attention.head_count_kv", metadata.whole("attention.head_count", 0))
    mixers = ["A" if count else "M" for count in heads]
    if architecture.paired:
        return mixers
    fed = metadata.wholes("feed_forward_length")
    return ["F" if width else mixer for width, mixer in zip(fed, mixers, strict=True)]


def _pattern(kinds: Sequence[str], paired: bool) -> str:
    units = [kind + "F" * paired for kind in kinds]
    return f"({units[0]}){len(units)}" if len(set(units)) == 1 else "".join(units)


def _read_attention(metadata: Metadata, kinds: Sequence[str]) -> AttentionConfig:
    architecture, first = metadata.architecture, kinds.index("A")
    heads = metadata.same("attention.head_count", kinds, "A")
    width = metadata.whole("attention.key_length", metadata.whole("embedding_length") // max(heads, 1))
    if metadata.whole("attention.value_length", width) != width:
        raise metadata.wrong("attention.value_length", f"attention.key_length={width}")
    rope = architecture.turns is not None
    if architecture.may_stand:
        rope = metadata.flag("rope.scaling.finetuned", True)
    scale = metadata.number("attention.scale", 0.0) if architecture.multipliers else 0.0
    return AttentionConfig(
        heads=heads,
        kv_heads=metadata.same("attention.head_count_kv", kinds, "A", default=heads),
        head_width=width,
        qk_norm=architecture.qk_norm is not None,
        qk_norm_first=architecture.qk_norm == "before RoPE",
        rope=rope,
        bias=f"blk.{first}.attn_q.bias" in metadata.tensors,
        out_bias=f"blk.{first}.attn_output.bias" in metadata.tensors,
        scale=scale or None,
        **(_read_rope(metadata, width) if rope else {}),
    )


def _read_rope(metadata: Metadata, head_width: int) -> dict[str, Any]:
    turned = metadata.whole("rope.dimension_count", head_width)
    if turned != head_width and not metadata.architecture.turns_part:
        raise metadata.wrong("rope.dimension_count", f"attention.key_length={head_width}")
    scaling = _read_scaling(metadata)
    if metadata.architecture.pair_factors and any(factor != 1 for factor in metadata.pairs):
        if scaling is not None:
            raise ValueError(f"{metadata.path} has rope_freqs.weight beside rope.scaling.type; supported: one of them")
        scaling = PairScaling(factors=metadata.pairs)
    alpha = metadata.number("rope.scaling.alpha", 0.0) if metadata.architecture.name == "hunyuan-dense" else 0.0
    return {
        "rope_base": metadata.number("rope.freq_base", 10_000.0),
        "rope_alpha": alpha or 1.0,
        "rope_scaling": scaling,
        "rotary_width": None if turned == head_width else turned,
    }


def _read_scaling(metadata: Metadata) -> RopeScaling | None:
    kind = metadata.word("rope.scaling.type", "linear")
    factor = metadata.number("rope.scaling.factor", metadata.number("rope.scale_linear", 0.0)) or 1.0
    if kind == "yarn":
        beside = metadata.number("rope.scaling.attn_factor", 1.0)
        return YarnScaling(
            factor=factor,
            original_context=metadata.whole("rope.scaling.original_context_length", metadata.whole("context_length")),
            attention_factor=None if beside == 1 else beside * yarn_amplitude(factor),
        )
    if kind not in ("none", "linear"):
        raise metadata.wrong("rope.scaling.type", "none, linear or yarn")
    return None if kind == "none" or factor == 1 else LinearScaling(factor=factor)


def _read_mamba(metadata: Metadata) -> MambaConfig:
    inner, heads = metadata.whole("ssm.inner_size"), metadata.whole("ssm.time_step_rank")
    if heads < 1 or inner % heads:
        raise metadata.wrong("ssm.time_step_rank", f"a divisor of ssm.inner_size={inner}")
    return MambaConfig(
        heads=heads,
        head_width=inner // heads,
        state=metadata.whole("ssm.state_size"),
        groups=metadata.whole("ssm.group_count"),
        conv=metadata.whole("ssm.conv_kernel"),
        conv_bias=any(name.endswith("ssm_conv1d.bias") for name in metadata.tensors),
    )


def _read_feed_forward(metadata: Metadata, kinds: Sequence[str]) -> FeedForward:
    architecture, experts = metadata.architecture, metadata.whole("expert_count", 0)
    fed = set(kinds) if architecture.paired else {"F"}
    hidden = metadata.same("feed_forward_length", kinds, *fed)
    if (MoEConfig if experts else DenseConfig) not in architecture.feeds:
        raise metadata.wrong("expert_count", "above 0" if DenseConfig not in architecture.feeds else "0")
    if not experts:
        bias = any(name.endswith("ffn_up.bias") for name in metadata.tensors)
        return DenseConfig(hidden=hidden, activation=architecture.activation, bias=bias)
    hidden = metadata.same("expert_feed_forward_length", kinds, *fed, default=hidden)
    shared = metadata.whole("expert_shared_feed_forward_length", 0) if True in architecture.shared else 0
    if shared == 0 and False not in architecture.shared:
        raise metadata.wrong("expert_shared_feed_forward_length", "above 0")
    return MoEConfig(
        experts=experts,
        top_k=metadata.same("expert_used_count", kinds, *fed),
        hidden=hidden,
        shared=min(shared, 1),
        shared_hidden=None if shared in (0, hidden) else shared,
        activation=architecture.activation,
        balance_weight=0.0,
        **(_read_router(metadata) if architecture.router == "sigmoid" else {}),
    )


def _read_router(metadata: Metadata) -> dict[str, Any]:
    groups = max(metadata.whole("expert_group_count", 1), 1)
    return {
        "selection_bias": True,
        "scores": "sigmoid",
        "renormalize": metadata.flag("expert_weights_norm", False),
        "routed_scale": metadata.number("expert_weights_scale", 1.0) or 1.0,
        "expert_groups": groups,
        "top_groups": metadata.whole("expert_group_used_count", groups) if groups > 1 else 1,
        "latent": metadata.whole("moe_latent_size", 0) or None,
    }
