"""Number formats of any exponent and mantissa bits, rounding to them with block scales, and the law of training in them."""

from tandem.precision.fitting import Fit, Run, fit
from tandem.precision.formats import FloatFormat, IntFormat, ScaleFormat, parse_format
from tandem.precision.law import CAPYBARA, BitsLaw, BlockLaw, Optimum, PrecisionLaw
from tandem.precision.peer_laws import Chinchilla, Kaplan, Kumar
from tandem.precision.quantizing import Block, quantize
from tandem.precision.scales import SCALES

__all__ = [
    "CAPYBARA",
    "SCALES",
    "BitsLaw",
    "Block",
    "BlockLaw",
    "Chinchilla",
    "Fit",
    "FloatFormat",
    "IntFormat",
    "Kaplan",
    "Kumar",
    "Optimum",
    "PrecisionLaw",
    "Run",
    "ScaleFormat",
    "fit",
    "parse_format",
    "quantize",
]
