"""Models: the pattern language, the config tree, layers, `HybridLM` and its decode state."""

from tandem.nn.attention import Attention
from tandem.nn.base import Float32Island, Linear, RMSNorm
from tandem.nn.config import (
    AttentionConfig,
    DenseConfig,
    LayerConfig,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    TransMambaConfig,
)
from tandem.nn.decoder import Aux, HybridLM, Layer, Loss
from tandem.nn.feed_forward import Dense, Experts, MixtureOfExperts, Routing, recycle
from tandem.nn.mamba import Mamba
from tandem.nn.pattern import SYMBOLS, hybrid_pattern, parse_pattern
from tandem.nn.presets import preset, presets
from tandem.nn.rope import (
    LinearScaling,
    Llama3Scaling,
    PairScaling,
    RopeScaling,
    YarnScaling,
    rotary_frequencies,
    yarn_amplitude,
)
from tandem.nn.schedule import SCHEDULE_LENGTH, SCHEDULES, transpoints
from tandem.nn.slots import CacheRounding, KVSlots, Rounding, Slots, SSMSlots, TransSlots
from tandem.nn.state import DecodePool, DecodeState
from tandem.nn.transmamba import TransMamba
from tandem.ops import SequenceLayout

__all__ = [
    "SCHEDULES",
    "SCHEDULE_LENGTH",
    "SYMBOLS",
    "Attention",
    "AttentionConfig",
    "Aux",
    "CacheRounding",
    "DecodePool",
    "DecodeState",
    "Dense",
    "DenseConfig",
    "Experts",
    "Float32Island",
    "HybridLM",
    "KVSlots",
    "Layer",
    "LayerConfig",
    "Linear",
    "LinearScaling",
    "Llama3Scaling",
    "Loss",
    "Mamba",
    "MambaConfig",
    "MixtureOfExperts",
    "MoEConfig",
    "ModelConfig",
    "PairScaling",
    "RMSNorm",
    "RopeScaling",
    "Rounding",
    "Routing",
    "SSMSlots",
    "SequenceLayout",
    "Slots",
    "TransMamba",
    "TransMambaConfig",
    "TransSlots",
    "YarnScaling",
    "hybrid_pattern",
    "parse_pattern",
    "preset",
    "presets",
    "recycle",
    "rotary_frequencies",
    "transpoints",
    "yarn_amplitude",
]
