"""HTML to plain text with the standard library: paragraphs stay paragraphs, list items become `- ` lines."""

import re
from html.parser import HTMLParser

_BLOCKS = frozenset(
    "address article aside blockquote body caution dd div dl dt fieldset figcaption figure fullname footer form "
    "h1 h2 h3 h4 h5 h6 header hr important li main nav note ol p pre section summary table tbody td th thead tip "
    "title tr ul warning".split()
)
_HIDDEN = frozenset(("script", "style", "head", "template", "noscript"))
_SPACE = re.compile(r"\s+")
_BEFORE_PUNCTUATION = re.compile(r"(?<=\w) (?=[.,;:)](?:\s|$))")
_TAG_OR_ENTITY = re.compile(r"[<&]")


class _TextParser(HTMLParser):
    """Collects text block by block; a block ends at every block-level tag."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.open: list[str] = []
        self.depth = 0
        self.hidden = 0
        self.preformatted = 0
        self.item = False

    def close_block(self) -> None:
        text = "".join(self.open)
        text = text.strip("\n") if self.preformatted else tidy(text)
        self.open = []
        if not text.strip():
            return
        marker = "  " * max(self.depth - 1, 0) + "- " if self.item else ""
        self.blocks.append(marker + text)
        self.item = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self.hidden += 1
        if tag == "br":
            self.open.append("\n" if self.preformatted else " ")
        if tag in _BLOCKS:
            self.close_block()
            self.depth += tag in ("ul", "ol")
            self.preformatted += tag == "pre"
            self.item = tag == "li" or (self.item and tag == "p")

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self.hidden = max(self.hidden - 1, 0)
        if tag in _BLOCKS:
            self.close_block()
            self.depth = max(self.depth - (tag in ("ul", "ol")), 0)
            self.preformatted = max(self.preformatted - (tag == "pre"), 0)
            self.item = self.item and tag != "li"

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.open.append(data)


def tidy(text: str) -> str:
    """One line without doubled spaces, nor the space that a removed tag leaves before punctuation."""
    return _BEFORE_PUNCTUATION.sub("", _SPACE.sub(" ", text).strip())


def html_to_text(html: str) -> str:
    """Plain text of an HTML fragment: one line a block, list items marked `- ` and indented by depth.

    >>> html_to_text("<p>Use <code>a &lt; b</code> .</p><ul><li><p>one</p></li><li>two</li></ul>")
    'Use a < b.\\n- one\\n- two'
    """
    if not _TAG_OR_ENTITY.search(html):
        return tidy(html)
    parser = _TextParser()
    parser.feed(html)
    parser.close()
    parser.close_block()
    return "\n".join(parser.blocks)
