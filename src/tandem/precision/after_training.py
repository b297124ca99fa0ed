"""A trained model in a format: weights rounded once, and what decoding keeps rounded as it is written.

Blocks of a weight lie along the sum of its product; those of keys, values and states along their last axis (head width P, state
width N), so that no token, head or document shares a scale with another.

Shapes: T tokens, S documents, G key/value heads, H heads, P head width, N state width, I inputs, O outputs, E experts.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from tandem.nn import CacheRounding, Experts, HybridLM, Linear, Rounding
from tandem.precision.formats import FloatFormat
from tandem.precision.model import maps_of
from tandem.precision.recipe import Operand


@dataclass(frozen=True, slots=True)
class Stored:
    """What rounded numbers take where they are kept in their format.

    Attributes:
        numbers: how many there are.
        bits: of all of them, with their scales.
    """

    numbers: int
    bits: int

    @property
    def bits_each(self) -> float:
        """Bits of one number, with its share of the scales."""
        return self.bits / self.numbers

    @property
    def bytes(self) -> float:
        """Bytes of all of them."""
        return self.bits / 8

    def __add__(self, other: "Stored") -> "Stored":
        return Stored(self.numbers + other.numbers, self.bits + other.bits)


def stored(operand: Operand, shape: Sequence[int], axis: int = -1) -> Stored:
    """What a tensor takes in a format; scales of 32 bits, or of 8, and for `e4m3` 32 more a tensor.

    >>> stored(Operand(format="ocp:e2m1", block=32, scale="e8m0"), (64, 64)).bits_each
    4.25
    """
    numbers, axis = math.prod(shape), axis % len(shape)
    if operand.block == "tensor":
        scales = 1
    elif isinstance(operand.block, tuple):
        blocks = (math.ceil(size / each) for size, each in zip(shape[-2:], operand.block, strict=True))
        scales = math.prod(shape[:-2]) * math.prod(blocks)
    else:
        size = shape[axis] if isinstance(operand.block, str) else operand.block
        scales = numbers // shape[axis] * math.ceil(shape[axis] / size)
    bits = 32 if operand.scale == "float32" else 8
    extra = 32 if operand.scale == "e4m3" else 0
    assert not isinstance(operand.format, str)
    if isinstance(operand.format, FloatFormat) and operand.format.exponent == 8:  # it takes no scale
        bits = extra = 0
    return Stored(numbers, numbers * operand.format.bits + scales * bits + extra)


@torch.no_grad()
def quantize_weights(model: HybridLM, operand: Operand, skip: Sequence[str] = ()) -> Stored:
    """Rounds the matrices of all linear maps and routed experts of the layers, once and in place.

    They stay ordinary tensors in the dtype that they have (in bfloat16 a format of 8 bits loses a little more), so everything
    else works as before: saving, recorded steps, training on. Embedding, head, routers, norms, convolutions, biases and the SSM's
    own parameters are left alone. To keep the model as it was, pass `copy.deepcopy(model)`.

    Args:
        operand: blocks lie along inputs, the sum of the product; a scale never reaches from one expert to another.
        skip: names of maps to leave as they are, `*` for anything: "layers.0.*", "*.mixer.out".
    Returns:
        what the rounded matrices take.
    Raises:
        ValueError: a name in `skip` that no map has, nothing left to round, or a model whose steps read int8 copies.
    """
    if model.int8_steps:
        raise ValueError("model reads int8 copies of its weights in steps; load it with weights='stored'")
    maps = maps_of(model, skip)
    if not maps:
        raise ValueError(f"skip={list(skip)} leaves no map to round; skip less")
    total = Stored(0, 0)
    for module in maps.values():
        for matrix_OI in _matrices(module):
            matrix_OI.copy_(operand.round(matrix_OI, -1, matrix_OI.dtype))
            total += stored(operand, matrix_OI.shape)
    return total


def _matrices(module: Linear | Experts) -> Iterator[Tensor]:
    """The matrices (O, I) of a map, or of each expert: views, to be written to."""
    if isinstance(module, Linear):
        yield module.weight
    else:
        for stacked_EIO in (module.gate_up_EDF, module.down_EFD):
            yield from stacked_EIO.mT


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What rounded caches take; None for what is not rounded.

    Attributes:
        kv: keys and values of one token in all layers (of TransMamba, one before the TransPoint).
        state: the SSM states of one document in all layers.
    """

    kv: Stored | None
    state: Stored | None


def quantize_caches(model: HybridLM, *, kv: Operand | None = None, state: Operand | None = None) -> CacheSizes:
    """Has a model round what its decode states keep: keys and values, and SSM states; `quantize_caches(model)` ends it.

    When is said at `HybridLM.round_caches`: each token's keys and values before any token attends to them; SSM states when a call
    has read its tokens, so after every decode step and at the end of a prefill. Scores and generations then go through a decode
    state, step by step, layer by layer. Convolution halos stay as they are.

    Args:
        kv: for keys (T, G, P) and values of each token, blocks along P.
        state: for states (S, H, P, N), blocks along N, the sum that reads them. The float32 of `scale="e4m3"` is one a token's keys
            or values in a layer, and one a document's state in a layer.
    Raises:
        ValueError: a model that keeps no such thing, or one scale for a whole tensor, which would tie tokens to each other.
    """
    specs = [layer.mixer.state_spec() for layer in cast("Iterable[Any]", model.layers)]
    kept = [spec[name][1:] for spec in specs for name in spec if name[:2] in ("k_", "v_")]
    states = [spec["state_SHPN"] for spec in specs if "state_SHPN" in spec]
    _require("kv", kv, kept, "keeps no keys and values: it has neither A nor T layers")
    _require("state", state, states, "keeps no SSM states: it has neither M nor T layers")
    rounding = CacheRounding(_rounding(kv), _rounding(state))
    model.round_caches(None if kv is None and state is None else rounding)
    return CacheSizes(_together(kv, kept), _together(state, states))


def _require(name: str, operand: Operand | None, shapes: Sequence[object], lacks: str) -> None:
    if operand is not None and not shapes:
        raise ValueError(f"{name}={operand.format} has nothing to round, since the model {lacks}; leave {name} out")
    if operand is not None and operand.block == "tensor":
        raise ValueError(
            f"{name}.block='tensor' would tie tokens and documents to each other; use 'channel' or a number"
        )


def _together(operand: Operand | None, shapes: Sequence[Sequence[int]]) -> Stored | None:
    return None if operand is None else sum((stored(operand, shape) for shape in shapes), Stored(0, 0))


def _rounding(operand: Operand | None) -> Rounding | None:
    return None if operand is None else partial(_round_each, operand)


def _round_each(operand: Operand, x: Tensor) -> Tensor:
    """Rounds what tokens or documents, the first axis, keep."""
    if operand.scale == "e4m3" and len(x) > 1:  # its second scale is one a tensor
        return torch.stack([operand.round(row, -1, x.dtype) for row in x])
    return operand.round(x, -1, x.dtype)
