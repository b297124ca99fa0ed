"""The hybrid language model: embedding, pre-norm residual layers in the order of the pattern, norm, head.

Start here; then attention.py, mamba.py, transmamba.py and feed_forward.py for the layers, state.py for what decoding keeps.

Shapes: T tokens, S documents, D width, V vocabulary, K experts a token, F feed-forward layers with experts, E experts.
"""

import math
from collections.abc import Sequence
from functools import cached_property, partial
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tandem.nn.attention import Attention
from tandem.nn.base import Linear, RMSNorm
from tandem.nn.config import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig, TransMambaConfig
from tandem.nn.feed_forward import Dense, Experts, MixtureOfExperts, Routing, balance_losses, expert_loads
from tandem.nn.mamba import Mamba
from tandem.nn.slots import CacheRounding, Slots, SSMSlots
from tandem.nn.state import DecodePool, DecodeState
from tandem.nn.step import recorded_logits
from tandem.nn.transmamba import TransMamba
from tandem.ops import SequenceLayout, StepProgram, blockwise_cross_entropy, linear, round_to_int8
from tandem.ops.triton.support import triton_for


class Aux:
    """What the routers of a forward pass did; made from it on demand, since decoding never asks.

    Args:
        routings: one a layer with experts, in order.
        balance_weights: factor of each layer's balance loss.
        like: a tensor of the model, whose format and device the balance loss of a dense model takes.
    """

    def __init__(self, routings: Sequence[Routing], balance_weights: Sequence[float], like: Tensor) -> None:
        self._routings = routings
        self._balance_weights = balance_weights
        self._like = like

    @cached_property
    def balance_loss(self) -> Tensor:
        """Mean over layers of E² · mean_e(f_e · p_e), each times its balance_weight; 0 for a dense model."""
        alike: dict[tuple[float, torch.Size, torch.Size], list[Routing]] = {}
        for weight, routing in zip(self._balance_weights, self._routings, strict=True):
            alike.setdefault((weight, routing.scores_TE.shape, routing.expert_TK.shape), []).append(routing)
        losses = [weight * balance_losses(routings).sum() for (weight, *_), routings in alike.items()]
        return torch.stack(losses).sum() / len(self._routings) if losses else self._like.new_zeros(())

    @cached_property
    def expert_load(self) -> Tensor | None:
        """Share of choices each expert got, a row a layer with experts, (F, E); None for a dense model.

        NaN at the end of a row stands for experts that only other layers have.
        """
        if len({routing.scores_TE.shape + routing.expert_TK.shape for routing in self._routings}) == 1:
            return expert_loads(self._routings)
        loads = [routing.load_E for routing in self._routings]
        return nn.utils.rnn.pad_sequence(loads, batch_first=True, padding_value=math.nan) if loads else None

    @property
    def routes(self) -> tuple[Tensor, ...]:
        """Chosen experts (T, K) of each such layer, to be replayed with `routes=`."""
        return tuple(routing.expert_TK for routing in self._routings)


class Loss(NamedTuple):
    """A training loss.

    Attributes:
        total: what to call backward on: nll_sum / weight_sum + balance loss.
        nll_sum: Σ weight · negative log-likelihood, in nats.
        weight_sum: Σ weight.
    """

    total: Tensor
    nll_sum: Tensor
    weight_sum: Tensor
    aux: Aux


class Layer(nn.Module):
    """One residual sub-layer: x + scale · mixer(norm(x)). The residual stream keeps its dtype; the mixer runs in `dtype`.

    What a mixer gives is added by the next norm, in the pass that norms the sum.
    """

    def __init__(self, config: ModelConfig, symbol: str, transpoint: int = 0) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.mixer = _mixer(config, symbol, transpoint)
        self.scale = config.residual_scale

    def forward(
        self,
        x_TD: Tensor,
        y_TD: Tensor | None,
        layout: SequenceLayout,
        state: DecodeState | DecodePool | None,
        index: int,
        dtype: torch.dtype,
        route_TK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Routing | None]:
        """Takes the residual stream and what the mixer before gave, not yet added; returns the same of this layer.

        For a mixture of experts what its router did comes last.
        """
        x_TD, normed_TD = self.norm.of_sum(x_TD, y_TD, self.scale, dtype)
        if isinstance(self.mixer, MixtureOfExperts):
            return x_TD, *self.mixer(normed_TD, layout, route_TK=route_TK)
        return x_TD, self.mixer(normed_TD, layout, state.layers[index] if state else None), None

    def record(self, program: StepProgram, x_SD: Tensor, slots: Slots | None) -> None:
        """Writes `forward` down as part of a decode step; x is changed in place."""
        y_SD = self.mixer.record(program, self.norm.record(program, x_SD), slots)  # pyright: ignore[reportArgumentType]
        program.add(x_SD, y_SD, self.scale)

    def flops(self, layout: SequenceLayout) -> int:
        """Forward operations of the mixer."""
        return self.mixer.flops(layout)

    def state_bytes(self, context: int, value_bytes: int = 2) -> int:
        """Bytes of decode state of one sequence of `context` tokens."""
        return self.mixer.state_bytes(context, value_bytes)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def _mixer(config: ModelConfig, symbol: str, transpoint: int) -> Attention | Mamba | Dense | MixtureOfExperts:
    shape = config.shape_of(symbol)
    match shape:
        case TransMambaConfig():
            return TransMamba(shape, config.width, config.norm_eps, transpoint)
        case AttentionConfig():
            return Attention(shape, config.width, config.norm_eps)
        case MambaConfig():
            return Mamba(shape, config.width, config.norm_eps)
        case DenseConfig():
            return Dense(shape, config.width)
        case MoEConfig():
            return MixtureOfExperts(shape, config.width)
    raise AssertionError(f"ModelConfig let through {symbol!r} without a shape")


class HybridLM(nn.Module):
    """A decoder-only language model over packed tokens.

    Under `torch.autocast` layers compute in its dtype while parameters, residual stream and the float32 island keep
    theirs; without it everything runs in the embedding's dtype.

    Attributes:
        recompute: keep only the residual stream between layers for the backward pass, and run each layer's forward again
            there: memory of one layer for about a third more work (Chen et al. 2016, arXiv 1604.06174).
        cache_rounding: what `round_caches` was given.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.width))
        points = iter(config.transpoints)
        self.layers = nn.ModuleList(Layer(config, s, next(points) if s == "T" else 0) for s in config.layers)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tie_embeddings else Linear(config.width, config.vocab_size)
        self.int8_steps = False
        self.recompute = False
        self.cache_rounding: CacheRounding | None = None
        self._balance_weights = tuple(mixture.config.balance_weight for mixture in self._mixtures())
        self._generator = torch.Generator().manual_seed(0)
        for mixture in self._mixtures():
            mixture.generator = self._generator
        if not self.embedding.is_meta:
            self.init_weights()

    def init_weights(self) -> None:
        """Fan-in normal everywhere; outputs into the residual stream shrink by 1 / sqrt(layers)."""
        nn.init.normal_(self.embedding, std=self.config.width**-0.5)
        for layer in self.layers:
            cast(Layer, layer).mixer.init_weights(len(self.layers) ** -0.5)
        if self.head:
            self.head.init_weights()

    def forward(
        self,
        tokens_T: Tensor,
        layout: SequenceLayout,
        state: DecodeState | DecodePool | None = None,
        routes: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Logits of every token, logits_TV.

        Args:
            state: decode state, or pool of slots, to go on from and to update in place; `layout` comes from its `layout`.
            routes: expert choices of an earlier pass (`Aux.routes`) to use in place of the routers' own.
        Raises:
            ValueError: a state while gradients are on, a layout that does not fit tokens or state, or wrong routes.
        """
        return self.logits(self.hidden(tokens_T, layout, state, routes)[0])

    def hidden(
        self,
        tokens_T: Tensor,
        layout: SequenceLayout,
        state: DecodeState | DecodePool | None = None,
        routes: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Aux]:
        """The normalized residual stream x_TD before the head, and what the routers did. Arguments as in `forward`."""
        return self.hidden_of(self.embed(tokens_T), layout, state, routes)

    def embed(self, tokens_T: Tensor) -> Tensor:
        """Rows of the embedding, in its dtype and not yet scaled: what `hidden_of` takes."""
        return F.embedding(tokens_T, self.embedding)

    def hidden_of(
        self,
        x_TD: Tensor,
        layout: SequenceLayout,
        state: DecodeState | DecodePool | None = None,
        routes: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Aux]:
        """`hidden` of embedded tokens."""
        self._check(x_TD, layout, state, routes)
        device = x_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.embedding.dtype
        replay = iter(routes or ())
        routings: list[Routing] = []
        with torch.autocast(device, enabled=False):
            x_TD, y_TD = _scaled(x_TD, self.config.embedding_scale), None
            for index, layer in enumerate(self.layers):
                route = next(replay) if routes and isinstance(layer.mixer, MixtureOfExperts) else None
                run = partial(checkpoint, layer, use_reentrant=False) if self._recomputes() else layer
                x_TD, y_TD, routing = run(x_TD, y_TD, layout, state, index, dtype, route)
                if routing is not None:
                    routings.append(routing)
            _, x_TD = self.norm.of_sum(x_TD, y_TD, self.config.residual_scale, dtype)
        if state is not None:
            state.advance(layout.lengths)
            self._round_states(state)
        return x_TD, Aux(routings, self._balance_weights, self.embedding)

    def logits(self, x_TD: Tensor) -> Tensor:
        """Applies the head, which is the embedding when they are tied."""
        return linear(_scaled(x_TD, self.config.logit_scale), self._head())

    def next_logits(self, tokens_T: Tensor, layout: SequenceLayout, state: DecodeState | DecodePool) -> Tensor:
        """Logits after each document's last token, logits_SV; the others are never computed.

        One token of each document on a CPU is a replay of the step recorded with the state (step.py).
        """
        if layout.is_step and isinstance(state, DecodeState):
            self._check(tokens_T[..., None], layout, state, None)
            logits_SV = recorded_logits(self, tokens_T, state)
            if logits_SV is not None:
                state.advance(layout.lengths)
                return logits_SV
        x_TD, _ = self.hidden(tokens_T, layout, state)
        return self.logits(x_TD if layout.is_step else x_TD[layout.last_S])

    def record(self, program: StepProgram, state: DecodeState) -> Tensor:
        """Writes a decode step down; returns the memory of its logits_SV.

        Raises:
            StepUnsupportedError: a layer that the kernels do not have.
        """
        x_SD = program.embedding(self.embedding, self.config.embedding_scale)
        for layer, slots in zip(self.layers, state.layers, strict=True):
            cast(Layer, layer).record(program, x_SD, slots)
        return program.linear(self.norm.record(program, x_SD, self.config.logit_scale), self._head())

    def loss(
        self,
        tokens_T: Tensor,
        layout: SequenceLayout,
        targets_T: Tensor,
        weights_T: Tensor | None = None,
        routes: Sequence[Tensor] | None = None,
        *,
        balance: bool = True,
    ) -> Loss:
        """Cross-entropy of the targets, weighted a token, plus the routers' balance loss; logits in blocks only.

        Args:
            balance: in training, `balance` the experts by this batch at once; a step of several batches does so itself.
        """
        x_TD, aux = self.hidden(tokens_T, layout, routes=routes)
        weights_T = torch.ones(len(tokens_T), device=tokens_T.device) if weights_T is None else weights_T
        with torch.autocast(tokens_T.device.type, enabled=False):
            x_TD = _scaled(x_TD, self.config.logit_scale)
            nll_sum = blockwise_cross_entropy(x_TD, self._head(), targets_T, weights_T)
        weight_sum = weights_T.sum()
        if balance and self.training and aux.expert_load is not None:
            self.balance(aux.expert_load)
        return Loss(nll_sum / weight_sum + aux.balance_loss, nll_sum, weight_sum, aux)

    def round_to_int8(self) -> None:
        """Rounds embedding, head, projections and experts in place to int8 with one scale an output (`quantize_int8`).

        Decode steps of up to 4 sequences on a CPU then read int8 copies, which take half the bytes of bfloat16 and lie beside
        the matrices; everything else computes with the rounded matrices in their own format, so all results agree.
        """
        round_to_int8(self.embedding)
        for module in self.modules():
            if isinstance(module, Linear | Experts):
                module.round_to_int8()
        self.int8_steps = True

    def round_caches(self, rounding: CacheRounding | None) -> None:
        """Rounds what decode states keep: keys and values of every token, SSM states after every call. None keeps all.

        A token attends to rounded keys and values, its own among them, so it does not matter how a text is cut into calls.
        An SSM computes with the states that a call found and rounds those that it leaves: a prefill rounds once, a step at its
        token. A forward pass without a decode state rounds nothing; convolution halos are never rounded. Steps run layer by
        layer, neither recorded on a CPU nor captured in a CUDA graph.
        """
        self.cache_rounding = rounding
        for layer in self.layers:
            if isinstance(layer.mixer, Attention | TransMamba):
                layer.mixer.round_kv = rounding.kv if rounding else None

    def reschedule(self, schedule: str | Sequence[int], length: int | None = None) -> None:
        """Gives the `T` layers other TransPoints, as `ModelConfig.rescheduled`; weights stay, decode states are void.

        Raises:
            ValueError: a model without `T` layers, an unknown schedule, or a list that is not one TransPoint a layer.
        """
        self.config = self.config.rescheduled(schedule, length)
        mixers = [layer.mixer for layer in self.layers if isinstance(layer.mixer, TransMamba)]
        for mixer, point in zip(mixers, self.config.transpoints, strict=True):
            mixer.transpoint = point

    def new_state(self, n: int, device: torch.device | str | None = None) -> DecodeState:
        """An empty decode state of n slots; keys, values and convolution halos in the embedding's dtype."""
        if n < 1:
            raise ValueError(f"new_state n={n} is below 1; use one slot a document")
        return DecodeState.empty(self.config, n, self.embedding.dtype, torch.device(device or self.embedding.device))

    @property
    def steps_on_device(self) -> bool:
        """Whether a decode step runs on a GPU from end to end without asking it for anything, so that it can be captured."""
        plain = all(
            mixture.is_plain for mixture in self._mixtures()
        )  # other experts need to know how many rows each gets
        plain = plain and "T" not in self.config.layers  # which side of its TransPoint a document is on, the host knows
        plain = plain and self.cache_rounding is None
        return plain and self.embedding.is_cuda and triton_for(self.embedding)

    def generator_state(self) -> Tensor:
        """State of the random generator that recycles overflow; checkpoints keep it."""
        return self._generator.get_state()

    def load_generator_state(self, state: Tensor) -> None:
        """Restores `generator_state`."""
        self._generator.set_state(state)

    def _round_states(self, state: DecodeState | DecodePool) -> None:
        if self.cache_rounding is not None and self.cache_rounding.state is not None:
            for slots in state.layers:
                if isinstance(slots, SSMSlots):
                    slots.state_SHPN.copy_(self.cache_rounding.state(slots.state_SHPN))

    def _recomputes(self) -> bool:
        return self.recompute and torch.is_grad_enabled()

    def _head(self) -> Tensor:
        return self.head.weight if self.head else self.embedding

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, MixtureOfExperts)]

    def balance(self, load_FE: Tensor) -> None:
        """Moves the routers' selection biases, where there are any, against the loads of a step (`Aux.expert_load`)."""
        for mixture, load_E in zip(self._mixtures(), load_FE, strict=True):
            mixture.update_bias(load_E[: mixture.config.experts])

    def _check(
        self,
        x_TD: Tensor,
        layout: SequenceLayout,
        state: DecodeState | DecodePool | None,
        routes: Sequence[Tensor] | None,
    ) -> None:
        if x_TD.ndim != 2 or len(x_TD) != layout.tokens:
            shape = tuple(x_TD.shape[:-1])
            raise ValueError(f"tokens of shape {shape} do not fit layout of {layout.tokens} tokens")
        if state is None and not layout.is_fresh:
            raise ValueError(f"layout.starts={list(layout.starts)[:8]} say text was read before; pass its state")
        if state is not None and torch.is_grad_enabled():
            raise ValueError("state is updated in place, which gradients cannot follow; call under torch.no_grad()")
        if state is not None:
            state.check(layout)
        if self._recomputes() and self.training and any(mixture.config.capacity_factor for mixture in self._mixtures()):
            raise ValueError(
                "recompute=True with moe.capacity_factor would recycle other tokens in the backward pass; use null"
            )
        if routes is not None and [tuple(r.shape) for r in routes] != [
            (len(x_TD), m.config.top_k) for m in self._mixtures()
        ]:
            raise ValueError(f"routes need one (T, top_k) tensor for each of {len(self._mixtures())} expert layers")
