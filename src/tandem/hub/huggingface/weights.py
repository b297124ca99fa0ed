"""Weights of a Hugging Face directory in our names and layouts, tensor by tensor.

Each parameter of ours is filled from one or several of theirs, which follow each other along its first axis. Memory never
holds more than the model and one tensor beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tandem.hub.dtypes import kept_dtype
from tandem.hub.huggingface.config import model_config
from tandem.hub.huggingface.shards import Shards
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, MambaConfig, ModelConfig, MoEConfig


class Layout(NamedTuple):
    """How a tensor of theirs lies in ours: there, and back."""

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]


_AS_IS = Layout(lambda tensor: tensor, lambda tensor: tensor)
_TURNED = Layout(lambda tensor: tensor.transpose(-1, -2), lambda tensor: tensor.transpose(-1, -2))
"""Matrices of experts: theirs map rows, ours columns."""
_TURNED_ALONE = Layout(lambda tensor: tensor.t()[None], lambda tensor: tensor[0].t())
"""The matrix of one expert, as a stack of one."""
_TAPS = Layout(lambda tensor: tensor.squeeze(1), lambda tensor: tensor.unsqueeze(1))
"""(C, 1, W) of a depthwise convolution."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter of ours and what fills it.

    Attributes:
        target: name in `HybridLM.state_dict()`.
        sources: names of theirs, in order along the first axis.
        layout: what is done to each of them first.
    """

    target: str
    sources: Sequence[str]
    layout: Layout = _AS_IS


def load_model(directory: Path, plain: dict[str, Any], dtype: str | None = None) -> HybridLM:
    """Builds the model and fills it from the directory's safetensors files.

    Args:
        plain: the content of its `config.json`.
        dtype: "float32", "bfloat16" or "float16"; None keeps the formats of the files. Decay rates, step biases and
            routers are float32 at least.
    Raises:
        ValueError: what `model_config` refuses; weights that are missing, left over, damaged or of another shape, named.
    """
    config, tensors = model_config(plain), Shards(directory)
    plan = weights_of(plain["model_type"], config, tensors.names)
    _check_names(tensors.path, config, plan, tensors.names)
    with torch.device("meta"):  # weights that are replaced at once need no memory and no random numbers
        model = HybridLM(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    filled = {weight.target: _fill(weight, shapes[weight.target], tensors, dtype) for weight in plan}
    model.load_state_dict(filled, assign=True)
    return model


def weights_of(family: str, config: ModelConfig, names: set[str]) -> list[Weight]:
    """What fills a model of a family.

    Args:
        names: tensors of the checkpoint, see `spelled`; experts lie there one by one or stacked.
    """
    return list(_FAMILIES[family](config, names))


def _fill(weight: Weight, shape: torch.Size, tensors: Shards, dtype: str | None) -> Tensor:
    target, row = torch.empty(0), 0
    for source, found in zip(weight.sources, tensors.read(weight.sources), strict=True):
        if found.dtype.itemsize < 2 or not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.")
            raise ValueError(f"{tensors.path} has {source} in {kind}; supported: float32, bfloat16, float16")
        if row == 0:
            target = torch.empty(shape, dtype=kept_dtype(weight.target, found.dtype, dtype))
        laid = weight.layout.there(found)
        end = row + (laid.shape[0] if laid.ndim else 0)
        if laid.shape[1:] != shape[1:] or end > shape[0] or end == row:
            raise _misfit(tensors.path, source, found.shape)
        target[row:end].copy_(laid)
        row = end
    if row != shape[0]:
        raise _misfit(tensors.path, ", ".join(weight.sources[:3]), torch.Size([row, *shape[1:]]))
    return target


def _misfit(directory: Path, source: str, shape: torch.Size) -> ValueError:
    return ValueError(
        f"{directory} has {source} of shape {list(shape)}, which does not fit config.json; "
        "use the config.json that was saved with these weights"
    )


def _check_names(directory: Path, config: ModelConfig, plan: Sequence[Weight], found: set[str]) -> None:
    needed = {source for weight in plan for source in weight.sources}
    spare = {"lm_head.weight"} if config.tie_embeddings else set()  # a copy of the embedding
    for problem, names in (("lacks", needed - found), ("has unexpected", found - needed - spare)):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"{directory} {problem} {shown}; use the config.json that was saved with these weights")


def _llama(config: ModelConfig, names: set[str]) -> Iterator[Weight]:
    yield from _ends(config, "norm.weight")
    for layer in range(len(config.layers) // 2):
        theirs, mixer, feed = f"layers.{layer}", f"layers.{2 * layer}", f"layers.{2 * layer + 1}"
        yield Weight(f"{mixer}.norm.weight", [f"{theirs}.input_layernorm.weight"])
        yield from _attention(f"{mixer}.mixer", f"{theirs}.self_attn", config.attention)
        yield Weight(f"{feed}.norm.weight", [f"{theirs}.post_attention_layernorm.weight"])
        yield from _dense(f"{feed}.mixer", f"{theirs}.mlp", config.ffn, ("gate_proj", "up_proj"), "down_proj")


def _granite(config: ModelConfig, names: set[str]) -> Iterator[Weight]:
    yield from _ends(config, "norm.weight")
    for layer, symbol in enumerate(config.layers[::2]):
        theirs, mixer, feed = f"layers.{layer}", f"layers.{2 * layer}", f"layers.{2 * layer + 1}"
        yield Weight(f"{mixer}.norm.weight", [f"{theirs}.input_layernorm.weight"])
        yield from _ibm_mixer(f"{mixer}.mixer", theirs, config, symbol)
        yield Weight(f"{feed}.norm.weight", [f"{theirs}.post_attention_layernorm.weight"])
        yield from _granite_feed_forward(f"{feed}.mixer", theirs, config)


def _granite_feed_forward(ours: str, theirs: str, config: ModelConfig) -> Iterator[Weight]:
    dense = ours
    if isinstance(config.ffn, MoEConfig):
        dense, routed = f"{ours}.shared", f"{theirs}.block_sparse_moe"
        yield Weight(f"{ours}.island.weight", [f"{routed}.router.layer.weight"])
        yield Weight(f"{ours}.experts.gate_up_EDF", [f"{routed}.input_linear.weight"], _TURNED)
        yield Weight(f"{ours}.experts.down_EFD", [f"{routed}.output_linear.weight"], _TURNED)
    yield from _dense(dense, f"{theirs}.shared_mlp", config.ffn, ("input_linear",), "output_linear")


def _bamba(config: ModelConfig, names: set[str]) -> Iterator[Weight]:
    yield from _ends(config, "final_layernorm.weight")
    for layer, symbol in enumerate(config.layers[::2]):
        theirs, mixer, feed = f"layers.{layer}", f"layers.{2 * layer}", f"layers.{2 * layer + 1}"
        yield Weight(f"{mixer}.norm.weight", [f"{theirs}.input_layernorm.weight"])
        yield from _ibm_mixer(f"{mixer}.mixer", theirs, config, symbol)
        yield Weight(f"{feed}.norm.weight", [f"{theirs}.pre_ff_layernorm.weight"])
        yield from _dense(f"{feed}.mixer", f"{theirs}.feed_forward", config.ffn, ("gate_proj", "up_proj"), "down_proj")


def _ibm_mixer(ours: str, theirs: str, config: ModelConfig, symbol: str) -> Iterator[Weight]:
    if symbol == "M":
        return _mamba(ours, f"{theirs}.mamba", config.mamba)
    return _attention(ours, f"{theirs}.self_attn", config.attention)


def _one_to_one(config: ModelConfig, names: set[str]) -> Iterator[Weight]:
    """Mamba-2 and Nemotron-H: one of their layers is one of ours."""
    yield from _ends(config, "norm_f.weight")
    for layer, symbol in enumerate(config.layers):
        ours = theirs = f"layers.{layer}"
        yield Weight(f"{ours}.norm.weight", [f"{theirs}.norm.weight"])
        ours, theirs = f"{ours}.mixer", f"{theirs}.mixer"
        match symbol:
            case "M":
                yield from _mamba(ours, theirs, config.mamba)
            case "A":
                yield from _attention(ours, theirs, config.attention)
            case "F":
                yield from _dense(ours, theirs, config.ffn, ("up_proj",), "down_proj")
            case _:
                yield from _nemotron_experts(ours, theirs, config, names)


def _nemotron_experts(ours: str, theirs: str, config: ModelConfig, names: set[str]) -> Iterator[Weight]:
    shape = config.experts
    assert isinstance(shape, MoEConfig)
    yield Weight(f"{ours}.island.weight", [f"{theirs}.gate.weight"])
    yield Weight(f"{ours}.island.bias_E", [f"{theirs}.gate.e_score_correction_bias"])
    for target, source in (("gate_up_EDF", "up_proj"), ("down_EFD", "down_proj")):
        stacked = f"{theirs}.experts.{source}"
        if stacked in names:
            yield Weight(f"{ours}.experts.{target}", [stacked], _TURNED)
        else:
            each = [f"{theirs}.experts.{expert}.{source}.weight" for expert in range(shape.experts)]
            yield Weight(f"{ours}.experts.{target}", each, _TURNED_ALONE)
    yield from _dense(f"{ours}.shared", f"{theirs}.shared_experts", shape, ("up_proj",), "down_proj")
    if shape.latent:
        yield from _linear(f"{ours}.into_latent", [f"{theirs}.fc1_latent_proj"], shape.bias)
        yield from _linear(f"{ours}.from_latent", [f"{theirs}.fc2_latent_proj"], shape.bias)


def _ends(config: ModelConfig, norm: str) -> Iterator[Weight]:
    yield Weight("embedding", ["embeddings.weight"])
    yield Weight("norm.weight", [norm])
    if not config.tie_embeddings:
        yield Weight("head.weight", ["lm_head.weight"])


def _attention(ours: str, theirs: str, shape: AttentionConfig | None) -> Iterator[Weight]:
    assert shape is not None
    yield from _linear(f"{ours}.qkv", [f"{theirs}.{name}_proj" for name in "qkv"], shape.bias)
    yield from _linear(f"{ours}.out", [f"{theirs}.o_proj"], shape.out_bias)


def _mamba(ours: str, theirs: str, shape: MambaConfig | None) -> Iterator[Weight]:
    assert shape is not None
    yield from _linear(f"{ours}.into", [f"{theirs}.in_proj"], shape.bias)
    yield Weight(f"{ours}.conv_weight", [f"{theirs}.conv1d.weight"], _TAPS)
    if shape.conv_bias:
        yield Weight(f"{ours}.conv_bias", [f"{theirs}.conv1d.bias"])
    for name in ("A_log", "dt_bias", "D"):
        yield Weight(f"{ours}.island.{name}", [f"{theirs}.{name}"])
    yield Weight(f"{ours}.norm.weight", [f"{theirs}.norm.weight"])
    yield from _linear(f"{ours}.out", [f"{theirs}.out_proj"], shape.bias)


def _dense(
    ours: str, theirs: str, shape: DenseConfig | MoEConfig | None, into: Sequence[str], out: str
) -> Iterator[Weight]:
    assert shape is not None
    yield from _linear(f"{ours}.gate_up", [f"{theirs}.{name}" for name in into], shape.bias)
    yield from _linear(f"{ours}.down", [f"{theirs}.{out}"], shape.bias)


def _linear(ours: str, theirs: Sequence[str], bias: bool) -> Iterator[Weight]:
    yield Weight(f"{ours}.weight", [f"{name}.weight" for name in theirs])
    if bias:
        yield Weight(f"{ours}.bias", [f"{name}.bias" for name in theirs])


_FAMILIES: dict[str, Callable[[ModelConfig, set[str]], Iterator[Weight]]] = {
    "llama": _llama,
    "qwen2": _llama,
    "granitemoehybrid": _granite,
    "bamba": _bamba,
    "mamba2": _one_to_one,
    "nemotron_h": _one_to_one,
}
