"""The instructions of a decode step, as kernels/step.h has them, and the call that runs a list of them.

Shapes: see kernels/step.h.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tandem.ops.cpu.compiled import call

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
_INT, _POINTER, _FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


class Matrix(ctypes.Structure):
    """Weights, with a scale of each output if they are int8."""

    _fields_ = (("data", _POINTER), ("format", _INT), ("scale", _POINTER))


def matrix(weight: Tensor | None, scale: Tensor | None = None) -> Matrix:
    """Where the weights lie; nowhere for None."""
    return Matrix(None, 0, None) if weight is None else Matrix(weight.data_ptr(), FORMATS[weight.dtype], pointer(scale))


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor lies; null for None."""
    return None if tensor is None else tensor.data_ptr()


def _fields(integers: str, rest: str) -> tuple[tuple[str, Any], ...]:
    """Members by name: integers first; then floats (~), matrices (#) and pointers."""
    kinds = {"~": _FLOAT, "#": Matrix}
    others = [(name.lstrip("~#"), kinds.get(name[0], _POINTER)) for name in rest.split()]
    return (*((name, _INT) for name in integers.split()), *others)


class Embed(ctypes.Structure):
    """Rows of a table by token, scaled."""

    _fields_ = _fields("S D format", "tokens #table ~scale x")


class AddNorm(ctypes.Structure):
    """Adds to the residual stream, then normalizes it; either may be left out."""

    _fields_ = _fields("S D groups format", "~eps ~scale ~gain weight y x out")


class Linear(ctypes.Structure):
    """A product with a matrix, and its bias."""

    _fields_ = _fields("S D O format", "#weight bias x y")


class Activate(ctypes.Structure):
    """What a feed-forward does between its products."""

    _fields_ = _fields("S F format function", "x y")


class Mixture(ctypes.Structure):
    """Router, routed experts and the shared one."""

    _fields_ = _fields(
        "S D F K E shared_F threads format",
        "router bias #gate_up #down #shared_gate_up #shared_down x scratch expert weight scores y",
    )


class MambaStep(ctypes.Structure):
    """What lies between the projections of a Mamba-2 layer, or what a TransMamba layer does before it attends."""

    _fields_ = _fields(
        "S H P G N W norm_groups format weights",
        "~eps ~least ~most taps bias norm A_log dt_bias D in halo state scratch y qkv",
    )


class Place(ctypes.Structure):
    """Norms, turns and stores keys and values."""

    _fields_ = _fields(
        "S L H G P norm_first pairs format", "~eps ~amplitude q_norm k_norm frequencies positions in q k v"
    )


class Attend(ctypes.Structure):
    """Attention to a cache."""

    _fields_ = _fields("S L H G P format", "~scale positions q k v scratch y")


KINDS = (Embed, AddNorm, Linear, Activate, Mixture, MambaStep, Place, Attend)
"""In the order of kernels/step.cpp."""
_NUMBER: dict[type[ctypes.Structure], int] = {kind: number for number, kind in enumerate(KINDS)}


class Instructions:
    """A list that can be run again and again; whoever makes it keeps the tensors alive."""

    def __init__(self, instructions: Sequence[ctypes.Structure]) -> None:
        self._instructions = instructions
        count = len(instructions)
        self._kinds = (ctypes.c_int64 * count)(*[_NUMBER[type(i)] for i in instructions])
        self._places = (ctypes.c_void_p * count)(*map(ctypes.addressof, instructions))

    def run(self, threads: int) -> None:
        """Runs them in order, on up to `threads` threads."""
        call("run", len(self._instructions), threads, self._kinds, self._places)


def run(*instructions: ctypes.Structure) -> None:
    """Runs a few instructions once."""
    Instructions(instructions).run(torch.get_num_threads())
