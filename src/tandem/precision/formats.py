"""Small number formats: what numbers each can hold, and the names that are read and written for them.

A bare `E4M3` is a float of 4 exponent and 3 mantissa bits as the scaling law has it (Sun et al. 2025, arXiv 2501.02423): IEEE's
layout with subnormal numbers, where every code is a number and none is kept for infinity or NaN. Formats of hardware keep codes
for them and carry a prefix.
"""

import math
import re
from dataclasses import dataclass

from tandem.ops import Grid

_OCP = {
    "ocp:e2m1": (2, 1, 0),
    "ocp:e2m3": (2, 3, 0),
    "ocp:e3m2": (3, 2, 0),
    "ocp:e4m3fn": (4, 3, 1),
    "ocp:e5m2": (5, 2, 4),
}
"""Exponent bits, mantissa bits, and how many of the largest codes are no numbers (OCP 8-bit and MX specifications 1.0)."""
_FORMS = f"E4M3 (E1 to E8, M0 to M22), E0M7 for a sign and 7 bits of integer, {', '.join(_OCP)}, e8m0"


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """Sign, `exponent` bits and `mantissa` bits.

    With bias 2^(E-1) - 1, code c of the positive half is 2^(1-bias) · m / 2^M where its exponent field is 0, and
    2^(field-bias) (1 + m / 2^M) elsewhere. Eight exponent bits are float32's: their last field stays infinity's and NaN's, so that
    E8M7 is bfloat16.

    Args:
        hardware: a name with a prefix, such as `ocp:e4m3fn`, when the largest codes are not all numbers; else empty.

    >>> FloatFormat(2, 1).grid()
    (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    """

    exponent: int
    mantissa: int
    hardware: str = ""

    def __post_init__(self):
        if self.exponent == 0:
            raise ValueError(
                f"format.exponent=0 leaves no float; use IntFormat({self.mantissa}), a sign and an integer"
            )
        if not 1 <= self.exponent <= 8:
            raise ValueError(f"format.exponent={self.exponent} must be 1 to 8, float32's number of exponent bits")
        if not 0 <= self.mantissa <= 22:
            raise ValueError(f"format.mantissa={self.mantissa} must be 0 to 22; float32 itself has 23")
        if self.hardware and _OCP.get(self.hardware, ())[:2] != (self.exponent, self.mantissa):
            raise ValueError(
                f"format.hardware={self.hardware!r} is no E{self.exponent}M{self.mantissa}; use one of {[*_OCP]}"
            )

    @staticmethod
    def parse(text: str) -> "Format":
        """Reads a format's name.

        Raises:
            ValueError: no format is called that.
        """
        return parse_format(text)

    @property
    def bits(self) -> int:
        """Of one number, with its sign."""
        return 1 + self.exponent + self.mantissa

    @property
    def max(self) -> float:
        """The largest number."""
        return self._value((1 << (self.exponent + self.mantissa)) - 1 - self._reserved)

    @property
    def min_subnormal(self) -> float:
        """The smallest number above 0; without mantissa bits there are no subnormal numbers and it is normal."""
        return self._value(1)

    @property
    def rounding(self) -> Grid:
        """What `tandem.ops` rounds to."""
        return Grid(self.mantissa, self._least, self.max)

    def grid(self) -> tuple[float, ...]:
        """The non-negative numbers, in order."""
        return tuple(map(self._value, range((1 << (self.exponent + self.mantissa)) - self._reserved)))

    @property
    def _least(self) -> int:
        return 2 - (1 << (self.exponent - 1))

    @property
    def _reserved(self) -> int:
        if self.hardware:
            return _OCP[self.hardware][2]
        return 1 << self.mantissa if self.exponent == 8 else 0

    def _value(self, code: int) -> float:
        field, part = divmod(code, 1 << self.mantissa)
        if field == 0:
            return math.ldexp(part, self._least - self.mantissa)
        return math.ldexp((1 << self.mantissa) + part, self._least + field - 1 - self.mantissa)

    def __str__(self) -> str:
        return self.hardware or f"E{self.exponent}M{self.mantissa}"


@dataclass(frozen=True, slots=True)
class IntFormat:
    """A sign and `magnitude` bits of integer: -(2^k - 1) to 2^k - 1, written `E0Mk`.

    With subnormal numbers a float without exponent bits would be this grid, and so is E1M(k-1) up to a factor that a scale takes
    back. What the law's authors ran as E0M7 is not known, so the law does not speak of these formats.
    """

    magnitude: int

    def __post_init__(self):
        if not 1 <= self.magnitude <= 23:
            raise ValueError(f"format.magnitude={self.magnitude} must be 1 to 23 bits; use E0M7 for 8-bit integers")

    @property
    def bits(self) -> int:
        """Of one number, with its sign."""
        return 1 + self.magnitude

    @property
    def max(self) -> float:
        """The largest number."""
        return float((1 << self.magnitude) - 1)

    @property
    def min_subnormal(self) -> float:
        """The smallest number above 0."""
        return 1.0

    @property
    def rounding(self) -> Grid:
        """What `tandem.ops` rounds to."""
        return Grid(self.magnitude - 1, self.magnitude - 1, self.max)

    def grid(self) -> tuple[float, ...]:
        """The non-negative numbers, in order."""
        return tuple(map(float, range(1 << self.magnitude)))

    def __str__(self) -> str:
        return f"E0M{self.magnitude}"


@dataclass(frozen=True, slots=True)
class ScaleFormat:
    """`e8m0`: powers of two from 2⁻¹²⁷ to 2¹²⁷, without sign and without zero, for scales of blocks (OCP MX 1.0)."""

    @property
    def bits(self) -> int:
        """Of one number."""
        return 8

    @property
    def max(self) -> float:
        """The largest number."""
        return 2.0**127

    @property
    def min_subnormal(self) -> float:
        """The smallest number, a normal one."""
        return 2.0**-127

    def grid(self) -> tuple[float, ...]:
        """The numbers, in order."""
        return tuple(2.0**exponent for exponent in range(-127, 128))

    def __str__(self) -> str:
        return "e8m0"


Format = FloatFormat | IntFormat | ScaleFormat


def parse_format(text: str) -> Format:
    """Reads a format's name, as `str` of a format writes it.

    >>> parse_format("E4M3").max, parse_format("ocp:e4m3fn").max
    (480.0, 448.0)
    """
    if text == "e8m0":
        return ScaleFormat()
    if text in _OCP:
        return FloatFormat(*_OCP[text][:2], hardware=text)
    bare = re.fullmatch(r"E(\d{1,2})M(\d{1,2})", text)
    if bare is None:
        raise ValueError(f"format={text!r} is not known; use {_FORMS}")
    exponent, mantissa = map(int, bare.groups())
    return IntFormat(mantissa) if exponent == 0 else FloatFormat(exponent, mantissa)


def element_format(format: "str | Format") -> FloatFormat | IntFormat:
    """A format of elements, by name or as it is; ValueError for one of scales."""
    parsed = parse_format(format) if isinstance(format, str) else format
    if isinstance(parsed, ScaleFormat):
        raise ValueError("format='e8m0' has neither sign nor zero and holds scales; use it as scale='e8m0'")
    return parsed
