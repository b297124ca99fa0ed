"""A decode step of a whole model, recorded once and replayed by one call: nothing of Python is left between two layers.

A `StepProgram` has a method an op. Each takes tensors, makes the one that holds its result, and writes down what to do;
`run` then does all of it, for new tokens, in the memory of these same tensors. The arithmetic is that of the ops themselves,
because both run the instructions of ops/cpu/kernels/step.h.

Shapes: S documents, D width, O outputs, V vocabulary, L slots of a cache, H query heads, G key/value heads, P head width,
E experts, F expert width; others as in `mamba_step`.
"""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from tandem.ops.cpu import decode, instructions
from tandem.ops.cpu.instructions import FORMATS, pointer
from tandem.ops.int8 import int8_copy

_FUNCTIONS = {"swiglu": 0, "relu2": 1}
_FEW = 4
_LONGEST = 32_768  # products of int8 and 14 bits whose sum fits 32 bits


class StepUnsupportedError(ValueError):
    """The kernels have no form of an op with these tensors; the model's layers can still step one by one."""


class StepProgram:
    """Instructions for one token of each of S documents, on the CPU and without gradients.

    Args:
        slots: S.
        dtype: float32 or bfloat16, of all that flows between the ops and of the weights.
        int8: read matrices from int8 copies of them (`int8_copy`), made once; with more than 4 documents arithmetic is the
            limit, not memory, and the matrices themselves are faster.

    >>> weight = torch.ones(3, 2)
    >>> with torch.no_grad():
    ...     program = StepProgram(1, torch.float32)
    ...     y_SO = program.linear(program.embedding(torch.eye(2), 1.0), weight)
    ...     program.run([1], [0])
    >>> y_SO
    tensor([[1., 1., 1.]])
    """

    def __init__(self, slots: int, dtype: torch.dtype, *, int8: bool = False) -> None:
        self.slots = slots
        self.dtype = dtype
        self.int8 = int8 and slots <= _FEW
        self.threads = torch.get_num_threads()
        self._tokens_S, self._positions_S = torch.zeros(2, slots, dtype=torch.long)
        self._instructions: list[ctypes.Structure] = []
        self._kept: list[Tensor | None] = [self._tokens_S, self._positions_S]
        self._whole: instructions.Instructions | None = None
        self._vocabulary = 0
        if slots > decode.ROWS or not decode.step_is_supported(torch.empty(0, dtype=dtype)):
            raise StepUnsupportedError(f"no kernels for {slots} documents in {dtype}")

    def run(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Replays all instructions for one token of each document.

        Raises:
            ValueError: a token outside the vocabulary.
        """
        if self._whole is None:
            self._whole = instructions.Instructions(self._instructions)
        if not 0 <= min(tokens) <= max(tokens) < self._vocabulary:
            raise ValueError(f"tokens hold an id outside [0, {self._vocabulary}); use ids of the model's own tokenizer")
        for column, values in ((self._tokens_S, tokens), (self._positions_S, positions)):
            column.numpy()[:] = values
        self._whole.run(self.threads)

    def embedding(self, table_VD: Tensor, scale: float) -> Tensor:
        """Scale · rows of the table, by token: x_SD, which `add` changes in place."""
        V, D = table_VD.shape
        self._vocabulary, x_SD = V, self._room(D)
        sizes = (self.slots, D, FORMATS[self.dtype])
        self._do(instructions.Embed(*sizes, pointer(self._tokens_S), self._matrix(table_VD), scale, pointer(x_SD)))
        return x_SD

    def add(self, x_SD: Tensor, y_SD: Tensor, scale: float) -> None:
        """X += scale · y."""
        sizes = (self.slots, x_SD.shape[1], 1, FORMATS[self.dtype])
        self._do(instructions.AddNorm(*sizes, 0.0, scale, 1.0, None, pointer(y_SD), pointer(x_SD), None))

    def norm(self, x_SD: Tensor, weight_D: Tensor, eps: float, gain: float = 1.0, groups: int = 1) -> Tensor:
        """Gain · `rms_norm` of x, in groups. One instruction with an `add` to x just before it: fewer places where threads wait."""
        out_SD, last = self._room(x_SD.shape[1]), self._instructions[-1]
        if not (isinstance(last, instructions.AddNorm) and last.x == pointer(x_SD) and last.out is None):
            last = instructions.AddNorm(self.slots, x_SD.shape[1], groups, FORMATS[self.dtype], x=pointer(x_SD))
            self._do(last)
        last.groups, last.eps, last.gain = groups, eps, gain
        last.weight, last.out = self._pointer(weight_D), pointer(out_SD)
        return out_SD

    def linear(self, x_SD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """X Wᵀ + b."""
        y_SO, weight = self._room(len(weight_OD)), self._matrix(weight_OD)
        self._pointer(bias_O)
        self._do(decode.linear_instruction(x_SD, weight, bias_O, y_SO))
        return y_SO

    def activation(self, x_SF: Tensor, name: str) -> Tensor:
        """One of `ACTIVATIONS` that the kernels have: swiglu, which halves the width, or relu2."""
        if name not in _FUNCTIONS:
            raise StepUnsupportedError(f"a step with activation {name}")
        F = x_SF.shape[1] // (2 if name == "swiglu" else 1)
        y_SF = self._room(F)
        sizes = (self.slots, F, FORMATS[self.dtype], _FUNCTIONS[name])
        self._do(instructions.Activate(*sizes, pointer(x_SF), pointer(y_SF)))
        return y_SF

    def mixture(
        self,
        x_SD: Tensor,
        router: tuple[Tensor, Tensor | None, int],
        experts: tuple[Tensor, Tensor],
        shared: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """The result of `tandem.ops.mixture`."""
        if not decode.mixture_is_supported(x_SD, router[0], *experts, *(shared or ())):
            raise StepUnsupportedError("experts whose widths are no multiples of 32, or of another format")
        (weight, bias, K), (E, F, _) = router, experts[1].shape
        sizes = (E, F, shared[1].shape[1] if shared else 0)
        matrices = [*(self._matrix(w, axis=1) for w in experts), *(self._matrix(w) for w in shared or ())]
        results, y_SD = decode.mixture_results(self.slots, K, E), self._room(x_SD.shape[1])
        scratch = decode.mixture_scratch(x_SD, (E, F, K), sizes[2])
        self._keep(weight, bias, *results, scratch)
        self._do(decode.mixture_instruction(x_SD, router, sizes, matrices, results, y_SD, scratch))
        return y_SD

    def mamba(
        self,
        projected_SO: Tensor,
        weights: tuple[Tensor, Tensor | None, Tensor],
        decays: tuple[Tensor, Tensor, Tensor],
        norm: tuple[float, int],
        slots: tuple[Tensor, Tensor],
        limits: tuple[float, float],
    ) -> Tensor:
        """What lies between the projections of `tandem.ops.mamba_step`: y_SI; slots are halo_SWC and state_SHPN.

        Args:
            weights: taps (C, W), bias (C) or None, and weight of the norm (I).
        """
        y_SI = self._room(len(weights[2]))
        self._mamba(projected_SO, weights, decays, norm, slots, limits, y_SI)
        return y_SI

    def mamba_before_attention(
        self,
        projected_SO: Tensor,
        weights: tuple[Tensor, Tensor | None, Tensor],
        decays: tuple[Tensor, Tensor, Tensor],
        slots: tuple[Tensor, Tensor],
        limits: tuple[float, float],
    ) -> Tensor:
        """Moves halo and state on as `mamba` does, and gives the rows [C | B | x] behind the convolution to `attention`."""
        qkv_SC = self._room(len(weights[0]))
        self._mamba(projected_SO, weights, decays, (0.0, 1), slots, limits, None, qkv_SC)
        return qkv_SC

    def _mamba(
        self,
        projected_SO: Tensor,
        weights: tuple[Tensor, Tensor | None, Tensor],
        decays: tuple[Tensor, Tensor, Tensor],
        norm: tuple[float, int],
        slots: tuple[Tensor, Tensor],
        limits: tuple[float, float],
        y_SI: Tensor | None,
        qkv_SC: Tensor | None = None,
    ) -> None:
        (halo_SWC, state_SHPN), (taps_CW, bias_C, norm_I) = slots, weights
        bias_C = taps_CW.new_zeros(len(taps_CW)) if bias_C is None else bias_C
        if {t.dtype for t in (*decays, state_SHPN)} != {torch.float32}:
            raise StepUnsupportedError("decays and states that are not float32")
        for tensor in (taps_CW, bias_C, norm_I, halo_SWC):
            self._pointer(tensor)
        scratch_SC, middle = torch.empty(self.slots, len(taps_CW)), (taps_CW, bias_C, norm_I)
        self._keep(*decays, state_SHPN, scratch_SC)
        made = (scratch_SC, y_SI, qkv_SC)
        self._do(decode.mamba_instruction(projected_SO, middle, decays, norm, halo_SWC, state_SHPN, limits, *made))

    def attention(
        self,
        qkv_SO: Tensor,
        cache: tuple[Tensor, Tensor],
        heads: int,
        norms: tuple[Tensor, Tensor, float, bool] | None,
        rotation: tuple[Tensor, float] | None,
        scale: float | None,
    ) -> Tensor:
        """Appends the keys and values of [q | k | v] to the cache and attends to it: y (S, H P).

        Args:
            cache: k_SLGP and v_SLGP, with room for one more token of each document.
            norms: weights for queries and keys, eps, and whether they come before the rotation.
            rotation: frequencies and amplitude, as in `rotary`.
        """
        (k_SLGP, v_SLGP), (q_norm, k_norm, eps, first) = cache, norms or (None, None, 0.0, False)
        (S, L, G, P), (frequency_K, amplitude) = k_SLGP.shape, rotation or (torch.empty(0), 1.0)
        frequency_K = frequency_K.float().contiguous()
        q_SHP, y_SHP = torch.empty(2, S, heads, P, dtype=self.dtype)
        for tensor in (k_SLGP, v_SLGP, q_norm, k_norm):
            self._pointer(tensor)
        scratch = decode.attention_scratch(q_SHP, k_SLGP)
        self._keep(frequency_K, q_SHP, y_SHP, scratch)
        sizes = (S, L, heads, G, P, first, len(frequency_K), FORMATS[self.dtype])
        tensors = (q_norm, k_norm, frequency_K, self._positions_S, qkv_SO, q_SHP, k_SLGP, v_SLGP)
        self._do(instructions.Place(*sizes, eps, amplitude, *map(pointer, tensors)))
        self._do(decode.attention_instruction(q_SHP, k_SLGP, v_SLGP, self._positions_S, scale, scratch, y_SHP))
        return y_SHP.flatten(1)

    def _do(self, instruction: ctypes.Structure) -> None:
        self._instructions.append(instruction)

    def _room(self, width: int) -> Tensor:
        made = torch.empty(self.slots, width, dtype=self.dtype)
        self._keep(made)
        return made

    def _keep(self, *tensors: Tensor | None) -> None:
        """Memory that instructions point into must outlive them, even where a module gets other weights."""
        self._kept.extend(None if t is None else t.detach() for t in tensors)

    def _pointer(self, tensor: Tensor | None) -> int | None:
        """Where a tensor of the program's format lies."""
        if tensor is not None and (tensor.dtype != self.dtype or not tensor.is_contiguous()):
            raise StepUnsupportedError(f"a tensor of {tensor.dtype} in a step of {self.dtype}, or not contiguous")
        self._keep(tensor)
        return pointer(tensor)

    def _matrix(self, weight: Tensor, axis: int = -1) -> instructions.Matrix:
        """The weight, or its int8 copy; `axis` is that of its inputs."""
        if not self.int8:
            self._pointer(weight)
            return instructions.matrix(weight)
        if weight.shape[axis] > _LONGEST:
            raise StepUnsupportedError(f"int8 sums of {weight.shape[axis]} products")
        copy = int8_copy(weight, axis)
        self._keep(*copy)
        return instructions.matrix(*copy)
