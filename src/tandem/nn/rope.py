"""How rotary positions reach beyond the context that a model was first trained with: slower turns, pair by pair.

RoPE turns the k-th pair of W channels by position · base^(-2k/W). Each class below maps these frequencies to those in
force. Frequencies are float32 and computed in the order of `transformers`, so that a released model turns by the same bits
at every position.

Shapes: W channels that turn, K = W / 2 pairs of them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.nn.checks import require_above_zero, require_positive

_PREFIX = "attention.rope_scaling"


def ntk_base(base: float, alpha: float, width: int) -> float:
    """Base * alpha ** (width / (width - 2)), for `width` channels that turn: NTK-aware scaling as in TurboS §2."""
    return base * alpha ** (width / max(width - 2, 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearScaling:
    """Every pair turns `factor` times slower (position interpolation, Chen et al. 2023, arXiv 2306.15595)."""

    factor: float

    def __post_init__(self) -> None:
        require_above_zero(_PREFIX, self, "factor")

    @property
    def amplitude(self) -> float:
        """Factor of turned queries and keys."""
        return 1.0

    def stretched(self, frequency_K: Tensor, base: float) -> Tensor:
        """The frequencies in force."""
        return frequency_K / self.factor


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3Scaling:
    """Slow pairs turn `factor` times slower, fast ones as before, those between by a blend (Llama 3.1).

    Attributes:
        original_context: tokens of the context of the first training.
        slow_turns, fast_turns: a pair that makes fewer than `slow_turns` whole turns over this context is slow, one that
            makes more than `fast_turns` is fast (`low_freq_factor` and `high_freq_factor` of a Hugging Face config).
    """

    factor: float
    original_context: int
    slow_turns: float = 1.0
    fast_turns: float = 4.0

    def __post_init__(self) -> None:
        require_above_zero(_PREFIX, self, "factor", "slow_turns", "fast_turns")
        require_positive(_PREFIX, self, "original_context")
        _require_order(self.slow_turns, self.fast_turns)

    @property
    def amplitude(self) -> float:
        """Factor of turned queries and keys."""
        return 1.0

    def stretched(self, frequency_K: Tensor, base: float) -> Tensor:
        """The frequencies in force."""
        turns_K = self.original_context / (2 * math.pi / frequency_K)
        fast_K = ((turns_K - self.slow_turns) / (self.fast_turns - self.slow_turns)).clamp(0, 1)
        return (1 - fast_K) * frequency_K / self.factor + fast_K * frequency_K


@dataclass(frozen=True, kw_only=True, slots=True)
class YarnScaling:
    """Slow pairs turn `factor` times slower, fast ones as before, with a ramp over the pairs between; queries and keys grow
    (YaRN, Peng et al. 2023, arXiv 2309.00071).

    Attributes:
        original_context: tokens of the context of the first training.
        slow_turns, fast_turns: the ramp goes from the pair that makes `fast_turns` whole turns over this context to the one
            that makes `slow_turns` (`beta_slow` and `beta_fast` of a Hugging Face config).
        whole_pairs: the ends of the ramp are rounded outwards to pairs that exist.
        attention_factor: factor of turned queries and keys; 0.1 ln(factor) + 1 when None.
    """

    factor: float
    original_context: int
    slow_turns: float = 1.0
    fast_turns: float = 32.0
    whole_pairs: bool = True
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        require_above_zero(_PREFIX, self, "factor", "slow_turns", "fast_turns")
        require_positive(_PREFIX, self, "original_context")
        _require_order(self.slow_turns, self.fast_turns)
        if self.attention_factor is not None:
            require_above_zero(_PREFIX, self, "attention_factor")

    @property
    def amplitude(self) -> float:
        """Factor of turned queries and keys."""
        return yarn_amplitude(self.factor) if self.attention_factor is None else self.attention_factor

    def stretched(self, frequency_K: Tensor, base: float) -> Tensor:
        """The frequencies in force."""
        pairs = len(frequency_K)
        first, last = self._ramp(2 * pairs, base)
        slow_K = ((torch.arange(pairs, device=frequency_K.device) - first) / (last - first)).clamp(0, 1)
        fast_K = 1 - slow_K
        return frequency_K / self.factor * (1 - fast_K) + frequency_K * fast_K

    def _ramp(self, width: int, base: float) -> tuple[float, float]:
        first, last = (
            width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (self.fast_turns, self.slow_turns)
        )
        if self.whole_pairs:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        return first, last + 0.001 if first == last else last


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScaling:
    """The k-th pair turns `factors[k]` times slower: what a GGUF file holds in the place of a rule."""

    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = next((factor for factor in self.factors if not 0 < factor < math.inf), None)
        if wrong is not None:
            raise ValueError(f"{_PREFIX}.factors holds {wrong}; each must be a number above 0")

    @property
    def amplitude(self) -> float:
        """Factor of turned queries and keys."""
        return 1.0

    def stretched(self, frequency_K: Tensor, base: float) -> Tensor:
        """The frequencies in force."""
        return frequency_K / torch.tensor(self.factors, dtype=frequency_K.dtype, device=frequency_K.device)


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | PairScaling


def yarn_amplitude(factor: float, strength: float = 1.0) -> float:
    """YaRN's factor of queries and keys, eq. 22: 0.1 · strength · ln(factor) + 1, and 1 where nothing is stretched."""
    return 0.1 * strength * math.log(factor) + 1 if factor > 1 else 1.0


def _require_order(slow: float, fast: float) -> None:
    if not slow < fast:
        raise ValueError(f"{_PREFIX}.slow_turns={slow} must be below {_PREFIX}.fast_turns={fast}")


def rotary_frequencies(width: int, base: float, scaling: RopeScaling | None, device: torch.device) -> Tensor:
    """Radians a token for each pair of `width` channels, frequency_K in float32."""
    even_K = torch.arange(0, width, 2, dtype=torch.int64, device=device).float()
    frequency_K = 1.0 / (base ** (even_K / width))
    return frequency_K if scaling is None else scaling.stretched(frequency_K, base)
