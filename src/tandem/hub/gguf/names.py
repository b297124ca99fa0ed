"""The one table of tensors: which parameter of ours lies where in a GGUF file, and how it is turned on the way.

Reading and writing both walk over `entries`. A parameter of ours may be several tensors of theirs, side by side along one axis.

Shapes: V vocabulary, D width, H query heads, G key/value heads or groups, P head width, I inner width of Mamba-2, C channels of
its convolution, N state, E experts, F width of a feed-forward.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tandem.hub.gguf.architectures import Architecture
from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig

Shape = tuple[int, ...]


def _same(value: Any) -> Any:
    return value


class Layout(NamedTuple):
    """How a tensor of ours becomes one of theirs, and back; `shape` is the way back for shapes."""

    theirs: Callable[[Tensor], Tensor]
    ours: Callable[[Tensor], Tensor]
    shape: Callable[[Shape], Shape] = _same


def _turned(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2)


def _decay(A_log_H: Tensor) -> Tensor:
    return -A_log_H.double().exp().float()[:, None]


def _log_decay(A_H1: Tensor) -> Tensor:
    return (-A_H1[:, 0].double()).log().float()


def _column(tensor: Tensor) -> Tensor:
    return tensor[:, None]


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten()


def _turned_shape(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


def _flat_shape(shape: Shape) -> Shape:
    return (math.prod(shape),)


AS_IS = Layout(_same, _same)
_EXPERTS = Layout(_turned, _turned, _turned_shape)  # their matrices map rows, ours columns
_DECAYS = Layout(_decay, _log_decay, _flat_shape)  # they keep A, we its logarithm
_COLUMN = Layout(_column, _flat, _flat_shape)


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of theirs.

    Attributes:
        shape: as PyTorch has it, rows first.
        layout: how it differs from ours.
        fine: always float32, as llama.cpp asks of norms, routers, biases and what drives the state.
    """

    name: str
    shape: Shape
    layout: Layout = AS_IS
    fine: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter of ours and its tensors in a file.

    Attributes:
        target: name in `HybridLM.state_dict()`; None for zeros that llama.cpp asks for and we do without.
        parts: in order along `axis` of the parameter.
    """

    target: str | None
    parts: tuple[Part, ...]
    axis: int = 0

    def pieces(self) -> Iterator[tuple[Part, Shape]]:
        """Each tensor of theirs with the shape of its piece of ours."""
        return ((part, part.layout.shape(part.shape)) for part in self.parts)

    @property
    def shape(self) -> Shape:
        """Of the parameter."""
        shapes = [shape for _, shape in self.pieces()]
        whole = list(shapes[0])
        whole[self.axis] = sum(shape[self.axis] for shape in shapes)
        return tuple(whole)


def entries(config: ModelConfig, architecture: Architecture) -> Iterator[Entry]:
    """All tensors of a file, in the order of the layers."""
    V, D = config.vocab_size, config.width
    yield _one("embedding", Part("token_embd.weight", (V, D)))
    for layer, symbol in enumerate(config.layers):
        block, norm = architecture.place(layer)
        ours, theirs = f"layers.{layer}.mixer", f"blk.{block}"
        yield _one(f"layers.{layer}.norm.weight", Part(f"{theirs}.{norm}.weight", (D,), fine=True))
        match shape := config.shape_of(symbol):
            case AttentionConfig():
                yield from _attention(ours, theirs, shape, D, architecture)
            case MambaConfig():
                yield from _mamba(ours, theirs, shape, D)
            case DenseConfig():
                yield from _dense(ours, theirs, shape, D, "")
            case MoEConfig():
                yield from _experts(ours, theirs, shape, D, architecture)
    yield _one("norm.weight", Part("output_norm.weight", (D,), fine=True))
    if not config.tie_embeddings:
        yield _one("head.weight", Part("output.weight", (V, D)))


def _attention(ours: str, theirs: str, shape: AttentionConfig, D: int, architecture: Architecture) -> Iterator[Entry]:
    P = shape.head_width
    by_neighbors = architecture.turns == "neighbors" and shape.rope
    for suffix, columns in (("weight", (D,)), ("bias", ())):
        if suffix == "weight" or shape.bias:
            parts = [
                Part(
                    f"{theirs}.attn_{name}.{suffix}",
                    (heads * P, *columns),
                    _neighbors(heads, shape.turned_width) if by_neighbors and name != "v" else AS_IS,
                    fine=suffix == "bias",
                )
                for name, heads in (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads))
            ]
            yield Entry(f"{ours}.qkv.{suffix}", tuple(parts))
    if shape.qk_norm:
        for name in "qk":
            yield _one(f"{ours}.{name}_norm.weight", Part(f"{theirs}.attn_{name}_norm.weight", (P,), fine=True))
    yield from _linear(f"{ours}.out", [f"{theirs}.attn_output"], (D, shape.heads * P), shape.out_bias)


def _neighbors(heads: int, turned: int) -> Layout:
    """Channels that RoPE turns together: k and k + turned/2 with us, 2k and 2k + 1 with them."""
    return Layout(partial(_interleaved, heads, turned, (2, -1)), partial(_interleaved, heads, turned, (-1, 2)))


def _interleaved(heads: int, turned: int, pairs: tuple[int, int], tensor: Tensor) -> Tensor:
    each = tensor.unflatten(0, (heads, -1))
    first = each[:, :turned].unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
    return torch.cat([first, each[:, turned:]], dim=1).flatten(0, 1)


def _mamba(ours: str, theirs: str, shape: MambaConfig, D: int) -> Iterator[Entry]:
    I, C, H = shape.inner, shape.conv_width, shape.heads  # noqa: E741 - as in the legend
    yield _one(f"{ours}.into.weight", Part(f"{theirs}.ssm_in.weight", (I + C + H, D)))
    yield _one(f"{ours}.conv_weight", Part(f"{theirs}.ssm_conv1d.weight", (C, shape.conv), fine=True))
    # llama.cpp adds this bias without asking whether there is one.
    bias = Part(f"{theirs}.ssm_conv1d.bias", (C,), fine=True)
    yield _one(f"{ours}.conv_bias" if shape.conv_bias else None, bias)
    yield _one(f"{ours}.island.A_log", Part(f"{theirs}.ssm_a", (H, 1), _DECAYS, fine=True))
    yield _one(f"{ours}.island.dt_bias", Part(f"{theirs}.ssm_dt.bias", (H,), fine=True))
    yield _one(f"{ours}.island.D", Part(f"{theirs}.ssm_d", (H, 1), _COLUMN, fine=True))
    by_group = Layout(partial(_grouped, shape.groups), _flat, _flat_shape)
    yield _one(
        f"{ours}.norm.weight", Part(f"{theirs}.ssm_norm.weight", (shape.groups, I // shape.groups), by_group, fine=True)
    )
    yield _one(f"{ours}.out.weight", Part(f"{theirs}.ssm_out.weight", (D, I)))


def _grouped(groups: int, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (groups, -1))


def _dense(ours: str, theirs: str, shape: DenseConfig, D: int, suffix: str) -> Iterator[Entry]:
    names = ["ffn_gate", "ffn_up"] if shape.inputs == 2 else ["ffn_up"]
    yield from _linear(f"{ours}.gate_up", [f"{theirs}.{name}{suffix}" for name in names], (shape.hidden, D), shape.bias)
    yield from _linear(f"{ours}.down", [f"{theirs}.ffn_down{suffix}"], (D, shape.hidden), shape.bias)


def _experts(ours: str, theirs: str, shape: MoEConfig, D: int, architecture: Architecture) -> Iterator[Entry]:
    E, F, L = shape.experts, shape.hidden, shape.latent or D
    yield _one(f"{ours}.island.weight", Part(f"{theirs}.ffn_gate_inp.weight", (E, D), fine=True))
    if architecture.router == "sigmoid":
        bias = f"{ours}.island.bias_E" if shape.selection_bias else None
        yield _one(bias, Part(f"{theirs}.exp_probs_b.bias", (E,), fine=True))
    names = ["ffn_gate_exps", "ffn_up_exps"] if shape.inputs == 2 else ["ffn_up_exps"]
    into = [Part(f"{theirs}.{name}.weight", (E, F, L), _EXPERTS) for name in names]
    yield Entry(f"{ours}.experts.gate_up_EDF", tuple(into), axis=2)
    yield _one(f"{ours}.experts.down_EFD", Part(f"{theirs}.ffn_down_exps.weight", (E, L, F), _EXPERTS))
    if shape.shared_dense is not None:
        yield from _dense(f"{ours}.shared", theirs, shape.shared_dense, D, "_shexp")
    if shape.latent:
        yield from _linear(f"{ours}.into_latent", [f"{theirs}.ffn_latent_down"], (L, D), shape.bias)
        yield from _linear(f"{ours}.from_latent", [f"{theirs}.ffn_latent_up"], (D, L), shape.bias)


def _linear(ours: str, theirs: list[str], shape: tuple[int, int], bias: bool) -> Iterator[Entry]:
    yield Entry(f"{ours}.weight", tuple(Part(f"{name}.weight", shape) for name in theirs))
    if bias:
        yield Entry(f"{ours}.bias", tuple(Part(f"{name}.bias", shape[:1], fine=True) for name in theirs))


def _one(target: str | None, part: Part) -> Entry:
    return Entry(target, (part,))
