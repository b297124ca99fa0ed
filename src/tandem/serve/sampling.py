"""How the next token is drawn from the logits: temperature, top-k, nucleus (top-p) and min-p, each sequence by its own seed.

The filters act in a fixed order: temperature, then top-k, then top-p over what top-k kept, then min-p. Every draw is one
uniform number pushed through the inverse of the cumulative distribution, so a sequence with its own generator gives the
same tokens whatever shares its batch.

Shapes: S sequences, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.ops import greatest

_DAMAGED = "logits hold NaN or infinity: the model's weights are damaged or overflowed; load another file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which tokens may be drawn, and how.

    Attributes:
        temperature: divides the logits; 0 is greedy (the most likely token, all other fields unused).
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens whose probability reaches top_p (Holtzman et al. 2020); 1 keeps
            all.
        min_p: drop tokens less likely than min_p times the most likely one (Nguyen et al. 2024); 0 drops none.
        seed: of the first sequence, sequence i draws with seed + i; None draws a fresh seed each time.

    Raises:
        ValueError: a field outside its range.
    """

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature={self.temperature} is not a number ≥ 0; use 0 for greedy, 0.7 for variety")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} is below 0; use 0 to keep all tokens or a count such as 40")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is outside (0, 1]; use 1 to keep all tokens or a share such as 0.9")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} is outside [0, 1]; use 0 to keep all tokens or a share such as 0.05")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is outside [0, 2**63); use a whole number such as 0, or leave it out")

    @property
    def greedy(self) -> bool:
        """True when the most likely token is always taken."""
        return self.temperature == 0

    def generators(self, count: int) -> list[torch.Generator]:
        """One generator a sequence, on the CPU so that a seed means the same on every device."""
        generators = [torch.Generator() for _ in range(count)]
        for index, generator in enumerate(generators):
            if self.seed is None:
                generator.seed()
            else:
                generator.manual_seed((self.seed + index) % 2**63)
        return generators


def probabilities(logits_SV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that `sample` draws from, in float64; dropped tokens have probability 0, each row sums to 1.

    Equally likely tokens at the edge of top-k or top-p are kept in order of their id. The most likely token is always kept.

    Raises:
        ValueError: logits hold NaN, or nothing but -inf in a row.
    """
    top_S1 = _check(logits_SV)
    if sampling.greedy:
        return torch.nn.functional.one_hot(logits_SV.argmax(-1), logits_SV.shape[-1]).double()
    # The maximum goes first: dividing by a tiny temperature would overflow.
    p_SV = ((logits_SV.double() - top_S1) / sampling.temperature).softmax(-1)
    if sampling.top_k or sampling.top_p < 1:
        p_SV = _keep_likely(p_SV, sampling)
    if sampling.min_p:
        p_SV = torch.where(p_SV < sampling.min_p * p_SV.amax(-1, keepdim=True), 0.0, p_SV)
    return p_SV / p_SV.sum(-1, keepdim=True)


def accepted(greatest_S: Tensor) -> list[int]:
    """Greedy tokens, from what `tandem.ops.greatest` gives.

    Raises:
        ValueError: logits held NaN or infinity.
    """
    tokens = greatest_S.tolist()
    if -1 in tokens:
        raise ValueError(_DAMAGED)
    return tokens


def _check(logits_SV: Tensor) -> Tensor:
    """Each row's largest logit; amax hands on NaN, so one look at S numbers is enough."""
    top_S1 = logits_SV.amax(-1, keepdim=True)
    if not torch.isfinite(top_S1).all():
        raise ValueError(_DAMAGED)
    return top_S1


def _keep_likely(p_SV: Tensor, sampling: Sampling) -> Tensor:
    sorted_SV, order_SV = p_SV.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        sorted_SV[:, sampling.top_k :] = 0
        sorted_SV /= sorted_SV.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        # A token stays when the mass before it is short of top_p: the one that crosses the line belongs to the nucleus.
        before_SV = sorted_SV.cumsum(-1) - sorted_SV
        before_SV[:, 0] = 0
        sorted_SV[before_SV >= sampling.top_p] = 0
    return torch.zeros_like(p_SV).scatter_(-1, order_SV, sorted_SV)


def sample(logits_SV: Tensor, sampling: Sampling, generator: torch.Generator | Sequence[torch.Generator]) -> list[int]:
    """Draws one token for each of the S rows.

    Args:
        logits_SV: any float dtype and device.
        generator: on the CPU; one for all rows, or one a row (then a row's draws do not depend on the other rows).
    Returns:
        S token ids.
    Raises:
        ValueError: logits hold NaN or nothing but -inf, or the number of generators is not S.
    """
    if sampling.greedy:
        return accepted(greatest(logits_SV))
    p_SV = probabilities(logits_SV, sampling)
    rows = p_SV.shape[0]
    if isinstance(generator, torch.Generator):
        uniform_S = torch.rand(rows, generator=generator, dtype=torch.float64)
    elif len(generator) == rows:
        uniform_S = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generator])
    else:
        raise ValueError(f"generator has {len(generator)} entries for {rows} rows of logits; give one, or one a row")
    cumulative_SV = p_SV.cumsum(-1)
    target_S1 = uniform_S.to(p_SV.device)[:, None] * cumulative_SV[:, -1:]
    # right=True takes the first token whose cumulative mass exceeds the draw, so a token of probability 0 is never taken.
    drawn_S = torch.searchsorted(cumulative_SV, target_S1, right=True)[:, 0]
    # uniform × total can round up to the total itself: then the last token with any mass is the one.
    last_S = (cumulative_SV < cumulative_SV[:, -1:]).sum(-1)
    return torch.minimum(drawn_S, last_S).tolist()
