"""Which text is kept: characters normalized, then filters on length, letters and language.

Each filter is a ratio that a reader can check by eye, so a rejected document can be explained with one number.
"""

import re
import unicodedata
from dataclasses import dataclass

# The commonest words of English that carry grammar, not subject: prose has many of them, tables and code few.
_FUNCTION_WORDS = frozenset(
    "a about after all also an and any are as at be because been before but by can could do does each for from had has "
    "have he her his how i if in into is it its may more most must no not of on one only or other our out over own she "
    "should so some such than that the their them then there these they this those to under up use was we were what "
    "when where which while who will with within without would you your".split()
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff]")
_LINE_END_SPACE = re.compile(r"[ \t\u00a0]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Bounds a document must meet; the defaults fit English prose with some names and numbers in it.

    Attributes:
        min_characters: shorter documents teach little but their heading.
        max_characters: longer ones are dropped, since they are lists or logs more often than text.
        min_letters: share of letters and spaces among all characters.
        min_function_words: share of English function words among all words; about 0.4 in essays, near 0 elsewhere.
    """

    min_characters: int = 300
    max_characters: int = 1_000_000
    min_letters: float = 0.85
    min_function_words: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.min_characters <= self.max_characters:
            raise ValueError(
                f"filters.min_characters={self.min_characters} must lie in 1..{self.max_characters} "
                "(filters.max_characters); use 300"
            )
        for name in ("min_letters", "min_function_words"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"filters.{name}={value} is a share; use a number from 0 to 1")

    def reject(self, text: str) -> str | None:
        """Name of the first bound that the text misses, or None when it is kept."""
        if len(text) < self.min_characters:
            return "too short"
        if len(text) > self.max_characters:
            return "too long"
        if letters_share(text) < self.min_letters:
            return "too few letters"
        if function_word_share(text) < self.min_function_words:
            return "not English prose"
        return None


def letters_share(text: str) -> float:
    """Share of letters and whitespace among the characters; 0 for empty text."""
    return sum(map(str.isalpha, text), sum(map(str.isspace, text))) / max(len(text), 1)


def function_word_share(text: str) -> float:
    """Share of English function words among the words; 0 for text without words."""
    words = _WORD.findall(text.lower())
    return sum(word in _FUNCTION_WORDS for word in words) / max(len(words), 1)


def normalize(text: str) -> str:
    """NFC, `\\n` line ends, no control or zero-width characters, no trailing spaces, at most one blank line in a row.

    >>> normalize("one \\r\\n\\r\\n\\r\\n\\r\\ntwo\\x00")
    'one\\n\\ntwo'
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text).replace("\u00a0", " ")
    text = _LINE_END_SPACE.sub("\n", text)
    return _BLANK_LINES.sub("\n\n", text).strip()
