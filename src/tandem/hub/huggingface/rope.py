"""Stretched RoPE in the words of a Hugging Face config: `rope_parameters`, or `rope_scaling` in older files."""

from collections.abc import Callable
from typing import Any

from tandem.hub.huggingface.options import Options
from tandem.nn import AttentionConfig, LinearScaling, Llama3Scaling, RopeScaling, YarnScaling, yarn_amplitude


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


def rope_parameters(shape: AttentionConfig) -> dict[str, Any]:
    """`rope_parameters` of a config that says what `rope_scaling` reads; what has no words there is left out."""
    part = (shape.rotary_width or shape.head_width) / shape.head_width
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.rotary_base}
    if part != 1:
        plain["partial_rotary_factor"] = part
    match shape.rope_scaling:
        case LinearScaling(factor=factor):
            plain |= {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            plain |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context,
                "low_freq_factor": scaling.slow_turns,
                "high_freq_factor": scaling.fast_turns,
            }
        case YarnScaling() as scaling:
            plain |= {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context,
                "beta_slow": scaling.slow_turns,
                "beta_fast": scaling.fast_turns,
                "truncate": scaling.whole_pairs,
                "attention_factor": scaling.attention_factor,
            }
    return plain


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
