"""Twins of a hybrid, in which one kind of mixer does all the mixing: what a hybrid has to be compared with.

A twin keeps width, depth, vocabulary and the place of every layer; each `A` becomes `M` or the other way round. As the
two mixers differ in size, `equal_parameters` then resizes: first the twin's mixers, by whole heads, because a token uses
all of a mixer but few of a layer's experts, so that parameters used per token stay about equal too; then the width of its
feed-forwards, which makes up what whole heads leave. Key/value heads and the width of a recurrent state are kept, so that
a twin's decode state is that of its kind and not of the resizing.
"""

from dataclasses import replace

from tandem.nn import ModelConfig
from tandem.plan.parameters import parameters


def all_attention(config: ModelConfig) -> ModelConfig:
    """The twin whose every Mamba-2 layer is an attention layer of the same shape as the others.

    Raises:
        ValueError: the config has no attention shape to copy.
    """
    if config.attention is None:
        raise ValueError("model.attention=null, so there is no all-attention twin; give the shape of attention")
    return config.replace(pattern="".join(config.layers).replace("M", "A"))


def all_mamba(config: ModelConfig) -> ModelConfig:
    """The twin whose every attention layer is a Mamba-2 layer of the same shape as the others.

    Raises:
        ValueError: the config has no Mamba-2 shape to copy.
    """
    if config.mamba is None:
        raise ValueError("model.mamba=null, so there is no all-Mamba-2 twin; give the shape of Mamba-2")
    return config.replace(pattern="".join(config.layers).replace("A", "M"))


def equal_parameters(twin: ModelConfig, total: int, *, tolerance: float = 0.01) -> ModelConfig:
    """Resizes a twin of one kind of mixer to `total` parameters, embedding and norms included.

    Query heads grow by multiples of the key/value heads, Mamba-2 heads by multiples of its groups; then the width of the
    feed-forwards (`E` layers only where there is no `F`).

    Args:
        tolerance: largest deviation from `total`, as a share of it.
    Raises:
        ValueError: a config with both kinds of mixers, or none that comes within the tolerance.
    """
    if {"A", "M"} <= set(twin.layers):
        raise ValueError(f"model.pattern={twin.pattern!r} has both A and M; give an all-attention or all-Mamba-2 twin")
    resized = _with_hidden(_with_heads(twin, total), total)
    found = parameters(resized).total
    if abs(found - total) > tolerance * total:
        raise ValueError(
            f"twin {twin.pattern!r} comes to {found:,} parameters and not within {tolerance:.0%} of {total:,}; "
            "use a config of smaller heads or feed-forwards"
        )
    return resized


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
