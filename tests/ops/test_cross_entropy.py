"""The blockwise loss equals PyTorch's over whole logits, forward and backward, across block boundaries."""

import pytest
import torch
import torch.nn.functional as F

from tandem.ops import blockwise_cross_entropy, cross_entropy


@pytest.mark.parametrize("block_tokens", [1, 4, 100])
def test_equals_cross_entropy_of_whole_logits(block_tokens: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_entropy, "_BLOCK_LOGITS", block_tokens * 11)
    torch.manual_seed(0)
    targets, weights = torch.randint(0, 11, (9,)), torch.rand(9)
    outcomes = []
    for blockwise in (False, True):
        x = torch.manual_seed(1) and torch.randn(9, 5, dtype=torch.float64).requires_grad_()
        head = torch.randn(11, 5, dtype=torch.float64).requires_grad_()
        if blockwise:
            total = blockwise_cross_entropy(x, head, targets, weights)
        else:
            total = (F.cross_entropy(x @ head.t(), targets, reduction="none") * weights).sum()
        (total * 3).backward()
        outcomes.append([total, x.grad, head.grad])
    for want, got in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, want)


def test_makes_no_gradients_where_none_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    x, head = torch.randn(9, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    targets, weights = torch.randint(0, 11, (9,)), torch.rand(9)
    want = blockwise_cross_entropy(x, head, targets, weights)
    monkeypatch.delattr(cross_entropy, "_plus_product")
    with torch.no_grad():
        assert torch.equal(blockwise_cross_entropy(x, head, targets, weights), want)
