"""Stop strings: the outcome equals a character-by-character search and does not depend on how the text was cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.serve import StopMatcher

letters = st.text(alphabet="ab\n", max_size=24)


def reference(text: str, stops: list[str]) -> str:
    """Reads one character at a time; the first prefix that ends in a stop string loses it, the longest one."""
    for size in range(1, len(text) + 1):
        matched = [stop for stop in stops if text[:size].endswith(stop)]
        if matched:
            return text[: size - max(map(len, matched))]
    return text


@settings(max_examples=400)
@given(letters, st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3), st.data())
def test_every_cut_gives_the_reference(text: str, stops: list[str], data: st.DataObject) -> None:
    matcher, shown, rest = StopMatcher(stops), "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        shown += matcher.push(rest[:size])
        # What is out stays out: it must be a prefix of the final text at every moment.
        assert reference(text, stops).startswith(shown)
        rest = rest[size:]
    shown += matcher.finish()
    assert shown == reference(text, stops)
    assert matcher.stopped == any(stop in text for stop in stops)


def test_text_that_cannot_become_a_stop_is_shown_at_once() -> None:
    matcher = StopMatcher(["</answer>"])
    assert [matcher.push(piece) for piece in ("x", " <", "/ans", "!", "</answer", ">y")] == [
        *("x", " ", "", "</ans!", "", "")
    ]
    assert matcher.stopped
    assert matcher.push("more") == "" == matcher.finish()


def test_one_string_is_one_stop() -> None:
    matcher = StopMatcher("END")
    assert matcher.push("an E and EN, then END.") == "an E and EN, then "


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="stop='' would stop at once"):
        StopMatcher(["a", ""])
