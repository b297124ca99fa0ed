"""A model's decode step over one state, recorded as a `StepProgram`: who records it, and for how long it holds.

The program points into the memory of weights and state. It is recorded again when any of them lies elsewhere: after the
cache has grown, a prefill, a slot taken out, or weights loaded, moved or cast. Weights written to in place need nothing.

Shapes: S documents, V vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from operator import is_not
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from tandem.nn.slots import KVSlots, TransSlots
from tandem.nn.state import DecodeState
from tandem.ops import StepProgram, StepUnsupportedError

if TYPE_CHECKING:
    from tandem.nn.decoder import HybridLM


def recorded_logits(model: "HybridLM", tokens_S: Tensor, state: DecodeState) -> Tensor | None:
    """logits_SV of one more token of each document, by the state's recording, made anew where it no longer holds.

    Returns:
        None where the layers must step one by one: not on the CPU, under autocast or a compiler, in training, with hooks, with
        rounded caches, or with a layer that the kernels do not have.
    """
    if (
        model.cache_rounding is not None
        or model.training
        or tokens_S.device.type != "cpu"
        or torch.compiler.is_compiling()
    ):
        return None
    if torch.is_autocast_enabled("cpu") or torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return None
    for slots in state.layers:
        if isinstance(slots, KVSlots) or (isinstance(slots, TransSlots) and not slots.is_released):
            slots.reserve(max(state.lengths) + 1)
    if state.step is None or not state.step.is_current(model, state):
        state.step = RecordedStep(model, state)
    logits_SV = state.step.run(tokens_S.tolist(), state.lengths)
    if logits_SV is not None:
        for slots in state.layers:
            if isinstance(slots, TransSlots):
                slots.arrive([length + 1 for length in state.lengths])
    return logits_SV


class RecordedStep:
    """One recording, and how to tell that it is out of date."""

    def __init__(self, model: "HybridLM", state: DecodeState) -> None:
        modules = list(model.modules())
        self._made_for = _settings(model)
        self._children = [m._modules for m in modules]
        self._children_then = [dict(children) for children in self._children]
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._tables = [table for m in modules for table in (m._parameters, m._buffers) if table]
        self._marks = self._weight_marks(model)
        self._state_pointers = _state_pointers(state)
        self._program: StepProgram | None = None
        if not all(map(_is_ours, modules)):
            return
        try:
            program = StepProgram(len(state.lengths), model.embedding.dtype, int8=model.int8_steps)
            self._logits_SV = model.record(program, state)
        except StepUnsupportedError:
            return
        self._program = program

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(None), ()  # a copy of a state lies elsewhere and records again

    def run(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor | None:
        """logits_SV; None where the layers must step one by one."""
        if self._program is None or any(self._hooks):
            return None
        self._program.run(tokens, positions)
        return self._logits_SV.clone()

    def is_current(self, model: "HybridLM", state: DecodeState) -> bool:
        """Whether this was recorded for these modules, weights and state, where they lie now."""
        return (
            self._made_for == _settings(model)
            and self._children == self._children_then
            and self._marks == self._weight_marks(model)
            and self._state_pointers == _state_pointers(state)
        )

    def _weight_marks(self, model: "HybridLM") -> list[int]:
        """Where weights lie and, where int8 copies of them are read, how often they have been written to."""
        # Without a loop in Python: this is asked at every step.
        weights = list(filter(_is_tensor, chain.from_iterable(map(dict.values, self._tables))))
        marks = list(map(Tensor.data_ptr, weights))
        if model.int8_steps:
            marks += [0 if weight.is_inference() else weight._version for weight in weights]
        return marks


_is_tensor = partial(is_not, None)


def _settings(model: "HybridLM") -> tuple[Any, ...]:
    return id(model), model.int8_steps, model.config.transpoints, torch.get_num_threads()


def _state_pointers(state: DecodeState) -> list[int]:
    """Where the state lies, and on which side of their TransPoints its documents are."""
    pointers = [tensor.data_ptr() for slots in state.layers if slots is not None for tensor in slots.tensors]
    return pointers + [slots.has_crossed for slots in state.layers if isinstance(slots, TransSlots)]


def _is_ours(module: nn.Module) -> bool:
    """Whether `record` says all that calling the module does: no other class, adapter or replaced `forward`."""
    is_known = type(module).__module__.startswith("tandem.nn.") or type(module) in (nn.ModuleList, nn.Identity)
    return is_known and "forward" not in vars(module)
