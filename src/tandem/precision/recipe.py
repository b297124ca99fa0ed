"""Which operands of a linear layer's three products are rounded, and how; recipes that training programs use.

    Y = X Wᵀ      forward            P1 = X     P2 = W
    dX = dY W     input gradient     P3 = dY    P4 = W
    dW = dYᵀ X    weight gradient    P5 = dY    P6 = X

An operand that is rounded in two products may be rounded differently in each: the blocks of each product lie along its sum.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tandem.ops import ROUNDINGS
from tandem.precision.formats import Format, IntFormat, element_format
from tandem.precision.quantizing import Block, quantize
from tandem.precision.scales import SCALES

TARGETS = ("P1", "P2", "P3", "P4", "P5", "P6")
PAPER_TARGETS = ("P2", "P4", "P6")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """How an operand is rounded; the arguments of `quantize`.

    Args:
        format: kept as a format; a name is read.
    """

    format: str | Format
    block: Block = "channel"
    rounding: str = "nearest-away"
    scale: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "format", element_format(self.format))
        for name, value, allowed in (("rounding", self.rounding, ROUNDINGS), ("scale", self.scale, SCALES)):
            if value not in allowed:
                raise ValueError(f"operand.{name}={value!r} is not known; use {', '.join(allowed)}")
        sizes = self.block if isinstance(self.block, tuple) else (self.block,)
        if not all(size in ("channel", "tensor") if isinstance(size, str) else size >= 1 for size in sizes):
            raise ValueError(f"operand.block={self.block!r} must be 1 or more, (rows, columns), 'channel' or 'tensor'")

    def round(self, x: Tensor, axis: int, dtype: torch.dtype) -> Tensor:
        """The operand with blocks along the axis that its product sums over."""
        options = {"block": self.block, "axis": axis, "rounding": self.rounding, "scale": self.scale}
        return quantize(x, self.format, **options, out_dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is done to each of the six operands; None leaves one as it is, and `Recipe()` is plain training.

    Args:
        native: whether linear layers use a GPU's own products of 8-bit floats where it has them for both operands of a product
            (see `multiplies`); what it has none for is emulated.
    """

    P1: Operand | None = None
    P2: Operand | None = None
    P3: Operand | None = None
    P4: Operand | None = None
    P5: Operand | None = None
    P6: Operand | None = None
    native: bool = False

    @property
    def targets(self) -> frozenset[str]:
        """The operands that are rounded."""
        return frozenset(target for target in TARGETS if getattr(self, target) is not None)

    def only(self, targets: Iterable[str]) -> "Recipe":
        """This recipe with fewer targets.

        Raises:
            ValueError: the recipe has no such target.
        """
        kept = frozenset(targets)
        if not kept <= self.targets:
            raise ValueError(
                f"targets={sorted(kept)} has some that are not rounded; use some of {sorted(self.targets)}"
            )
        return dataclasses.replace(self, **dict.fromkeys(self.targets - kept))


def same_for(targets: Iterable[str], operand: Operand) -> Recipe:
    """One rounding for several targets, such as ("P2", "P4", "P6")."""
    chosen = frozenset(targets)
    if not chosen <= frozenset(TARGETS):
        raise ValueError(f"targets={sorted(chosen)} must be some of {', '.join(TARGETS)}")
    return dataclasses.replace(Recipe(), **dict.fromkeys(chosen, operand))


def paper_recipe(format: str | Format, block: Block = "channel") -> Recipe:
    """What the law's runs did: weights, and the activations of the weight gradient (arXiv 2501.02423, §3.4)."""
    return same_for(PAPER_TARGETS, Operand(format=format, block=block))


def fp8_deepseek() -> Recipe:
    """All operands in `ocp:e4m3fn`, float32 scales of 128 numbers, and of 128 × 128 for weights (DeepSeek-V3, arXiv 2412.19437).

    Sums are the processor's; promoting partial sums every 128 terms is not imitated.
    """
    narrow = Operand(format="ocp:e4m3fn", block=128, rounding="nearest-even")
    return _with_weights(narrow, dataclasses.replace(narrow, block=(128, 128)))


def mxfp8() -> Recipe:
    """All operands in `ocp:e4m3fn` with a power of two for 32 numbers (OCP MX 1.0)."""
    return same_for(TARGETS, Operand(format="ocp:e4m3fn", block=32, rounding="nearest-even", scale="e8m0"))


def mxfp4() -> Recipe:
    """All operands in `ocp:e2m1` with a power of two for 32 numbers (OCP MX 1.0)."""
    return same_for(TARGETS, Operand(format="ocp:e2m1", block=32, rounding="nearest-even", scale="e8m0"))


def nvfp4() -> Recipe:
    """All operands in `ocp:e2m1` with two levels of scales for 16 numbers, 16 × 16 for weights; gradients round stochastically.

    The Hadamard transform that NVIDIA puts before the weight gradient is not part of it.
    """
    narrow = Operand(format="ocp:e2m1", block=16, rounding="nearest-even", scale="e4m3")
    gradient = dataclasses.replace(narrow, rounding="stochastic")
    recipe = _with_weights(narrow, dataclasses.replace(narrow, block=(16, 16)))
    return dataclasses.replace(recipe, P3=gradient, P5=gradient)


def w8a8g8() -> Recipe:
    """All operands in 8-bit integers, one scale along each sum."""
    return same_for(TARGETS, Operand(format=IntFormat(7), block="channel", rounding="nearest-even"))


def _with_weights(others: Operand, weights: Operand) -> Recipe:
    return Recipe(P1=others, P2=weights, P3=others, P4=weights, P5=others, P6=others)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionConfig:
    """Which operands of the layers' matrix products are rounded in training, as options of a run.

    A named recipe, or a format of one's own; nothing is rounded where neither is given or `targets` is empty.
    """

    recipe: Literal["none", "fp8-deepseek", "mxfp8", "mxfp4", "nvfp4", "w8a8g8"] = "none"
    """What training programs use, see docs/precision.md; not with a format."""

    format: str | None = None
    """A format for all targets: E4M3, E2M1, ocp:e4m3fn, E0M7, …"""

    block: int | Literal["channel", "tensor"] = "channel"
    """Neighbors along a product's sum that share a scale, all of them, or the whole operand; of `format`."""

    rounding: Literal["nearest-away", "nearest-even", "stochastic"] = "nearest-away"
    """How `format` rounds."""

    scale: Literal["float32", "e8m0", "e8m0-ceil", "e8m0-even", "e4m3"] = "float32"
    """How the scales of `format` are kept."""

    targets: tuple[str, ...] | None = None
    """Operands to round, of P1 to P6; None takes all that a named recipe has, and P2 P4 P6 of a format, as the law's runs."""

    native: bool = False
    """Use a GPU's own products of 8-bit floats where it has them for both operands, and emulate the rest."""

    def __post_init__(self) -> None:
        if self.recipe not in _RECIPES:
            raise ValueError(f"precision.recipe={self.recipe!r} is not known; use {', '.join(_RECIPES)}")
        if self.recipe != "none" and self.format is not None:
            raise ValueError(f"precision.recipe={self.recipe} and precision.format={self.format}: give one of them")
        if self.recipe == "none" and self.format is None:
            for option in ("block", "rounding", "scale", "targets", "native"):
                if (value := getattr(self, option)) != PrecisionConfig.__dataclass_fields__[option].default:
                    raise ValueError(f"precision.{option}={value} says how, but not what; give precision.format too")
        self.build()

    def build(self) -> Recipe:
        """The recipe.

        Raises:
            ValueError: an unknown format, or a block, rounding, scale or target that there is not.
        """
        try:
            return dataclasses.replace(self._operands(), native=self.native)
        except ValueError as error:
            raise ValueError(f"precision: {error}") from error

    def _operands(self) -> Recipe:
        if self.format is None:
            recipe = _RECIPES[self.recipe]()
            return recipe if self.targets is None else recipe.only(self.targets)
        operand = Operand(format=self.format, block=self.block, rounding=self.rounding, scale=self.scale)
        return same_for(PAPER_TARGETS if self.targets is None else self.targets, operand)


_RECIPES: dict[str, Callable[[], Recipe]] = {
    "none": Recipe,
    "fp8-deepseek": fp8_deepseek,
    "mxfp8": mxfp8,
    "mxfp4": mxfp4,
    "nvfp4": nvfp4,
    "w8a8g8": w8a8g8,
}
