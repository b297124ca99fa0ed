"""Tokenizers of released models: byte-level and SentencePiece-like ones, their special tokens, chats and streams."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tandem.data import PretrainedTokenizer, TextTokenizer, is_thinking
from tandem.data.pretrained_tokenizer import SpecialTokens

TEXT = "Returns the name of the bucket, and 42 objects. Größe: 10 µm – “quoted”. 你好 🙂\n\nQ: why?\n"
MESSAGES = [{"role": "user", "content": "why?"}]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def byte_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|end|>", "<|turn|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    backend.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return backend


def sentence_piece() -> tokenizers.Tokenizer:
    """As the files of Llama 2 have it: spaces written as ▁, bytes as a fallback, bos put ahead."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", *"Returnsthameofbck,d", "▁R", "▁t", "he", "▁the"]:
        words.setdefault(piece, len(words))
    merges = [("▁", "R"), ("▁", "t"), ("h", "e"), ("▁t", "he")]
    backend = tokenizers.Tokenizer(models.BPE(words, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def write(directory: Path, backend: tokenizers.Tokenizer, **files: dict[str, Any]) -> Path:
    backend.save(str(directory / "tokenizer.json"))
    for name, plain in files.items():
        (directory / f"{name}.json").write_text(json.dumps(plain), encoding="utf-8")
    return directory


@pytest.fixture
def chat(tmp_path: Path) -> PretrainedTokenizer:
    own = {"bos_token": None, "eos_token": {"content": "<|end|>"}, "chat_template": TEMPLATE}
    return PretrainedTokenizer.load(write(tmp_path, byte_level(), tokenizer_config=own))


@pytest.fixture
def llama(tmp_path: Path) -> PretrainedTokenizer:
    own = {"bos_token": "<s>", "eos_token": "</s>"}
    return PretrainedTokenizer.load(write(tmp_path, sentence_piece(), tokenizer_config=own))


def test_it_is_what_generation_asks_for(chat: PretrainedTokenizer):
    assert isinstance(chat, TextTokenizer)


def test_special_tokens_come_from_the_files_beside(tmp_path: Path):
    backend = byte_level()
    t = PretrainedTokenizer.load(write(tmp_path, backend))
    assert (t.bos_id, t.eos_id, t.stop_ids) == (None, None, frozenset())
    with pytest.raises(ValueError, match="neither bos nor eos"):
        t.start_of_text()
    t = PretrainedTokenizer.load(write(tmp_path, backend, config={"bos_token_id": 0, "eos_token_id": 1}))
    assert (t.bos_id, t.eos_id, t.stop_ids) == (0, 1, {1})
    t = PretrainedTokenizer.load(write(tmp_path, backend, generation_config={"eos_token_id": [2, 1]}))
    assert (t.eos_id, t.stop_ids, t.start_of_text()) == (2, {1, 2}, 0)
    own = {"bos_token": None, "eos_token": "<|end|>"}
    t = PretrainedTokenizer.load(write(tmp_path, backend, tokenizer_config=own))
    assert (t.bos_id, t.eos_id, t.stop_ids, t.start_of_text()) == (None, 1, {1, 2}, 1)


def test_texts_get_what_the_file_puts_ahead(chat: PretrainedTokenizer, llama: PretrainedTokenizer, tmp_path: Path):
    assert chat.text_ids("why") == chat.encode("why")
    assert chat.text_ids("") == [1]
    assert llama.text_ids("the") == [1, *llama.encode("the")]
    own = {"bos_token": "<|bos|>", "add_bos_token": True}
    added = PretrainedTokenizer.load(write(tmp_path, byte_level(), tokenizer_config=own))
    assert added.text_ids("why") == [0, *added.encode("why")]
    own = {"bos_token": "<s>", "add_bos_token": True}
    once = PretrainedTokenizer.load(write(tmp_path, sentence_piece(), tokenizer_config=own))
    assert once.text_ids("the") == llama.text_ids("the")
    # `transformers` puts ahead what tokenizer.json says, and only that.
    (tmp_path / "saved").mkdir()
    for t, text in ((added, "why"), (chat, "why"), (llama, "the")):
        file = t.save(tmp_path / "saved")
        assert tokenizers.Tokenizer.from_file(str(file)).encode(text).ids == t.text_ids(text)


def test_text_that_is_no_unicode_is_refused(chat: PretrainedTokenizer):
    for read in (chat.encode, chat.text_ids):
        with pytest.raises(ValueError, match=r"text='a.ud800' is not Unicode at character 1; give UTF-8 text"):
            read("a\ud800")


def test_names_of_special_tokens_in_a_text_are_plain_characters(chat: PretrainedTokenizer):
    ids = chat.text_ids("<|turn|>system")
    assert 2 not in ids
    assert chat.decode(ids) == "<|turn|>system"


@pytest.mark.parametrize("name", ["chat", "llama"])
@settings(max_examples=50)
@given(text=st.text(st.sampled_from([*"Returns the, dök", "–", "你", "🙂", "\n", "\u0301", "\ufffd"]), max_size=30))
def test_streams_are_the_text(name: str, text: str):
    t = _STREAMED[name]
    ids = t.encode(text)
    decoder = t.stream_decoder()
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.flush() == t.decode(ids)
    if name == "chat":
        assert t.decode(ids) == text
        assert b"".join(map(t.token_bytes, ids)).decode() == text


@settings(max_examples=50)
@given(ids=st.lists(st.integers(0, 329), max_size=20))
def test_any_ids_stream(ids: list[int]):
    """Cut characters too: what comes in pieces may differ from the whole in how many U+FFFD stand for broken bytes."""
    t = _STREAMED["chat"]
    decoder = t.stream_decoder()
    streamed = "".join(decoder.push(token) for token in ids) + decoder.flush()
    assert streamed.replace("\ufffd", "") == t.decode(ids).replace("\ufffd", "")


_STREAMED = {
    "chat": PretrainedTokenizer(byte_level(), SpecialTokens()),
    "llama": PretrainedTokenizer(sentence_piece(), SpecialTokens()),
}


def test_bytes_of_tokens(chat: PretrainedTokenizer, llama: PretrainedTokenizer):
    assert chat.token_bytes(0) == b""
    assert chat.token_bytes(0, skip_special=False) == b"<|bos|>"
    assert chat.token_bytes(chat.think_id or 0) == b"<think>"
    assert chat.token_bytes(10**6) == b""
    assert llama.token_bytes(3 + 0xE4) == b"\xe4"
    assert llama.token_bytes(llama.encode("the")[-1]) == b" the"


def test_chats_are_the_ids_of_transformers(chat: PretrainedTokenizer, tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    theirs.chat_template = TEMPLATE
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    want = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.conversation_ids(messages) == list(want)


def test_a_template_writes_nothing_for_a_token_that_the_model_lacks(tmp_path: Path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")
    own = {"bos_token": None, "eos_token": "<|end|>", "chat_template": "{{ bos_token }}" + TEMPLATE}
    ours = PretrainedTokenizer.load(write(tmp_path, byte_level(), tokenizer_config=own))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    want = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert ours.conversation_ids(MESSAGES) == list(want)
    assert ours.decode(ours.conversation_ids(MESSAGES)).startswith("user")


def test_a_template_that_writes_bos_gets_no_second_one(tmp_path: Path):
    own = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ bos_token }}" + TEMPLATE}
    t = PretrainedTokenizer.load(write(tmp_path, sentence_piece(), tokenizer_config=own))
    assert t.text_ids("the")[0] == t.bos_id  # tokenizer.json puts one ahead of a text
    ids = t.conversation_ids(MESSAGES)
    assert (ids[0], ids.count(1)) == (1, 1)


def test_thinking(chat: PretrainedTokenizer, llama: PretrainedTokenizer, tmp_path: Path):
    auto = chat.conversation_ids(MESSAGES)
    assert chat.think_id is not None
    assert chat.conversation_ids(MESSAGES, "long") == [*auto, chat.think_id]
    assert chat.conversation_ids(MESSAGES, "short") == [*auto, chat.think_id, chat.end_think_id]
    assert [
        is_thinking(ids, chat) for ids in (auto, [*auto, chat.think_id, 5], [chat.think_id, chat.end_think_id])
    ] == [
        False,
        True,
        False,
    ]
    assert llama.think_id is None
    assert not is_thinking([1, 2], llama)
    knows = TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    own = {"eos_token": "<|end|>", "chat_template": knows}
    told = PretrainedTokenizer.load(write(tmp_path, byte_level(), tokenizer_config=own))
    assert told.conversation_ids(MESSAGES, "short") == [*auto, told.think_id, told.end_think_id]
    assert told.conversation_ids(MESSAGES, "long") == told.conversation_ids(MESSAGES) == auto
    own["chat_template"] = TEMPLATE + "<think>\n"
    opens = PretrainedTokenizer.load(write(tmp_path, byte_level(), tokenizer_config=own))
    assert opens.conversation_ids(MESSAGES, "long") == opens.conversation_ids(MESSAGES)
    assert opens.conversation_ids(MESSAGES, "short") == [*opens.conversation_ids(MESSAGES), opens.end_think_id]


def test_no_template_is_said(llama: PretrainedTokenizer):
    with pytest.raises(ValueError, match="the model has no chat template"):
        llama.conversation_ids(MESSAGES)


def test_it_can_be_saved(chat: PretrainedTokenizer, tmp_path: Path):
    folder = tmp_path / "saved"
    folder.mkdir()
    chat.save(folder)
    again = PretrainedTokenizer.load(folder)
    assert again.special == chat.special
    assert again.encode(TEXT) == chat.encode(TEXT)
    assert again.conversation_ids(MESSAGES) == chat.conversation_ids(MESSAGES)


def test_bad_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist; copy the model directory again"):
        PretrainedTokenizer.load(tmp_path)
    write(tmp_path, byte_level(), tokenizer_config={})
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json holds a JSON list"):
        PretrainedTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer \(.*\); copy the model directory again"):
        PretrainedTokenizer.load(tmp_path)
