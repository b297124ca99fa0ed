"""The language of layers and the arrangements of TurboS."""

import pytest

from tandem.nn import hybrid_pattern, parse_pattern

# Option C as published in our notes on TurboS: the output of Megatron-Core's allocator for 128 layers, 0.055 and 0.5.
OPTION_C = (
    "MFMFMFMFFMFMFMFAMFMFMFMFMFFMFMFAMFMFMFMFMFMFFMFAMFMFMFMFMFMFMFMF"
    "AFMFMFMFMFMFMFMFAMFFMFMFMFMFMFMFAMFMFFMFMFMFMFMFAMFMFMFFMFMFMFMF"
)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("(MF)3 AMF", "MFMFMFAMF"), ("M|F (A(MF)2)2", "MFAMFMFAMFMF"), ("(MF)", "MF"), (" A ", "A"), ("TE", "TE")],
)
def test_patterns_expand(text: str, layers: str):
    assert parse_pattern(text) == tuple(layers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no layer"),
        ("MX", "character 2 has no layer called 'X'"),
        ("M3F", "a count goes after"),
        ("(MF", "leaves 1 group"),
        ("MF)2", "never opened"),
        ("(MF)0", "repeats a group 0 times"),
        ("(MF)1000000000", "character 4 makes more than 10,000 layers; use smaller counts"),
        ("(" * 50 + "M" + ")2" * 50, "makes more than 10,000 layers"),
    ],
)
def test_wrong_patterns_are_explained(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_pattern(text)


def test_option_c_is_the_allocator_of_megatron():
    assert hybrid_pattern(total=128, attention=7, ffn=64, option="C") == OPTION_C


@pytest.mark.parametrize(("option", "blocks"), [("A", 7), ("B", 0), ("C", 6)])
def test_options_have_the_published_counts(option: str, blocks: int):
    pattern = hybrid_pattern(total=128, attention=7, ffn=64, option=option)
    assert [pattern.count(symbol) for symbol in "AMF"] == [7, 57, 64]
    assert pattern.count("AMF") == blocks


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="attention \\+ Mamba-2 = ffn"):
        hybrid_pattern(total=10, attention=1, ffn=4, option="B")
    with pytest.raises(ValueError, match="option='D' is unknown"):
        hybrid_pattern(total=4, attention=1, ffn=2, option="D")
