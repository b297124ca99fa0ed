"""What a TransMamba layer costs beside the two layers that it is made of. Start at `measure_switching`.

At each TransPoint P of a schedule a layer `T` mixes a text of T tokens; beside it run our attention on its first P tokens and
our Mamba-2 on the other T - P, of the same widths. Converting the prefix, convolving it and putting the parts together is what
`T` has to do beyond them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import nn

from tandem.nn import (
    Attention,
    AttentionConfig,
    Mamba,
    MambaConfig,
    ModelConfig,
    SequenceLayout,
    TransMamba,
    TransMambaConfig,
    transpoints,
)
from tandem.ops import fastest_dtype

_WARM_UP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchRow:
    """Milliseconds of a forward and a backward pass, round by round.

    Attributes:
        ours: of the layer `T`; attention, mamba: of the layers that share its tokens out (0 where one has none).
    """

    transpoint: int
    ours: tuple[float, ...]
    attention: tuple[float, ...]
    mamba: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours over the two others together, round by round."""
        return [a / (b + c) for a, b, c in zip(self.ours, self.attention, self.mamba, strict=True)]

    def cells(self) -> list[str]:
        """TransPoint, the medians of the three, and the ratio with its range."""
        medians = (f"{statistics.median(times):.1f}" for times in (self.ours, self.attention, self.mamba))
        return [f"{self.transpoint:,}", *medians, spread(self.ratios)]


def measure_switching(
    config: ModelConfig, *, length: int = 4096, device: str = "cpu", rounds: int = 7
) -> list[SwitchRow]:
    """Times the layers of schedule V9 for one text, round by round in turn: ours, attention, Mamba-2.

    Activations have the format of training on this device; parameters are float32 on a CPU, as there.

    Raises:
        ValueError: a model without `T` layers, a length too short for the schedule, or fewer than one round.
    """
    if config.transmamba is None:
        raise ValueError(
            f"model.pattern={config.pattern!r} has no T layers; use a model with some, e.g. transmamba-nano"
        )
    if length < 64 or rounds < 1:
        raise ValueError(f"length={length} and rounds={rounds} must be 64 or more and 1 or more")
    return [_measure(config, point, length, torch.device(device), rounds) for point in transpoints("v9", 8, length)]


def total_ratios(rows: list[SwitchRow]) -> list[float]:
    """The sum of all our layers over the sum of all others, round by round."""
    ours = map(sum, zip(*(row.ours for row in rows), strict=True))
    others = map(sum, zip(*(times for row in rows for times in (row.attention, row.mamba)), strict=True))
    return [a / b for a, b in zip(ours, others, strict=True)]


def _measure(config: ModelConfig, point: int, length: int, device: torch.device, rounds: int) -> SwitchRow:
    assert config.transmamba is not None
    torch.manual_seed(0)
    runs = [
        _passes(layer, tokens, config, device)
        for layer, tokens in zip(
            _layers(config, config.transmamba, point), (length, point, length - point), strict=True
        )
    ]
    times = [[_milliseconds(run, device) for run in runs] for _ in range(rounds + _WARM_UP)]
    ours, attention, mamba = map(tuple, zip(*times[_WARM_UP:], strict=True))
    return SwitchRow(transpoint=point, ours=ours, attention=attention, mamba=mamba)


def _layers(config: ModelConfig, shape: TransMambaConfig, point: int) -> tuple[TransMamba, Attention, Mamba]:
    attention = AttentionConfig(
        heads=shape.groups, kv_heads=shape.groups, head_width=shape.attention_width, qk_norm=False
    )
    mamba = MambaConfig(**{field.name: getattr(shape, field.name) for field in fields(MambaConfig)})
    layers = (
        TransMamba(shape, config.width, config.norm_eps, point),
        Attention(attention, config.width, config.norm_eps),
        Mamba(mamba, config.width, config.norm_eps),
    )
    for layer in layers:
        layer.init_weights(1.0)
    return layers


def _passes(layer: nn.Module, tokens: int, config: ModelConfig, device: torch.device) -> Callable[[], None]:
    """A forward and a backward pass over one text; nothing for no tokens."""
    if not tokens:
        return lambda: None
    layer.to(device)
    if device.type == "cuda":
        layer.bfloat16()
    x_TD, pull_TD = torch.randn(2, tokens, config.width, device=device, dtype=fastest_dtype(device))
    layout = SequenceLayout.from_lengths([tokens], chunk=config.chunk, device=device)

    def run() -> None:
        leaf = x_TD.detach().requires_grad_()
        wanted = [leaf, *layer.parameters()]
        torch.autograd.grad(layer(leaf, layout), wanted, pull_TD, allow_unused=True)

    return run


def _milliseconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - begin)


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
