"""Scores against log_softmax of one forward pass."""

import pytest
import torch

from tandem.nn import HybridLM, SequenceLayout
from tandem.serve import score_tokens


@pytest.mark.parametrize("length", [2, 9, 61])
def test_score_equals_log_softmax_of_the_forward(model: HybridLM, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.serve.score._BLOCK", 16)  # several blocks and a short last one
    ids_T = torch.randint(32, 300, (length,), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        logits_TV = model(ids_T[:-1], SequenceLayout.from_lengths([length - 1], chunk=8))
    expected_T = torch.stack([logits_TV[t].log_softmax(-1)[ids_T[t + 1]] for t in range(length - 1)])
    logp_T = score_tokens(model, ids_T.tolist())
    torch.testing.assert_close(logp_T, expected_T)
    assert logp_T.dtype == torch.float32


def test_what_cannot_be_scored_is_named(model: HybridLM) -> None:
    with pytest.raises(ValueError, match=r"ids=\[1\] has no token to score"):
        score_tokens(model, [1])
    with pytest.raises(ValueError, match=r"prompt of 97 tokens is longer than config\.context=96"):
        score_tokens(model, [40] * 98)
    with pytest.raises(ValueError, match="prompt holds id 5000"):
        score_tokens(model, [1, 5000])
    assert len(score_tokens(model, [40] * 97)) == 96
