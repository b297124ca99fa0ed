"""TransMamba (arXiv 2503.24067): one set of Mamba-2 parameters, read as attention up to the TransPoint and as an SSM behind it.

All tokens are projected and convolved once. Then those before the TransPoint of their document attend to one another with
queries C, keys B and values x; the Memory Converter makes the SSM's state of the same keys and values; and the tokens behind
go on from it. A TransPoint of 0 is a Mamba-2 layer, one beyond the end of the text pure attention.

Shapes: T tokens, D width, I = H P inner width, H heads, P head width, G groups (attention heads), N state width (of queries
and keys), R = H / G heads whose values an attention head mixes, W = max(N, R P), Z tokens with a gate.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.nn.attention import Rotary
from tandem.nn.base import is_bare
from tandem.nn.config import TransMambaConfig
from tandem.nn.mamba import Mamba
from tandem.nn.slots import Rounding, TransSlots
from tandem.ops import (
    SequenceLayout,
    Split,
    StepProgram,
    StepUnsupportedError,
    cached_attention,
    causal_attention,
    convert_memory,
    linear,
    move_rows,
    ssd_chunked,
    ssd_step,
    step_sizes,
)


class TransMamba(Mamba):
    """Tokens t < P of a document: y_t = attention(C, B, x)_t; tokens t ≥ P: y_t = ssd(x, dt, A, B, C)_t from the converted prefix.

    Parameters have the names and shapes of a `Mamba` of the same config, whatever the TransPoint.

    Args:
        transpoint: P, in tokens of each document; may be changed later, but not under a decode state.

    Attributes:
        round_kv: see `HybridLM.round_caches`.
    """

    config: TransMambaConfig

    def __init__(self, config: TransMambaConfig, width: int, eps: float, transpoint: int) -> None:
        super().__init__(config, width, eps)
        self.transpoint = transpoint
        self.rope = None if config.rope_mode == "none" else Rotary(config.state, config.rotary_base)
        self.round_kv: Rounding | None = None

    def forward(self, x_TD: Tensor, layout: SequenceLayout, state: TransSlots | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Mixes tokens; with a state, goes on from it and moves it on.

        Raises:
            ValueError: a state of another TransPoint.
        """
        if state is not None:
            self._check_point(state)
        if state is not None and state.is_released and layout.is_step and self._steps_as_mamba():
            return self._step(x_TD, state)
        split = layout.split(self.transpoint)
        z_ZI, xBC_TC, dt_TH = self._project(x_TD, split)
        inputs_TC = _ordered(self._convolve(xBC_TC, layout, state), split)
        dt_TH = _ordered(step_sizes(dt_TH, self.island.dt_bias, self.limits), split)
        x_THP, B_TGN, C_TGN = self._heads(inputs_TC, layout, split)
        mixed = self._mix(x_THP, dt_TH, B_TGN, C_TGN, split, state)
        if state is not None:
            state.arrive(layout.ends)
        y_TD = self.out(self._finish(mixed, z_ZI))
        return y_TD if split.order is None else move_rows(y_TD, *reversed(split.order))

    def record(self, program: StepProgram, x_SD: Tensor, slots: TransSlots) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Writes a step down whose documents are all before the TransPoint, or all behind it.

        Raises:
            ValueError: a state of another TransPoint.
        """
        self._check_point(slots)
        if not self._steps_as_mamba():
            raise StepUnsupportedError("a TransMamba layer with options that Mamba-2 does not have")
        if slots.is_released:
            return super().record(program, x_SD, slots)
        config, island = self.config, self.island
        fits = config.state == config.value_width and config.skip == "ssm" and config.gate == "ssm" and config.convert
        if slots.has_crossed or config.keeps_steps or not fits:
            raise StepUnsupportedError("a TransMamba layer whose documents are on both sides, or with options")
        weights, decays = (self.conv_weight, self.conv_bias, self.norm.weight), (island.A_log, island.dt_bias, island.D)
        halo_SWC, state_SHPN, k_SLGW, v_SLGW = slots.tensors
        qkv_SC = program.mamba_before_attention(
            self.into.record(program, x_SD), weights, decays, (halo_SWC, state_SHPN), self.limits
        )
        rotation = None if self.rope is None else (self.rope.frequency_K, self.rope.amplitude)
        y_SI = program.attention(qkv_SC, (k_SLGW, v_SLGW), config.groups, None, rotation, config.scale)
        return self.out.record(program, self.norm.record(program, y_SI) if config.norm == "both" else y_SI)

    def _check_point(self, state: TransSlots) -> None:
        if state.transpoint != self.transpoint:
            raise ValueError(
                f"state was made for the TransPoint {state.transpoint}, but the layer's is {self.transpoint}; make a new state"
            )

    def _steps_as_mamba(self) -> bool:
        config = self.config
        usual = "none" not in (config.gate, config.norm, config.skip) and config.rope_mode != "both"
        return usual and is_bare(self.into, self.out)

    def _project(self, x_TD: Tensor, split: Split) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gates of the tokens that have one, in the order of the parts; inputs of the convolution and raw step sizes of all."""
        config = self.config
        sizes = [config.inner, config.conv_width, config.heads]
        with_gate = config.gate == "both" or (config.gate == "ssm" and split.behind is not None)
        some = with_gate and config.gate == "ssm" and split.before is not None  # tokens have one, but not all
        if (some or not with_gate) and is_bare(self.into):
            weight_z, weight = self.into.weight.split([sizes[0], sum(sizes[1:])])
            bias_z, bias = (None, None) if self.into.bias is None else self.into.bias.split([sizes[0], sum(sizes[1:])])
            xBC_TC, dt_TH = linear(x_TD, weight, bias).split(sizes[1:], dim=-1)
            return linear(_behind(x_TD, split), weight_z, bias_z) if some else None, xBC_TC, dt_TH
        z_TI, xBC_TC, dt_TH = self.into(x_TD).split(sizes, dim=-1)
        z_ZI = (_behind(z_TI, split) if some else _ordered(z_TI, split)) if with_gate else None
        return z_ZI, xBC_TC, dt_TH

    def _heads(self, inputs_TC: Tensor, layout: SequenceLayout, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """x, B and C of all tokens, in the order of the parts."""
        config = self.config
        x_TI, B_TK, C_TK = inputs_TC.split([config.inner, *[config.groups * config.state] * 2], dim=-1)
        B_TGN, C_TGN = (t.unflatten(-1, (config.groups, -1)) for t in (B_TK, C_TK))
        if self.rope is not None and config.rope_mode == "both":
            position_T = layout.position_T if split.order is None else layout.position_T[split.order[0]]
            B_TGN, C_TGN = (self.rope(t, position_T) for t in (B_TGN, C_TGN))
        return x_TI.unflatten(-1, (config.heads, -1)), B_TGN, C_TGN

    def _mix(
        self,
        x_THP: Tensor,
        dt_TH: Tensor,
        B_TGN: Tensor,
        C_TGN: Tensor,
        split: Split,
        state: TransSlots | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Attention's result and the SSM's, each (tokens, I) and None where there are none; all tokens in order of the parts."""
        n = split.first
        (x_before, x), (dt_before, dt), (B_before, B), (C_before, C) = (
            (t[:n], t[n:]) for t in (x_THP, dt_TH, B_TGN, C_TGN)
        )
        attended = scanned = None
        if split.before is not None:
            attended = self._attend(C_before, B_before, x_before, dt_before, split, state)
        A_H = -self.island.A_log.exp()
        start = self._memory(B_before, x_before, dt_before, A_H, split, state)
        if split.behind is not None:
            D_H = None if self.config.skip == "none" else self.island.D
            if split.behind.is_step:
                y_THP, end_SHPN = ssd_step(x, dt, A_H, B, C, D_H, start)
            else:
                y_THP, end_SHPN = ssd_chunked(x, dt, A_H, B, C, split.behind, D_H, start)
            if state is not None:
                state.state_SHPN[list(split.behind_documents)] = end_SHPN
            scanned = y_THP.flatten(1)
        return attended, scanned

    def _attend(
        self, q_TGN: Tensor, k_TGN: Tensor, x_THP: Tensor, dt_TH: Tensor, split: Split, state: TransSlots | None
    ) -> Tensor:
        config, layout = self.config, split.before
        assert layout is not None
        if self.rope is not None and config.rope_mode == "attn":
            q_TGN, k_TGN = (self.rope(t, layout.position_T) for t in (q_TGN, k_TGN))
        width = config.attention_width
        v_TGV = x_THP.reshape(len(x_THP), config.groups, -1)
        q_TGW, k_TGW, v_TGW = (_padded(t, width) for t in (q_TGN, k_TGN, v_TGV))
        scale = config.state**-0.5 if config.scale is None else config.scale
        if state is not None:
            if self.round_kv is not None:
                k_TGW, v_TGW = self.round_kv(k_TGW), self.round_kv(v_TGW)
            state.append(k_TGW, v_TGW, dt_TH, layout, split.before_documents)
        if state is None or (layout.is_fresh and not layout.is_step):
            y_TGW = causal_attention(q_TGW, k_TGW, v_TGW, layout, scale)
        else:
            k_SLGW, v_SLGW = (_slots(t, split.before_documents).to(q_TGW.dtype) for t in (state.k_SLGW, state.v_SLGW))
            y_TGW = cached_attention(q_TGW, k_SLGW, v_SLGW, layout, scale)
        y_TI = y_TGW[..., : config.value_width].flatten(1)
        if config.skip == "both":
            y_TI = y_TI + (self.island.D[:, None] * x_THP).to(y_TI.dtype).flatten(1)
        return y_TI

    def _memory(
        self, K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, A_H: Tensor, split: Split, state: TransSlots | None
    ) -> Tensor | None:
        """The state that each document behind the TransPoint starts from; None for zeros. Moves the decode state on."""
        if state is not None:
            if self.config.convert:
                self._remember(K_TGN, V_THP, dt_TH, A_H, split, state)
            return _slots(state.state_SHPN, split.behind_documents) if split.behind_documents else None
        if split.crossed is None or not self.config.convert:
            return None
        n = split.crossed.tokens
        made = convert_memory(K_TGN[-n:], V_THP[-n:], dt_TH[-n:], A_H, None, split.crossed)
        missing = len(split.behind_documents) - split.crossing  # of documents said to have been read before
        return F.pad(made, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else made

    def _remember(
        self, K_TGN: Tensor, V_THP: Tensor, dt_TH: Tensor, A_H: Tensor, split: Split, state: TransSlots
    ) -> None:
        """Moves the states of documents before the TransPoint on, or makes them once they have reached it."""
        if split.before is None:
            return
        slots, layout = list(split.before_documents), split.before
        if state.dt_SLH is None:
            state.state_SHPN[slots] = convert_memory(K_TGN, V_THP, dt_TH, A_H, state.state_SHPN[slots], layout)
            return
        ends = zip(slots, layout.starts, layout.lengths, strict=True)
        slots = [slot for slot, start, length in ends if start + length == self.transpoint]
        if slots:
            layout = SequenceLayout.from_lengths([self.transpoint] * len(slots), layout.chunk, device=layout.device)
            K_TGW, V_TGW, dt_TH = (cache[slots].flatten(0, 1) for cache in (state.k_SLGW, state.v_SLGW, state.dt_SLH))
            K_TGN, V_TGV = K_TGW[..., : self.config.state], V_TGW[..., : self.config.value_width]
            if self.rope is not None and self.config.rope_mode == "attn":
                K_TGN = self.rope(K_TGN, -layout.position_T)  # keys are kept turned
            V_THP = V_TGV.reshape(len(V_TGV), self.config.heads, -1)
            state.state_SHPN[slots] = convert_memory(K_TGN, V_THP, dt_TH, A_H, None, layout)

    def _finish(self, mixed: tuple[Tensor | None, Tensor | None], z_ZI: Tensor | None) -> Tensor:
        """Gate and norm of both parts, one behind the other."""
        config, parts = self.config, []
        for y_TI, named in zip(mixed, ("both", "ssm"), strict=True):
            if y_TI is None:
                continue
            gate = None
            if z_ZI is not None and config.gate in ("both", named):
                gate = z_ZI[: len(y_TI)] if named == "both" else z_ZI[-len(y_TI) :]
            if config.norm in ("both", named):
                parts.append(self.norm(y_TI, gate=gate))
            else:
                parts.append(y_TI if gate is None else y_TI * F.silu(gate))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations; the SSM's for the tokens behind the TransPoint alone.

        2·D·(2·I + 2·G·N + H) + 2·K·(I + 2·G·N) a token and 2·D·I for each with a gate; 2·(G·N + I) for each pair before the
        TransPoint that sees each other; 2·I·N for a token that is converted; 2·Q·(G·N + I) + 4·I·N for one behind.
        """
        config, split = self.config, layout.split(self.transpoint)
        inner, shared = config.inner, config.groups * config.state
        behind = layout.tokens - split.first
        gated = {"ssm": behind, "both": layout.tokens, "none": 0}[config.gate]
        pairs = 0 if split.before is None else split.before.pairs
        projections = 2 * self.width * ((2 * inner + 2 * shared + config.heads) * layout.tokens + inner * gated)
        convolved = 2 * config.conv * config.conv_width * layout.tokens
        converted = 2 * inner * config.state * (split.crossed.tokens if split.crossed and config.convert else 0)
        scan = (2 * config.chunk * (shared + inner) + 4 * inner * config.state) * behind
        return projections + convolved + 2 * (shared + inner) * pairs + converted + scan

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Bytes of decode state of one sequence: those of Mamba-2, and keys and values up to the TransPoint."""
        config = self.config
        per_token = 2 * config.groups * config.attention_width * value_bytes
        per_token += 4 * config.heads if config.keeps_steps else 0
        return super().state_bytes(context, value_bytes) + (per_token * context if context < self.transpoint else 0)

    def state_spec(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of one slot of the decode state; "L" grows with the text up to the TransPoint and then is 0."""
        config = self.config
        shape = ("L", config.groups, config.attention_width)
        return {"k_SLGW": shape, "v_SLGW": shape, **super().state_spec()}


def _ordered(rows: Tensor, split: Split) -> Tensor:
    return rows if split.order is None else move_rows(rows, *split.order)


def _behind(rows: Tensor, split: Split) -> Tensor:
    """Rows of the tokens behind the TransPoint."""
    if split.order is None:
        return rows[split.first :]
    return move_rows(rows, *split.order_behind)


def _padded(t: Tensor, width: int) -> Tensor:
    return t if t.shape[-1] == width else F.pad(t, (0, width - t.shape[-1]))


def _slots(cache: Tensor, documents: Sequence[int]) -> Tensor:
    """Slots of some documents: the cache itself where they are all of them, in order."""
    return cache if tuple(documents) == tuple(range(len(cache))) else cache[list(documents)]
