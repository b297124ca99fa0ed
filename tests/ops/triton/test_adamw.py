"""AdamW over many tensors against torch.optim's in float64, with and without narrow copies."""

import pytest
import torch

from tandem.ops import adamw
from tandem.ops.adamw import AdamWPass, Gradients, Trained

SIZES = [(3, 7), (8192,), (100, 201), (1,)]
BETAS, EPS = (0.9, 0.95), 1e-8


def tensors(device: str, narrow: bool) -> list[Trained]:
    torch.manual_seed(0)
    trained = []
    for number, shape in enumerate(SIZES):
        wide = [torch.randn(shape, device=device) for _ in range(3)]
        copy = torch.empty(shape, dtype=torch.bfloat16, device=device) if narrow and number % 2 else None
        trained.append(Trained(wide[0], torch.zeros_like(wide[1]), torch.zeros_like(wide[2]), copy, number % 2))
    return trained


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kernel", [False, True])
def test_three_steps_equal_those_of_torch(device: str, narrow: bool, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adamw, "triton_for", lambda *_: kernel)
    trained = tensors(device, narrow)
    exact = [torch.nn.Parameter(t.parameter.double()) for t in trained]
    groups = [
        {"params": exact[g::2], "lr": lr, "weight_decay": w} for g, (lr, w) in enumerate([(1e-2, 0.1), (3e-3, 0)])
    ]
    torch_adamw = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    ours = AdamWPass(trained, BETAS, EPS)
    rates = torch.tensor([[1e-2, 0.1], [3e-3, 0]], device=device)
    for count in (1, 2, 3):
        like = [t.parameter if t.narrow is None else t.narrow for t in trained]
        gradients = [torch.randn(t.shape, device=device).to(t.dtype) for t in like]
        for parameter, gradient in zip(exact, gradients, strict=True):
            parameter.grad = gradient.double() * 0.5
        given = Gradients(ours, gradients)
        want = torch.stack([g.double().norm() for g in gradients]).norm()
        torch.testing.assert_close(ours.norm(given).double(), want, rtol=1e-6, atol=0)
        assert torch.equal(ours.norm(given), ours.norm(given))
        torch_adamw.step()
        ours.step(given, rates, 0.5, count)
    for have, parameter in zip(trained, exact, strict=True):
        torch.testing.assert_close(have.parameter.double(), parameter.detach(), rtol=2e-6, atol=2e-6)
        if have.narrow is not None:
            # Triton's interpreter cuts digits off where a GPU rounds.
            rtol = 2**-7 if kernel and device == "cpu" else 0
            torch.testing.assert_close(have.narrow, have.parameter.bfloat16(), rtol=rtol, atol=0)


@pytest.mark.parametrize("kernel", [False, True])
def test_moments_in_bfloat16_follow_those_in_float32(device: str, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adamw, "triton_for", lambda *_: kernel)
    wide, narrow = tensors(device, narrow=False), tensors(device, narrow=False)
    narrow = [t._replace(mean=t.mean.bfloat16(), square=t.square.bfloat16()) for t in narrow]
    passes = [AdamWPass(trained, BETAS, EPS) for trained in (wide, narrow)]
    rates = torch.tensor([[1e-2, 0.0], [3e-3, 0.0]], device=device)
    before = [t.parameter.clone() for t in wide]
    for count in range(1, 6):
        gradients = [torch.randn_like(t.parameter) for t in wide]
        for ours in passes:
            ours.step(Gradients(ours, gradients), rates, 1.0, count)
    for have, want, start in zip(narrow, wide, before, strict=True):
        assert have.mean.dtype == torch.bfloat16
        moved = want.parameter - start
        assert (have.parameter - want.parameter).norm() <= 3e-2 * moved.norm()  # a tensor of one element among them
        torch.testing.assert_close(have.square.float(), want.square, rtol=3e-2, atol=1e-6)


@pytest.mark.parametrize("kernel", [False, True])
def test_a_tensor_without_gradient_stays(device: str, kernel: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(adamw, "triton_for", lambda *_: kernel)
    trained = tensors(device, narrow=False)
    before = [t.parameter.clone() for t in trained]
    ours = AdamWPass(trained, BETAS, EPS)
    gradients = Gradients(ours, [None, *(torch.ones_like(t.parameter) for t in trained[1:])])
    assert float(ours.norm(gradients)) == pytest.approx(sum(t.parameter.numel() for t in trained[1:]) ** 0.5, rel=1e-6)
    ours.step(gradients, torch.tensor([[1e-2, 0.1], [3e-3, 0]], device=device), 1.0, 1)
    assert torch.equal(trained[0].parameter, before[0])
    assert not torch.equal(trained[1].parameter, before[1])


def test_what_it_does_not_take_is_refused():
    wide = torch.zeros(4)
    with pytest.raises(ValueError, match="not contiguous float32"):
        AdamWPass([Trained(wide.bfloat16(), wide, wide, None, 0)], BETAS, EPS)
    with pytest.raises(ValueError, match="train it with torch"):
        AdamWPass([Trained(wide, wide, wide, wide, 0)], BETAS, EPS)
