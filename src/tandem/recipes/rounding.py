"""What rounding to small formats costs on a CPU: training steps beside bfloat16's, and the quantizer beside qtorch's.

Start at `measure_steps` and `measure_quantizer`.
"""

import importlib
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.nn import HybridLM, ModelConfig, SequenceLayout
from tandem.precision import FloatFormat, Operand, Recipe, parse_format, quantize, quantize_model, same_for
from tandem.precision.recipe import PAPER_TARGETS, TARGETS
from tandem.recipes.benchmark import ROW_TOKENS, ROWS, seconds_of
from tandem.recipes.quickstart import fast_precision
from tandem.recipes.switching import spread
from tandem.train import TrainConfig, build_optimizer, keep_freed_memory, param_groups

QUANTIZED = (4096, 4096)
FORMATS = ("E1M1", "E2M1", "E3M2", "E4M3", "E5M2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds of one work with and without, or by us and a peer, pair by pair.

    Attributes:
        other: what `seconds` is divided by, or divides; None where there is no peer.
    """

    name: str
    seconds: tuple[float, ...]
    other: tuple[float, ...] | None

    def cells(self, *, slower: bool) -> list[str]:
        """Name, milliseconds of both, and the median ratio with its range: ours by the other's, or the other's by ours."""
        milliseconds = f"{statistics.median(self.seconds) * 1e3:.1f}"
        if self.other is None:
            return [self.name, milliseconds, "not installed", ""]
        pairs = zip(self.seconds, self.other, strict=True)
        ratios = [ours / theirs if slower else theirs / ours for ours, theirs in pairs]
        return [self.name, milliseconds, f"{statistics.median(self.other) * 1e3:.1f}", spread(ratios)]


def measure_steps(config: ModelConfig, format: str = "E4M3", block: int = 128, pairs: int = 5) -> list[Cost]:
    """Training steps (forward, backward, AdamW) of 4 × 512 tokens with recipes, each in turn with one without."""
    keep_freed_memory()
    operand = Operand(format=format, block=block)
    recipes = {", ".join(targets): same_for(targets, operand) for targets in (PAPER_TARGETS, TARGETS)}
    plain = _step(config, Recipe())
    steps = {name: _step(config, recipe) for name, recipe in recipes.items()}
    for step in (plain, *steps.values()):
        step()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(pairs):
        for name, step in steps.items():
            times[name].append((seconds_of(step), seconds_of(plain)))
    return [
        Cost(name=name, seconds=tuple(a for a, _ in both), other=tuple(b for _, b in both))
        for name, both in times.items()
    ]


def _step(config: ModelConfig, recipe: Recipe) -> Callable[[], None]:
    torch.manual_seed(0)
    model = quantize_model(HybridLM(config), recipe).train()
    optimizer = build_optimizer(param_groups(model, TrainConfig().optimizer), TrainConfig().optimizer)
    ids_T = torch.randint(config.vocab_size, (ROWS * ROW_TOKENS,))
    layout = SequenceLayout.from_lengths([ROW_TOKENS] * ROWS, chunk=config.chunk)
    narrow = fast_precision() == "bfloat16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            total = model.loss(ids_T, layout, ids_T).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_quantizer(block: int = 128, pairs: int = 5) -> list[Cost]:
    """`quantize` of 4096 × 4096 float32 with block scales, beside qtorch's rounding without any, where it is installed."""
    x = torch.randn(QUANTIZED)
    peer = _qtorch() if importlib.util.find_spec("qtorch") else None
    rows = []
    for name in FORMATS:
        ours, other = [], []
        for counted in (False, *(True,) * pairs):
            mine = seconds_of(lambda name=name: quantize(x, name, block=block))
            theirs = seconds_of(lambda name=name: peer(x, name)) if peer else None
            if counted:
                ours.append(mine)
                other.append(theirs)
        rows.append(Cost(name=name, seconds=tuple(ours), other=tuple(other) if peer else None))
    return rows


def _qtorch() -> Callable[[Tensor, str], Tensor]:
    rounding = importlib.import_module("qtorch.quant").float_quantize

    def peer(x: Tensor, name: str) -> Tensor:
        format = parse_format(name)
        assert isinstance(format, FloatFormat)
        return rounding(x, format.exponent, format.mantissa, rounding="nearest")

    return peer
