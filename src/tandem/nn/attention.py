"""Grouped-query attention with QK-norm and NTK-scaled rotary positions.

Shapes: T tokens, D width, H query heads, G key/value heads, P head width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tandem.nn.base import Linear, RMSNorm
from tandem.nn.config import AttentionConfig
from tandem.nn.rope import RopeScaling, rotary_frequencies
from tandem.nn.slots import KVSlots, Rounding
from tandem.ops import SequenceLayout, StepProgram, cached_attention, causal_attention, rotary


class Rotary(nn.Module):
    """Turns queries and keys by their positions; frequencies are computed once for each device.

    They are no buffer: a cast to bfloat16 would spoil them, and on the meta device they would be lost.
    """

    def __init__(self, width: int, base: float, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        self.width = width
        self.base = base
        self.scaling = scaling
        self.amplitude = scaling.amplitude if scaling else 1.0
        self._place(torch.get_default_device())

    def _place(self, device: torch.device) -> None:
        device = torch.device("cpu") if device.type == "meta" else device
        self.frequency_K = rotary_frequencies(self.width, self.base, self.scaling, device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Rotary":
        super()._apply(fn, recurse)
        self._place(fn(torch.empty(0)).device)
        return self

    def forward(self, x_THP: Tensor, position_T: Tensor) -> Tensor:
        """Heads of all tokens, turned by their positions."""
        return rotary(x_THP, position_T, self.frequency_K.to(x_THP.device), self.amplitude)


class Attention(nn.Module):
    """y = W_o · attention(norm(rope(W_q x)), norm(rope(W_k x)), W_v x), causal and inside each document.

    Attributes:
        round_kv: see `HybridLM.round_caches`.
    """

    def __init__(self, config: AttentionConfig, width: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.qkv = Linear(width, (config.heads + 2 * config.kv_heads) * config.head_width, config.bias)
        self.out = Linear(config.heads * config.head_width, width, config.out_bias)
        self.rope = Rotary(config.turned_width, config.rotary_base, config.rope_scaling) if config.rope else None
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, eps)
            self.k_norm = RMSNorm(config.head_width, eps)
        self.round_kv: Rounding | None = None

    def init_weights(self, residual_scale: float) -> None:
        """Fan-in normal; the output shrinks with depth so that the residual stream starts at the embedding's size."""
        self.qkv.init_weights()
        self.out.init_weights(residual_scale)

    def forward(self, x_TD: Tensor, layout: SequenceLayout, state: KVSlots | None = None) -> Tensor:
        """Mixes tokens; with a state, appends to it and reads from it."""
        heads, kv_heads, scale = self.config.heads, self.config.kv_heads, self.config.scale
        qkv = self.qkv(x_TD).unflatten(-1, (-1, self.config.head_width))
        q_THP, k_TGP, v_TGP = qkv.split([heads, kv_heads, kv_heads], dim=1)
        q_THP, k_TGP = self._positions(q_THP, k_TGP, layout)
        if state is not None:
            if self.round_kv is not None:
                k_TGP, v_TGP = self.round_kv(k_TGP), self.round_kv(v_TGP)
            state.append(k_TGP, v_TGP, layout)
        if state is None or (layout.is_fresh and not layout.is_step):
            y_THP = causal_attention(q_THP, k_TGP, v_TGP, layout, scale)
        else:
            k_SLGP, v_SLGP = state.k_SLGP.to(q_THP.dtype), state.v_SLGP.to(q_THP.dtype)
            y_THP = cached_attention(q_THP, k_SLGP, v_SLGP, layout, scale)
        return self.out(y_THP.flatten(1))

    def record(self, program: StepProgram, x_SD: Tensor, slots: KVSlots) -> Tensor:
        """Writes `forward` for one token of each document down as part of a decode step."""
        config = self.config
        norms = None
        if config.qk_norm:
            norms = (self.q_norm.weight, self.k_norm.weight, self.q_norm.eps, config.qk_norm_first)
        rotation = None if self.rope is None else (self.rope.frequency_K, self.rope.amplitude)
        qkv_SO = self.qkv.record(program, x_SD)
        y_SO = program.attention(qkv_SO, slots.tensors, config.heads, norms, rotation, config.scale)
        return self.out.record(program, y_SO)

    def _positions(self, q_THP: Tensor, k_TGP: Tensor, layout: SequenceLayout) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.qk_norm and config.qk_norm_first:
            q_THP, k_TGP = self.q_norm(q_THP), self.k_norm(k_TGP)
        if self.rope is not None:
            q_THP, k_TGP = self.rope(q_THP, layout.position_T), self.rope(k_TGP, layout.position_T)
        if config.qk_norm and not config.qk_norm_first:
            q_THP, k_TGP = self.q_norm(q_THP), self.k_norm(k_TGP)
        return q_THP, k_TGP

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations: 4·D·(H + G)·P a token for projections, 4·H·P for each pair of tokens that see each other."""
        config = self.config
        projections = 4 * self.width * (config.heads + config.kv_heads) * config.head_width * layout.tokens
        return projections + 4 * config.heads * config.head_width * layout.pairs

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Bytes of decode state of one sequence of `context` tokens: 2·G·P values a token."""
        return 2 * self.config.kv_heads * self.config.head_width * value_bytes * context

    def state_spec(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of one slot of the decode state; "L" grows with the text."""
        shape = ("L", self.config.kv_heads, self.config.head_width)
        return {"k_SLGP": shape, "v_SLGP": shape}
