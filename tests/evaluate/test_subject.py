"""Layouts against the tokenizer's own, answers and scores against the façade's."""

from collections.abc import Callable

import pytest
import tokenizers
import torch

import tandem
from tandem.data import PretrainedTokenizer, SpecialTokens, Tokenizer
from tandem.evaluate import Subject
from tandem.nn import HybridLM
from tandem.serve import chat_ids, score_tokens


@pytest.fixture(scope="module")
def greedy_merges() -> PretrainedTokenizer:
    """A tokenizer without bos whose tokens cross any border: it knows words and pairs of words."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "c": 3, "bc": 4, "<eos>": 5}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("a", "b"), ("b", "c")]))
    return PretrainedTokenizer(backend, SpecialTokens(eos_id=5))


def test_base_models_read_prompt_and_answer_as_one_text(subject: Subject, tokenizer: Tokenizer):
    ids, start = subject.with_answer("The number is #", "4817263")
    assert ids == tokenizer.text_ids("The number is #4817263")
    assert tokenizer.decode(ids[start:]) == "4817263"
    assert subject.prompt_ids("The number is #") == ids[:start]


def test_chat_models_are_asked_as_users(subject: Subject, tokenizer: Tokenizer):
    chat = Subject(model=subject.model, tokenizer=tokenizer, chat=True)
    ids, start = chat.with_answer("Which number?", "4817263")
    turn = chat_ids(tokenizer, [{"role": "user", "content": "Which number?"}], thinking="short")
    assert ids == turn + tokenizer.encode("4817263")
    assert start == len(turn)
    assert ids[start - 2 : start] == [tokenizer.think_id, tokenizer.end_think_id]


@pytest.mark.parametrize(
    ("text", "more", "ids", "start"),
    [
        ("c", "a", [3, 0], 1),
        ("ca", "b", [3, 2], 1),  # the token across the border counts to what is scored
        ("a", "b", [5, 2], 1),  # and when nothing is left before it, the start of a text is
        ("", "ab", [5, 2], 1),
        ("c", "", [3], 1),
    ],
)
def test_tokens_across_the_border(
    greedy_merges: PretrainedTokenizer, subject: Subject, text: str, more: str, ids: list[int], start: int
):
    assert Subject(model=subject.model, tokenizer=greedy_merges).continued(text, more) == (ids, start)


def test_a_longer_context_is_the_same_model(subject: Subject, make_model: Callable[..., HybridLM]):
    ids = list(range(40, 240))
    with pytest.raises(ValueError, match=r"longer than config\.context=96"):
        subject.scores([ids], [1])
    longer = subject.reading_up_to(300)
    torch.testing.assert_close(
        longer.scores([ids], [1])[0].logp_T, score_tokens(make_model(context=300), ids), rtol=0, atol=0
    )
    assert (subject.context, longer.context) == (96, 300)
    assert longer.model.embedding is subject.model.embedding
    assert subject.reading_up_to(20) is subject


def test_answers_are_what_the_facade_generates(subject: Subject, tokenizer: Tokenizer):
    model = tandem.LanguageModel(subject.model, tokenizer, subject.model.config)
    prompts = ["Returns the", "A bucket is a place where"]
    found = subject.answers([subject.prompt_ids(prompt) for prompt in prompts])
    assert found == [model.generate(prompt, temperature=0, max_tokens=16) for prompt in prompts]


def test_thinking_is_no_part_of_an_answer(subject: Subject, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    written = [*tokenizer.encode("It is 1234567?"), tokenizer.end_think_id, *tokenizer.encode("7654321. No"), 2]
    monkeypatch.setattr("tandem.evaluate.subject.generate_batch", lambda *a, **k: [written])
    chat = Subject(model=subject.model, tokenizer=tokenizer, chat=True, thinking="long")
    (found,) = chat.answers([chat.prompt_ids("Which number?")], stop=["?", " No"])
    assert (found.answer, found.thinking) == ("7654321.", "It is 1234567?")


def test_loading_is_that_of_the_facade():
    loaded, facade = Subject.load("nano"), tandem.load("nano")
    assert (loaded.chat, loaded.context) == (facade.chat, facade.config.context)
    assert torch.equal(loaded.model.embedding, facade.model.embedding)
