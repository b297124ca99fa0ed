"""Twins of a hybrid, in which one kind of mixer does all the mixing: what a hybrid has to be compared with.

A twin keeps width, depth, vocabulary and the place of every layer; each `A` becomes `M` or the other way round, and each
`T` becomes what it is on one side of its TransPoint. As the mixers differ in size, `equal_parameters` then resizes: first
the twin's mixers, by whole heads, because a token uses all of a mixer but few of a layer's experts, so that parameters used
per token stay about equal too; then the width of its feed-forwards, which makes up what whole heads leave. Key/value heads
and the width of a recurrent state are kept, so that a twin's decode state is that of its kind and not of the resizing.
"""

from dataclasses import fields, replace
from itertools import cycle

from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, TransMambaConfig
from tandem.plan.parameters import parameters

_MIXERS = {"A", "M", "T"}


def all_attention(config: ModelConfig) -> ModelConfig:
    """The twin whose every mixer is an attention layer of the same shape as the others.

    In a model of `T` layers without an attention shape, that of its TransMamba layers before their TransPoints.

    Raises:
        ValueError: the config has no attention shape to copy.
    """
    shape = config.attention or (config.transmamba and _as_attention(config.transmamba))
    if shape is None:
        raise ValueError("model.attention=null, so there is no all-attention twin; give the shape of attention")
    return _with_mixers(config.replace(attention=shape), "A")


def all_mamba(config: ModelConfig) -> ModelConfig:
    """The twin whose every mixer is a Mamba-2 layer of the same shape as the others.

    In a model of `T` layers without a Mamba-2 shape, that of its TransMamba layers behind their TransPoints.

    Raises:
        ValueError: the config has no Mamba-2 shape to copy.
    """
    shape = config.mamba or (config.transmamba and _as_mamba(config.transmamba))
    if shape is None:
        raise ValueError("model.mamba=null, so there is no all-Mamba-2 twin; give the shape of Mamba-2")
    return _with_mixers(config.replace(mamba=shape), "M")


def transmamba_twins(config: ModelConfig) -> dict[str, ModelConfig]:
    """What the paper compares TransMamba with (arXiv 2503.24067, Table 5), of as many parameters as the model.

    All attention, all Mamba-2, and a hybrid of the two in turn, Mamba-2 first as in the schedule "hybrid". Mixers keep the
    heads of the `T` layers; only feed-forwards are resized.

    Returns:
        twins by name: "attention", "mamba" and "hybrid".
    Raises:
        ValueError: a model without `T` layers, or one whose feed-forwards cannot make up for its mixers.
    """
    shape, total = config.transmamba, parameters(config).total
    if shape is None or "T" not in config.layers:
        raise ValueError(f"model.pattern={config.pattern!r} has no T layers, so it has no twins of TransMamba")
    shaped = config.replace(attention=_as_attention(shape), mamba=_as_mamba(shape))
    patterns = {"attention": "A", "mamba": "M", "hybrid": "MA"}
    return {
        name: equal_parameters(_with_mixers(shaped, mixers), total, keep_mixers=True)
        for name, mixers in patterns.items()
    }


def equal_parameters(
    twin: ModelConfig, total: int, *, tolerance: float = 0.01, keep_mixers: bool = False
) -> ModelConfig:
    """Resizes a twin to `total` parameters, embedding and norms included.

    Query heads grow by multiples of the key/value heads, Mamba-2 heads by multiples of its groups; then the width of the
    feed-forwards (`E` layers only where there is no `F`).

    Args:
        tolerance: largest deviation from `total`, as a share of it.
        keep_mixers: resize feed-forwards only, which is all that can be done where there is more than one kind of mixer.
    Raises:
        ValueError: several kinds of mixers that are not to be kept, or none that comes within the tolerance.
    """
    if len(_MIXERS & set(twin.layers)) > 1 and not keep_mixers:
        kinds = " and ".join(sorted(_MIXERS & set(twin.layers)))
        raise ValueError(
            f"model.pattern={twin.pattern!r} has both {kinds}; give an all-attention or all-Mamba-2 twin, or keep_mixers"
        )
    resized = _with_hidden(twin if keep_mixers else _with_heads(twin, total), total)
    found = parameters(resized).total
    if abs(found - total) > tolerance * total:
        raise ValueError(
            f"twin {twin.pattern!r} comes to {found:,} parameters and not within {tolerance:.0%} of {total:,}; "
            "use a config of smaller heads or feed-forwards"
        )
    return resized


def _as_attention(shape: TransMambaConfig) -> AttentionConfig:
    """What TransMamba is before its TransPoint, with values as wide as keys."""
    return AttentionConfig(
        heads=shape.groups,
        kv_heads=shape.groups,
        head_width=shape.state,
        qk_norm=False,
        rope=shape.rope_mode != "none",
        rope_base=shape.rope_base,
        rope_alpha=shape.rope_alpha,
        scale=shape.scale,
    )


def _as_mamba(shape: TransMambaConfig) -> MambaConfig:
    """What TransMamba is behind its TransPoint."""
    return MambaConfig(**{field.name: getattr(shape, field.name) for field in fields(MambaConfig)})


def _with_mixers(config: ModelConfig, symbols: str) -> ModelConfig:
    """The config with its mixers replaced by those of `symbols`, in turn."""
    mixers = cycle(symbols)
    pattern = "".join(next(mixers) if layer in _MIXERS else layer for layer in config.layers)
    return config.replace(pattern=pattern, transmamba=None)


def _with_heads(twin: ModelConfig, total: int) -> ModelConfig:
    """The twin with the number of mixer heads that comes nearest to `total`."""
    attention, mamba = twin.attention, twin.mamba
    if attention is not None and "A" in twin.layers:

        def resize(blocks: int) -> ModelConfig:
            return twin.replace(attention=replace(attention, heads=blocks * attention.kv_heads))

        now = attention.heads // attention.kv_heads
    elif mamba is not None and "M" in twin.layers:

        def resize(blocks: int) -> ModelConfig:
            return twin.replace(mamba=replace(mamba, heads=blocks * mamba.groups))

        now = mamba.heads // mamba.groups
    else:
        return twin
    block = parameters(resize(now + 1)).total - parameters(resize(now)).total
    return resize(max(1, now + round((total - parameters(twin).total) / block)))


def _with_hidden(twin: ModelConfig, total: int) -> ModelConfig:
    """The twin with the width of feed-forwards that comes nearest to `total`."""
    name = "ffn" if "F" in twin.layers else "experts"
    shape = getattr(twin, name)
    if shape is None or not {"F", "E"} & set(twin.layers):
        return twin

    def resize(hidden: int) -> ModelConfig:
        return twin.replace(**{name: replace(shape, hidden=hidden)})

    unit = parameters(resize(shape.hidden + 1)).total - parameters(twin).total
    return resize(max(1, shape.hidden + round((total - parameters(twin).total) / unit)))
