"""Feed-forward layers: a dense one, or a mixture of them as in TurboS (one shared, the rest routed).

Shapes: T tokens, D width, E experts, K experts a token, F expert width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tandem.nn.base import Float32Island, Linear, is_bare
from tandem.nn.config import DenseConfig, MoEConfig
from tandem.ops import (
    ACTIVATIONS,
    SOFTMAX,
    GroupedProduct,
    SequenceLayout,
    StepProgram,
    StepUnsupportedError,
    mixture,
    round_to_int8,
    route,
    route_weights,
    routed_experts,
)


class Dense(nn.Module):
    """y = W_down act(W_gate_up x); with SwiGLU, act is silu(W_gate x) · W_up x, the two matrices side by side."""

    def __init__(self, config: DenseConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.gate_up = Linear(width, config.inputs * config.hidden, config.bias)
        self.down = Linear(config.hidden, width, config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def init_weights(self, residual_scale: float) -> None:
        """Fan-in normal; the output shrinks with depth."""
        self.gate_up.init_weights()
        self.down.init_weights(residual_scale)

    def forward(self, x_TD: Tensor, layout: SequenceLayout, state: None = None) -> Tensor:
        """Maps each token by itself."""
        return self.down(self.activation(self.gate_up(x_TD)))

    def record(self, program: StepProgram, x_SD: Tensor, slots: None) -> Tensor:
        """Writes `forward` down as part of a decode step."""
        hidden_SF = program.activation(self.gate_up.record(program, x_SD), self.config.activation)
        return self.down.record(program, hidden_SF)

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations: 6·D·F a token, 4·D·F without a gate."""
        return 2 * (self.config.inputs + 1) * self.width * self.config.hidden * layout.tokens

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Nothing is kept."""
        return 0

    def state_spec(self) -> dict[str, tuple[int | str, ...]]:
        """Nothing is kept."""
        return {}


class Routing(NamedTuple):
    """What a router did with a batch.

    Attributes:
        expert_TK: chosen experts, after recycling.
        weight_TK: how much each of them counts; adds up to 1 over K unless the config says otherwise.
        scores_TE: probabilities of all experts, or their sigmoids.
    """

    expert_TK: Tensor
    weight_TK: Tensor
    scores_TE: Tensor

    @property
    def load_E(self) -> Tensor:
        """Share of the choices that each expert got; adds up to 1."""
        return expert_loads([self])[0]

    @property
    def balance_loss(self) -> Tensor:
        """E² · mean_e(f_e · p_e) with f_e the share of tokens that chose e and p_e its mean probability."""
        return balance_losses([self])[0]


def expert_loads(routings: Sequence[Routing]) -> Tensor:
    """`load_E` of layers that have as many experts and choices, (layers, E); a GPU counts for all of them at once."""
    E = routings[0].scores_TE.shape[1]
    chosen = torch.stack([routing.expert_TK for routing in routings]).flatten(1)
    if chosen.is_cuda:  # bincount would make the CPU wait for the largest number
        counts = (chosen[..., None] == torch.arange(E, device=chosen.device)).sum(1)
    else:
        counts = torch.stack([torch.bincount(row, minlength=E) for row in chosen])
    return counts.to(routings[0].scores_TE.dtype) / chosen.shape[1]


def balance_losses(routings: Sequence[Routing]) -> Tensor:
    """`balance_loss` of layers that have as many experts and choices."""
    (_, K), E = routings[0].expert_TK.shape, routings[0].scores_TE.shape[1]
    mean = torch.stack([routing.scores_TE for routing in routings]).mean(1)
    return E**2 * (expert_loads(routings) * K * mean).mean(1)


class RouterIsland(Float32Island):
    """The router's weight, and the bias that enters selection only."""

    def __init__(self, experts: int, width: int, selection_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.bias_E: Tensor | None
        self.register_buffer("bias_E", torch.zeros(experts) if selection_bias else None)


class Experts(nn.Module):
    """Matrices of the routed experts, one leading axis over experts."""

    def __init__(self, gate_up_EDF: nn.Parameter, down_EFD: nn.Parameter) -> None:
        super().__init__()
        self.gate_up_EDF = gate_up_EDF
        self.down_EFD = down_EFD

    @classmethod
    def build(cls, config: MoEConfig, width: int) -> "Experts":
        """Empty matrices; the layer draws them with `init_weights`."""
        gate_up_EDF = torch.empty(config.experts, width, config.inputs * config.hidden)
        return cls(nn.Parameter(gate_up_EDF), nn.Parameter(torch.empty(config.experts, config.hidden, width)))

    @property
    def product(self) -> GroupedProduct | None:
        """What multiplies rows by the matrices in place of `grouped_matmul`; a subclass may have one."""
        return None

    def round_to_int8(self) -> None:
        """Rounds the matrices in place."""
        round_to_int8(self.gate_up_EDF, axis=1)
        round_to_int8(self.down_EFD, axis=1)


class MixtureOfExperts(nn.Module):
    """y = shared(x) + Σ_{e in top-k} p_e expert_e(x), p a float32 softmax renormalized over the chosen (TurboS §2).

    The config may have other scores and weights, and experts that work in a narrower, latent width.
    """

    def __init__(self, config: MoEConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        self.island = RouterIsland(config.experts, width, config.selection_bias)
        self.experts = Experts.build(config, config.latent or width)
        self.activation = ACTIVATIONS[config.activation]
        self.into_latent = Linear(width, config.latent, config.bias) if config.latent else nn.Identity()
        self.from_latent = Linear(config.latent, width, config.bias) if config.latent else nn.Identity()
        self.shared = Dense(config.shared_dense, width) if config.shared_dense else None
        self.is_plain = _is_plain(config)
        self.generator: torch.Generator | None = None  # of recycling; the model sets one for all layers

    def init_weights(self, residual_scale: float) -> None:
        """Fan-in normal; routers start small, so that experts start equal."""
        nn.init.normal_(self.island.weight, std=0.1 / self.width**0.5)
        nn.init.normal_(self.experts.gate_up_EDF, std=self.experts.gate_up_EDF.shape[1] ** -0.5)
        nn.init.normal_(self.experts.down_EFD, std=residual_scale / self.config.hidden**0.5)
        for latent in (self.into_latent, self.from_latent):
            if isinstance(latent, Linear):
                latent.init_weights()
        if self.shared:
            self.shared.init_weights(residual_scale)

    def forward(
        self, x_TD: Tensor, layout: SequenceLayout, state: None = None, route_TK: Tensor | None = None
    ) -> tuple[Tensor, Routing]:
        """Maps each token by its experts.

        Args:
            route_TK: recorded choices to replay; weights are still those of the live router.
        """
        shared, experts = self.shared, self.experts
        is_whole = experts.product is None and (shared is None or is_bare(shared.gate_up, shared.down))
        if self.is_plain and is_whole and route_TK is None and not self.training:  # nothing between choosing and using
            y_TD, *choice = mixture(x_TD, *self._plain_weights())
            return y_TD, Routing(*choice)
        routing = self._route(x_TD, route_TK)
        matrices = (experts.gate_up_EDF, experts.down_EFD)
        rows_TL = self.into_latent(x_TD)
        shared_TD = shared(x_TD, layout) if shared else None
        plus_TD = None if self.config.latent else shared_TD
        choice = (routing.expert_TK, routing.weight_TK)
        y_TL = routed_experts(rows_TL, *choice, *matrices, self.activation, plus_TD, experts.product)
        y_TD = self.from_latent(y_TL)
        return y_TD if shared_TD is None or plus_TD is not None else y_TD + shared_TD, routing

    def record(self, program: StepProgram, x_SD: Tensor, slots: None) -> Tensor:
        """Writes `forward` down as part of a decode step."""
        if not self.is_plain:
            raise StepUnsupportedError("a step with other experts than `mixture` computes")
        return program.mixture(x_SD, *self._plain_weights())

    def _plain_weights(
        self,
    ) -> tuple[tuple[Tensor, Tensor | None, int], tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Router, routed experts and shared one, as `mixture` takes them."""
        experts, shared, island = self.experts, self.shared, self.island
        return (
            (island.weight, island.bias_E, self.config.top_k),
            (experts.gate_up_EDF, experts.down_EFD),
            (shared.gate_up.weight, shared.down.weight) if shared else None,
        )

    def _route(self, x_TD: Tensor, route_TK: Tensor | None) -> Routing:
        config = self.config
        routing = Routing(*route(x_TD, self.island.weight, self.island.bias_E, config.top_k, config.rule))
        if route_TK is None and self.training and config.capacity_factor is not None:
            capacity = math.ceil(config.capacity_factor * config.top_k * len(x_TD) / config.experts)
            route_TK = recycle(routing.expert_TK, config.experts, capacity, self.generator)
        if route_TK is None:
            return routing
        return Routing(route_TK, route_weights(routing.scores_TE, route_TK, config.rule), routing.scores_TE)

    @torch.no_grad()
    def update_bias(self, load_E: Tensor) -> None:
        """Auxiliary-loss-free balancing: raises the bias of experts below an even share, lowers those above."""
        if self.island.bias_E is not None:
            even = 1 / self.config.experts
            self.island.bias_E.add_(torch.sign(even - load_E).to(self.island.bias_E), alpha=self.config.bias_rate)

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations: 6·D·F·(k + S) + 2·D·E a token; experts that are not chosen cost nothing.

        Without a gate 4 takes the place of 6; experts of a latent width L cost 6·L·F·k and the maps to and fro 4·D·L.
        """
        config, width = self.config, self.width
        each = 2 * (config.inputs + 1)
        experts = each * (config.latent or width) * config.hidden * config.top_k + each * width * config.shared_width
        latent = 4 * width * (config.latent or 0)
        return (experts + latent + 2 * width * config.experts) * layout.tokens

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Nothing is kept."""
        return 0

    def state_spec(self) -> dict[str, tuple[int | str, ...]]:
        """Nothing is kept."""
        return {}


def _is_plain(config: MoEConfig) -> bool:
    """Whether `mixture` computes this layer: SwiGLU without biases, softmax scores renormalized, no latent width."""
    return config.activation == "swiglu" and config.rule == SOFTMAX and not config.bias and config.latent is None


def recycle(expert_TK: Tensor, experts: int, capacity: int, generator: torch.Generator | None = None) -> Tensor:
    """Moves choices beyond an expert's capacity to random experts that have room (Hunyuan-Large's recycle routing).

    First choices are served before second ones, earlier tokens before later ones. A choice is not moved to an expert
    that its token already has, unless nothing else is free.

    Args:
        capacity: rows one expert takes; experts · capacity must be at least T · K.
    Returns:
        expert_TK with every expert at or below capacity.
    """
    T, K = expert_TK.shape
    flat_R = expert_TK.t().flatten()  # slot-major: all first choices, then all second ones
    one_hot_RE = torch.nn.functional.one_hot(flat_R, experts)
    rank_R = (one_hot_RE.cumsum(0) * one_hot_RE).sum(-1)
    over_O = (rank_R > capacity).nonzero().flatten()
    if not len(over_O):
        return expert_TK
    room_E = (capacity - one_hot_RE.sum(0)).clamp(min=0)
    free = torch.repeat_interleave(torch.arange(experts, device=flat_R.device), room_E)
    free = free[torch.randperm(len(free), generator=generator).to(free.device)]
    moved_R = flat_R.clone()
    moved_R[over_O] = free[: len(over_O)]
    _part_twins(moved_R.view(K, T), over_O, free[len(over_O) :])
    return moved_R.view(K, T).t().contiguous()


def _part_twins(moved_KT: Tensor, over_O: Tensor, spare: Tensor) -> None:
    """Exchanges, in place, moved choices that gave a token the same expert twice for spare room or another move."""
    K, T = moved_KT.shape
    places = over_O.tolist()
    spares = spare.tolist()
    for place in places:
        slot, token = divmod(place, T)
        others = [int(moved_KT[k, token]) for k in range(K) if k != slot]
        mine = int(moved_KT[slot, token])
        if mine not in others:
            continue
        for index, expert in enumerate(spares):
            if expert not in others:
                moved_KT[slot, token], spares[index] = expert, mine
                break
        else:
            _swap(moved_KT, (slot, token), others, places)


def _swap(moved_KT: Tensor, where: tuple[int, int], others: list[int], places: list[int]) -> None:
    K, T = moved_KT.shape
    mine = int(moved_KT[where])
    for place in places:
        slot, token = divmod(place, T)
        theirs = int(moved_KT[slot, token])
        if theirs not in others and mine not in [int(moved_KT[k, token]) for k in range(K)]:
            moved_KT[where], moved_KT[slot, token] = theirs, mine
            return
