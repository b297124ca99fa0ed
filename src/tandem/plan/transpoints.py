"""Where a TransMamba layer should switch: its cost against its TransPoint, in operations or in seconds of this machine.

The paper (TransMamba, arXiv 2503.24067, Table 2) counts P² N operations for attention to a prefix of P tokens and N² for each
of the other T - P, with N the width of the model. The same form, with other factors, counts the operations that a layer needs
(`counted_cost`) and fits the time that they take (`tandem.plan.timing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.nn import SCHEDULES, ModelConfig, transpoints
from tandem.plan.memory import memory, recurrent_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class TransPointCost:
    """Cost of one layer: F(P) = P² N / c + (λ + κ) P N² + (T - P) N², where the plain formula has c = 1 and λ = κ = 0.

    It is least at P* = c (1 - λ - κ) N / 2, which is N / 2 for the plain formula.

    >>> paper = TransPointCost(width=4096, context=8192)
    >>> paper.optimum, round(paper.attention / paper.least, 3), round(paper.mamba / paper.least, 3)
    (2048.0, 2.286, 1.143)

    Attributes:
        width: N. context: T, in tokens.
        speed: c, operations of attention for the cost of one of the SSM; the paper measured 2.67.
        overhead: λ, what a token of the prefix costs attention whatever the length, in units of a token behind it.
        conversion: κ, what the Memory Converter takes for a token of the prefix, in the same units; a sequence that never
            leaves attention has nothing to convert.
        unit: what an operation of the formula costs the SSM: 1 counts those of the paper; or operations, or seconds.
    """

    width: int
    context: int
    speed: float = 1.0
    overhead: float = 0.0
    conversion: float = 0.0
    unit: float = 1.0

    def layer(self, transpoint: float) -> float:
        """Cost of a layer with this TransPoint; one beyond the sequence makes it pure attention."""
        prefix = min(transpoint, self.context)
        linear = self.overhead + (self.conversion if prefix < self.context else 0)
        tokens = linear * prefix + self.context - prefix
        return self.unit * (prefix**2 * self.width / self.speed + tokens * self.width**2)

    def schedule(self, points: Sequence[int]) -> float:
        """Mean cost of layers with these TransPoints."""
        return sum(map(self.layer, points)) / len(points)

    @property
    def attention(self) -> float:
        """Cost of a layer of nothing but attention."""
        return self.layer(self.context)

    @property
    def mamba(self) -> float:
        """Cost of a layer of nothing but the SSM."""
        return self.layer(0)

    @property
    def optimum(self) -> float:
        """P*, the TransPoint of the least cost, within the sequence."""
        turning = self.speed * (1 - self.overhead - self.conversion) * self.width / 2
        # Past the sequence, and where leaving out the converter pays for it, attention alone is best.
        return min(max(0.0, min(turning, self.context)), float(self.context), key=self.layer)

    @property
    def least(self) -> float:
        """Cost at the optimum: T N² - N³ / 4 for the plain formula."""
        return self.layer(self.optimum)


def paper_cost(config: ModelConfig, context: int) -> TransPointCost:
    """The paper's operations of a layer of this model.

    Raises:
        ValueError: a model without `T` layers.
    """
    if "T" not in config.layers:
        raise ValueError(
            f"model.pattern={config.pattern!r} has no T layers, so there are no TransPoints to plan; use e.g. transmamba-nano"
        )
    return TransPointCost(width=config.width, context=context)


def counted_cost(config: ModelConfig, context: int) -> TransPointCost:
    """The operations of a layer that depend on its TransPoint, as `TransMamba.flops` counts them.

    With the letters of `tandem.plan.parameters` and chunks of Q tokens: (G·N + I)·(P² + P) for attention, 2·I·N for each token
    that is converted, and 2·Q·(G·N + I) + 4·I·N behind the TransPoint, with 2·D·I for the gate where there only.

    Raises:
        ValueError: a model without `T` layers.
    """
    plain, shape = paper_cost(config, context), config.transmamba
    assert shape is not None  # the config has checked it
    pair = shape.groups * shape.state + shape.inner
    behind = 2 * shape.chunk * pair + 4 * shape.inner * shape.state
    behind += 2 * config.width * shape.inner if shape.gate == "ssm" else 0
    return replace(
        plain,
        speed=behind / (pair * config.width),
        overhead=pair / behind,
        conversion=2 * shape.inner * shape.state * shape.convert / behind,
        unit=behind / config.width**2,
    )


def named_schedules(context: int) -> dict[str, tuple[int, ...]]:
    """One cycle of every named schedule, spread over `context` tokens.

    >>> named_schedules(4096)["v4"]
    (1536, 2048, 2560)
    """
    return {name: transpoints(name, len(cycle), context) for name, cycle in SCHEDULES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class SwitchingLayer:
    """One `T` layer of a model.

    Attributes:
        layer: its place in the pattern, counted from 0. transpoint: P.
        operations: of the paper's formula, for a whole sequence.
        kv_bytes: keys and values of one sequence just before it switches, or at its end where it never does.
        state_bytes: its state and convolution window, whatever the length; all that is left behind the TransPoint.
    """

    layer: int
    transpoint: int
    operations: float
    kv_bytes: int
    state_bytes: int


def switching_layers(config: ModelConfig, context: int, *, value_bytes: int = 2) -> tuple[SwitchingLayer, ...]:
    """What each `T` layer of a model costs in a sequence of `context` tokens.

    Raises:
        ValueError: a model without `T` layers.
    """
    cost, shape = paper_cost(config, context), config.transmamba
    assert shape is not None  # the config has checked it
    places = [place for place, symbol in enumerate(config.layers) if symbol == "T"]
    kv_until = memory(config, value_bytes=value_bytes).kv_until
    return tuple(
        SwitchingLayer(
            layer=place,
            transpoint=transpoint,
            operations=cost.layer(transpoint),
            kv_bytes=per_token * min(transpoint, context),
            state_bytes=sum(recurrent_bytes(shape, value_bytes)),
        )
        for place, (transpoint, per_token) in zip(places, kv_until, strict=True)
    )
