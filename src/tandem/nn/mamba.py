"""Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): projections, a short convolution, the SSD scan, a gated norm.

Shapes: T tokens, D width, I = H P inner width, H heads, P head width, G groups, N state width.
"""

import math

import torch
from torch import Tensor, nn

from tandem.nn.base import Float32Island, Linear, RMSNorm, is_bare
from tandem.nn.config import MambaConfig
from tandem.nn.slots import SSMSlots
from tandem.ops import SequenceLayout, StepProgram, causal_conv, conv_halo, mamba_step, ssd_chunked, step_sizes


class DecayIsland(Float32Island):
    """A = -exp(A_log), the step bias and the skip weights, one of each a head."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))

    def init_weights(self, dt_min: float, dt_max: float) -> None:
        """A uniform in [1, 16], steps log-uniform in [dt_min, dt_max] after softplus, D = 1; mamba_ssm's choices."""
        nn.init.uniform_(self.A_log, 1, 16)
        nn.init.uniform_(self.dt_bias, math.log(dt_min), math.log(dt_max))
        with torch.no_grad():
            self.A_log.log_()
            dt = self.dt_bias.exp()
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        nn.init.ones_(self.D)


class Mamba(nn.Module):
    """[z | x | B | C | dt] = W_in u;  y = ssd(conv(x), dt, A, conv(B), conv(C));  out = W_out norm(y · silu(z)).

    Step sizes dt pass through softplus and, where the config sets limits, stay between them.
    """

    def __init__(self, config: MambaConfig, width: int, eps: float) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.into = Linear(width, config.inner + config.conv_width + config.heads, config.bias)
        self.conv_weight = nn.Parameter(torch.empty(config.conv_width, config.conv))
        self.conv_bias = nn.Parameter(torch.empty(config.conv_width)) if config.conv_bias else None
        self.island = DecayIsland(config.heads)
        self.norm = RMSNorm(config.inner, eps, config.norm_groups or config.groups)
        self.out = Linear(config.inner, width, config.bias)
        self.limits = config.step_limits

    def init_weights(self, residual_scale: float) -> None:
        """Fan-in normal projections, uniform taps, decays as mamba_ssm."""
        self.into.init_weights()
        self.out.init_weights(residual_scale)
        nn.init.uniform_(self.conv_weight, -(self.config.conv**-0.5), self.config.conv**-0.5)
        if self.conv_bias is not None:
            nn.init.zeros_(self.conv_bias)
        self.island.init_weights(self.config.dt_min, self.config.dt_max)

    def forward(self, x_TD: Tensor, layout: SequenceLayout, state: SSMSlots | None = None) -> Tensor:
        """Mixes tokens; with a state, starts from it and leaves the new one in it."""
        config = self.config
        if state is not None and layout.is_step and is_bare(self.into, self.out):
            return self._step(x_TD, state)
        z_TI, xBC_TC, dt_TH = self.into(x_TD).split([config.inner, config.conv_width, config.heads], dim=-1)
        inputs = self._convolve(xBC_TC, layout, state)
        x_TI, B_TGN, C_TGN = inputs.split([config.inner, *[config.groups * config.state] * 2], dim=-1)
        dt_TH = step_sizes(dt_TH, self.island.dt_bias, self.limits)
        y_THP = self._scan(
            x_TI.unflatten(-1, (config.heads, -1)),
            dt_TH,
            B_TGN.unflatten(-1, (config.groups, -1)),
            C_TGN.unflatten(-1, (config.groups, -1)),
            layout,
            state,
        )
        return self.out(self.norm(y_THP.flatten(1), gate=z_TI))

    def record(self, program: StepProgram, x_SD: Tensor, slots: SSMSlots) -> Tensor:
        """Writes `forward` for one token of each document down as part of a decode step."""
        island, norm = self.island, self.norm
        y_SI = program.mamba(
            self.into.record(program, x_SD),
            (self.conv_weight, self.conv_bias, norm.weight),
            (island.A_log, island.dt_bias, island.D),
            (norm.eps, norm.groups),
            slots.tensors,
            self.limits,
        )
        return self.out.record(program, y_SI)

    def _step(self, x_SD: Tensor, state: SSMSlots) -> Tensor:
        island, norm, into, out = self.island, self.norm, self.into, self.out
        return mamba_step(
            x_SD,
            (into.weight, out.weight, self.conv_weight, self.conv_bias, norm.weight),
            (island.A_log, island.dt_bias, island.D),
            (norm.eps, norm.groups),
            state.halo_SWC,
            state.state_SHPN,
            self.limits,
            None if into.bias is None or out.bias is None else (into.bias, out.bias),
        )

    def _convolve(self, xBC_TC: Tensor, layout: SequenceLayout, state: SSMSlots | None) -> Tensor:
        halo = None if state is None else state.halo_SWC
        if state is not None:
            state.halo_SWC = conv_halo(xBC_TC, layout, state.halo_SWC)
        return causal_conv(xBC_TC, self.conv_weight, self.conv_bias, layout, halo, silu=True)

    def _scan(
        self,
        x_THP: Tensor,
        dt_TH: Tensor,
        B_TGN: Tensor,
        C_TGN: Tensor,
        layout: SequenceLayout,
        state: SSMSlots | None,
    ) -> Tensor:
        A_H, D_H = -self.island.A_log.exp(), self.island.D
        start = None if state is None else state.state_SHPN
        y_THP, end_SHPN = ssd_chunked(x_THP, dt_TH, A_H, B_TGN, C_TGN, layout, D_H, start)
        if state is not None:
            state.state_SHPN = end_SHPN
        return y_THP

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations: 2·D·(3·I + 2·G·N + H) + 2·K·(I + 2·G·N) + 2·Q·(G·N + I) + 4·I·N a token."""
        config = self.config
        inner, shared = config.inner, config.groups * config.state
        projections = 2 * self.width * (3 * inner + 2 * shared + config.heads)
        scan = 2 * config.chunk * (shared + inner) + 4 * inner * config.state
        return (projections + 2 * config.conv * config.conv_width + scan) * layout.tokens

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Bytes of decode state of one sequence, whatever its length: float32 state and the convolution's halo."""
        halo = (self.config.conv - 1) * self.config.conv_width * value_bytes
        return 4 * self.config.inner * self.config.state + halo

    def state_spec(self) -> dict[str, tuple[int | str, ...]]:
        """Shapes of one slot of the decode state."""
        config = self.config
        return {
            "state_SHPN": (config.heads, config.head_width, config.state),
            "halo_SWC": (config.conv - 1, config.conv_width),
        }
