"""The `config.json` of a model directory of ours: the model's shape under "model", around it what `transformers` asks for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.data import TextTokenizer
from tandem.nn import HybridLM, ModelConfig

FORMAT, VERSION = "tandem", 2
_FLAT = 1  # the version that had the keys of the model beside its own


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedConfig:
    """What a source says of itself: the shape of the model, and whether it was tuned on conversations."""

    model: ModelConfig
    chat: bool


def header(model: HybridLM, tokenizer: TextTokenizer, *, chat: bool, dtype: str | None) -> dict[str, Any]:
    """The content of `config.json`; `dtype` is the weights' format, that of the embedding when None."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model_type": FORMAT,
        "architectures": ["TandemForCausalLM"],
        "chat": chat,
        "model": model.config.to_dict(),
        "dtype": dtype or str(model.embedding.dtype).removeprefix("torch."),
        "tie_word_embeddings": model.config.tie_embeddings,
        **generation_header(tokenizer),
    }


def generation_header(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The content of `generation_config.json`: which ids begin, end and pad a text; one that ends it pads where none is named."""
    ends = sorted(tokenizer.stop_ids)
    first = tokenizer.eos_id if tokenizer.eos_id is not None else next(iter(ends), None)
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": ends or None,
        "pad_token_id": getattr(tokenizer, "pad_id", first),
    }


def is_ours(plain: dict[str, Any]) -> bool:
    """Whether a `config.json` is of this format."""
    return plain.get("format") == FORMAT or plain.get("model_type") == FORMAT


def read_header(file: Path, plain: dict[str, Any]) -> SavedConfig:
    """What a `config.json` of ours says; keys that `transformers` adds to it are not read.

    Raises:
        ValueError: a later version, or an entry that is wrong (named).
    """
    version, chat = plain.get("version"), plain.get("chat", False)
    if version not in (_FLAT, VERSION):
        raise ValueError(f"{file} has version={version!r}, this Tandem reads up to {VERSION}; upgrade with pip")
    if not isinstance(chat, bool):
        raise ValueError(f"{file} has chat={chat!r}; use true or false")
    shape = plain.get("model")
    if version == _FLAT:
        shape = {name: value for name, value in plain.items() if name not in ("format", "version", "chat")}
    if not isinstance(shape, dict):
        raise ValueError(f"{file} has model={shape!r}; it must be the object that describes the layers")
    return SavedConfig(model=ModelConfig.from_dict(shape), chat=chat)
