"""Measures on this machine what decides where a TransMamba layer should switch.

Timed are, forward and backward and in the shape of the model's `T` layers, what a token of the prefix needs (attention with
its RoPE, the Memory Converter) and what one behind it needs (the scan, the projection of the gate), on documents of several
lengths. What all tokens need is left out. The time of n tokens is fitted by α n + a n² for attention, k n for the converter and b n for scan
and gate, and with those

    t(P) = a P² + (α + k) P + b (T - P)        P* = (b - α - k) / 2a        c = b / (a N)

which is a `TransPointCost` in seconds, with λ = α / b and κ = k / b.

Shapes: T tokens, D width, I = H P inner width, H heads, P head width, G groups (attention heads), N state width, W width of
an attention head.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tandem.nn import ModelConfig, SequenceLayout, TransMambaConfig, rotary_frequencies
from tandem.ops import causal_attention, convert_memory, fastest_dtype, linear, rotary, ssd_chunked
from tandem.plan.transpoints import TransPointCost, paper_cost

_ROUNDS = 5
_VALUES = {"cpu": 2**20, "cuda": 2**24}
"""Values of a batch, tokens × H·P, that are enough to keep a device busy."""
Seconds = Mapping[str, Mapping[int, float]]
"""Seconds of one document, forward and backward, by operation (attention, converter, scan, gate) and length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCost:
    """What a `T` layer's mixing costs here.

    Attributes:
        cost: fitted to the median times; in_rounds: to those of each round, which tells how far to trust it.
        seconds: the medians. skipped: lengths that would take too long here; beyond the longest the fit is extrapolated.
        device, dtype, threads: where and in which format it was measured.
    """

    cost: TransPointCost
    in_rounds: tuple[TransPointCost, ...]
    seconds: Seconds
    skipped: tuple[int, ...]
    device: str
    dtype: str
    threads: int

    @property
    def where(self) -> str:
        """The device, with the threads of a CPU."""
        return self.device if self.device != "cpu" else f"cpu, {self.threads} thread{'s' * (self.threads > 1)}"


def measure_transpoints(
    config: ModelConfig, *, context: int, device: torch.device | str = "cpu", seconds: float = 40
) -> MeasuredCost:
    """Times the operations of a `T` layer in interleaved rounds, after a warm-up; bfloat16 on a GPU, else float32.

    Documents are all of the context, a half, a quarter, an eighth and a sixteenth of it, and a chunk of the scan or more.

    Args:
        context: T of the cost that is fitted.
        seconds: about how long it may take. Long documents that would take more are left out, but never all but two.
    Raises:
        ValueError: a model without `T` layers, a context below 16, or no time.
    """
    plain = paper_cost(config, context)
    if context < 16 or not seconds > 0:
        raise ValueError(f"context={context} must be 16 or more and seconds={seconds} above 0 to measure TransPoints")
    device = torch.device(device)
    dtype = fastest_dtype(device)
    lengths = [n for n in (context // part for part in (16, 8, 4)) if n >= config.chunk] + [context // 2, context]
    cases = _affordable(config, lengths, seconds, device, dtype)
    rounds = [{op: {n: run() for n, run in runs.items()} for op, runs in cases.items()} for _ in range(_ROUNDS)]
    medians = {op: {n: statistics.median(times[op][n] for times in rounds) for n in runs} for op, runs in cases.items()}
    return MeasuredCost(
        cost=fit_cost(plain, medians),
        in_rounds=tuple(fit_cost(plain, times) for times in rounds),
        seconds=medians,
        skipped=tuple(n for n in lengths if n not in medians["attention"]),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )


def fit_cost(plain: TransPointCost, seconds: Seconds) -> TransPointCost:
    """The cost in seconds that comes nearest to measured times, by relative error.

    Args:
        plain: the paper's formula for the same width and context.
        seconds: of one document; two lengths or more of each operation, and no gate where all tokens have one or none.
    """
    linear, square = _coefficients(seconds["attention"], (1, 2))
    if linear < 0 or square <= 0:  # no such part shows in these times
        linear, (square,) = 0.0, _coefficients(seconds["attention"], (2,))
    behind = sum(_coefficients(seconds[op], (1,))[0] for op in ("scan", "gate") if op in seconds)
    (conversion,) = _coefficients(seconds["converter"], (1,))
    return TransPointCost(
        width=plain.width,
        context=plain.context,
        speed=behind / (square * plain.width),
        overhead=linear / behind,
        conversion=conversion / behind,
        unit=behind / plain.width**2,
    )


def _coefficients(seconds: Mapping[int, float], powers: Sequence[int]) -> list[float]:
    """Factors of powers of the length that give the times with the least squared relative error."""
    lengths, times = np.array(list(seconds), dtype=float), np.array(list(seconds.values()))
    columns = np.stack([lengths**power for power in powers], axis=1)
    scale = columns.max(axis=0)
    return (np.linalg.lstsq(columns / scale / times[:, None], np.ones(len(times)))[0] / scale).tolist()


def _affordable(
    config: ModelConfig, lengths: Sequence[int], seconds: float, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[int, Callable[[], float]]]:
    """What to time, by operation and length, warmed up: as many lengths, short ones first, as the time allows."""
    shape = config.transmamba
    assert shape is not None  # the config has checked it
    cases: defaultdict[str, dict[int, Callable[[], float]]] = defaultdict(dict)
    begin, of_round, expected = time.perf_counter(), 0.0, 0.0
    for index, length in enumerate(lengths):
        left = seconds - (time.perf_counter() - begin)
        if index > 1 and _ROUNDS * of_round + (_ROUNDS + 2) * expected > left:
            break
        documents = max(1, _VALUES[device.type] // (shape.inner * length))
        layout = SequenceLayout.from_lengths([length] * documents, shape.chunk, device=device)
        took: dict[str, float] = {}
        for op, run in _runs(shape, config.width, layout, dtype).items():
            run()
            took[op] = documents * run()
            cases[op][length] = run
        of_round += sum(took.values())
        # The most that twice the length can take: four times the pairs, and twice the tokens for all else.
        expected = sum((4 if op == "attention" else 2) * spent for op, spent in took.items())
    return dict(cases)


def _runs(
    shape: TransMambaConfig, width: int, layout: SequenceLayout, dtype: torch.dtype
) -> dict[str, Callable[[], float]]:
    """The operations on random tensors; each call gives the seconds of one document."""
    T, H, G, P, N = layout.tokens, shape.heads, shape.groups, shape.head_width, shape.state
    generator = torch.Generator(layout.device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=layout.device)
    q_TGW, k_TGW, v_TGW = (normal(T, G, shape.attention_width, dtype=dtype).requires_grad_() for _ in range(3))
    x_THP, B_TGN, C_TGN = (normal(T, *sizes, dtype=dtype).requires_grad_() for sizes in ((H, P), (G, N), (G, N)))
    dt_TH, A_H = normal(T, H).sub_(4).exp_().requires_grad_(), normal(H).exp_().neg_().requires_grad_()
    D_H, start_SHPN = normal(H).requires_grad_(), normal(layout.documents, H, P, N).requires_grad_()
    scan = (x_THP, dt_TH, A_H, B_TGN, C_TGN)
    frequency_K = rotary_frequencies(N, shape.rotary_base, None, layout.device)

    def attend() -> Tensor:
        q, k = q_TGW, k_TGW
        if shape.rope_mode == "attn":
            q, k = (rotary(t, layout.position_T, frequency_K) for t in (q, k))
        return causal_attention(q, k, v_TGW, layout, shape.scale)

    ops: dict[str, tuple[Callable[[], Tensor], tuple[Tensor, ...]]] = {
        "attention": (attend, (q_TGW, k_TGW, v_TGW)),
        "converter": (lambda: convert_memory(B_TGN, x_THP, dt_TH, A_H, None, layout), (B_TGN, x_THP, dt_TH, A_H)),
        "scan": (lambda: ssd_chunked(*scan, layout, D_H, start_SHPN)[0], (*scan, D_H, start_SHPN)),
    }
    if shape.gate == "ssm":
        u_TD, z_ID = (normal(rows, width, dtype=dtype).requires_grad_() for rows in (T, shape.inner))
        ops["gate"] = (lambda: linear(u_TD, z_ID), (u_TD, z_ID))
    return {op: _timed(forward, inputs, layout) for op, (forward, inputs) in ops.items()}


def _timed(forward: Callable[[], Tensor], inputs: Sequence[Tensor], layout: SequenceLayout) -> Callable[[], float]:
    """Forward and backward, as seconds of one document of the batch."""
    gradient = torch.ones_like(forward())

    def run() -> float:
        _wait(layout.device)
        begin = time.perf_counter()
        torch.autograd.grad(forward(), inputs, gradient)
        _wait(layout.device)
        return (time.perf_counter() - begin) / layout.documents

    return run


def _wait(device: torch.device) -> None:
    """A GPU is given work ahead of time; the clock stops when it has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
