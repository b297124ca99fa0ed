"""The tokenizer of a released model: any `tokenizer.json`, with the special tokens and the chat template beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers

from tandem.data.chat_template import read_chat_template, render_chat
from tandem.data.json_object import read_json_object
from tandem.data.text_tokenizer import is_thinking
from tandem.data.tokenizer import bytes_of_characters, ids_of, read_backend, write_backend
from tandem.report import atomic_path

_FILE, _CONFIG = "tokenizer.json", "tokenizer_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """What the files beside `tokenizer.json` say.

    Attributes:
        bos_id, eos_id: begin and end of a text, None where the model knows none.
        stop_ids: ids that end an answer: eos and what config.json and generation_config.json add to it.
        add_bos: put bos before a text; None leaves it to `tokenizer.json`.
        chat_template: Jinja, or None for a model that was not tuned on conversations.
    """

    bos_id: int | None = None
    eos_id: int | None = None
    stop_ids: frozenset[int] = frozenset()
    add_bos: bool | None = None
    chat_template: str | None = None


class PretrainedTokenizer:
    """Text to ids and back as the model's authors have it; see `TextTokenizer`.

    In a text names of special tokens are plain characters. In a chat they are not: a template writes turns by name, and what
    messages say is part of its text, as in `transformers`. Give messages from strangers to models that know better.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
        backend.encode_special_tokens = True
        self.backend = backend
        self.special = special
        self._added = backend.get_added_tokens_decoder()
        names = {token.content: index for index, token in self._added.items()}
        self.think_id, self.end_think_id = names.get("<think>"), names.get("</think>")
        if self.end_think_id is None:
            self.think_id = None

    @classmethod
    def load(cls, directory: Path | str) -> Self:
        """Reads `tokenizer.json` and what lies beside it in a model directory.

        Raises:
            ValueError: no such file, not a tokenizer, or a file beside it that cannot be understood.
        """
        folder = Path(directory)
        backend = read_backend(folder / _FILE, "copy the model directory again")
        return cls(backend, read_special_tokens(folder, backend))

    def save(self, path: Path | str) -> Path:
        """Writes `tokenizer.json` and `tokenizer_config.json` into a directory; returns the former."""
        special = self.special
        plain = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": self._name(special.bos_id),
            "eos_token": self._name(special.eos_id),
            "stop_token_ids": sorted(special.stop_ids),
            "add_bos_token": special.add_bos,
            "chat_template": special.chat_template,
        }
        write_backend(Path(path) / _FILE, self.backend, self._begin())
        with atomic_path(Path(path) / _CONFIG) as temporary:
            temporary.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return Path(path) / _FILE

    def _begin(self) -> tuple[str, int] | None:
        """Bos, if it comes ahead of a text without `tokenizer.json` saying so: `transformers` reads that file alone."""
        name, bos = self._name(self.bos_id), self.bos_id
        if not self.special.add_bos or name is None or bos is None:
            return None
        return None if self.backend.encode("", add_special_tokens=True).ids[:1] == [bos] else (name, bos)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def bos_id(self) -> int | None:
        """Begin of a text."""
        return self.special.bos_id

    @property
    def eos_id(self) -> int | None:
        """End of a text."""
        return self.special.eos_id

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return self.special.stop_ids

    def start_of_text(self) -> int:
        """Bos, or eos for models without: the end of another text comes before the first token.

        Raises:
            ValueError: the model has neither.
        """
        start = self.bos_id if self.bos_id is not None else self.eos_id
        if start is None:
            raise ValueError("the tokenizer has neither bos nor eos, so nothing can stand before the first token")
        return start

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        return ids_of(self.backend, text)

    def text_ids(self, text: str) -> list[int]:
        """Ids of the text behind what `tokenizer.json` puts ahead of it; of an empty one, its start."""
        ids = ids_of(self.backend, text, specials=True)
        if self.special.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids = [self.bos_id, *ids]
        return ids or [self.start_of_text()]

    def conversation_ids(self, messages: Sequence[Mapping[str, str]], thinking: str = "auto") -> list[int]:
        """Ids of the rendered chat template.

        A template that knows `enable_thinking` is told; behind any other the think block is opened or closed by its marks.

        Raises:
            ValueError: no template, or one that fails.
        """
        template = self.special.chat_template
        if template is None:
            raise ValueError("the model has no chat template, it only continues text; give a string as the prompt")
        names = {"bos_token": self._name(self.bos_id), "eos_token": self._name(self.eos_id)}
        # One that the model lacks is left out, which a template writes as nothing; None it would write as a word.
        variables: dict[str, Any] = {key: name for key, name in names.items() if name is not None}
        if thinking != "auto":
            variables["enable_thinking"] = thinking == "long"
        text = render_chat(template, messages, variables)
        ids = self._with_specials.encode(text, add_special_tokens=False).ids
        return ids if thinking == "auto" or "enable_thinking" in template else [*ids, *self._marks(ids, thinking)]

    def _marks(self, ids: Sequence[int], thinking: str) -> list[int]:
        """What opens the think block behind the ids, or closes it."""
        if self.think_id is None or self.end_think_id is None:
            return []
        opening = [] if is_thinking(ids, self) else [self.think_id]
        return opening if thinking == "long" else [*opening, self.end_think_id]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """Bytes that one id writes inside a text; nothing for special ids (unless asked) and ids outside the vocabulary."""
        added = self._added.get(token)
        if added is not None:
            return b"" if added.special and skip_special else added.content.encode()
        name = self.backend.id_to_token(token) or ""
        if self._to_byte is not None:
            return bytes(self._to_byte[character] for character in name if character in self._to_byte)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace("▁", " ").encode()

    def stream_decoder(self, skip_special: bool = True) -> "PretrainedStreamDecoder":
        """A decoder to be fed one id at a time."""
        return PretrainedStreamDecoder(self, skip_special)

    @cached_property
    def _with_specials(self) -> tokenizers.Tokenizer:
        """A second backend, which reads names of special tokens as these tokens."""
        return tokenizers.Tokenizer.from_str(self.backend.to_str())

    @cached_property
    def _to_byte(self) -> dict[str, int] | None:
        """The alphabet of byte-level BPE; None for tokens that are written in plain characters."""
        decoder = self.backend.decoder
        return bytes_of_characters() if decoder is not None and b"ByteLevel" in decoder.__getstate__() else None

    def _name(self, token: int | None) -> str | None:
        return None if token is None else self.backend.id_to_token(token)


class PretrainedStreamDecoder:
    """Decodes ids one by one: what the newest ones add to the text of a few before them.

    A token's text may depend on its neighbors (spaces of SentencePiece, characters cut into bytes), so the last pieces are
    decoded together and nothing is shown while it ends in the middle of a character.
    """

    def __init__(self, tokenizer: PretrainedTokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._ids: list[int] = []  # before _shown: already written; they give what follows its context
        self._shown = 0

    def push(self, token: int) -> str:
        """Text that became complete with this id."""
        self._ids.append(token)
        before, whole = self._texts()
        if len(whole) <= len(before) or whole.endswith("\ufffd"):
            return ""
        self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
        return whole[len(before) :]

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        before, whole = self._texts()
        self._shown = len(self._ids)
        return whole[len(before) :]

    def _texts(self) -> tuple[str, str]:
        """Text of the ids already written, and of all."""
        decode = self._tokenizer.decode
        return decode(self._ids[: self._shown], self._skip_special), decode(self._ids, self._skip_special)


def read_special_tokens(directory: Path, backend: tokenizers.Tokenizer) -> SpecialTokens:
    """What the JSON files of a model directory say about special tokens; missing files say nothing.

    Raises:
        ValueError: a file that is no JSON object, or a chat template that is no text.
    """
    config, generation, own = (
        _beside(directory / name) for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )

    def named(key: str) -> int | None:
        token = own.get(key)
        name = token.get("content") if isinstance(token, dict) else token
        return backend.token_to_id(name) if isinstance(name, str) else None

    ends = [*_ids(generation.get("eos_token_id")), *_ids(config.get("eos_token_id")), *_ids(own.get("stop_token_ids"))]
    begins = [*_ids(generation.get("bos_token_id")), *_ids(config.get("bos_token_id"))]
    bos, eos = named("bos_token"), named("eos_token")
    add_bos = own.get("add_bos_token")
    return SpecialTokens(
        # A tokenizer that says it has no bos has none, whatever the model's config holds from its defaults.
        bos_id=next(iter(begins), None) if bos is None and "bos_token" not in own else bos,
        eos_id=next(iter(ends), None) if eos is None else eos,
        stop_ids=frozenset(ends if eos is None else [*ends, eos]),
        add_bos=add_bos if isinstance(add_bos, bool) else None,
        chat_template=read_chat_template(directory, own),
    )


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [k for k in values if isinstance(k, int) and not isinstance(k, bool) and k >= 0]


def _beside(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}
