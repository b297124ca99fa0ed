"""The memory converter's kernels against its sum in float64, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from near import assert_near
from tandem.ops import FixedLayout, SequenceLayout, convert_memory, convert_memory_direct, ssd_reference

kernels = pytest.importorskip("tandem.ops.triton.memory", reason="needs Triton: pip install triton")
walks = pytest.importorskip("tandem.ops.triton.walks", reason="needs Triton: pip install triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

Values = list[Tensor | None]
Convert = Callable[..., Tensor]


def inputs(
    lengths: list[int], widths: tuple[int, int, int, int], device: str, dtype: torch.dtype = torch.float32
) -> Values:
    """K, V, dt, A and a state before; K and V are slices of one projection."""
    H, P, G, N = widths
    torch.manual_seed(0)
    projected = torch.randn(sum(lengths), G * N + H * P + 3).to(dtype)
    K, V, _ = projected.to(device).split([G * N, H * P, 3], dim=-1)
    dt = torch.nn.functional.softplus(torch.randn(sum(lengths), H) - 1)
    dt, A, state = (t.to(device) for t in (dt, -torch.rand(H) * 3, torch.randn(len(lengths), H, P, N)))
    return [K.unflatten(-1, (G, N)), V.unflatten(-1, (H, P)), dt, A, state]


def outcome(convert: Convert, values: Values, lengths: list[int], dtype: torch.dtype | None = None) -> Values:
    """The state and the gradients of all that is given."""
    leaves = [None if v is None else v.detach().to(dtype or v.dtype).requires_grad_() for v in values]
    layout = SequenceLayout.from_lengths(lengths, chunk=64, device=leaves[2].device)
    end_SHPN = convert(*leaves, layout)
    torch.manual_seed(1)  # a loss of random weights, in numbers that bfloat16 holds
    (end_SHPN * torch.randn(end_SHPN.shape).bfloat16().to(end_SHPN.device)).sum().backward()
    return [end_SHPN.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


def ours(K: Tensor, V: Tensor, dt: Tensor, A: Tensor, state: Tensor | None, layout: SequenceLayout) -> Tensor:
    assert kernels.convert_is_supported(K, V, dt, layout)
    return kernels.convert(K, V, dt, A, layout, state)


def recurrence(K: Tensor, V: Tensor, dt: Tensor, A: Tensor, state: Tensor | None, layout: SequenceLayout) -> Tensor:
    return ssd_reference(V, dt, A, K, torch.zeros_like(K), layout, None, state)[1]


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.sampled_from([1, 5, 32, 45]), min_size=1, max_size=3),
    heads=st.sampled_from([(2, 1), (2, 2), (4, 2)]),
    widths=st.sampled_from([(3, 5), (16, 16), (20, 8)]),
    starts=st.booleans(),
)
def test_equals_the_recurrence(
    device: str, lengths: list[int], heads: tuple[int, int], widths: tuple[int, int], starts: bool
):
    values = inputs(lengths, (heads[0], widths[0], heads[1], widths[1]), device)
    values[4] = values[4] if starts else None
    assert_near(outcome(ours, values, lengths), outcome(recurrence, values, lengths, torch.float64), 1e-5)


@pytest.mark.parametrize(("programs", "starts"), [(1, True), (10**6, False)])
def test_long_documents_are_walked_in_segments_and_groups_in_blocks(
    monkeypatch: pytest.MonkeyPatch, device: str, programs: int, starts: bool
):
    monkeypatch.setattr(walks, "_SHORTEST", 32)
    monkeypatch.setattr(walks, "_WALKS", 10**6)
    monkeypatch.setattr(walks, "_GRADIENTS", programs)
    monkeypatch.setattr(kernels, "_CHUNKS", 2)  # so that the sums along a document take several blocks
    values = inputs(lengths := [230, 1, 64], (4, 4, 2, 4), device)
    values[4] = values[4] if starts else None
    assert_near(outcome(ours, values, lengths), outcome(convert_memory_direct, values, lengths, torch.float64), 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_only_what_a_head_remembers_is_read(device: str):
    values = inputs(lengths := [1100, 40], (4, 4, 2, 4), device)
    values[2][:] = 0.5
    values[3][:] = -torch.tensor([0.0, 1e-3, 0.25, 500.0])  # the third forgets in 832 tokens, the last in one
    got = outcome(ours, values, lengths)
    assert_near(got, outcome(convert_memory_direct, values, lengths, torch.float64), 1e-5)
    values[1][0] = torch.inf  # which a walk that reads it carries as NaN from token to token
    end_SHPN = ours(*values, SequenceLayout.from_lengths(lengths, device=device))
    assert end_SHPN[0].isfinite().all((1, 2)).tolist() == [False, False, True, True]


def test_steps_of_zero_neither_decay_nor_add(device: str):
    values = inputs(lengths := [40, 9], (2, 16, 1, 16), device)
    values[2][10:40] = 0
    got = outcome(ours, values, lengths)
    assert_near(got, outcome(convert_memory_direct, values, lengths, torch.float64), 1e-5)
    kept = torch.cat([torch.arange(10), torch.arange(40, 49)]).to(device)
    short = [v[kept] for v in values[:3]] + values[3:]
    assert_near(got[:1], outcome(convert_memory_direct, short, [10, 9], torch.float64)[:1], 1e-5)


def test_a_prefix_that_is_forgotten_costs_no_digits(device: str):
    values = inputs(lengths := [200], (2, 16, 1, 16), device)
    values[2] = values[2] * 1e-2
    values[2][100] = 1e4
    values[1][100] *= 1e-4  # what this token adds would drown the others
    assert_near(outcome(ours, values, lengths)[:1], outcome(recurrence, values, lengths, torch.float64)[:1], 1e-5)


def test_the_op_takes_the_kernels(device: str):
    values = inputs([33, 4], (2, 16, 1, 16), device, torch.float16)
    layout = SequenceLayout.from_lengths([33, 4], device=device)
    assert torch.equal(convert_memory(*values, layout), ours(*values, layout))
    (problem,) = vars(layout)["held"]  # the tables live as long as the layout
    assert problem is kernels.problem_of(values[1], values[0], layout.lengths)


def test_what_the_kernels_do_not_take():
    layout = SequenceLayout.from_lengths([3])
    K, V, dt = torch.empty(3, 1, 16), torch.empty(3, 4, 16), torch.empty(3, 4)
    assert kernels.convert_is_supported(K, V, dt, layout)
    assert not kernels.convert_is_supported(K.bfloat16(), V, dt, layout)
    assert not kernels.convert_is_supported(K, V[:, :2], dt, layout)
    assert not kernels.convert_is_supported(torch.empty(3, 1, 1024), V, dt, layout)
    assert not kernels.convert_is_supported(K, V, dt, FixedLayout.of(layout, 2))


@needs_gpu
@pytest.mark.parametrize(
    ("lengths", "widths", "dtype", "bound"),
    [
        ([130, 1, 64, 300], (8, 64, 2, 128), torch.bfloat16, 1e-2),
        ([1000, 3000], (16, 64, 1, 128), torch.bfloat16, 1e-2),
        ([4096] * 2, (64, 64, 8, 128), torch.bfloat16, 1e-2),
        ([700, 33], (4, 48, 2, 80), torch.float16, 1e-2),
        ([700, 33], (4, 128, 2, 128), torch.bfloat16, 1e-2),
        ([700, 33], (4, 64, 2, 256), torch.bfloat16, 1e-2),
        ([700, 33], (4, 64, 2, 128), torch.float32, 1e-5),
        ([12_000, 1, 5000], (4, 64, 2, 128), torch.bfloat16, 1e-2),
        ([262_144], (4, 64, 2, 128), torch.bfloat16, 1e-2),
    ],
)
def test_on_a_gpu(lengths: list[int], widths: tuple[int, int, int, int], dtype: torch.dtype, bound: float):
    values = inputs(lengths, widths, "cuda", dtype)
    values[2] = values[2] * 0.1  # so that more than a few tokens are remembered
    first, again = (outcome(ours, values, lengths) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.use_deterministic_algorithms(False)  # the reference is PyTorch's own, which would warn
    assert_near(first, outcome(convert_memory, values, lengths, torch.float64), bound)
