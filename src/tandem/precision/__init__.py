"""Number formats of any exponent and mantissa bits, and rounding to them with block scales."""

from tandem.precision.formats import FloatFormat, IntFormat, ScaleFormat, parse_format
from tandem.precision.quantizing import Block, quantize
from tandem.precision.scales import SCALES

__all__ = ["SCALES", "Block", "FloatFormat", "IntFormat", "ScaleFormat", "parse_format", "quantize"]
