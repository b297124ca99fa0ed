"""Number formats of any exponent and mantissa bits, rounding to them with block scales, linear layers whose products are rounded,
and the law of training in them.
"""

from tandem.precision.experts import QuantizedExperts
from tandem.precision.fitting import Fit, Run, fit
from tandem.precision.formats import FloatFormat, IntFormat, ScaleFormat, parse_format
from tandem.precision.law import CAPYBARA, BitsLaw, BlockLaw, Optimum, PrecisionLaw
from tandem.precision.linear import QuantizedLinear
from tandem.precision.model import is_quantized, quantize_model
from tandem.precision.peer_laws import Chinchilla, Kaplan, Kumar
from tandem.precision.quantizing import Block, quantize
from tandem.precision.recipe import (
    Operand,
    PrecisionConfig,
    Recipe,
    fp8_deepseek,
    mxfp4,
    mxfp8,
    nvfp4,
    paper_recipe,
    same_for,
    w8a8g8,
)
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
    "Operand",
    "Optimum",
    "PrecisionConfig",
    "PrecisionLaw",
    "QuantizedExperts",
    "QuantizedLinear",
    "Recipe",
    "Run",
    "ScaleFormat",
    "fit",
    "fp8_deepseek",
    "is_quantized",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "paper_recipe",
    "parse_format",
    "quantize",
    "quantize_model",
    "same_for",
    "w8a8g8",
]
