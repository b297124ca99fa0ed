"""Stretched RoPE in the words of a Hugging Face config: `rope_parameters`, or `rope_scaling` in older files."""

from collections.abc import Callable

from tandem.hub.huggingface.options import Options
from tandem.nn import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling, yarn_amplitude


def rope_scaling(options: Options, parameters: Options) -> RopeScaling | None:
    """How the angles are stretched, None for plain RoPE.

    Args:
        options: keys of the whole config; parameters: those of its `rope_parameters` or `rope_scaling`.
    Raises:
        ValueError: a kind that is not supported, or a value that is missing or wrong; named.
    """
    kind = parameters.word("rope_type", "type", default="default")
    if kind == "default":
        return None
    if kind not in _KINDS:
        raise ValueError(f"config rope_type={kind!r} is not supported; supported: default, {', '.join(_KINDS)}")
    return _KINDS[kind](options, parameters)


def reach(options: Options) -> int:
    """Longest text of the config: `max_position_embeddings`, or what YaRN stretches the first training's context to.

    Configs to which YaRN was added afterwards keep the length of the first training (Qwen 2.5).
    """
    longest = options.whole("max_position_embeddings")
    found = options.find("rope_parameters", "rope_scaling")
    scaling = rope_scaling(options, Options(found)) if isinstance(found, dict) else None
    if not isinstance(scaling, YarnScaling):
        return longest
    return max(longest, round(scaling.factor * scaling.original_context))


def _linear(options: Options, parameters: Options) -> LinearScaling:
    return LinearScaling(factor=parameters.number("factor"))


def _llama3(options: Options, parameters: Options) -> Llama3Scaling:
    return Llama3Scaling(
        factor=parameters.number("factor"),
        original_context=_original_context(options, parameters),
        slow_turns=parameters.number("low_freq_factor"),
        fast_turns=parameters.number("high_freq_factor"),
    )


def _yarn(options: Options, parameters: Options) -> YarnScaling:
    original = _original_context(options, parameters)
    factor = parameters.number("factor", default=options.whole("max_position_embeddings") / original)
    return YarnScaling(
        factor=factor,
        original_context=original,
        slow_turns=parameters.number("beta_slow", default=0.0) or 1.0,  # as in transformers, 0 is no value
        fast_turns=parameters.number("beta_fast", default=0.0) or 32.0,
        whole_pairs=parameters.flag("truncate", default=True),
        attention_factor=_attention_factor(parameters, factor),
    )


def _attention_factor(parameters: Options, factor: float) -> float | None:
    if parameters.find("attention_factor") is not None:
        return parameters.number("attention_factor")
    ours, all_channels = (parameters.number(name, default=0.0) for name in ("mscale", "mscale_all_dim"))
    if not ours or not all_channels:
        return None
    return yarn_amplitude(factor, ours) / yarn_amplitude(factor, all_channels)


def _original_context(options: Options, parameters: Options) -> int:
    name = "original_max_position_embeddings"
    outside = options.find(name)
    if outside is not None:
        return options.whole(name)
    return parameters.whole(name, default=options.whole("max_position_embeddings"))


_KINDS: dict[str, Callable[[Options, Options], RopeScaling]] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
