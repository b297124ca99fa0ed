"""Floating-point operations of a config, one multiplication and one addition being two.

Each layer knows its own work, `layer.flops(layout)`, forward, for a whole layout; this file only asks, so that there is
one formula a layer. The layers live on the meta device and hold no weights. A backward pass costs two forward passes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from tandem.nn import HybridLM, Layer, ModelConfig, MoEConfig, SequenceLayout
from tandem.plan.parameters import shape_of

FORMULAS = {
    "attention": "4·D·(H + G)·P + 4·H·P·T_eff",
    "mamba": "2·D·(3·I + 2·G·N + H) + 2·K·(I + 2·G·N) + 2·Q·(G·N + I) + 4·I·N",
    "transmamba": "2·D·(2·I + 2·G·N + H) + 2·K·(I + 2·G·N); before P: 2·(G·N + I)·T_eff + 2·I·N; "
    "behind: 2·D·I + 2·Q·(G·N + I) + 4·I·N",
    "dense": "6·D·F",
    "mixture": "6·D·F·(k + S) + 2·D·E",
    "head": "2·D·V",
}
"""Forward operations a token; a feed-forward without a gate has 4 in place of 6. Letters as in `tandem.plan.parameters`; T_eff: tokens
that a token sees, itself included, on average over those with attention, (T + 1) / 2 for T of them; Q: tokens in a chunk.
TransMamba is given as it is by default: gates behind the TransPoint only, and no conversion where a text ends before it."""


_MIXERS = {"A": "attention", "M": "mamba", "T": "transmamba"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """Operations a token, averaged over the layout they were asked for.

    Attributes:
        by_kind: forward operations of all layers of a kind; the kinds are the keys of `FORMULAS`.
    """

    by_kind: dict[str, float]

    @property
    def forward(self) -> float:
        """Operations of a forward pass."""
        return sum(self.by_kind.values())

    @property
    def training(self) -> float:
        """Operations of a forward and a backward pass; layers computed twice by checkpointing are not counted twice."""
        return 3 * self.forward


def flops(config: ModelConfig, *, lengths: Sequence[int] | None = None, context: int | None = None) -> Flops:
    """Counts the work of one token: matrix products, scan and attention; the experts that it uses and no others.

    Args:
        lengths: documents of the batch to average over; attention costs more in long ones.
        context: the same for one document of this many tokens; the config's context when neither is given.
    Raises:
        ValueError: both lengths and context, or a length below 1.
    """
    if lengths is not None and context is not None:
        raise ValueError(f"flops context={context} and lengths={list(lengths)[:4]} exclude each other; give one")
    layout = SequenceLayout.from_lengths(lengths or [context or config.context], chunk=config.chunk)
    with torch.device("meta"):
        model = HybridLM(config)
    kinds: Counter[str] = Counter()
    for symbol, layer in zip(config.layers, model.layers, strict=True):
        kinds[_kind(config, symbol)] += cast(Layer, layer).flops(layout)
    work = {kind: count / layout.tokens for kind, count in kinds.items()}
    return Flops(by_kind=work | {"head": 2 * config.width * config.vocab_size})


def _kind(config: ModelConfig, symbol: str) -> str:
    if symbol in _MIXERS:
        return _MIXERS[symbol]
    return "mixture" if isinstance(shape_of(config, symbol), MoEConfig) else "dense"
