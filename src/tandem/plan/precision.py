"""Which number format a training should take, by the scaling law of floating-point training and by what a chip multiplies.

The law (`tandem.precision.CAPYBARA`, arXiv 2501.02423) gives losses; a chip gives speed. They meet in one number, the cost of
BF16's loss: N of the parameters that a format needs for the loss that BF16 has with one, over its speed as a multiple of BF16's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tandem.plan.parameters import readable_count
from tandem.precision import CAPYBARA, IntFormat, Optimum, parse_format

Block = int | str

RUN_PARAMETERS = (40_894_464, 679_477_248)
"""N of the smallest and of the largest model behind the law (its Table 3)."""
RUN_TOKENS = (5_000 * 2**21, 50_000 * 2**21)
"""D of the shortest and of the longest run: batches of 2²¹ tokens."""
RUN_RATIO = (RUN_TOKENS[0] / RUN_PARAMETERS[1], RUN_TOKENS[1] / RUN_PARAMETERS[0])
"""D/N, 15 to 2564."""
RUN_BITS = (3, 10)
RUN_BLOCKS = (32, 512)
"""Besides whole channels; the fit knows blocks in E1M1 only."""

COVERAGE = (
    "The law is of Llama models of 41M to 679M parameters, on 10B to 105B tokens, 3 to 10 bits, with float32 scales: "
    "of blocks in E1M1, of channels in other formats. Only weights (P2, P4) and the activations of the weight gradient (P6) "
    "were rounded. A chip multiplies fast only what has both operands in the format, which the law does not describe: "
    "expect more loss than it says."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """A format that a chip multiplies itself.

    Attributes:
        blocks: how many numbers may share a scale in its library's products. scale: format of the scales.
        speed: peak of products, BF16's being 1.
    """

    format: str
    blocks: tuple[Block, ...]
    scale: str
    speed: float


_HOPPER = (
    Native(format="ocp:e4m3fn", blocks=(128, "channel"), scale="float32", speed=2),
    Native(format="ocp:e5m2", blocks=(128, "channel"), scale="float32", speed=2),
)
_BLACKWELL = (
    Native(format="ocp:e4m3fn", blocks=(32,), scale="e8m0", speed=2),
    Native(format="ocp:e5m2", blocks=(32,), scale="e8m0", speed=2),
    Native(format="ocp:e3m2", blocks=(32,), scale="e8m0", speed=2),
    Native(format="ocp:e2m3", blocks=(32,), scale="e8m0", speed=2),
    Native(format="ocp:e2m1", blocks=(32,), scale="e8m0", speed=4),
    Native(format="ocp:e2m1", blocks=(16,), scale="e4m3", speed=4),
)

HARDWARE: dict[str, tuple[Native, ...]] = {
    "h100": _HOPPER,
    "h200": _HOPPER,
    "b200": _BLACKWELL,
    "a100": (Native(format="E0M7", blocks=("channel",), scale="float32", speed=2),),
    "cpu": (),
}
"""What chips multiply besides BF16.

h100, h200: FP8 with scales of a channel or of 1 × 128 and 128 × 128 numbers (cuBLAS 12.9, "Boosting Matrix Multiplication Speed and
Flexibility", NVIDIA's developer blog; support matrix of Transformer Engine; cuBLAS itself wants E4M3 on one side of each product).
Peaks: 1979 and 989 TFLOPS (H200 data sheet, dense).
b200: MXFP8, MXFP6, MXFP4 and NVFP4, the kinds mxf8f6f4, mxf4 and mxf4nvf4 of tcgen05.mma in the PTX ISA, where six bits take the
instruction of eight; peaks 9, 4.5 and 2.25 PFLOPS for FP4, FP8 and BF16 (HGX B200 data sheet, dense).
a100: INT8, 624 TOPS beside 312 TFLOPS (A100 data sheet), which the law does not cover. One scale for a whole tensor, which all of them
have, is not covered either. cpu: nothing is assumed.
"""

BF16 = "E8M7"
"""As the paper counts BF16's critical tokens: with a penalty of its own, far below what a run could show."""

PRECISION_BLOCKS: tuple[Block, ...] = (16, 32, 128, "channel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A format with a block, in one training.

    Attributes:
        format: name in the law, E4M3 for any format of those bits.
        added: loss over BF16's, nats a token.
        critical_tokens: tokens past which more of them raise the loss.
        growth: parameters that reach BF16's loss, a multiple of BF16's own.
        native: what the chip multiplies; None where the format is emulated, at BF16's speed at best.
        outside: the block or the bits are none of the law's runs.
    """

    format: str
    bits: int
    block: Block
    loss: float
    added: float
    critical_tokens: float
    growth: float
    native: Native | None
    outside: bool

    @property
    def cost(self) -> float:
        """Time of BF16's loss, in BF16's own, at the peaks of the chip."""
        return self.growth / (self.native.speed if self.native else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestBits:
    """Bits of a number that make most of a budget, where cost is C = (6/16) P N D whatever the chip.

    Attributes:
        fixed_tokens: with D given, bits against parameters (eq. 22).
        fixed_parameters: with N given and C of 16 bits, bits against tokens (eq. 23).
        free: with that C alone (eq. 25).
        format: of whole bits, the best with D given.
    """

    block: Block
    fixed_tokens: float
    fixed_parameters: float
    free: Optimum
    format: str

    @property
    def outside(self) -> tuple[str, ...]:
        """Which of the three bits are none of the law's runs."""
        bits = {"tokens": self.fixed_tokens, "parameters": self.fixed_parameters, "free": self.free.bits}
        return tuple(name for name, value in bits.items() if not RUN_BITS[0] <= value <= RUN_BITS[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionPlan:
    """What the law says of a training on a chip.

    Attributes:
        N: parameters of linear layers. D: tokens.
        best: the cheapest native choice; None for BF16.
        uncovered: native formats of which the law says nothing.
        outside: how N and D leave the law's runs, one sentence each.
    """

    N: float
    D: float
    hardware: str
    blocks: tuple[Block, ...]
    bf16_loss: float
    choices: tuple[Choice, ...]
    best: Choice | None
    bits: tuple[BestBits, ...]
    uncovered: tuple[str, ...]
    outside: tuple[str, ...]


def plan_precision(*, N: float, D: float, hardware: str, blocks: Sequence[Block] = PRECISION_BLOCKS) -> PrecisionPlan:
    """Weighs formats for a training of N parameters on D tokens.

    The best choice costs least time for BF16's loss at these tokens, among the formats that the chip multiplies and whose critical
    tokens are not below D. It is BF16 where none costs less.

    Args:
        hardware: a key of `HARDWARE`.
        blocks: how many numbers share a scale, each 2 or more, or "channel".
    Raises:
        ValueError: an unknown chip, N or D outside 1 to 1e18, a block that the law does not cover, no block.
    """
    _check(N, D, hardware, blocks)
    blocks = tuple(dict.fromkeys(blocks))
    natives = HARDWARE[hardware]
    formats = _formats(native.format for native in natives)
    choices = tuple(_choice(N, D, format, block, natives) for format in formats for block in blocks)
    cheaper = [choice for choice in choices if choice.cost < 1 and choice.critical_tokens >= D]
    return PrecisionPlan(
        N=N,
        D=D,
        hardware=hardware,
        blocks=blocks,
        bf16_loss=CAPYBARA.bf16_loss(N=N, D=D),
        choices=choices,
        best=min(cheaper, key=lambda choice: choice.cost, default=None),
        bits=tuple(_best_bits(N, D, block) for block in blocks),
        uncovered=tuple(native.format for native in natives if not _covered(native.format)),
        outside=outside_runs(N, D),
    )


def outside_runs(N: float, D: float) -> tuple[str, ...]:
    """How a training leaves the law's runs, one sentence for each of N, D and D/N; empty where it does not."""
    values = (("parameters", N, RUN_PARAMETERS), ("tokens", D, RUN_TOKENS), ("tokens a parameter", D / N, RUN_RATIO))
    return tuple(
        f"{readable_count(value)} {name} is an extrapolation: the law's runs had {readable_count(least)} to {readable_count(most)}"
        for name, value, (least, most) in values
        if not 0.99 * least <= value <= 1.01 * most
    )


def block_words(block: Block) -> str:
    """Whom a scale is for: 32 numbers, or a channel."""
    return "a channel" if block == "channel" else f"{block} numbers"


def parameter_growth(*, D: float, format: str, block: Block) -> float:
    """Parameters that a format needs for BF16's loss on D tokens, a multiple of BF16's own; N itself does not matter.

    Both n/N^α and the format's term fall as N^-α, so their sum at g N is n/N^α for g^α = 1 + term / (n/N^α).

    >>> round(parameter_growth(D=2e12, format="E4M3", block=128), 3)
    1.017
    """
    added = CAPYBARA.loss(N=1, D=D, format=format, block=block) - CAPYBARA.bf16_loss(N=1, D=D)
    return (1 + added / CAPYBARA.n) ** (1 / CAPYBARA.alpha)


def _check(N: float, D: float, hardware: str, blocks: Sequence[Block]) -> None:
    for name, value in (("params", N), ("tokens", D)):
        if not 1 <= value <= 1e18:
            raise ValueError(f"{name}={value} must be 1 to 1e18")
    if hardware not in HARDWARE:
        raise ValueError(f"hardware={hardware!r} is not known; use one of {', '.join(HARDWARE)}")
    if not blocks:
        raise ValueError("block=() names no block; give numbers of elements or 'channel'")


def _covered(format: str) -> bool:
    return not isinstance(parse_format(format), IntFormat)


def _formats(natives: Iterable[str]) -> list[str]:
    """The best of each number of bits that was run, E5M2, what the chip has, and BF16, ordered by bits and then by loss."""
    best = (str(CAPYBARA.best_format(bits=bits)) for bits in range(RUN_BITS[0], RUN_BITS[1] + 1))
    names = {*best, "E5M2", BF16, *(_bare(native) for native in natives if _covered(native))}
    return sorted(names, key=lambda name: (parse_format(name).bits, CAPYBARA.loss(N=1, D=1, format=name, block=2)))


def _bare(format: str) -> str:
    """Name of a format's bits in the law, which does not tell hardware's floats from others."""
    return format if not format.startswith("ocp:") else format.removeprefix("ocp:").removesuffix("fn").upper()


def _choice(N: float, D: float, format: str, block: Block, natives: Iterable[Native]) -> Choice:
    loss, bits = CAPYBARA.loss(N=N, D=D, format=format, block=block), parse_format(format).bits
    native = next((item for item in natives if _bare(item.format) == format and block in item.blocks), None)
    return Choice(
        format=format,
        bits=bits,
        block=block,
        loss=loss,
        added=loss - CAPYBARA.bf16_loss(N=N, D=D),
        critical_tokens=CAPYBARA.critical_tokens(N=N, format=format, block=block),
        growth=parameter_growth(D=D, format=format, block=block),
        native=native,
        outside=bits > RUN_BITS[1] or (isinstance(block, int) and not RUN_BLOCKS[0] <= block <= RUN_BLOCKS[1]),
    )


def _best_bits(N: float, D: float, block: Block) -> BestBits:
    compute = 6 * N * D
    formats = [CAPYBARA.best_format(bits=bits) for bits in range(2, 17)]
    best = min(formats, key=lambda format: format.bits * parameter_growth(D=D, format=str(format), block=block))
    return BestBits(
        block=block,
        fixed_tokens=CAPYBARA.optimal_bits(D=D, block=block),
        fixed_parameters=CAPYBARA.optimal_bits(compute=compute, N=N, block=block),
        free=CAPYBARA.optimum(compute=compute, block=block),
        format=str(best),
    )
