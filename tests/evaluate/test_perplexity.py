"""Texts of any length against one forward pass a token in float64."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tandem
from tandem.data import Tokenizer
from tandem.evaluate import Reading, Subject, measure_text
from tandem.evaluate.perplexity import windows
from tandem.nn import HybridLM, SequenceLayout

TEXT = "Returns the name of a bucket – größer than 10 µm, and 42 objects in it. Why? " * 3


@given(ids=st.integers(2, 200), window=st.integers(1, 60), data=st.data())
def test_every_token_is_scored_once_and_knows_enough(ids: int, window: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, window - 1))
    cut = list(windows(ids, window, overlap))
    assert [place for w in cut for place in range(w.first, w.end)] == list(range(1, ids))
    for w in cut:
        assert 0 <= w.begin < w.first < w.end <= ids
        assert w.end - 1 - w.begin <= window
        assert w.begin == 0 or w.first - w.begin >= overlap + 1
    assert ids - 1 <= window or cut[-1].end - 1 - cut[-1].begin == window


def naive_nats(model: HybridLM, ids: list[int], window: int, overlap: int) -> float:
    """One float64 forward pass a token, over the part of the text that its window shows."""
    model = copy.deepcopy(model).double()
    nats = 0.0
    for w in windows(len(ids), window, overlap):
        for place in range(w.first, w.end):
            seen = torch.tensor(ids[w.begin : place])
            with torch.no_grad():
                logits_TV = model(seen, SequenceLayout.from_lengths([len(seen)], chunk=8))
            nats -= float(logits_TV[-1].log_softmax(-1)[ids[place]])
    return nats


@pytest.mark.parametrize(("window", "overlap", "batch"), [(96, 48, 4), (32, 0, 1), (17, 16, 3), (None, None, 2)])
def test_windows_equal_a_pass_a_token(
    subject: Subject, tokenizer: Tokenizer, window: int | None, overlap: int | None, batch: int
):
    score = measure_text(subject, [TEXT], Reading(window=window, overlap=overlap, batch=batch))
    ids = [tokenizer.bos_id, *tokenizer.encode(TEXT)]
    nats = naive_nats(subject.model, ids, window or 96, 48 if overlap is None else overlap)
    assert score.tokens == len(ids) - 1 > 60
    assert score.bytes == len(TEXT.encode()) > len(TEXT)
    assert score.bits_per_byte.value == pytest.approx(nats / math.log(2) / score.bytes, rel=1e-5)
    assert score.perplexity.value == pytest.approx(math.exp(nats / score.tokens), rel=1e-4)


def test_the_state_reads_what_one_long_pass_reads(subject: Subject, make_model: Callable[..., HybridLM]):
    by_state = measure_text(subject, [TEXT], Reading(mode="state"))
    whole = measure_text(Subject(model=make_model(context=4096), tokenizer=subject.tokenizer), [TEXT])
    assert by_state.bits_per_byte.value == pytest.approx(whole.bits_per_byte.value, rel=1e-5)
    assert by_state.tokens == whole.tokens


def test_short_texts_score_as_the_facade_does(subject: Subject, tokenizer: Tokenizer):
    model = tandem.LanguageModel(subject.model, tokenizer, subject.model.config)
    texts = ["Returns the bucket.", "", "Why 42?"]
    nats = -sum(float(model.score(text).double().sum()) for text in texts if text)
    score = measure_text(subject, texts)
    assert score.bits_per_byte.value == pytest.approx(nats / math.log(2) / sum(map(len, texts)), rel=1e-6)
    assert score.bits_per_byte.n == 2


def test_bits_per_byte_do_not_depend_on_the_tokenizer(make_model: Callable[..., HybridLM], tokenizer: Tokenizer):
    """A uniform model of V ids has log2(V) bits a token, whatever the tokens are."""
    model = make_model()
    with torch.no_grad():
        model.embedding.zero_()
    for other in (tokenizer, Tokenizer.train([TEXT], vocab_size=300)):
        score = measure_text(Subject(model=model, tokenizer=other), [TEXT])
        bits = len(other.encode(TEXT)) * math.log2(model.config.vocab_size)
        assert score.bits_per_byte.value == pytest.approx(bits / len(TEXT.encode()))
        assert score.perplexity.value == pytest.approx(model.config.vocab_size)


def test_progress_counts_every_token(subject: Subject):
    seen: list[int] = []
    for reading in (Reading(), Reading(mode="state")):
        seen.clear()
        assert sum(seen) == 0
        score = measure_text(subject, [TEXT], reading, seen.append)
        assert sum(seen) == score.tokens


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        (Reading(window=97), r"window=97 must lie in 1\.\.96 \(config\.context\); or use reading=state"),
        (Reading(window=0), r"window=0 must lie in 1\.\.96"),
        (Reading(window=8, overlap=8), r"overlap=8 must lie in 0\.\.7"),
        (Reading(overlap=-1), r"overlap=-1 must lie in 0\.\.95"),
    ],
)
def test_readings_that_cannot_be(subject: Subject, reading: Reading, message: str):
    with pytest.raises(ValueError, match=message):
        measure_text(subject, [TEXT], reading)


def test_no_text_is_an_error(subject: Subject):
    with pytest.raises(ValueError, match="text has no token to score"):
        measure_text(subject, ["", ""])
