"""The language of layers: a model is a string, one symbol one pre-norm residual sub-layer.

`A` grouped-query attention, `M` Mamba-2, `F` feed-forward (dense or mixture of experts), `E` a second kind of
feed-forward, `T` TransMamba. Spaces are ignored, groups nest, a count follows `)`, and `|` marks a pipeline cut.
"""

import re
from collections.abc import Iterator

SYMBOLS = {
    "A": "grouped-query attention",
    "M": "Mamba-2",
    "F": "feed-forward",
    "E": "second feed-forward",
    "T": "TransMamba",
}
_MOST = 10_000
_TOKEN = re.compile(r"\)(\d*)|[^)]")


def parse_pattern(text: str) -> tuple[str, ...]:
    """Expands a pattern into its layer symbols.

    >>> parse_pattern("(MF)3 AMF")
    ('M', 'F', 'M', 'F', 'M', 'F', 'A', 'M', 'F')

    Raises:
        ValueError: an unknown symbol, an unbalanced parenthesis, a count below 1 or without a group, no layer at all,
            a group that expands to more than 10,000 layers.
    """
    stack: list[list[str]] = [[]]
    for index, symbol, count in _tokens(text):
        if symbol in SYMBOLS:
            stack[-1].append(symbol)
        elif symbol == "(":
            stack.append([])
        elif symbol == ")":
            if len(stack) == 1:
                raise ValueError(_message(text, index, "closes a group that was never opened; add '(' or remove it"))
            if count == 0:
                raise ValueError(_message(text, index, "repeats a group 0 times; use a count of 1 or more"))
            group = stack.pop()
            # Nested counts multiply: a few more digits would fill the memory before anything could be weighed.
            if len(group) * count > _MOST:
                raise ValueError(_message(text, index, f"makes more than {_MOST:,} layers; use smaller counts"))
            stack[-1].extend(group * count)
        elif symbol != "|":
            known = ", ".join(f"{key} ({name})" for key, name in SYMBOLS.items())
            hint = "a count goes after ')', as in '(MF)3'" if symbol.isdigit() else f"use {known}"
            raise ValueError(_message(text, index, f"has no layer called {symbol!r}; {hint}"))
    if len(stack) > 1:
        raise ValueError(f"pattern={text!r} leaves {len(stack) - 1} group(s) open; add ')'")
    if not stack[0]:
        raise ValueError(f"pattern={text!r} has no layer; write for example '(MF)3 AMF'")
    return tuple(stack[0])


def _tokens(text: str) -> Iterator[tuple[int, str, int]]:
    """Yields (place, symbol, count); the count is 1 except after a closing parenthesis that carries one."""
    for match in _TOKEN.finditer(text):
        symbol = match.group()[0]
        if not symbol.isspace():
            yield match.start(), symbol, int(match.group(1) or 1)


def _message(text: str, index: int, problem: str) -> str:
    return f"pattern={text!r} at character {index + 1} {problem}"


def hybrid_pattern(total: int, attention: int, ffn: int, option: str = "C") -> str:
    """Arranges attention, Mamba-2 and feed-forward sub-layers as TurboS may have done (its exact order is unpublished).

    The paper gives counts (7 A, 57 M, 64 F of 128) and two blocks, AMF and MF. Option "A" keeps its words: one AMF an
    attention layer, MF for the rest, and lone F where feed-forwards are left over. Option "B" gives every mixer one
    feed-forward. Option "C" is Megatron-Core's automatic hybrid allocator, which the published ratios point to.

    Args:
        total: sub-layers in all; the rest after attention and ffn is Mamba-2.
    Returns:
        a string of `total` characters over A, M and F.
    Raises:
        ValueError: counts that do not fit the option, or an unknown option.
    """
    mamba = total - attention - ffn
    if min(attention, ffn) < 0 or mamba < 0 or total < 1:
        raise ValueError(
            f"hybrid_pattern total={total}, attention={attention}, ffn={ffn} leaves {mamba} Mamba-2 layers"
        )
    if option == "A":
        return _blocks(attention, mamba, ffn)
    if option == "B":
        return _one_ffn_each(attention, mamba, ffn)
    if option == "C":
        return _allocate(total, attention, ffn)
    raise ValueError(f"hybrid_pattern option={option!r} is unknown; use 'A', 'B' or 'C'")


def _blocks(attention: int, mamba: int, ffn: int) -> str:
    if not attention <= mamba <= ffn:
        raise ValueError(f"option A needs attention ≤ Mamba-2 ≤ ffn, got {attention}, {mamba}, {ffn}; use option C")
    if ffn - mamba > mamba:
        raise ValueError(f"option A fits at most {2 * mamba} ffn after {mamba} Mamba-2 layers, got {ffn}; use option C")
    with_attention = _evenly(attention, mamba)
    with_extra = _evenly(ffn - mamba, mamba, offset=0)
    blocks = zip(with_attention, with_extra, strict=True)
    return "".join("A" * a + "MF" + "F" * extra for a, extra in blocks)


def _one_ffn_each(attention: int, mamba: int, ffn: int) -> str:
    if attention + mamba != ffn:
        raise ValueError(f"option B needs attention + Mamba-2 = ffn, got {attention} + {mamba} and {ffn}; use option C")
    return "".join("AF" if marked else "MF" for marked in _evenly(attention, ffn))


def _evenly(count: int, places: int, offset: float = 0.5) -> list[bool]:
    """Marks `count` of `places`, one in each of `count` equal stretches, at the share `offset` of the stretch."""
    marked = {int((k + offset) * places / count) for k in range(count)}
    return [i in marked for i in range(places)]


def _allocate(total: int, attention: int, ffn: int) -> str:
    """Megatron-Core's allocator: attention in even sections that begin and end with Mamba-2, then feed-forwards."""
    layers = ["M"] * total
    _fill(layers, "A", (total - attention) / (attention + 1), attention)
    _fill(layers, "F", (total - attention - ffn) / ffn if ffn else total, ffn)
    return "".join(layers)


def _fill(layers: list[str], symbol: str, section: float, count: int) -> None:
    left = section
    for index, layer in enumerate(layers):
        if layer != "M":
            continue
        if left < 0.5 and count:
            layers[index], left, count = symbol, left + section, count - 1
        else:
            left -= 1
