"""Byte-level BPE tokenizer with reserved ids, one token a digit, and a decoder for streams.

Ids 0–31 never change between vocabularies, so chat formats and masks can name them as constants. Numbers are spelled
digit by digit: merged digits make arithmetic depend on how a number happened to be cut.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from tandem.report import atomic_path

_NAMED = (
    *("<pad>", "<bos>", "<eos>", "<system>", "<user>", "<assistant>"),
    *("<think>", "</think>", "<tool>", "</tool>", "<result>", "</result>"),
)
RESERVED = 32
SPECIAL_TOKENS: tuple[str, ...] = _NAMED + tuple(f"<spare_{k}>" for k in range(len(_NAMED), RESERVED))
"""The reserved ids in order: id k is SPECIAL_TOKENS[k]."""

SMALLEST_VOCABULARY = RESERVED + 256
"""Reserved ids plus one token a byte: below this some text could not be written."""
_LARGEST_VOCABULARY = 2**20

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""What `Tokenizer.conversation_ids` lays out, in the Jinja of other programs, which read names of tokens in it as tokens."""

# Words, punctuation and whitespace as in the cl100k family, with \p{N} alone where that family takes up to three digits.
_PIECES = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_FOR_TRANSFORMERS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "pad_token": "<pad>",
    "clean_up_tokenization_spaces": False,
    "chat_template": CHAT_TEMPLATE,
}


def bytes_of_characters() -> dict[str, int]:
    """Inverse of the printable alphabet in which byte-level BPE writes its tokens (GPT-2, Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(hidden)}


def read_backend(file: Path, remedy: str) -> tokenizers.Tokenizer:
    """Reads a `tokenizer.json`.

    Raises:
        ValueError: no such file, or no tokenizer; the message ends in the remedy.
    """
    if not file.is_file():
        raise ValueError(f"tokenizer.path={file} does not exist; {remedy}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises bare Exception for every unreadable file
        reason = str(error).splitlines()[0]
        raise ValueError(f"tokenizer.path={file} is no tokenizer ({reason}); {remedy}") from error


def ids_of(backend: tokenizers.Tokenizer, text: str, *, specials: bool = False) -> list[int]:
    """Ids of a text.

    Args:
        specials: with what the tokenizer puts around a text.
    Raises:
        ValueError: half a surrogate pair in the text, as Python makes of an argument that is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text={text[:40]!r} is not Unicode at character {error.start}; give UTF-8 text") from None
    return backend.encode(text, add_special_tokens=specials).ids


def write_backend(file: Path, backend: tokenizers.Tokenizer, begin: tuple[str, int] | None) -> None:
    """Writes a `tokenizer.json` atomically.

    Args:
        begin: token and id that the file puts ahead of a text when it is asked for special tokens; None leaves it as it is.
    """
    written = tokenizers.Tokenizer.from_str(backend.to_str())
    if begin is not None:
        token, _ = begin
        written.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
            single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[begin]
        )
    with atomic_path(file) as temporary:
        temporary.write_text(written.to_str(pretty=True), encoding="utf-8")


def is_own_tokenizer(file: Path) -> bool:
    """Whether a `tokenizer.json` has the reserved ids of `Tokenizer`.

    Raises:
        ValueError: no such file, or no tokenizer.
    """
    return _reserved(read_backend(file, "copy the model directory again")) == SPECIAL_TOKENS


def _reserved(backend: tokenizers.Tokenizer) -> tuple[str | None, ...]:
    return tuple(backend.id_to_token(k) for k in range(RESERVED))


class Tokenizer:
    """Text to ids and back; a thin face on `tokenizers` with the reserved ids of this project.

    >>> tokenizer = Tokenizer.train(["the cat sat on the mat"] * 2, vocab_size=300)
    >>> tokenizer.decode(tokenizer.encode("the hat costs 42"))
    'the hat costs 42'
    """

    pad_id, bos_id, eos_id, system_id, user_id, assistant_id = range(6)
    think_id, end_think_id, tool_id, end_tool_id, result_id, end_result_id = range(6, 12)
    stop_ids = frozenset((eos_id, system_id, user_id, assistant_id))  # the end of a text, and marks of another turn

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wraps a byte-level `tokenizers.Tokenizer` whose first 32 ids are SPECIAL_TOKENS.

        Raises:
            ValueError: the first ids are others, or a token is not spelled in the alphabet of bytes.
        """
        found = _reserved(backend)
        if found != SPECIAL_TOKENS:
            wrong = next(k for k in range(RESERVED) if found[k] != SPECIAL_TOKENS[k])
            raise ValueError(
                f"tokenizer.id_{wrong}={found[wrong]!r} must be {SPECIAL_TOKENS[wrong]!r}; "
                "make the file with `tandem data tokenize`"
            )
        # Text from a user must not be able to write a turn marker: specials enter as ids, never as strings.
        backend.encode_special_tokens = True
        backend.post_processor = None  # pyright: ignore[reportAttributeAccessIssue] - `save` writes one, ids here need none
        self.backend = backend
        to_byte = bytes_of_characters()
        tokens = [backend.id_to_token(k) or "" for k in range(RESERVED, backend.get_vocab_size())]
        strange = next((token for token in tokens if not to_byte.keys() >= set(token)), None)
        if strange is not None:
            raise ValueError(
                f"tokenizer has {strange!r}, which spells no bytes; make the file with `tandem data tokenize`"
            )
        self._bytes = [b""] * RESERVED + [bytes(to_byte[character] for character in token) for token in tokens]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 4096) -> Self:
        """Learns a vocabulary of at most `vocab_size` ids (fewer when the text has too few repeated pairs).

        Raises:
            ValueError: vocab_size below 288 (32 reserved ids and 256 bytes).
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise ValueError(
                f"tokenizer.vocab_size={vocab_size} is below {SMALLEST_VOCABULARY}, the reserved ids and 256 bytes; "
                "use 4096 for small models"
            )
        if vocab_size > _LARGEST_VOCABULARY:
            # The library allocates room for all of them first, and a failure there ends the process.
            raise ValueError(f"tokenizer.vocab_size={vocab_size} is above {_LARGEST_VOCABULARY:,}; use fewer ids")
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads `tokenizer.json`, or the file of that name in a directory.

        Raises:
            ValueError: no such file, not a tokenizer, or other reserved ids.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        return cls(read_backend(file, "make it with `tandem data tokenize`"))

    def save(self, path: Path | str) -> Path:
        """Writes `tokenizer.json` atomically; returns the file.

        In a directory `tokenizer_config.json` goes with it, from which `transformers` makes a tokenizer of the same ids.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        write_backend(file, self.backend, begin=("<bos>", self.bos_id))
        if Path(path).is_dir():
            with atomic_path(Path(path) / "tokenizer_config.json") as temporary:
                temporary.write_text(json.dumps(_FOR_TRANSFORMERS, indent=2) + "\n", encoding="utf-8")
        return file

    @property
    def vocab_size(self) -> int:
        """Number of ids, the reserved ones included."""
        return len(self._bytes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole definition; equal fingerprints encode equally."""
        return hashlib.sha256(self.backend.to_str(pretty=False).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no bos or eos, and `<think>` in the text is seven characters, not id 6.

        Raises:
            ValueError: half a surrogate pair, which is no character, in the text.
        """
        return ids_of(self.backend, text)

    def start_of_text(self) -> int:
        """`<bos>`."""
        return self.bos_id

    def text_ids(self, text: str) -> list[int]:
        """`<bos>` and the text."""
        return [self.bos_id, *self.encode(text)]

    def conversation_ids(self, messages: Sequence[Mapping[str, str]], thinking: str = "auto") -> list[int]:
        """Ids of a conversation up to the assistant's next answer: `<bos> (<role> content <eos>)* <assistant>`.

        Behind it an empty `<think></think>` block makes a model answer at once ("short"), an open one makes it think
        first ("long").
        """
        role_id = {"system": self.system_id, "user": self.user_id, "assistant": self.assistant_id}
        ids = [self.bos_id]
        for message in messages:
            ids += [role_id[message["role"]], *self.encode(message["content"]), self.eos_id]
        marks = {"short": [self.think_id, self.end_think_id], "long": [self.think_id]}
        return [*ids, self.assistant_id, *marks.get(thinking, [])]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """Bytes that one id writes; nothing for reserved ids (unless asked) and for ids outside the vocabulary."""
        if 0 <= token < RESERVED and not skip_special:
            return SPECIAL_TOKENS[token].encode()
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of the ids; bytes that are no UTF-8 (a cut character) become U+FFFD."""
        return b"".join(self.token_bytes(k, skip_special=skip_special) for k in ids).decode("utf-8", "replace")

    def stream_decoder(self, skip_special: bool = True) -> "StreamDecoder":
        """A decoder to be fed one id at a time."""
        return StreamDecoder(self, skip_special)


class StreamDecoder:
    """Decodes ids one by one and holds back bytes until a character is complete.

    The pieces and the final `flush()` together are `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Text that became complete with this id; empty in the middle of a character."""
        return self._decoder.decode(self._tokenizer.token_bytes(token, skip_special=self._skip_special))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._decoder.decode(b"", final=True)
