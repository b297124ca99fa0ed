import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.data import SPECIAL_TOKENS, Tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog, and then it sleeps for 12345 hours.",
    "In 2024 there were 2024 foxes; 1999 of them slept. Ünïcode — naïve café, 東京, 🦊🦊.",
] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, vocab_size=400)


# `st.data` draws inside the tests would hide the fixture, so the properties share this one.
TOKENIZER = Tokenizer.train(TEXTS, vocab_size=400)


@given(st.text())
def test_any_text_survives_the_round_trip(text: str):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.sampled_from(["7", "42", "2024", "fox", " ", ".", "\n", "é", "٣"]), max_size=12).map("".join))
def test_every_digit_is_a_token_of_its_own(text: str):
    pieces = [TOKENIZER.token_bytes(token) for token in TOKENIZER.encode(text)]
    digits = [piece for piece in pieces if any(byte in b"0123456789" for byte in piece)]
    assert all(len(piece) == 1 for piece in digits)
    assert len(digits) == sum(character in "0123456789" for character in text)


@given(st.text())
def test_stream_of_ids_decodes_like_all_of_them(text: str):
    decoder = TOKENIZER.stream_decoder()
    pieces = [decoder.push(token) for token in TOKENIZER.encode(text)]
    assert "".join(pieces) + decoder.flush() == text


@given(st.binary(max_size=20))
def test_stream_matches_decode_for_bytes_that_are_no_utf8(data: bytes):
    of_byte = {TOKENIZER.token_bytes(k): k for k in range(TOKENIZER.vocab_size)}
    ids = [of_byte[bytes([byte])] for byte in data]
    decoder = TOKENIZER.stream_decoder()
    assert "".join(map(decoder.push, ids)) + decoder.flush() == TOKENIZER.decode(ids) == data.decode("utf-8", "replace")


def test_a_vocabulary_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer.vocab_size=99999999999 is above 1,048,576; use fewer ids"):
        Tokenizer.train(TEXTS, vocab_size=99_999_999_999)


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer):
    typed = b"caf\xe9".decode("utf-8", "surrogateescape")  # what Python makes of an argument in Latin-1
    for read in (tokenizer.encode, tokenizer.text_ids):
        with pytest.raises(ValueError, match=r"text='caf.udce9' is not Unicode at character 3; give UTF-8 text"):
            read(typed)


def test_half_a_character_is_held_back(tokenizer: Tokenizer):
    of_byte = {tokenizer.token_bytes(k): k for k in range(tokenizer.vocab_size)}
    decoder = tokenizer.stream_decoder()
    shown = [decoder.push(of_byte[bytes([byte])]) for byte in "🐪".encode()]
    assert shown == ["", "", "", "🐪"]
    assert decoder.push(of_byte[b"\xf0"]) == ""
    assert decoder.flush() == "\ufffd"


def test_reserved_ids_are_the_agreed_ones(tokenizer: Tokenizer):
    backend = tokenizer.backend
    assert [backend.id_to_token(k) for k in range(32)] == list(SPECIAL_TOKENS)
    assert SPECIAL_TOKENS[:4] == ("<pad>", "<bos>", "<eos>", "<system>")
    assert SPECIAL_TOKENS[12] == "<spare_12>"
    assert SPECIAL_TOKENS[31] == "<spare_31>"
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.assistant_id) == (0, 1, 2, 5)
    assert (tokenizer.think_id, tokenizer.end_think_id, tokenizer.tool_id, tokenizer.end_result_id) == (6, 7, 8, 11)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_special_strings_in_text_stay_text(tokenizer: Tokenizer, name: str, tmp_path: Path):
    again = Tokenizer.load(tokenizer.save(tmp_path / "tokenizer.json"))
    for one in (tokenizer, again):
        ids = one.encode(f"a {name} b")
        assert min(ids) >= 32
        assert one.decode(ids) == f"a {name} b"
        assert one.encode_batch([name]) == [one.encode(name)]


def test_special_ids_are_shown_only_when_asked(tokenizer: Tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("fox"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "fox"
    assert tokenizer.decode(ids, skip_special=False) == "<bos>fox<eos>"
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


def test_training_is_deterministic_and_survives_the_disk(tokenizer: Tokenizer, tmp_path: Path):
    assert Tokenizer.train(TEXTS, vocab_size=400).fingerprint == tokenizer.fingerprint
    file = tokenizer.save(tmp_path)
    assert file == tmp_path / "tokenizer.json"
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint
    assert Tokenizer.load(file).encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])


def test_decode_agrees_with_the_library(tokenizer: Tokenizer):
    for text in (*TEXTS[:2], "résumé 東"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == tokenizer.backend.decode(ids)


def test_words_become_single_tokens(tokenizer: Tokenizer):
    assert len(tokenizer.encode("The quick brown fox")) < len("The quick brown fox")


def test_too_small_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size=100 is below 288"):
        Tokenizer.train(TEXTS, vocab_size=100)


def test_files_that_are_no_tokenizer_are_refused(tmp_path: Path, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="does not exist"):
        Tokenizer.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is no tokenizer"):
        Tokenizer.load(tmp_path / "broken.json")
    other = json.loads(tokenizer.backend.to_str())
    other["added_tokens"][6]["content"] = "<mask>"
    other["model"]["vocab"]["<mask>"] = other["model"]["vocab"].pop("<think>")
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"tokenizer\.id_6='<mask>' must be '<think>'"):
        Tokenizer.load(tmp_path / "other.json")
    strange = json.loads(tokenizer.backend.to_str())
    strange["model"]["vocab"]["漢"] = strange["model"]["vocab"].pop("a")
    strange["model"]["merges"] = []
    (tmp_path / "strange.json").write_text(json.dumps(strange))
    with pytest.raises(ValueError, match=r"tokenizer has '漢', which spells no bytes"):
        Tokenizer.load(tmp_path / "strange.json")
