import pytest

from tandem.data.markup import html_to_text, tidy


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("plain", "plain"),
        ("two  words\n on lines", "two words on lines"),
        ("<p>One &amp; two &lt;three&gt;&nbsp;&#233;.</p>", "One & two <three> é."),
        ("<p>Use <code>GetItem</code>, or <i>Query</i> .</p><p>Next.</p>", "Use GetItem, or Query.\nNext."),
        ("<ul> <li> <p>one</p> </li> <li>two</li> </ul>after", "- one\n- two\nafter"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ("<ol><li><p>first</p><p>second</p></li></ol>", "- first\nsecond"),
        ("line<br>break<br/>again", "line break again"),
        ("<pre>x = 1\n  y = 2</pre>", "x = 1\n  y = 2"),
        ("before<script>var a = '<p>';</script>after", "beforeafter"),
        ("<p>unclosed <b>tags<p>are fine", "unclosed tags\nare fine"),
        ("a < b and c > d", "a < b and c > d"),
        ("<important><p>Mind this.</p></important>", "Mind this."),
        ("", ""),
        ("<p> </p>", ""),
    ],
)
def test_html_becomes_readable_text(html: str, text: str):
    assert html_to_text(html) == text


def test_tidy_keeps_spaces_that_mean_something():
    assert tidy(" a  . b .c ") == "a. b .c"
