"""A model as a Hugging Face directory of a family that `transformers` has: the tables of this room read backwards.

A family is chosen by trying: what `config.py` makes of the keys written here has to be the model's own config again, apart
from what only training reads. So whatever no family expresses exactly is not exported as one.

Shapes: as in weights.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tandem.hub.huggingface.config import ACTIVATIONS_OF_DENSE, ACTIVATIONS_OF_GATED, model_config
from tandem.hub.huggingface.rope import rope_parameters
from tandem.hub.huggingface.weights import Weight, weights_of
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig

_BASE = {"mamba2": "backbone", "nemotron_h": "backbone"}  # others: "model"
_EMBEDDING = {"mamba2": "embeddings", "nemotron_h": "embeddings"}  # others: "embed_tokens"
_CLASS = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "bamba": "BambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
}
_SHAPES = {"A": "attention", "M": "mamba", "T": "transmamba", "F": "ffn", "E": "experts"}
_TRAINING_ONLY = {
    "mamba": {"chunk": 64, "dt_min": 1e-3, "dt_max": 1e-1},
    "ffn": {"balance_weight": 0.0, "bias_rate": 1e-3, "capacity_factor": None},
    "experts": {"balance_weight": 0.0, "bias_rate": 1e-3, "capacity_factor": None},
}


def released_config(config: ModelConfig) -> dict[str, Any] | None:
    """The `config.json` of the first family that expresses a model exactly; None if none does."""
    config = _without_unused(config)
    for family, keys in _FAMILIES.items():
        if set(config.layers) <= set(_SYMBOLS[family]):
            plain = {"model_type": family, "architectures": [_CLASS[family]], **_frame(config), **keys(config)}
            if _reads_as(plain, config):
                return plain
    return None


def released_tensors(model: HybridLM, plain: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of `released_config` by the names of that family.

    The float32 island takes the format of the other weights where that loses nothing, as in the files it was read from.
    """
    family, state = plain["model_type"], model.state_dict()
    base, embedding = _BASE.get(family, "model"), _EMBEDDING.get(family, "embed_tokens")
    tensors = {}
    for weight in weights_of(family, model.config, set()):
        found = _narrowed(state[weight.target], model.embedding.dtype)
        for source, part in zip(weight.sources, _parts(weight, found, model.config), strict=True):
            name = source if source.startswith("lm_head.") else f"{base}.{source}"
            tensors[name.replace(f"{base}.embeddings.", f"{base}.{embedding}.")] = _apart(weight.layout.back(part))
    return tensors


def _without_unused(config: ModelConfig) -> ModelConfig:
    """Without shapes of layers that the model does not have: the classes would check them, or take their activation."""
    unused = [name for symbol, name in _SHAPES.items() if symbol not in config.layers]
    return config.replace(**dict.fromkeys(unused))


def _reads_as(plain: dict[str, Any], config: ModelConfig) -> bool:
    try:
        return _essence(model_config(plain)) == _essence(config)
    except ValueError:
        return False


def _essence(config: ModelConfig) -> ModelConfig:
    """What the logits depend on: what only training reads is taken out."""
    changes: dict[str, Any] = {"context": 1, "pattern": "".join(config.layers)}
    for name in _SHAPES.values():
        shape = getattr(config, name)
        if shape is not None and not isinstance(shape, DenseConfig):
            known = {key: value for key, value in _TRAINING_ONLY.get(name, {}).items() if hasattr(shape, key)}
            changes[name] = dataclasses.replace(shape, **known, **_spelled_out(shape))
    return config.replace(**changes)


def _spelled_out(shape: AttentionConfig | MambaConfig | MoEConfig) -> dict[str, Any]:
    """Fields whose None stands for a number, as that number."""
    match shape:
        case AttentionConfig(rope=False):
            return {
                "rope_base": 1.0,
                "rope_alpha": 1.0,
                "rotary_width": None,
                "rope_scaling": None,
                "scale": _scale(shape),
            }
        case AttentionConfig():
            turned = shape.rotary_width or shape.head_width
            return {"rope_base": shape.rotary_base, "rope_alpha": 1.0, "rotary_width": turned, "scale": _scale(shape)}
        case MambaConfig():
            return {"norm_groups": shape.norm_groups or shape.groups}
        case MoEConfig():
            return {"shared_hidden": shape.shared_width if shape.shared else None, "shared": min(shape.shared, 1)}


def _scale(shape: AttentionConfig) -> float:
    return shape.head_width**-0.5 if shape.scale is None else shape.scale


def _narrowed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = tensor.to(dtype)
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor


def _apart(tensor: Tensor) -> Tensor:
    """Contiguous, and no piece of another tensor, which safetensors would refuse."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _parts(weight: Weight, tensor: Tensor, config: ModelConfig) -> Sequence[Tensor]:
    """The rows of each source: queries, keys and values have their own count, all others as many."""
    if config.attention is not None and ".qkv." in weight.target:
        shape = config.attention
        return tensor.split([n * shape.head_width for n in (shape.heads, shape.kv_heads, shape.kv_heads)])
    return tensor.chunk(len(weight.sources)) if len(weight.sources) > 1 else [tensor]


def _frame(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.context,
    }


def _named(activation: str, known: dict[str, str]) -> str | None:
    return next((name for name, ours in known.items() if ours == activation), None)


def _attention(shape: AttentionConfig | None) -> dict[str, Any]:
    if shape is None:
        return {"num_attention_heads": 1}
    plain: dict[str, Any] = {
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "attention_bias": shape.bias,
    }
    if shape.rope:
        plain["rope_parameters"] = rope_parameters(shape)
    return plain


def _llama(config: ModelConfig) -> dict[str, Any]:
    """Its class refuses a width that is no multiple of the heads, however wide these are."""
    return {} if config.attention is None or config.width % config.attention.heads else _decoder(config)


def _decoder(config: ModelConfig) -> dict[str, Any]:
    if not isinstance(config.ffn, DenseConfig):
        return {}
    return {
        **_attention(config.attention),
        "num_hidden_layers": len(config.layers) // 2,
        "intermediate_size": config.ffn.hidden,
        "hidden_act": _named(config.ffn.activation, ACTIVATIONS_OF_GATED),
        "mlp_bias": config.ffn.bias,
        "rms_norm_eps": config.norm_eps,
    }


def _ibm(config: ModelConfig) -> dict[str, Any]:
    """What Granite and Bamba share."""
    mixers, mamba = config.layers[::2], config.mamba
    plain = {
        **_attention(config.attention),
        "num_hidden_layers": len(mixers),
        "rms_norm_eps": config.norm_eps,
    }
    if mamba is None:  # the classes check the shape of layers they do not have
        return {**plain, "mamba_n_heads": 1, "mamba_d_head": config.width, "mamba_expand": 1}
    return {
        **plain,
        "mamba_n_heads": mamba.heads,
        "mamba_d_head": mamba.head_width,
        "mamba_expand": mamba.inner // config.width,
        "mamba_d_state": mamba.state,
        "mamba_n_groups": mamba.groups,
        "mamba_d_conv": mamba.conv,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.bias,
        "time_step_limit": _limits(mamba),
    }


def _granite(config: ModelConfig) -> dict[str, Any]:
    ffn, attention = config.ffn, config.attention
    if ffn is None:
        return {}
    routed = isinstance(ffn, MoEConfig)
    return {
        **_ibm(config),
        "layer_types": ["attention" if symbol == "A" else "mamba" for symbol in config.layers[::2]],
        "position_embedding_type": "rope" if attention is not None and attention.rope else "nope",
        "attention_multiplier": 1.0 if attention is None else _scale(attention),
        "hidden_act": _named(ffn.activation, ACTIVATIONS_OF_GATED),
        "num_local_experts": ffn.experts if routed else 0,
        "num_experts_per_tok": ffn.top_k if routed else 1,
        "intermediate_size": ffn.hidden,
        "shared_intermediate_size": ffn.shared_width if routed else ffn.hidden,
        "embedding_multiplier": config.embedding_scale,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": 1 / config.logit_scale,
    }


def _bamba(config: ModelConfig) -> dict[str, Any]:
    if not isinstance(config.ffn, DenseConfig):
        return {}
    return {
        **_ibm(config),
        "attn_layer_indices": [k for k, symbol in enumerate(config.layers[::2]) if symbol == "A"],
        "intermediate_size": config.ffn.hidden,
        "hidden_act": _named(config.ffn.activation, ACTIVATIONS_OF_GATED),
        "mlp_bias": config.ffn.bias,
    }


def _mamba2(config: ModelConfig) -> dict[str, Any]:
    mamba = config.mamba
    if mamba is None or mamba.inner % config.width:
        return {}
    return {
        "num_hidden_layers": len(config.layers),
        "layer_norm_epsilon": config.norm_eps,
        "num_heads": mamba.heads,
        "head_dim": mamba.head_width,
        "expand": mamba.inner // config.width,
        "state_size": mamba.state,
        "n_groups": mamba.groups,
        "conv_kernel": mamba.conv,
        "use_conv_bias": mamba.conv_bias,
        "use_bias": mamba.bias,
        "time_step_limit": _limits(mamba),
    }


def _nemotron(config: ModelConfig) -> dict[str, Any]:
    names = {"M": "linear_attention", "A": "full_attention", "F": "mlp", "E": "moe"}
    plain: dict[str, Any] = {
        **_attention(config.attention),
        "layers_block_type": [names[symbol] for symbol in config.layers],
        "layer_norm_epsilon": config.norm_eps,
        "mlp_bias": False,
    }
    if config.mamba is not None:
        plain |= {
            "mamba_num_heads": config.mamba.heads,
            "mamba_head_dim": config.mamba.head_width,
            "ssm_state_size": config.mamba.state,
            "n_groups": config.mamba.groups,
            "conv_kernel": config.mamba.conv,
            "use_conv_bias": config.mamba.conv_bias,
            "use_bias": config.mamba.bias,
            "time_step_min": config.mamba.step_min,
        }
    for shape in (config.ffn, config.experts):
        if shape is not None:
            plain |= {"mlp_hidden_act": _named(shape.activation, ACTIVATIONS_OF_DENSE), "mlp_bias": shape.bias}
    plain["intermediate_size"] = config.ffn.hidden if isinstance(config.ffn, DenseConfig) else 4 * config.width
    if isinstance(config.experts, MoEConfig):
        plain |= _nemotron_experts(config.experts)
    return plain


def _nemotron_experts(shape: MoEConfig) -> dict[str, Any]:
    return {
        "n_routed_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "moe_intermediate_size": shape.hidden,
        "moe_shared_expert_intermediate_size": shape.shared_width,
        "moe_latent_size": shape.latent,
        "norm_topk_prob": shape.renormalize,
        "routed_scaling_factor": shape.routed_scale,
        "n_group": shape.expert_groups,
        "topk_group": shape.top_groups,
    }


def _limits(mamba: MambaConfig) -> list[float]:
    return list(mamba.step_limits)


_FAMILIES: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _decoder,
    "granitemoehybrid": _granite,
    "bamba": _bamba,
    "mamba2": _mamba2,
    "nemotron_h": _nemotron,
}
_SYMBOLS = {
    "llama": "AF",
    "qwen2": "AF",
    "granitemoehybrid": "AMF",
    "bamba": "AMF",
    "mamba2": "M",
    "nemotron_h": "AMFE",
}
