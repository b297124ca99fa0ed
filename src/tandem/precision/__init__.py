"""Number formats of any exponent and mantissa bits, rounding to them with block scales, linear layers whose products are rounded,
trained models whose weights and caches are rounded, and the law of training in formats.
"""

from tandem.precision.after_training import CacheSizes, Stored, quantize_caches, quantize_weights, stored
from tandem.precision.experts import QuantizedExperts
from tandem.precision.fitting import Fit, Run, fit
from tandem.precision.formats import FloatFormat, IntFormat, ScaleFormat, parse_format
from tandem.precision.law import CAPYBARA, BitsLaw, BlockLaw, Optimum, PrecisionLaw
from tandem.precision.linear import QuantizedLinear
from tandem.precision.model import is_quantized, quantize_model
from tandem.precision.options import RoundingConfig
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
    "CacheSizes",
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
    "RoundingConfig",
    "Run",
    "ScaleFormat",
    "Stored",
    "fit",
    "fp8_deepseek",
    "is_quantized",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "paper_recipe",
    "parse_format",
    "quantize",
    "quantize_caches",
    "quantize_model",
    "quantize_weights",
    "same_for",
    "stored",
    "w8a8g8",
]
