"""Scores against log_softmax of one forward pass."""

from collections.abc import Callable

import pytest
import torch

from tandem.nn import CacheRounding, HybridLM, SequenceLayout
from tandem.serve import Sampling, generate_tokens, score_batch, score_continuations, score_long, score_tokens


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


def test_a_batch_scores_the_ends_of_its_rows(model: HybridLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.serve.score._BLOCK", 7)
    rows = [torch.randint(32, 300, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (2, 30, 17, 97)]
    starts = [1, 29, 5, 90]
    for row, start, scores in zip(rows, starts, score_batch(model, rows, starts), strict=True):
        torch.testing.assert_close(scores.logp_T, score_tokens(model, row)[start - 1 :])
        with torch.no_grad():
            logits_TV = model(torch.tensor(row[:-1]), SequenceLayout.from_lengths([len(row) - 1], chunk=8))
        assert scores.greedy_T.tolist() == [logits_TV[k - 1].argmax() == row[k] for k in range(start, len(row))]


def test_continuations_score_as_whole_texts(model: HybridLM) -> None:
    def ids(count: int) -> list[int]:
        return torch.randint(32, 300, (count,), generator=torch.Generator().manual_seed(count)).tolist()

    prompts = [ids(1), ids(19), ids(90)]
    continuations = [[ids(3)], [ids(1), ids(5), ids(12)], [ids(7), ids(2)]]
    found = score_continuations(model, prompts, continuations)
    for prompt, several, scored in zip(prompts, continuations, found, strict=True):
        rows = [[*prompt, *more] for more in several]
        for own, whole in zip(scored, score_batch(model, rows, [len(prompt)] * len(rows)), strict=True):
            torch.testing.assert_close(own.logp_T, whole.logp_T, rtol=1e-4, atol=1e-4)
            assert torch.equal(own.greedy_T, whole.greedy_T)
    with pytest.raises(ValueError, match="continuation has no token"):
        score_continuations(model, prompts[:1], [[[]]])
    with pytest.raises(ValueError, match=r"prompt of 97 tokens is longer than config\.context=96"):
        score_continuations(model, prompts[2:], [[ids(8)]])


@pytest.mark.parametrize("block", [1, 7, 64, 500])
def test_a_long_text_through_the_state_equals_one_pass(model: HybridLM, block: int) -> None:
    ids = torch.randint(32, 300, (96,), generator=torch.Generator().manual_seed(0)).tolist()
    parts = list(score_long(model, ids, block=block))
    torch.testing.assert_close(
        torch.cat([part.logp_T for part in parts]), score_tokens(model, ids), rtol=1e-4, atol=1e-4
    )
    assert sum(len(part.greedy_T) for part in parts) == 95
    beyond = [*ids, *ids, *ids]  # three times the context
    assert sum(len(part.logp_T) for part in score_long(model, beyond)) == 287


@pytest.mark.parametrize("start", [0, 3, -1])
def test_a_start_outside_the_row_is_named(model: HybridLM, start: int) -> None:
    with pytest.raises(ValueError, match=f"start={start} leaves no token of 3 to score; use one from 1 to 2"):
        score_batch(model, [[1, 40, 41]], [start])


@pytest.fixture
def rounded(make_model: Callable[..., HybridLM]) -> HybridLM:
    model = make_model("MFAMF")
    model.round_caches(CacheRounding(kv=lambda x: x.bfloat16().to(x.dtype), state=lambda x: x.bfloat16().to(x.dtype)))
    return model


def decoded(model: HybridLM, ids: list[int], start: int) -> torch.Tensor:
    """Log-probabilities of ids[start:]: a prefill of what is before, then a step a token."""
    state, found = model.new_state(1), []
    with torch.no_grad():
        for begin, end in ((0, start), *((k, k + 1) for k in range(start, len(ids) - 1))):
            logits_V = model.next_logits(torch.tensor(ids[begin:end]), state.layout([end - begin]), state)[-1]
            found.append(logits_V.log_softmax(-1)[ids[end]])
    return torch.stack(found)


def test_with_rounded_caches_scores_are_those_of_decoding(rounded: HybridLM, model: HybridLM) -> None:
    rows = [torch.randint(32, 300, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (2, 30, 17, 60)]
    starts = [1, 29, 5, 40]
    for row, start, scores in zip(rows, starts, score_batch(rounded, rows, starts), strict=True):
        want = decoded(rounded, row, start)
        torch.testing.assert_close(scores.logp_T, want, rtol=1e-4, atol=1e-4)
        if start > 1:
            assert not torch.allclose(scores.logp_T, score_batch(model, [row], [start])[0].logp_T, rtol=1e-4, atol=1e-4)
    answers = [[row[start:], row[start : start + 1]] for row, start in zip(rows, starts, strict=True)]
    prompts = [row[:start] for row, start in zip(rows, starts, strict=True)]
    for row, start, (long, short) in zip(rows, starts, score_continuations(rounded, prompts, answers), strict=True):
        want = decoded(rounded, row, start)
        torch.testing.assert_close(long.logp_T, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(short.logp_T, want[:1], rtol=1e-4, atol=1e-4)
    long_text = torch.cat([part.logp_T for part in score_long(rounded, rows[3], block=7)])
    torch.testing.assert_close(long_text, decoded(rounded, rows[3], 1), rtol=1e-4, atol=1e-4)


def test_generation_reads_rounded_caches(rounded: HybridLM) -> None:
    """Greedy ids are the likeliest ones of decoding by hand."""
    ids = torch.randint(32, 300, (9,), generator=torch.Generator().manual_seed(1)).tolist()
    written = list(generate_tokens(rounded, ids, sampling=Sampling(temperature=0.0), max_tokens=12))
    scores = score_batch(rounded, [[*ids, *written]], [len(ids)])[0]
    assert scores.greedy_T.all()
