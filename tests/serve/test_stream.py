"""Streaming: pieces join to the text, characters stay whole, stop strings and thinking are told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.data import Tokenizer
from tandem.serve import TextStream

TEXT = "The µ-bucket 你好 holds 🙂🦊 12 objects.\n\nQ: END of 字典 “it”"


def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT)
    assert any(tokenizer.decode([k]) == "\ufffd" for k in ids)  # some characters take several ids
    stream = TextStream([*ids, tokenizer.eos_id], tokenizer)
    pieces = list(stream)
    assert all(pieces)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == stream.completion.text == TEXT
    assert stream.completion.tokens == len(ids) + 1
    assert (stream.completion.mode, stream.completion.thinking, stream.completion.thinking_tokens) == ("short", "", 0)


def test_a_character_cut_by_the_end_is_marked(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 🙂")
    assert "".join(TextStream(ids[:-1], tokenizer)) == "ok \ufffd"


@given(st.lists(st.sampled_from(["\n\nQ:", "END", "🙂🦊 1", "objects.\n\nQ: E", "absent"]), max_size=3))
def test_stop_strings_cut_across_token_borders(stop: list[str]) -> None:
    tokenizer = Tokenizer.train(["plain words only"], vocab_size=300)  # so that every stop spans many ids
    ends = [TEXT.find(s) + len(s) for s in stop if s in TEXT]
    cut = min((TEXT.find(s) for s in stop if s in TEXT and TEXT.find(s) + len(s) == min(ends)), default=len(TEXT))
    stream = TextStream(tokenizer.encode(TEXT), tokenizer, stop=stop)
    shown = ""
    for piece in stream:
        shown += piece
        assert TEXT[:cut].startswith(shown)
    assert shown == TEXT[:cut] == stream.completion.text


def test_no_id_is_asked_for_after_a_stop(tokenizer: Tokenizer) -> None:
    ids = iter([*tokenizer.encode("a END"), *tokenizer.encode(" never read")])
    stream = TextStream(ids, tokenizer, stop=["END"])
    assert "".join(stream) == "a "
    assert tokenizer.decode(ids) == " never read"
    assert stream.completion.tokens == len(tokenizer.encode("a END"))


def test_thinking_is_split_from_the_answer(tokenizer: Tokenizer) -> None:
    t = tokenizer
    thought, answer = t.encode(" 4 END 2 "), t.encode("\n42 END!")
    stream = TextStream([t.think_id, *thought, t.end_think_id, *answer, t.eos_id], t, stop=["END"])
    pieces = list(stream)
    done = stream.completion
    assert "".join(pieces) == done.text == "<think> 4 END 2 </think>\n42 "
    assert (done.thinking, done.answer, done.mode) == ("4 END 2", "42", "long")
    assert done.thinking_tokens == len(thought) + 2
    assert done.tokens == done.thinking_tokens + len(t.encode("\n42 END"))


def test_a_prompt_may_open_the_thinking(tokenizer: Tokenizer) -> None:
    t = tokenizer
    stream = TextStream([*t.encode("so"), t.end_think_id, *t.encode("yes")], t, thinking=True)
    assert "".join(stream) == "<think>so</think>yes"
    assert stream.completion.thinking_tokens == len(t.encode("so")) + 1


@pytest.mark.parametrize("ids", ["empty", "stray"])
def test_no_thought_is_short(tokenizer: Tokenizer, ids: str) -> None:
    t = tokenizer
    tokens = {"empty": [t.think_id, t.end_think_id], "stray": [t.end_think_id]}[ids]
    stream = TextStream([*tokens, *t.encode("yes")], t)
    assert "".join(stream).endswith("yes")
    assert (stream.completion.mode, stream.completion.answer) == ("short", "yes")


def test_an_interrupted_stream_keeps_what_was_written(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer.encode("one two three"), tokenizer)
    shown = next(stream) + next(stream)
    assert stream.completion.text == shown
    assert stream.completion.tokens == 2


def test_an_empty_stop_is_refused_at_once(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="stop=''"):
        TextStream([], tokenizer, stop=[""])
