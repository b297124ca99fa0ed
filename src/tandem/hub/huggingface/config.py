"""From a Hugging Face `config.json` to a `ModelConfig`: one function a family of models.

Keys that an old checkpoint leaves out have the defaults of the family's class in `transformers`. What would change the
result and cannot be expressed is refused by name; keys about training, caches and initialization are passed over. The
chunk length of the scan is not taken over: results do not depend on it, and ours is chosen for speed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tandem.hub.huggingface.options import Options
from tandem.hub.huggingface.rope import reach, rope_scaling
from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig

ACTIVATIONS_OF_GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "gelu": "geglu",
    "gelu_new": "geglu_tanh",
    "gelu_pytorch_tanh": "geglu_tanh",
    "relu": "reglu",
}
ACTIVATIONS_OF_DENSE = {
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_MIXERS = {"mamba": "M", "linear_attention": "M", "attention": "A", "full_attention": "A"}
_BLOCKS = {**_MIXERS, "mlp": "F", "moe": "E"}
_NO_LIMIT = 1 << 20  # context of models that name none because nothing in them depends on positions


def model_config(plain: dict[str, Any]) -> ModelConfig:
    """The config of a released model in our terms.

    Args:
        plain: the content of its `config.json`.
    Raises:
        ValueError: an unknown `model_type`, a missing key, or an option that cannot be expressed; all name it.
    """
    family = plain.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"config model_type={family!r} is not supported; supported: {', '.join(MODEL_TYPES)}")
    if plain.get("quantization_config") is not None:
        raise ValueError(
            "config has quantization_config, and quantized weights are not supported; use the original ones"
        )
    options = Options(plain)
    return _FAMILIES[family](options)


def _llama(options: Options) -> ModelConfig:
    bias = options.flag("attention_bias")
    return _decoder(options, _attention(options, bias=bias, out_bias=bias, rope=True))


def _qwen2(options: Options) -> ModelConfig:
    kinds = options.words("layer_types")
    windows = options.flag("use_sliding_window") and options.find("sliding_window") is not None
    if kinds is None:
        windows = windows and options.whole("max_window_layers", default=28) < options.whole("num_hidden_layers")
    else:
        windows = "sliding_attention" in kinds
        _symbols("layer_types", kinds, {"full_attention": "A", "sliding_attention": "A"})
    if windows:
        raise ValueError("config use_sliding_window=true is not supported; supported: full attention in every layer")
    return _decoder(options, _attention(options, bias=True, out_bias=False, rope=True))


def _decoder(options: Options, attention: AttentionConfig) -> ModelConfig:
    """A Llama-type model: attention and a gated feed-forward in turn."""
    ffn = DenseConfig(
        hidden=options.whole("intermediate_size"),
        activation=_activation(options, "hidden_act", ACTIVATIONS_OF_GATED, "silu"),
        bias=options.flag("mlp_bias"),
    )
    layers = options.whole("num_hidden_layers")
    return ModelConfig(pattern=f"(AF){layers}", attention=attention, ffn=ffn, **_frame(options, "rms_norm_eps", 1e-6))


def _granite(options: Options) -> ModelConfig:
    rope = options.find("position_embedding_type") == "rope"
    bias = options.flag("attention_bias")
    scale = options.number("attention_multiplier", default=1.0)
    count = options.whole("num_hidden_layers")
    kinds = options.words("layer_types", "layers_block_type") or ["mamba"] * count
    mixers = _symbols("layer_types", kinds, _MIXERS, count)
    return ModelConfig(
        pattern="F".join([*mixers, ""]),
        attention=_attention(options, bias=bias, out_bias=bias, rope=rope, scale=scale) if "A" in mixers else None,
        mamba=_ibm_mamba(options) if "M" in mixers else None,
        ffn=_granite_feed_forward(options),
        embedding_scale=options.number("embedding_multiplier", default=1.0),
        residual_scale=options.number("residual_multiplier", default=1.0),
        logit_scale=1 / options.number("logits_scaling", default=1.0),
        **_frame(options, "rms_norm_eps", 1e-6),
    )


def _granite_feed_forward(options: Options) -> DenseConfig | MoEConfig:
    activation = _activation(options, "hidden_act", ACTIVATIONS_OF_GATED, "silu")
    shared = options.whole("shared_intermediate_size", default=1024)
    experts = options.whole("num_local_experts", default=8)
    if experts == 0:
        return DenseConfig(hidden=shared, activation=activation)
    return MoEConfig(
        experts=experts,
        top_k=options.whole("num_experts_per_tok", default=2),
        hidden=options.whole("intermediate_size"),
        shared_hidden=shared,
        activation=activation,
        balance_weight=0.0,
    )


def _bamba(options: Options) -> ModelConfig:
    count = options.whole("num_hidden_layers")
    kinds = options.words("layers_block_type", "layer_types")
    attended = options.find("attn_layer_indices")
    if attended is not None or kinds is None:
        kinds = ["attention" if k in (attended or ()) else "mamba" for k in range(count)]
    mixers = _symbols("layers_block_type", kinds, _MIXERS, count)
    bias = options.flag("attention_bias")
    ffn = DenseConfig(
        hidden=options.whole("intermediate_size"),
        activation=_activation(options, "hidden_act", ACTIVATIONS_OF_GATED, "silu"),
        bias=options.flag("mlp_bias"),
    )
    return ModelConfig(
        pattern="F".join([*mixers, ""]),
        attention=_attention(options, bias=bias, out_bias=bias, rope=True, turned=0.5) if "A" in mixers else None,
        mamba=_ibm_mamba(options) if "M" in mixers else None,
        ffn=ffn,
        **_frame(options, "rms_norm_eps", 1e-5),
    )


def _ibm_mamba(options: Options) -> MambaConfig:
    """Mamba-2 under the names of Granite and Bamba."""
    heads = options.whole("mamba_n_heads", default=128)
    inner = options.whole("mamba_expand", default=2) * options.whole("hidden_size")
    width = options.find("mamba_d_head")
    width = inner // heads if width in (None, "auto") else options.whole("mamba_d_head")
    if heads * width != inner:
        raise ValueError(f"config mamba_n_heads={heads} of width {width} are not mamba_expand * hidden_size={inner}")
    return _mamba(
        options,
        heads=heads,
        head_width=width,
        state=options.whole("mamba_d_state", default=256),
        groups=options.whole("mamba_n_groups", default=1),
        conv=options.whole("mamba_d_conv", default=4),
        conv_bias=options.flag("mamba_conv_bias", default=True),
        bias=options.flag("mamba_proj_bias"),
        limits=options.limits("time_step_limit"),
        act="hidden_act",
    )


def _mamba2(options: Options) -> ModelConfig:
    mamba = _mamba(
        options,
        heads=options.whole("num_heads", default=128),
        head_width=options.whole("head_dim", default=64),
        state=options.whole("state_size", default=128),
        groups=options.whole("n_groups", default=8),
        conv=options.whole("conv_kernel", default=4),
        conv_bias=options.flag("use_conv_bias", default=True),
        bias=options.flag("use_bias"),
        limits=options.limits("time_step_limit"),
        act="hidden_act",
    )
    layers = options.whole("num_hidden_layers")
    return ModelConfig(pattern=f"(M){layers}", mamba=mamba, **_frame(options, "layer_norm_epsilon", 1e-5, _NO_LIMIT))


def _nemotron(options: Options) -> ModelConfig:
    layers = _nemotron_layers(options)
    if options.find("sliding_window") is not None:
        raise ValueError("config sliding_window is not supported; supported: full attention in every layer")
    activation = _activation(options, "mlp_hidden_act", ACTIVATIONS_OF_DENSE, "relu2")
    bias = options.flag("mlp_bias")
    frame = _frame(options, "layer_norm_epsilon", 1e-5)
    return ModelConfig(
        pattern="".join(layers),
        attention=_attention(options, bias=False, out_bias=False, rope=False, head_width=128)
        if "A" in layers
        else None,
        mamba=_nemotron_mamba(options) if "M" in layers else None,
        ffn=DenseConfig(hidden=options.whole("intermediate_size"), activation=activation, bias=bias)
        if "F" in layers
        else None,
        experts=_nemotron_experts(options, activation, bias) if "E" in layers else None,
        **{**frame, "tie_embeddings": False},  # the class ties nothing, whatever the config says
    )


def _nemotron_layers(options: Options) -> list[str]:
    kinds = options.words("layers_block_type", "layer_types")
    if kinds is not None:
        return _symbols("layers_block_type", kinds, _BLOCKS)
    pattern = options.word("hybrid_override_pattern")
    return _symbols("hybrid_override_pattern", pattern, {"M": "M", "*": "A", "-": "F", "E": "E"})


def _nemotron_mamba(options: Options) -> MambaConfig:
    return _mamba(
        options,
        heads=options.whole("mamba_num_heads", default=128),
        head_width=options.whole("mamba_head_dim", default=64),
        state=options.whole("ssm_state_size", default=128),
        groups=options.whole("n_groups", "mamba_n_groups", default=8),
        conv=options.whole("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=options.flag("use_conv_bias", "mamba_conv_bias", default=True),
        bias=options.flag("use_bias"),
        # Not time_step_limit: the class clamps by this key, which elsewhere is about initialization.
        limits=(options.number("time_step_min", "mamba_dt_min", default=1e-3), math.inf),
        act="mamba_hidden_act",
    )


def _nemotron_experts(options: Options, activation: str, bias: bool) -> MoEConfig:
    return MoEConfig(
        experts=options.whole("n_routed_experts", "num_local_experts", default=8),
        top_k=options.whole("num_experts_per_tok", default=2),
        hidden=options.whole("moe_intermediate_size", default=7688),
        shared_hidden=options.whole("moe_shared_expert_intermediate_size", default=7688)
        or options.whole("intermediate_size"),
        activation=activation,
        bias=bias,
        balance_weight=0.0,
        selection_bias=True,
        scores="sigmoid",
        renormalize=options.flag("norm_topk_prob", default=True),
        routed_scale=options.number("routed_scaling_factor", default=1.0),
        expert_groups=options.whole("n_group", default=1),
        top_groups=options.whole("topk_group", default=1),
        latent=options.find("moe_latent_size") and options.whole("moe_latent_size"),
    )


def _frame(options: Options, eps: str, default_eps: float, context: int | None = None) -> dict[str, Any]:
    """What all families have around their layers."""
    return {
        "vocab_size": options.whole("vocab_size"),
        "width": options.whole("hidden_size"),
        "norm_eps": options.number(eps, default=default_eps),
        "tie_embeddings": options.flag("tie_word_embeddings"),
        "context": context or reach(options),
    }


def _attention(
    options: Options,
    *,
    bias: bool,
    out_bias: bool,
    rope: bool,
    scale: float | None = None,
    turned: float = 1.0,
    head_width: int | None = None,
) -> AttentionConfig:
    heads = options.whole("num_attention_heads")
    if heads < 1:
        raise ValueError(f"num_attention_heads={heads} must be 1 or more")
    width = options.whole("head_dim", "attention_head_dim", default=head_width or options.whole("hidden_size") // heads)
    return AttentionConfig(
        heads=heads,
        kv_heads=options.whole("num_key_value_heads", default=heads),
        head_width=width,
        qk_norm=False,
        rope=rope,
        **(_rope(options, width, turned) if rope else {}),
        bias=bias,
        out_bias=out_bias,
        scale=scale,
    )


def _rope(options: Options, head_width: int, turned: float) -> dict[str, Any]:
    """How many channels turn (None: all of them), the base of the angles, and how they are stretched."""
    found = options.find("rope_parameters", "rope_scaling") or {}
    if not isinstance(found, dict):
        raise ValueError(f"config rope_parameters={found!r} must be an object")
    parameters = Options(found)
    part = parameters.number("partial_rotary_factor", default=turned)
    if turned == 1 and part != 1:
        raise ValueError(f"config partial_rotary_factor={part} is not supported in this family; supported: 1")
    width = int(head_width * part)
    return {
        "rotary_width": None if width == head_width else width,
        "rope_base": parameters.number("rope_theta", default=options.number("rope_theta", default=10_000.0)),
        "rope_scaling": rope_scaling(options, parameters),
    }


def _mamba(options: Options, *, limits: tuple[float, float], act: str, **shape: Any) -> MambaConfig:
    if options.word(act, default="silu") not in ("silu", "swish"):
        raise ValueError(f"config {act}={options.find(act)!r} is not supported in Mamba-2 layers; supported: silu")
    least, most = limits
    return MambaConfig(step_min=least, step_max=None if most == math.inf else most, **shape)


def _activation(options: Options, name: str, known: dict[str, str], default: str) -> str:
    found = options.word(name, default=default)
    if found not in known:
        raise ValueError(f"config {name}={found!r} is not supported; supported: {', '.join(known)}")
    return known[found]


def _symbols(name: str, kinds: Sequence[str], known: dict[str, str], count: int | None = None) -> list[str]:
    wrong = next((kind for kind in kinds if kind not in known), None)
    if wrong is not None:
        raise ValueError(f"config {name} has {wrong!r}, which is not supported; supported: {', '.join(known)}")
    if count is not None and len(kinds) != count:
        raise ValueError(f"config {name} names {len(kinds)} layers, num_hidden_layers={count}")
    return [known[kind] for kind in kinds]


_FAMILIES: dict[str, Callable[[Options], ModelConfig]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "granitemoehybrid": _granite,
    "bamba": _bamba,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron,
}
MODEL_TYPES = tuple(_FAMILIES)
"""Values of `model_type` that load."""
