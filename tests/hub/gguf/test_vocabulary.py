"""Tokenizers through a file: the same ids from `tokenizer.json`, from merges alone, and from llama.cpp."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import PEER, build, tokenizer
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from tandem import hub
from tandem.data import PretrainedTokenizer, SpecialTokens, Tokenizer
from tandem.hub.gguf import write_gguf
from tandem.hub.gguf.vocabulary import read_vocabulary, written_vocabulary
from tandem.nn import AttentionConfig, DenseConfig, ModelConfig

pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")

TEXT = "Returns 2048 buckets, IT'S\n  what we've asked for.\t\tüber don'T fooBar HTTPServer 3.14 <|end|>  \n\n x" * 3
WORDS = st.text("aZéßs'tLl 2\n\t.!_–漢🙂Ａ", max_size=20)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
WHOLE = {"llama-bpe", "tekken"}


def byte_level(*, use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(words: str) -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), behavior="isolated"), byte_level(use_regex=False)]
    )


# As the tokenizer.json of models that llama.cpp gives these names to.
RULES: dict[str, Any] = {
    "gpt-2": byte_level(use_regex=True),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]),
    "qwen2": split(QWEN2),
    "llama-bpe": split(LLAMA3),
    "dbrx": split(LLAMA3),
    "tekken": split(TEKKEN),
    "gpt-4o": split(GPT4O),
}


def trained(rule: str, template: str | None = None) -> PretrainedTokenizer:
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=rule in WHOLE))
    backend.pre_tokenizer = RULES[rule]
    backend.normalizer = normalizers.NFC() if rule == "qwen2" else None
    backend.decoder = decoders.ByteLevel()
    specials = [AddedToken(name, special=True, normalized=False) for name in ("<|start|>", "<|end|>", "<|turn|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    special = SpecialTokens(bos_id=0, eos_id=1, stop_ids=frozenset((1, 2)), add_bos=True, chat_template=template)
    return PretrainedTokenizer(backend, special)


def config(vocabulary: int) -> ModelConfig:
    attention = AttentionConfig(heads=2, kv_heads=1, head_width=8, qk_norm=False)
    return ModelConfig(
        vocab_size=vocabulary, width=32, pattern="AF", attention=attention, ffn=DenseConfig(hidden=32), context=128
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    made = {rule: trained(rule, template="{{ bos_token }}{{ messages[0]['content'] }}") for rule in RULES}
    model = build(config(340), 0)
    files = {rule: write_gguf(model, words, folder / f"{rule}.gguf", chat=True) for rule, words in made.items()}
    return {**files, "ours": write_gguf(model, tokenizer(), folder / "ours.gguf", chat=True)}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_comes_back_by_its_name_and_by_tokenizer_json(rule: str):
    words = trained(rule)
    keys = written_vocabulary(words, 340, chat=False)
    assert keys["tokenizer.ggml.pre"] == rule
    whole = read_vocabulary(Path("x.gguf"), keys)
    assert whole.backend.to_str() == words.backend.to_str()
    del keys["tokenizer.huggingface.json"]
    by_name = read_vocabulary(Path("x.gguf"), keys)
    for read in (whole, by_name):
        assert read.encode(TEXT) == words.encode(TEXT)
        assert read.decode(read.encode(TEXT)) == TEXT
        assert isinstance(read, PretrainedTokenizer)
        assert read.special == words.special
        assert read.text_ids("a b") == words.text_ids("a b")
        assert read.vocab_size == words.vocab_size
        assert read.encode("<tool>") == words.encode("<tool>") == [words.vocab_size - 1]


def test_our_tokenizer_comes_back_as_ours(files: dict[str, Path]):
    _, read, saved = hub.load(files["ours"])
    assert isinstance(read, Tokenizer)
    assert read.fingerprint == tokenizer().fingerprint
    assert saved.chat


@pytest.mark.parametrize("rule", [*RULES, "ours"])
def test_llama_cpp_has_the_same_ids(rule: str, files: dict[str, Path]):
    llama_cpp = pytest.importorskip("llama_cpp", reason=PEER)
    peer = llama_cpp.Llama(str(files[rule]), vocab_only=True, verbose=False)
    words = tokenizer() if rule == "ours" else trained(rule)

    @settings(max_examples=100, deadline=None)
    @given(WORDS)
    def check(text: str) -> None:
        assert peer.tokenize(text.encode(), add_bos=False, special=False) == words.encode(text)

    check()
    assert peer.tokenize(TEXT.encode(), add_bos=False, special=False) == words.encode(TEXT)
    assert peer.tokenize(b"a b", add_bos=True) == words.text_ids("a b")
    assert (peer.token_bos(), peer.token_eos()) == (words.bos_id, words.eos_id)
    peer.close()


def test_our_chats_are_laid_out_by_the_template(files: dict[str, Path]):
    llama_cpp = pytest.importorskip("llama_cpp", reason=PEER)
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    peer = llama_cpp.Llama(str(files["ours"]), vocab_only=True, verbose=False)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3?"},
    ]
    template = Jinja2ChatFormatter(peer.metadata["tokenizer.chat_template"], eos_token="<eos>", bos_token="<bos>")
    text = template(messages=chat).prompt
    assert peer.tokenize(text.encode(), add_bos=False, special=True) == tokenizer().conversation_ids(chat)
    peer.close()


def test_many_stops_come_back():
    words = trained("gpt-2")
    special = SpecialTokens(bos_id=0, eos_id=1, stop_ids=frozenset((1, 2, 5, 6, 7)))
    keys = written_vocabulary(PretrainedTokenizer(words.backend, special), 331, chat=True)
    read = read_vocabulary(Path("x.gguf"), keys)
    assert isinstance(read, PretrainedTokenizer)
    assert read.stop_ids == special.stop_ids
    assert "tokenizer.chat_template" not in keys


def other(kind: str) -> PretrainedTokenizer:
    words = trained("gpt-2")
    plain = json.loads(words.backend.to_str())
    if kind == "split":
        plain["pre_tokenizer"] = {"type": "Whitespace"}
    elif kind == "normalizer":
        plain["normalizer"] = {"type": "Lowercase"}
    else:
        plain["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        plain["added_tokens"] = []
    return PretrainedTokenizer(tokenizers.Tokenizer.from_str(json.dumps(plain)), words.special)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("split", "tokenizer splits words by a rule that llama.cpp is not known to have; known: gpt-2, smollm"),
        ("normalizer", "tokenizer splits words by a rule"),
        ("model", "tokenizer is WordLevel and not byte-level BPE"),
    ],
)
def test_tokenizers_unknown_to_llama_cpp_are_named(kind: str, error: str):
    with pytest.raises(ValueError, match=error):
        written_vocabulary(other(kind), 400, chat=False)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokenizer.huggingface.json": "{"}, "x.gguf has a tokenizer.huggingface.json that is none"),
        (
            {"tokenizer.ggml.pre": "gpt-9"},
            "has tokenizer.ggml.model='gpt2' with pre='gpt-9'; supported: gpt2 with pre='g",
        ),
        ({"tokenizer.ggml.model": "llama"}, "has tokenizer.ggml.model='llama' with pre='gpt-2'"),
        ({"tokenizer.ggml.tokens": None}, "has no tokenizer.ggml.tokens; use a file of a whole model"),
        ({"tokenizer.ggml.merges": [1, 2]}, "has a tokenizer.ggml.merges that is no list of type str"),
        ({"tokenizer.ggml.token_type": [1]}, "tokens and 1 tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": ["q§ z§"]}, "has no usable tokenizer"),
        ({"tokenizer.ggml.bos_token_id": "0"}, "has tokenizer.ggml.bos_token_id='0', which must be of type int"),
        ({"tokenizer.chat_template": 3}, "has tokenizer.chat_template=3, which must be of type str"),
    ],
)
def test_wrong_keys_are_named(change: dict[str, Any], error: str):
    keys: dict[str, Any] = written_vocabulary(trained("gpt-2"), 331, chat=False)
    del keys["tokenizer.huggingface.json"]
    with pytest.raises(ValueError, match=re.escape(error)) as caught:
        read_vocabulary(Path("x.gguf"), {**keys, **change})
    assert "\n" not in str(caught.value)
