"""Models: the pattern language, the config tree, layers, `HybridLM` and its decode state."""

from tandem.nn.config import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig
from tandem.nn.pattern import SYMBOLS, hybrid_pattern, parse_pattern
from tandem.nn.presets import preset, presets
from tandem.ops.layout import SequenceLayout

__all__ = [
    "SYMBOLS",
    "AttentionConfig",
    "DenseConfig",
    "MambaConfig",
    "MoEConfig",
    "ModelConfig",
    "SequenceLayout",
    "hybrid_pattern",
    "parse_pattern",
    "preset",
    "presets",
]
