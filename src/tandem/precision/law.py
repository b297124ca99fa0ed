"""The scaling law of training in floating-point formats, with what follows from it (Sun et al. 2025, arXiv 2501.02423).

Symbols are the paper's: N parameters of linear layers, without embeddings and norms; D training tokens; E exponent and M mantissa bits,
P = E + M + 1 bits in all; B numbers that share a scale; C = k P N D cost of training, so that C = 6 N D at 16 bits.

The runs behind `CAPYBARA` were Llama models of 41M to 679M parameters on 10B to 105B tokens, 3 to 10 bits, with weights in all products and
the activations of the weight gradient rounded (`P2`, `P4`, `P6` of a linear layer), and the other operands in bfloat16. It says
nothing of formats without exponent bits, of one scale for a whole tensor, or of training with all six operands rounded.
"""

import math
from dataclasses import dataclass
from typing import Any

from tandem.precision.formats import FloatFormat, Format, IntFormat, element_format

_COST = 6 / 16
"""k of C = k P N D."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsLaw:
    """Loss by exponent bits or by mantissa bits, all else fixed (eq. 9, 10): scale / (bits + 1/2)^power + floor."""

    scale: float
    power: float
    floor: float

    def loss(self, bits: float) -> float:
        return self.scale / (bits + 0.5) ** self.power + self.floor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLaw:
    """Loss by block size, all else fixed (eq. 14): slope · log2 B + floor."""

    slope: float
    floor: float

    def loss(self, block: int) -> float:
        return self.slope * math.log2(block) + self.floor


@dataclass(frozen=True, slots=True)
class Optimum:
    """What to spend a budget on: bits of a number, parameters N, and tokens D."""

    bits: float
    N: float
    D: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionLaw:
    """L = n/N^α + d/D^β + ε + (D^β/N^α) log2 B / (γ (E + ½)^δ (M + ½)^ν), in nats a token (eq. 1).

    The first three terms are the loss in bfloat16. The fourth grows with tokens: past `critical_tokens` more of them hurt.

    Args:
        channel: log2 B that stands for one scale a channel.
    """

    n: float
    alpha: float
    d: float
    beta: float
    epsilon: float
    gamma: float
    delta: float
    nu: float
    channel: float = 13.1567

    def predict(self, N: Any, D: Any, E: Any, M: Any, log2_block: Any) -> Any:
        """The loss, of numbers or of arrays."""
        penalty = D**self.beta / N**self.alpha * log2_block / (self.gamma * self._layout(E, M))
        return self.bf16_loss(N=N, D=D) + penalty

    def loss(self, *, N: float, D: float, format: str | Format, block: int | str) -> float:
        """The loss of a training.

        Args:
            block: how many numbers share a scale, or "channel".
        Raises:
            ValueError: the law does not cover the format or the block.
        """
        E, M = bits_of(format)
        return self.predict(N, D, E, M, self.log2_block(block))

    def bf16_loss(self, *, N: Any, D: Any) -> Any:
        """The first three terms (Chinchilla's form)."""
        return self.n / N**self.alpha + self.d / D**self.beta + self.epsilon

    def critical_tokens(self, *, N: float, format: str | Format, block: int | str) -> float:
        """The D past which more tokens raise the loss (eq. 21); infinite when every number has a scale of its own."""
        log2_block = self.log2_block(block)
        if log2_block == 0:
            return math.inf
        least = self.d * self.gamma * N**self.alpha * self._layout(*bits_of(format)) / log2_block
        return least ** (1 / (2 * self.beta))

    def best_split(self, *, bits: float) -> tuple[float, float]:
        """E and M, not rounded, that lose least with so many bits (eq. 31, 32)."""
        total = self.delta + self.nu
        return self.delta * bits / total - 0.5, self.nu * bits / total - 0.5

    def best_format(self, *, bits: int) -> FloatFormat:
        """The format of so many bits, 2 to 16, that loses least; it does not depend on N, D or B."""
        if not 2 <= bits <= 16:
            raise ValueError(f"bits={bits} must be 2 to 16: a sign, an exponent and a mantissa up to bfloat16's")
        E = max(range(1, min(bits, 9)), key=lambda E: self._layout(E, bits - 1 - E))
        return FloatFormat(E, bits - 1 - E)

    def loss_at_bits(self, *, N: float, D: float, bits: float, block: int | str) -> float:
        """The loss with the best split of so many bits, whole or not (eq. 20)."""
        E, M = self.best_split(bits=bits)
        return self.predict(N, D, E, M, self.log2_block(block))

    def optimal_bits(
        self, *, block: int | str, compute: float | None = None, N: float | None = None, D: float | None = None
    ) -> float:
        """The bits of a number that make most of a budget C = (6/16) P N D, which is 6 N D at 16 bits.

        Args:
            compute: the budget, with everything else free (eq. 25), or with N given (eq. 23).
            D: tokens, given alone: the best trade of bits against parameters, whatever the budget (eq. 22).
        Raises:
            ValueError: another selection of arguments, or B = 1, which costs no loss at any number of bits.
        """
        if compute is not None and N is None and D is None:
            return self.optimum(compute=compute, block=block).bits
        if compute is None and N is None and D is not None:
            return (self._gamma_D * D**self.beta * self._coarse(block)) ** (1 / self._total)
        if compute is not None and N is not None and D is None:
            room = (compute / _COST) ** (2 * self.beta) * N ** -(self.alpha + 2 * self.beta)
            return (self._gamma_N * room * self._coarse(block)) ** (1 / (self._total + 2 * self.beta))
        raise ValueError("optimal_bits takes compute, compute and N, or D")

    def optimum(self, *, compute: float, block: int | str) -> Optimum:
        """Bits, parameters and tokens that make most of a budget (eq. 25).

        The tokens a parameter that it names for large budgets are far below those of any run behind the law.
        """
        coarse = self._coarse(block)
        a, b, total = self.alpha, self.beta, self._total
        power = total * (a + b) / b + a
        bits = (self._lambda * (self._gamma_D * coarse) ** ((a + b) / b) * (compute / _COST) ** a) ** (1 / power)
        D = (bits**total / (self._gamma_D * coarse)) ** (1 / b)
        return Optimum(bits, compute / (_COST * bits * D), D)

    def exponent_law(self, *, N: float, D: float, M: float, block: int | str) -> BitsLaw:
        """Loss by exponent bits at fixed N, D, M, B."""
        scale = self._scale(N, D, block) / (M + 0.5) ** self.nu
        return BitsLaw(scale=scale, power=self.delta, floor=self.bf16_loss(N=N, D=D))

    def mantissa_law(self, *, N: float, D: float, E: float, block: int | str) -> BitsLaw:
        """Loss by mantissa bits at fixed N, D, E, B."""
        scale = self._scale(N, D, block) / (E + 0.5) ** self.delta
        return BitsLaw(scale=scale, power=self.nu, floor=self.bf16_loss(N=N, D=D))

    def block_law(self, *, N: float, D: float, format: str | Format) -> BlockLaw:
        """Loss by block size at fixed N, D and format."""
        slope = self._scale(N, D, block=2) / self._layout(*bits_of(format))
        return BlockLaw(slope=slope, floor=self.bf16_loss(N=N, D=D))

    def log2_block(self, block: int | str) -> float:
        """The log2 B that the law counts for a block.

        Raises:
            ValueError: one scale for a tensor, of which the constants were not published, or no block.
        """
        if block == "channel":
            return self.channel
        if isinstance(block, str):
            raise ValueError(f"block={block!r} is not covered by the law; use a number of elements or 'channel'")
        if block < 1:
            raise ValueError(f"block={block} must be 1 or more elements")
        return math.log2(block)

    def _coarse(self, block: int | str) -> float:
        log2_block = self.log2_block(block)
        if log2_block == 0:
            raise ValueError("block=1 costs no loss in the law, so no number of bits is best; use 2 or more")
        return log2_block

    def _layout(self, E: Any, M: Any) -> Any:
        return (E + 0.5) ** self.delta * (M + 0.5) ** self.nu

    def _scale(self, N: float, D: float, block: int | str) -> float:
        return D**self.beta / N**self.alpha * self.log2_block(block) / self.gamma

    @property
    def _total(self) -> float:
        return self.delta + self.nu

    @property
    def _gamma_rho(self) -> float:
        """γ with the best split of P bits put in, so that the penalty falls as P^-(δ + ν) (eq. 34)."""
        return self.gamma * self.delta**self.delta * self.nu**self.nu / self._total**self._total

    @property
    def _gamma_D(self) -> float:
        return (self._total - self.alpha) / (self.n * self.alpha * self._gamma_rho)

    @property
    def _gamma_N(self) -> float:
        return (self.beta + self._total) / (self.d * self.beta * self._gamma_rho)

    @property
    def _lambda(self) -> float:
        ratio = (self._total - self.alpha) / (self._total + self.beta)
        return self.d * self.beta / (self.n * self.alpha) * ratio


def bits_of(format: str | Format) -> tuple[int, int]:
    """E and M of a format that the law covers."""
    parsed = element_format(format)
    if isinstance(parsed, IntFormat):
        raise ValueError(
            f"format={str(parsed)!r} has no exponent bits, and the law's runs of such formats are not known; use E1 or more"
        )
    return parsed.exponent, parsed.mantissa


CAPYBARA = PrecisionLaw(
    n=69.2343,
    alpha=0.2368,
    d=68973.0621,
    beta=0.5162,
    epsilon=1.9061,
    gamma=11334.5197,
    delta=3.1926,
    nu=2.9543,
)
"""The constants of the paper's Table 2. For "channel", its 13.1567 (§3.6)."""
