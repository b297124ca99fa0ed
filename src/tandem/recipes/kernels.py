"""Ops of a hybrid layer on a GPU: is each right, how long does it take, how long does PyTorch's form of it. Start at `measure`.

An op is first compared with itself in float64 on a small shape. Then it runs on bfloat16 inputs of the full shape, several
sets in turn so that none lies in a cache, timed by events on the device, which is kept busy until all runs are queued: what
the CPU takes to issue an op is left out, as a CUDA graph would. Its floor is the larger of two times: operations
over the measured rate of a large matrix product, and bytes (each input read once, each result written once) over the
measured rate of a copy.

Shapes: T tokens, S documents, D width, H heads, G groups, P head width, N state width, E experts, K choices, F expert width,
V vocabulary.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tandem.ops import (
    SequenceLayout,
    blockwise_cross_entropy,
    causal_attention,
    causal_conv,
    convert_memory,
    rms_norm,
    routed_experts,
    ssd_chunked,
    swiglu,
)
from tandem.ops.triton.support import without_triton
from tandem.recipes.benchmark import Ceiling

_RUNS = 20
_ROTATED = 1 << 28  # bytes of inputs that are used in turn: several times the cache of a GPU
_ALIKE = 2e-2  # relative distance of two forms in bfloat16
_PATIENCE = 2000.0  # milliseconds after which PyTorch's form is not run again


class Work(NamedTuple):
    """A function of some tensors.

    Attributes:
        leaves: its inputs, all of which have gradients.
        flops: operations of the forward pass, and of the backward pass.
    """

    run: Callable[..., Tensor]
    leaves: list[Tensor]
    flops: tuple[float, float] = (0.0, 0.0)


Make = Callable[[str], Work]


class Case(NamedTuple):
    """One op at one shape; `small` is the shape at which it is checked.

    Attributes:
        kernel: whether it has a form of ours and another of PyTorch.
        peer: another library's form, of the same inputs as the op at this shape.
    """

    op: str
    shape: str
    make: Make
    small: Make
    kernel: bool = True
    peer: Callable[..., Tensor] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelRow:
    """What was measured of one op in one direction, in milliseconds, run by run.

    Attributes:
        error: largest ‖out - exact‖ / ‖exact‖ of the result and the gradients, on the small shape.
        ours: of the op as it is; empty where it did not fit into memory.
        plain: of PyTorch's form; empty where that is the same, or did not fit.
        floor: the least time that the ceiling allows.
        bound: whether that is because of products or of copies.
        peer: of another library's form; empty where there is none, or where it did not fit.
    """

    op: str
    shape: str
    error: float
    ours: tuple[float, ...]
    plain: tuple[float, ...]
    floor: float
    bound: str
    peer: tuple[float, ...] = ()

    def cells(self) -> list[str]:
        """Op, shape, error, our time with its range, share of the ceiling, PyTorch's time and ratio, the peer's likewise."""
        about = [self.op, self.shape, f"{self.error:.1e}"]
        others = [cell for times in (self.plain, self.peer) for cell in self._beside(times)]
        if not self.ours:
            return [*about, "out of memory", "–", *others]
        median = statistics.median(self.ours)
        time = f"{median:.3f} ({min(self.ours):.3f}–{max(self.ours):.3f})"
        return [*about, time, f"{self.floor / median:.0%} of {self.bound}", *others]

    def _beside(self, times: tuple[float, ...]) -> tuple[str, str]:
        if not times:
            return "–", "–"
        theirs = statistics.median(times)
        return f"{theirs:.3f}", f"{theirs / statistics.median(self.ours):.2f}" if self.ours else "–"


def measure(device: str = "cuda") -> tuple[Ceiling, Iterator[KernelRow]]:
    """The ceiling of the device, and rows as they are measured.

    Raises:
        ValueError: there is no such device.
    """
    require_gpu(device)
    ceiling = measure_ceiling()
    return ceiling, (row for case in cases() for row in _rows(case, ceiling))


def require_gpu(device: str) -> None:
    """Raises ValueError where there is no such GPU to time kernels on."""
    if device != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} cannot time kernels; run on a machine with an NVIDIA GPU and a CUDA build of PyTorch, "
            "with --device cuda"
        )


def cases() -> list[Case]:
    """All ops, at the shapes of docs/performance.md."""
    scan, small_scan = partial(_scan, 64, 64, 128, 8), partial(_scan, 4, 64, 128, 2, [300, 1, 83])
    memory, small_memory = partial(_memory, 64, 64, 128, 8), partial(_memory, 4, 64, 128, 2, [300, 1, 83])
    routed = "16,384 tokens, 32 experts top-2, 2,048 → 1,024"
    return [
        Case("conv + SiLU", "8 × 4,096 × 6,144", partial(_conv, [4096] * 8, 6144), partial(_conv, [300, 1, 83], 200)),
        Case("gated norm", "32,768 × 4,096, 8 groups", partial(_norm, 32_768, 4096, 8), partial(_norm, 301, 512, 4)),
        Case("norm", "32,768 × 2,048", partial(_norm, 32_768, 2048, 0), partial(_norm, 301, 500, 0)),
        Case("SwiGLU", "32,768 × 2 × 1,024", partial(_swiglu, 32_768, 1024), partial(_swiglu, 301, 200)),
        Case("experts", routed, partial(_experts, 16_384, 32, 2, 2048, 1024), partial(_experts, 301, 8, 2, 64, 32)),
        Case(
            "cross-entropy",
            "8,192 tokens, 1,024 → 49,152",
            partial(_cross_entropy, 8192, 1024, 49_152),
            partial(_cross_entropy, 301, 64, 1000),
        ),
        Case(
            "attention (SDPA)",
            "8 × 4,096, 32/8 heads × 128",
            partial(_attention, [4096] * 8, 32, 8, 128),
            partial(_attention, [200, 200], 4, 2, 64),
            kernel=False,
        ),
        Case(
            "scan",
            "8 × 4,096, 64 heads × 64, N 128, G 8",
            partial(scan, [4096] * 8),
            small_scan,
            peer=partial(mamba_ssm_scan, 8),
        ),
        Case(
            "scan",
            "1 × 262,144, 64 heads × 64, N 128, G 8",
            partial(scan, [262_144]),
            small_scan,
            peer=partial(mamba_ssm_scan, 1),
        ),
        Case("memory converter", "8 × 4,096, 64 heads × 64, N 128, G 8", partial(memory, [4096] * 8), small_memory),
        Case("memory converter", "1 × 262,144, 64 heads × 64, N 128, G 8", partial(memory, [262_144]), small_memory),
    ]


def has_peer() -> bool:
    """Whether mamba_ssm can be imported."""
    return importlib.util.find_spec("mamba_ssm") is not None


def mamba_ssm_scan(documents: int, *leaves: Tensor) -> Tensor:
    """mamba_ssm's scan of so many documents of one length, in chunks of 256 tokens as its `Mamba2` has them."""
    form: Any = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    x, dt, A, B, C, D = leaves
    x, dt, B, C = (t.unflatten(0, (documents, -1)) for t in (x, dt, B, C))
    return form.mamba_chunk_scan_combined(x, dt, A, B, C, 256, D).flatten(0, 1)


def relative_error(make: Make, device: str, form: Callable[..., Tensor] | None = None) -> float:
    """Largest relative distance of the result and the gradients from those of the same op in float64.

    Args:
        form: what is compared with the op in float64; the op itself when None.

    Returns:
        NaN where a result has one.
    """
    torch.manual_seed(0)
    run, leaves, _ = make(device)
    outcomes = []
    for call, given in ((form or run, leaves), (run, [leaf.double() for leaf in leaves])):
        given = [leaf.detach().requires_grad_() for leaf in given]
        y = call(*given)
        outcomes.append([y.detach(), *torch.autograd.grad(y.double().sin().sum(), given)])
    errors = [(have.double() - want).norm() / want.norm() for have, want in zip(*outcomes, strict=True)]
    return float(torch.stack(errors).max())


def _rows(case: Case, ceiling: Ceiling) -> Iterator[KernelRow]:
    error = relative_error(case.small, "cuda")
    work = case.make("cuda")
    given = sum(leaf.numel() * leaf.element_size() for leaf in work.leaves)
    sets = [work.leaves] + [case.make("cuda").leaves for _ in range(min(7, 2 * _ROTATED // given))]
    for leaf in (leaf for leaves in sets for leaf in leaves):
        leaf.requires_grad_()
    peer = case.peer if has_peer() else None
    with torch.no_grad():
        y = work.run(*work.leaves)
        if peer:
            _require_alike(y, peer(*work.leaves), case)
    result, pull = y.numel() * y.element_size(), torch.randn_like(y)
    del y
    for backward in (False, True):
        call = partial(_call, work.run, pull if backward else None)
        flops = sum(work.flops) if backward else work.flops[0]
        moved = 3 * given + 2 * result if backward else given + result
        times = {"matmul": flops / ceiling.matmul * 1e3, "copy": moved / ceiling.read * 1e3}
        bound = max(times, key=lambda name: times[name])
        ours = _where_it_fits(call, sets)
        yield KernelRow(
            op=f"{case.op}, {'forward + backward' if backward else 'forward'}",
            shape=case.shape,
            error=error,
            ours=ours,
            plain=_plain(call, sets) if case.kernel else (),
            floor=times[bound],
            bound=bound,
            peer=_where_it_fits(partial(_call, peer, pull if backward else None), sets) if peer else (),
        )


def _require_alike(ours: Tensor, theirs: Tensor, case: Case) -> None:
    distance = float((ours.float() - theirs.float()).norm() / ours.float().norm())
    if not distance < _ALIKE:
        raise ValueError(
            f"{case.op}, {case.shape}: the peer's result is {distance:.1e} from ours, so its time says nothing"
        )


def _call(run: Callable[..., Tensor], pull: Tensor | None, leaves: list[Tensor]) -> None:
    with nullcontext() if pull is not None else torch.no_grad():
        y = run(*leaves)
    if pull is not None:
        torch.autograd.grad(y, leaves, pull)


def _plain(call: Callable[[list[Tensor]], Any], sets: list[list[Tensor]]) -> tuple[float, ...]:
    with without_triton():
        return _where_it_fits(call, sets, _PATIENCE)


def _where_it_fits(
    call: Callable[[list[Tensor]], Any], sets: list[list[Tensor]], patience: float | None = None
) -> tuple[float, ...]:
    """`milliseconds`, or nothing where the memory of the device is too small."""
    try:
        return milliseconds(call, sets, patience)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return ()


def milliseconds(
    call: Callable[[list[Tensor]], Any], sets: list[list[Tensor]], patience: float | None = None, runs: int = _RUNS
) -> tuple[float, ...]:
    """Time of each of `runs` runs on the device, after a warm-up; of 3 or more if all would take longer than `patience`."""
    for leaves in (sets * 3)[:3]:
        call(leaves)
    if patience is not None:
        runs = max(3, min(runs, int(patience / _timed(call, sets[:1])[0])))
    return _timed(call, [sets[n % len(sets)] for n in range(runs)])


def _timed(call: Callable[[list[Tensor]], Any], rounds: list[list[Tensor]]) -> tuple[float, ...]:
    _head_start()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in rounds]
    for leaves, (begin, end) in zip(rounds, marks, strict=True):
        begin.record()
        call(leaves)
        end.record()
    torch.cuda.synchronize()
    return tuple(begin.elapsed_time(end) for begin, end in marks)


def _head_start() -> None:
    """Some 20 ms of products, while the CPU queues what is to be timed."""
    a = torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(15):
        torch.mm(a, a)


def measure_ceiling() -> Ceiling:
    """A product of 8,192 × 8,192 × 8,192, and the bytes that a copy of 2 GiB reads and writes."""
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    source, target = (torch.randn(1 << 29, device="cuda") for _ in range(2))
    product = statistics.median(milliseconds(lambda _: torch.mm(a, b), [[]]))
    copy = statistics.median(milliseconds(lambda _: target.copy_(source), [[]]))
    return Ceiling(matmul=2e3 * 8192**3 / product, read=2e3 * source.nbytes / copy, value_bytes=a.itemsize)


def _narrow(*shape: int, device: str) -> Tensor:
    return torch.randn(shape, device=device).to(torch.bfloat16 if device == "cuda" else torch.float32)


def _conv(lengths: list[int], channels: int, device: str) -> Work:
    layout = SequenceLayout.from_lengths(lengths, device=device)
    x_TC = _narrow(sum(lengths), channels + 128, device=device)[:, 128:]  # a slice of a projection
    leaves = [x_TC, torch.randn(channels, 4, device=device) / 2, torch.randn(channels, device=device)]
    return Work(lambda x, weight, bias: causal_conv(x, weight, bias, layout, silu=True), leaves)


def _norm(tokens: int, width: int, groups: int, device: str) -> Work:
    """Gated by a slice of a projection in `groups` parts; plain when there are none."""
    leaves = [_narrow(tokens, width, device=device), torch.randn(width, device=device)]
    if not groups:
        return Work(lambda x, weight: rms_norm(x, weight, 1e-5), leaves)
    gate = _narrow(tokens, width + 128, device=device)[:, 128:]
    return Work(lambda x, weight, gate: rms_norm(x, weight, 1e-5, groups=groups, gate=gate), [*leaves, gate])


def _swiglu(tokens: int, width: int, device: str) -> Work:
    return Work(swiglu, [_narrow(tokens, 2 * width, device=device)])


def _experts(T: int, E: int, K: int, D: int, F: int, device: str) -> Work:
    expert_TK = torch.rand(T, E, device=device).topk(K).indices
    leaves = [
        _narrow(T, D, device=device),
        torch.rand(T, K, device=device),
        _narrow(E, D, 2 * F, device=device) / D**0.5,
        _narrow(E, F, D, device=device) / F**0.5,
    ]
    forward = 6.0 * T * K * D * F
    return Work(
        lambda x, weight, *matrices: routed_experts(x, expert_TK, weight, *matrices), leaves, (forward, 2 * forward)
    )


def _cross_entropy(T: int, D: int, V: int, device: str) -> Work:
    targets_T, weights_T = torch.randint(0, V, (T,), device=device), torch.full((T,), 1 / T, device=device)
    leaves = [_narrow(T, D, device=device), _narrow(V, D, device=device) / D**0.5]
    forward = 2.0 * T * D * V
    return Work(lambda x, head: blockwise_cross_entropy(x, head, targets_T, weights_T), leaves, (forward, 2 * forward))


def _attention(lengths: list[int], heads: int, kv_heads: int, width: int, device: str) -> Work:
    layout = SequenceLayout.from_lengths(lengths, device=device)
    leaves = [_narrow(sum(lengths), n, width, device=device) for n in (heads, kv_heads, kv_heads)]
    forward = 4.0 * heads * width * sum(n * (n + 1) / 2 for n in lengths)
    return Work(lambda q, k, v: causal_attention(q, k, v, layout), leaves, (forward, 2.5 * forward))


def _scan(heads: int, width: int, state: int, groups: int, lengths: list[int], device: str) -> Work:
    layout = SequenceLayout.from_lengths(lengths, device=device)
    tokens = sum(lengths)
    leaves = [
        _narrow(tokens, heads, width, device=device),
        *_steps(tokens, heads, device),
        *(_narrow(tokens, groups, state, device=device) / state**0.5 for _ in range(2)),
        torch.ones(heads, device=device),
    ]
    inner = heads * width
    forward = tokens * (2.0 * layout.chunk * (groups * state + inner) + 4 * inner * state)
    run = lambda x, dt, A, B, C, D: ssd_chunked(x, dt, A, B, C, layout, D)[0]  # noqa: E731
    return Work(run, leaves, (forward, 2 * forward))


def _memory(heads: int, width: int, state: int, groups: int, lengths: list[int], device: str) -> Work:
    layout = SequenceLayout.from_lengths(lengths, device=device)
    tokens = sum(lengths)
    leaves = [
        _narrow(tokens, groups, state, device=device) / state**0.5,
        _narrow(tokens, heads, width, device=device),
        *_steps(tokens, heads, device),
    ]
    forward = 2.0 * tokens * heads * width * state
    return Work(lambda K, V, dt, A: convert_memory(K, V, dt, A, None, layout), leaves, (forward, 2 * forward))


def _steps(tokens: int, heads: int, device: str) -> tuple[Tensor, Tensor]:
    """Step sizes and decay rates as a fresh model's."""
    return torch.rand(tokens, heads, device=device) * 0.1 + 1e-3, -1 - 15 * torch.rand(heads, device=device)
