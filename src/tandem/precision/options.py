"""What of a trained model is rounded, as options of a command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tandem.nn import HybridLM
from tandem.precision.after_training import Stored, quantize_caches, quantize_weights
from tandem.precision.formats import element_format
from tandem.precision.recipe import Operand, Recipe, mxfp4, mxfp8, nvfp4

_NAMED: Mapping[str, Callable[[], Recipe]] = {"mxfp8": mxfp8, "mxfp4": mxfp4, "nvfp4": nvfp4}
"""What these do to the activations of the forward product is done to all: so NVFP4 has rows of 16 for weights too."""
_HOW = ("block", "rounding", "scale")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingConfig:
    """What of a trained model is rounded, and how; nothing by default.

    Each of the three takes a format such as E4M3, E2M1, E0M7 or ocp:e4m3fn, or mxfp8, mxfp4 or nvfp4, which bring blocks, rounding
    and scales of their own.
    """

    weights: str | None = None
    """Format of the matrices of linear maps and experts, rounded once."""

    kv: str | None = None
    """Format of the keys and values of each token; scores then come from decode steps."""

    state: str | None = None
    """Format of the SSM states, rounded after a prefill and after each step; scores then come from decode steps."""

    block: int | Literal["channel", "tensor"] = "channel"
    """Neighbors along a product's sum that share a scale, all of them, or the whole matrix (weights alone)."""

    rounding: Literal["nearest-away", "nearest-even", "stochastic"] = "nearest-away"
    """How formats round."""

    scale: Literal["float32", "e8m0", "e8m0-ceil", "e8m0-even", "e4m3"] = "float32"
    """How scales are kept."""

    def __post_init__(self) -> None:
        if all(name is None or name in _NAMED for name in (self.weights, self.kv, self.state)):
            for option in _HOW:
                if (value := getattr(self, option)) != RoundingConfig.__dataclass_fields__[option].default:
                    raise ValueError(
                        f"precision.{option}={value} is for formats such as E4M3, and none is given; name one as "
                        f"precision.weights, precision.kv or precision.state ({', '.join(_NAMED)} have their own {option})"
                    )
        for name in ("weights", "kv", "state"):
            operand = self._operand(name)
            if operand is not None and operand.block == "tensor" and name != "weights":
                raise ValueError(
                    f"precision.block=tensor with precision.{name} would tie tokens to each other; use channel or a number"
                )

    def apply(self, model: HybridLM) -> dict[str, dict[str, Any]]:
        """Rounds the model's weights in place, and has it round its caches.

        Returns:
            what was rounded, and what it takes with its scales: for `weights` the bits of one, and the share of all parameters
            that they are; for `kv` the bits of one number and the bytes of a token; for `state` the same of a document.
        Raises:
            ValueError: a model without attention or without recurrent layers, or one that reads int8 copies.
        """
        weights, kv, state = map(self._operand, ("weights", "kv", "state"))
        rounded: dict[str, dict[str, Any]] = {}
        try:
            caches = quantize_caches(model, kv=kv, state=state)
        except ValueError as error:
            raise ValueError(f"precision.{error}") from error
        if weights is not None:
            sizes = quantize_weights(model, weights)
            share = sizes.numbers / sum(p.numel() for p in model.parameters())
            rounded["weights"] = _plain(weights, sizes) | {"share": share}
        if kv is not None and caches.kv is not None:
            rounded["kv"] = _plain(kv, caches.kv) | {"bytes_a_token": caches.kv.bytes}
        if state is not None and caches.state is not None:
            rounded["state"] = _plain(state, caches.state) | {"bytes_a_document": caches.state.bytes}
        return rounded

    def _operand(self, name: str) -> Operand | None:
        text = getattr(self, name)
        if text is None:
            return None
        if text in _NAMED:
            return _NAMED[text]().P1
        try:
            format = element_format(text)
        except ValueError as error:
            raise ValueError(f"precision.{name}: {error}; or one of {', '.join(_NAMED)}") from error
        try:
            return Operand(format=format, block=self.block, rounding=self.rounding, scale=self.scale)
        except ValueError as error:
            raise ValueError(f"precision: {error}") from error


def _plain(operand: Operand, sizes: Stored) -> dict[str, Any]:
    how = {name: getattr(operand, name) for name in _HOW}
    return {"format": str(operand.format), **how, "bits": sizes.bits_each}
