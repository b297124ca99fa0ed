import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.data.cleaning import Filters, function_word_share, letters_share, normalize

PROSE = (
    "It was the best of times, and it was the worst of times; there were those who said that the age was one of "
    "wisdom, and there were others who would have none of it. "
) * 4


def test_prose_is_kept():
    assert Filters().reject(PROSE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Short.", "too short"),
        (PROSE * 2000, "too long"),
        ("x = 3; y[4] += 0x1f; " * 40, "too few letters"),
        ("Der schnelle braune Fuchs springt immer wieder gern über den faulen Hund hinweg. " * 8, "not English prose"),
        ("alpha beta gamma delta epsilon zeta eta theta " * 10, "not English prose"),
    ],
)
def test_rejections_name_their_reason(text: str, reason: str):
    assert Filters().reject(text) == reason


def test_shares_are_what_they_say():
    assert letters_share("ab 12") == pytest.approx(3 / 5)
    assert function_word_share("the cat and the hat") == pytest.approx(3 / 5)
    assert function_word_share("") == letters_share("") == 0


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text: str):
    once = normalize(text)
    assert normalize(once) == once
    assert "\r" not in once
    assert "\n\n\n" not in once


def test_normalize_composes_and_drops_invisible_characters():
    assert normalize("cafe\u0301\u200b \u00a0\nnext\x07") == "café\nnext"


@pytest.mark.parametrize(
    ("field", "value"), [("min_characters", 0), ("min_letters", 1.5), ("min_function_words", -0.1)]
)
def test_impossible_bounds_are_refused(field: str, value: float):
    with pytest.raises(ValueError, match=rf"filters\.{field}="):
        Filters(**{field: value})
