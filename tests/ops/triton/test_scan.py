"""The scan's kernels against the recurrence in float64, forward and backward."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from near import assert_near
from tandem.ops import FixedLayout, SequenceLayout, ssd_chunked, ssd_reference

kernels = pytest.importorskip("tandem.ops.triton.scan", reason="needs Triton: pip install triton")
walks = pytest.importorskip("tandem.ops.triton.walks", reason="needs Triton: pip install triton")
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # above the diagonal, not kept
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

Scan = Callable[..., tuple[Tensor, Tensor]]
Values = list[Tensor | None]


def inputs(
    lengths: list[int], widths: tuple[int, int, int, int], device: str, dtype: torch.dtype = torch.float32
) -> Values:
    """x, dt, A, B, C, D and an initial state; x, B and C are slices of one projection."""
    H, P, G, N = widths
    torch.manual_seed(0)
    projected = torch.randn(sum(lengths), H * P + 2 * G * N + 3).to(dtype)
    x, B, C, _ = projected.to(device).split([H * P, G * N, G * N, 3], dim=-1)
    dt = torch.nn.functional.softplus(torch.randn(sum(lengths), H) - 1)
    rest = (dt, -torch.rand(H) * 3, torch.randn(H), torch.randn(len(lengths), H, P, N))
    dt, A, D, state = (t.to(device) for t in rest)
    return [x.unflatten(-1, (H, P)), dt, A, B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N)), D, state]


def outcome(scan: Scan, values: Values, lengths: list[int], dtype: torch.dtype | None = None) -> list[Tensor | None]:
    """y, the final state and the gradients of all that is given."""
    leaves = [None if v is None else v.detach().to(dtype or v.dtype).requires_grad_() for v in values]
    layout = SequenceLayout.from_lengths(lengths, chunk=64, device=leaves[1].device)
    results = scan(*leaves[:5], layout, *leaves[5:])
    torch.manual_seed(1)  # a loss of random weights, in numbers that bfloat16 holds
    weights = [torch.randn(result.shape).bfloat16().to(result.device) for result in results]
    sum((result * weight).sum() for result, weight in zip(results, weights, strict=True)).backward()
    return [*(result.detach() for result in results), *(None if leaf is None else leaf.grad for leaf in leaves)]


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.sampled_from([1, 5, 32, 45]), min_size=1, max_size=3),
    heads=st.sampled_from([(2, 1), (2, 2), (4, 2)]),
    widths=st.sampled_from([(3, 5), (16, 16), (20, 8)]),
    skips=st.booleans(),
    starts=st.booleans(),
)
def test_equals_the_reference(
    device: str, lengths: list[int], heads: tuple[int, int], widths: tuple[int, int], skips: bool, starts: bool
):
    values = inputs(lengths, (heads[0], widths[0], heads[1], widths[1]), device)
    values[5:] = values[5] if skips else None, values[6] if starts else None
    got = outcome(kernels.scan, values, lengths)
    assert_near(got, outcome(ssd_reference, values, lengths, torch.float64), 1e-5)


@pytest.mark.parametrize(("programs", "starts"), [(1, True), (10**6, False)])
def test_long_documents_are_walked_in_segments_and_groups_in_blocks(
    monkeypatch: pytest.MonkeyPatch, device: str, programs: int, starts: bool
):
    monkeypatch.setattr(walks, "_SHORTEST", 32)
    monkeypatch.setattr(walks, "_WALKS", 10**6)
    monkeypatch.setattr(walks, "_GRADIENTS", programs)
    values = inputs(lengths := [100, 1, 64], (4, 4, 2, 4), device)
    values[6] = values[6] if starts else None
    got = outcome(kernels.scan, values, lengths)
    assert_near(got, outcome(ssd_reference, values, lengths, torch.float64), 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_only_what_a_head_remembers_is_walked_to_find_states(monkeypatch: pytest.MonkeyPatch, device: str):
    monkeypatch.setattr(walks, "_SHORTEST", 1150)
    monkeypatch.setattr(walks, "_WALKS", 10**6)
    values = inputs(lengths := [2300, 40], (4, 4, 2, 4), device)
    values[1][:] = 0.5
    values[2][:] = -torch.tensor([0.0, 1e-3, 0.2, 500.0])  # the third forgets in 1040 tokens, the last in one
    got = outcome(kernels.scan, values, lengths)
    assert_near(got, outcome(ssd_reference, values, lengths, torch.float64), 1e-5)
    values[0][0] = torch.inf  # which a walk that reads it carries as NaN from token to token
    y_THP, _ = kernels.scan(*values[:5], SequenceLayout.from_lengths(lengths, device=device), *values[5:])
    assert y_THP[1200:2300].isfinite().all(2).all(0).tolist() == [False, False, True, True]


def test_wide_heads_are_walked_in_two_parts(device: str):
    values = inputs(lengths := [40], (1, 128, 1, 16), device)
    got = outcome(kernels.scan, values, lengths)
    assert_near(got, outcome(ssd_reference, values, lengths, torch.float64), 1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_one_token_that_forgets_everything_costs_no_digits(device: str, dtype: torch.dtype, bound: float):
    values = inputs(lengths := [64], (2, 16, 1, 16), device, dtype)
    values[1] = values[1] * 1e-2
    values[1][40] = 1e4
    values[0][40] *= 1e-4  # what this token adds would drown the others
    got = outcome(kernels.scan, values, lengths)
    assert_near(got[:2], outcome(ssd_reference, values, lengths, torch.float64)[:2], bound)


def test_only_the_final_state_is_differentiated(device: str):
    values = inputs(lengths := [20], (2, 4, 1, 4), device)

    def final_alone(scan: Scan) -> Scan:
        return lambda *given: (torch.zeros(1, device=device), scan(*given)[1])

    want = outcome(final_alone(ssd_reference), values, lengths, torch.float64)
    got = outcome(final_alone(kernels.scan), values, lengths)
    assert_near(got[1:4], want[1:4], 1e-5)
    assert_near(got[5:6] + got[8:], want[5:6] + want[8:], 1e-5)


@pytest.mark.parametrize("lengths", [[40, 1, 87], [128], [1] * 5 + [123]])
def test_a_fixed_layout_serves_other_documents_after_a_refill(device: str, lengths: list[int], monkeypatch: Any):
    monkeypatch.setattr(walks, "_SHORTEST", 64)  # so that documents are cut into segments
    layout = FixedLayout.of(SequenceLayout.from_lengths([128], device=device), 6)
    values = [*inputs(lengths, (2, 16, 1, 16), device)[:6], None]

    def fixed(*given: Any) -> tuple[Tensor, Tensor]:
        y, final = kernels.scan(*given[:5], layout, *given[6:])
        return y, final[: len(lengths)]

    outcome(fixed, values, [128] if len(lengths) == 1 else lengths)  # what the tables were made for first
    kept = kernels._fixed_tables(values[0], layout)
    layout.refill(lengths)
    assert kernels._fixed_tables(values[0], layout) is kept
    assert_near(outcome(fixed, values, lengths), outcome(ssd_reference, values, lengths, torch.float64), 1e-5)


def test_the_op_takes_the_kernels(device: str):
    values = inputs([33], (2, 16, 1, 16), device, torch.float16)
    layout = SequenceLayout.from_lengths([33], device=device)
    given = (*values[:5], layout, *values[5:])
    for ours, theirs in zip(kernels.scan(*given), ssd_chunked(*given), strict=True):
        assert torch.equal(ours, theirs)


def test_tables_live_as_long_as_the_layout(device: str):
    values = inputs([20], (2, 4, 1, 4), device)
    layout = SequenceLayout.from_lengths([20], device=device)
    for _ in range(2):
        kernels.scan(*values[:5], layout)
    (problem,) = vars(layout)["held"]
    assert problem is walks.problem_of(values[0], values[3], layout.lengths)


def test_widths_without_room_are_left_to_pytorch():
    assert kernels.scan_is_supported(torch.empty(1, 1, 64).bfloat16(), torch.empty(1, 1, 256).bfloat16())
    assert kernels.scan_is_supported(torch.empty(1, 1, 64), torch.empty(1, 1, 128))
    assert not kernels.scan_is_supported(torch.empty(1, 1, 64), torch.empty(1, 1, 256))
    assert not kernels.scan_is_supported(torch.empty(1, 1, 256), torch.empty(1, 1, 16))


_TRACED = """
import torch
from tandem.ops import SequenceLayout
from tandem.ops.triton.memory import convert
from tandem.ops.triton.scan import scan
device = "cuda" if torch.cuda.is_available() else "cpu"
layout = SequenceLayout.from_lengths([9, 1, 6], device=device)
shapes = [(16, 2, 4), (16, 2), (2,), (16, 1, 4), (16, 1, 4), (2,), (3, 2, 4, 4)]
leaves = [torch.rand(shape, device=device).requires_grad_() for shape in shapes]
def block(*given):
    x, dt, A, B, C, D, start = given
    y, final = scan(x, dt, A, B, C, layout, D, convert(B, x, dt, A, layout, start))
    return y.sin().sum() + final.sum()
outcomes = []
for function in (block, torch.compile(block, fullgraph=True, backend="aot_eager")):
    loss = function(*leaves)
    outcomes.append([loss, *torch.autograd.grad(loss, leaves)])
for have, want in zip(*outcomes, strict=True):
    torch.testing.assert_close(have, want)
print("traced whole")
"""


def test_is_traced_whole():
    switches = {"JAXTYPING_DISABLE": "1", "TRITON_INTERPRET": str(int(not torch.cuda.is_available()))}
    # Documents of one chunk each: the child does without the fixture above.
    script = "import numpy as np, triton.runtime.interpreter as i; old = i._patch_lang_tensor\n" + (
        "def new(t, s): old(t, s); s.set_attr(t, '__index__', lambda self: int(self.handle.data.item()))\n"
        "i._patch_lang_tensor = new\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + _TRACED], env=os.environ | switches, capture_output=True, text=True
    )
    assert done.stdout == "traced whole\n", done.stderr


@needs_gpu
@pytest.mark.parametrize(
    ("lengths", "widths", "dtype", "bound"),
    [
        ([130, 1, 64, 300], (8, 64, 2, 128), torch.bfloat16, 1e-2),
        ([1000, 3000], (16, 64, 1, 128), torch.bfloat16, 1e-2),
        ([4096] * 2, (64, 64, 8, 128), torch.bfloat16, 1e-2),
        ([700, 33], (4, 48, 2, 80), torch.float16, 1e-2),
        ([100], (1, 64, 1, 64), torch.bfloat16, 1e-2),
        ([700, 33], (4, 128, 2, 128), torch.bfloat16, 1e-2),
        ([700, 33], (4, 64, 2, 256), torch.bfloat16, 1e-2),
        ([700, 33], (4, 64, 2, 128), torch.float32, 1e-5),
        ([262_144], (4, 64, 2, 128), torch.bfloat16, 1e-2),
    ],
)
def test_on_a_gpu(lengths: list[int], widths: tuple[int, int, int, int], dtype: torch.dtype, bound: float):
    values = inputs(lengths, widths, "cuda", dtype)
    first, again = (outcome(kernels.scan, values, lengths) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.use_deterministic_algorithms(False)  # the reference is PyTorch's own, which would warn
    assert_near(first, outcome(ssd_chunked, values, lengths, torch.float64), bound)
