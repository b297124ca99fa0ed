"""TransPoint schedules: after how many tokens of a document each TransMamba layer goes over from attention to its SSM.

A schedule is a cycle of TransPoints for 8,192 tokens that repeats over the `T` layers of a model (TransMamba, arXiv
2503.24067, Table 6). For another length they are scaled in proportion: V9 becomes {0, T/64, T/32, …, T/2, T}.
"""

from collections.abc import Sequence
from itertools import cycle, islice

SCHEDULE_LENGTH = 8192
SCHEDULES: dict[str, tuple[int, ...]] = {
    "attention": (8192,),
    "mamba": (0,),
    "hybrid": (0, 8192),
    "v1": (2048,),
    "v2": (4096,),
    "v3": (6144,),
    "v4": (3072, 4096, 5120),
    "v5": (2048, 3072, 4096),
    "v6": (512, 1024, 2048),
    "v7": (2048, 4096, 6144),
    "v8": (0, 1024, 2048, 6144, 8192),
    "v9": (0, 128, 256, 512, 1024, 2048, 4096, 8192),
}
"""The paper's V1 to V9, and the three kinds of model it compares with, as cycles for `SCHEDULE_LENGTH` tokens."""


def transpoints(schedule: str | Sequence[int], layers: int, length: int = SCHEDULE_LENGTH) -> tuple[int, ...]:
    """The TransPoint of each `T` layer: that many tokens of every document are mixed by attention, the rest by the SSM.

    >>> transpoints("v9", 8, 512)
    (0, 8, 16, 32, 64, 128, 256, 512)

    Args:
        schedule: a name of `SCHEDULES`, which is scaled to `length` and repeated, or one count of tokens a layer. One beyond
            the end of a document makes the layer pure attention there.
        layers: how many `T` layers there are; feed-forwards between them are not counted (the paper does not say).
        length: tokens that a named schedule is spread over.
    Raises:
        ValueError: an unknown name, a negative TransPoint, a list that is not one a layer, or a length below 1.
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise ValueError(
                f"schedule={schedule!r} is unknown; use one of {', '.join(SCHEDULES)}, or a list of TransPoints"
            )
        if length < 1:
            raise ValueError(f"schedule_length={length} must be 1 or more")
        return tuple(islice(cycle(round(point * length / SCHEDULE_LENGTH) for point in SCHEDULES[schedule]), layers))
    points = tuple(schedule)
    if len(points) != layers:
        raise ValueError(
            f"schedule={list(points)[:8]} has {len(points)} TransPoints for {layers} T layers; give one a layer"
        )
    if min(points, default=0) < 0:
        raise ValueError(f"schedule={list(points)[:8]} has the TransPoint {min(points)}; use 0 (no attention) or more")
    return points
