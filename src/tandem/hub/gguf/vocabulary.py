"""The tokenizer of a GGUF file: byte-level BPE, its special tokens, its chat template, and the rule that splits words.

llama.cpp names that rule (`tokenizer.ggml.pre`) and knows it by heart; here each name has its regular expression. A file
of ours also holds the whole `tokenizer.json`, under the key that llama.cpp reserves for it, and is read back from that.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from tandem.data import CHAT_TEMPLATE, SPECIAL_TOKENS, PretrainedTokenizer, SpecialTokens, TextTokenizer, Tokenizer
from tandem.hub.gguf.metadata import Value

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # kinds of tokens
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str, digits: str) -> str:
    """Words cut where a small letter is followed by a capital one."""
    start = r"[^\r\n\p{L}\p{N}]?"
    return f"{start}{_UPPER}*{_LOWER}+{ending}|{start}{_UPPER}+{_LOWER}*{ending}|{digits}{_CASED_REST}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """How words are split before merging.

    Attributes:
        words: a regular expression; that of GPT-2 when None.
        digits: each is a word of its own first.
        whole_words: a word that is a token is not merged together piece by piece.
        composed: the text is brought to Unicode's form NFC first, which llama.cpp leaves out.
    """

    words: str | None = None
    digits: bool = False
    whole_words: bool = False
    composed: bool = False

    def parts(self) -> tuple[Any, Any]:
        """Normalizer and pre-tokenizer."""
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.words is None)
        first = [pre_tokenizers.Digits(individual_digits=True)] if self.digits else []
        if self.words is not None:
            first = [*first, pre_tokenizers.Split(Regex(self.words), behavior="isolated")]
        before = pre_tokenizers.Sequence([*first, byte_level]) if first else byte_level
        return (normalizers.NFC() if self.composed else None), before


_SPLITS = {
    "gpt-2": _Split(),
    "smollm": _Split(digits=True),
    "qwen2": _Split(words=_WORDS + r"\p{N}" + _REST, composed=True),
    "llama-bpe": _Split(words=_WORDS + r"\p{N}{1,3}" + _REST, whole_words=True),
    "dbrx": _Split(words=_WORDS + r"\p{N}{1,3}" + _REST),
    "tekken": _Split(words=_cased("", r"\p{N}"), whole_words=True),
    "gpt-4o": _Split(words=_cased(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", r"\p{N}{1,3}")),
}
# Other names under which llama.cpp does the same.
_ALIASES = {
    **dict.fromkeys(("phi-2", "mpt", "olmo", "jais", "granite-docling", "exaone4", "modern-bert"), "gpt-2"),
    **dict.fromkeys(("refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b"), "smollm"),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open"), "qwen2"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), "llama-bpe"),
    "smaug-bpe": "dbrx",
    "llama4": "gpt-4o",
}


def written_vocabulary(tokenizer: TextTokenizer, vocab_size: int, chat: bool) -> dict[str, Value]:
    """The keys of a tokenizer, with names for the ids that the model has and the tokenizer lacks.

    Raises:
        ValueError: a tokenizer that llama.cpp has no rule for.
    """
    if not isinstance(tokenizer, Tokenizer | PretrainedTokenizer):
        raise ValueError(f"tokenizer is a {type(tokenizer).__name__}; GGUF holds Tokenizer and PretrainedTokenizer")
    plain = json.loads(tokenizer.backend.to_str())
    keys: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2" if isinstance(tokenizer, Tokenizer) else _pre(plain),
        **_tokens(tokenizer.backend, vocab_size),
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in plain["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": tokenizer.bos_id is not None and tokenizer.text_ids("a")[0] == tokenizer.bos_id,
        "tokenizer.huggingface.json": json.dumps(plain, ensure_ascii=False),
        **_special_ids(tokenizer),
    }
    template = tokenizer.special.chat_template if isinstance(tokenizer, PretrainedTokenizer) else CHAT_TEMPLATE
    return {**keys, "tokenizer.chat_template": template} if chat and template is not None else keys


def _tokens(backend: tokenizers.Tokenizer, vocab_size: int) -> dict[str, Value]:
    added = backend.get_added_tokens_decoder()
    names, kinds = [], []
    for index in range(vocab_size):
        name = backend.id_to_token(index)
        names.append(f"[PAD{index}]" if name is None else name)
        if name is None:
            kinds.append(_UNUSED)
        elif index in added:
            kinds.append(_CONTROL if added[index].special else _USER_DEFINED)
        else:
            kinds.append(_NORMAL)
    return {"tokenizer.ggml.tokens": names, "tokenizer.ggml.token_type": kinds}


def _special_ids(tokenizer: TextTokenizer) -> dict[str, Value]:
    others = sorted(tokenizer.stop_ids - {tokenizer.eos_id})
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id} | dict(zip(("eot", "eom"), others, strict=False))
    keys: dict[str, Value] = {f"tokenizer.ggml.{k}_token_id": v for k, v in named.items() if v is not None}
    return {**keys, "tandem.stop_token_ids": others} if len(others) > 2 else keys


def _pre(plain: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rule of a `tokenizer.json`."""
    model, decoder = plain["model"], plain["decoder"]
    if model["type"] != "BPE" or (decoder or {}).get("type") != "ByteLevel":
        raise ValueError(f"tokenizer is {model['type']} and not byte-level BPE, which GGUF is written for")
    found = _state(plain["normalizer"], plain["pre_tokenizer"], model.get("ignore_merges", False))
    for name, split in _SPLITS.items():
        backend = tokenizers.Tokenizer(models.BPE())
        _, backend.pre_tokenizer = split.parts()
        if found == _state(None, json.loads(backend.to_str())["pre_tokenizer"], split.whole_words):
            return name
    raise ValueError(
        f"tokenizer splits words by a rule that llama.cpp is not known to have; known: {', '.join(_SPLITS)}"
    )


def _state(normalizer: Any, before: Any, whole_words: bool) -> Any:
    """What decides how words are split; a normalizer to NFC counts as none."""
    steps = before["pretokenizers"] if before and before["type"] == "Sequence" else [before]
    shown = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps if step]
    return normalizer if normalizer != {"type": "NFC"} else None, shown, whole_words


def read_vocabulary(path: Path, keys: Mapping[str, Any]) -> Tokenizer | PretrainedTokenizer:
    """The tokenizer of a file's keys.

    Raises:
        ValueError: no tokenizer, another kind than byte-level BPE, or a rule that is not known here.
    """
    whole = keys.get("tokenizer.huggingface.json")
    backend = _from_merges(path, keys) if whole is None else _parsed(path, whole)
    if whole is not None and tuple(backend.id_to_token(k) for k in range(len(SPECIAL_TOKENS))) == SPECIAL_TOKENS:
        return Tokenizer(backend)
    return PretrainedTokenizer(backend, _read_special(path, keys))


def _parsed(path: Path, text: Any) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises bare Exception
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} has a tokenizer.huggingface.json that is none ({reason}); copy it again") from error


def _from_merges(path: Path, keys: Mapping[str, Any]) -> tokenizers.Tokenizer:
    kind, pre = (keys.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    split = _SPLITS.get(_ALIASES.get(str(pre), str(pre)))
    if kind != "gpt2" or split is None:
        known = ", ".join(f"gpt2 with pre={name!r}" for name in [*_SPLITS, *_ALIASES])
        raise ValueError(f"{path} has tokenizer.ggml.model={kind!r} with pre={pre!r}; supported: {known}")
    tokens, merges = (_list(path, keys, key, str) for key in ("tokens", "merges"))
    kinds = _list(path, keys, "token_type", int)
    if len(kinds) != len(tokens):
        raise ValueError(f"{path} has {len(tokens)} tokens and {len(kinds)} tokenizer.ggml.token_type; copy it again")
    vocabulary = {token: k for k, token in enumerate(tokens) if kinds[k] != _UNUSED}
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    try:
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=split.whole_words))
    except Exception as error:  # as above
        raise ValueError(f"{path} has no usable tokenizer ({error}); copy it again") from error
    backend.normalizer, backend.pre_tokenizer = split.parts()
    backend.decoder = decoders.ByteLevel()
    for token, number in zip(tokens, kinds, strict=True):
        if number in (_CONTROL, _USER_DEFINED):
            backend.add_tokens([AddedToken(token, special=number == _CONTROL, normalized=False)])
    return backend


def _read_special(path: Path, keys: Mapping[str, Any]) -> SpecialTokens:
    bos, eos, turn, message = (
        _optional(path, keys, f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos", "eot", "eom")
    )
    others = _list(path, keys, "tandem.stop_token_ids", int) if "tandem.stop_token_ids" in keys else []
    add_bos = _optional(path, keys, "tokenizer.ggml.add_bos_token", bool)
    begins = _ALIASES.get(str(keys.get("tokenizer.ggml.pre")), keys.get("tokenizer.ggml.pre")) in (
        "llama-bpe",
        "tekken",
    )
    return SpecialTokens(
        bos_id=bos,
        eos_id=eos,
        stop_ids=frozenset(k for k in (eos, turn, message, *others) if k is not None),
        add_bos=True if add_bos is None and begins else add_bos,
        chat_template=_optional(path, keys, "tokenizer.chat_template", str),
    )


def _list(path: Path, keys: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    full = key if "." in key else f"tokenizer.ggml.{key}"
    found = keys.get(full)
    if found is None:
        raise ValueError(f"{path} has no {full}; use a file of a whole model")
    if not isinstance(found, list) or not all(isinstance(value, kind) for value in found):
        raise ValueError(f"{path} has a {full} that is no list of type {kind.__name__}; copy it again")
    return found


def _optional(path: Path, keys: Mapping[str, Any], key: str, kind: type) -> Any:
    found = keys.get(key)
    if found is not None and (not isinstance(found, kind) or (isinstance(found, bool) and kind is int)):
        raise ValueError(f"{path} has {key}={found!r}, which must be of type {kind.__name__}; copy it again")
    return found
