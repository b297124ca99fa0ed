"""A model as a directory: `model.safetensors`, `config.json` and `tokenizer.json`, written whole or not at all.

`header.py` says what `config.json` holds; with `generation_config.json` and `tokenizer_config.json` beside it `transformers`
loads the directory as well, after `import tandem.hub.transformers`. A source is such a directory, the name of a checkpoint
inside this package, a directory in Hugging Face format, whose `config.json` has a `model_type` (read by the package
`huggingface`), or a GGUF file (the package `gguf`).
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tandem.data import (
    PretrainedTokenizer,
    TextTokenizer,
    Tokenizer,
    has_chat_template,
    is_own_tokenizer,
    read_json_object,
)
from tandem.hub.device import choose_device
from tandem.hub.dtypes import kept_dtype
from tandem.hub.gguf import ARCHITECTURES, GGUFFile
from tandem.hub.header import SavedConfig, generation_header, header, is_ours, read_header
from tandem.hub.huggingface import MODEL_TYPES, Shards, load_model, model_config
from tandem.nn import HybridLM, ModelConfig
from tandem.report import atomic_directory

_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_GENERATION = "generation_config.json"
_BESIDE = (_GENERATION, "tokenizer_config.json", "chat_template.jinja")  # written for `transformers`, or by it
_SUPPORTED = (
    "this version loads directories written by `LanguageModel.save`, bundled checkpoints, directories in Hugging Face "
    f"format of {', '.join(MODEL_TYPES)}, and .gguf files of {', '.join(ARCHITECTURES)}"
)


def save(
    model: HybridLM, tokenizer: TextTokenizer, directory: str | Path, *, dtype: str | None = None, chat: bool = False
) -> Path:
    """Writes a model directory atomically, replacing an older model there; returns its path.

    Args:
        dtype: "float32", "bfloat16" or "float16" for all weights but the float32 island (decay rates, step biases,
            routers), which is never narrowed; None keeps every dtype.
        chat: the model was tuned on conversations, so `tandem chat` talks to it in turns.
    Raises:
        ValueError: an unknown dtype, or a directory that holds anything but a model.
    """
    target = _check_target(Path(directory).resolve())
    tensors = {name: _cast(name, tensor, dtype).contiguous() for name, tensor in model.state_dict().items()}
    with atomic_directory(target) as temporary:
        save_file(tensors, temporary / _WEIGHTS, metadata={"format": "pt"})
        _write_json(temporary / _CONFIG, header(model, tokenizer, chat=chat, dtype=dtype))
        _write_json(temporary / _GENERATION, generation_header(tokenizer))
        tokenizer.save(temporary)
        # safetensors makes its file private to the user, which would lock others out of a shared or installed model.
        (temporary / _WEIGHTS).chmod((temporary / _CONFIG).stat().st_mode)
    return target


def load(
    source: str | Path, *, dtype: str | None = None, device: str | torch.device | None = None
) -> tuple[HybridLM, TextTokenizer, SavedConfig]:
    """Reads a model directory, a GGUF file, or a bundled checkpoint by its name; the model comes in eval mode.

    Args:
        dtype: as in `save`; None keeps the dtypes of the file.
        device: see `choose_device`; None is the CPU.
    Raises:
        ValueError: no such source, a missing, damaged or unknown file, an option of a released model that is not
            supported, weights that do not fit the config (named), or a device that is not here.
    """
    place, path = choose_device(device), find(source)
    model, tokenizer, saved = _load_gguf(path, dtype) if _is_gguf(path) else _load_directory(path, dtype)
    return model.to(place).eval(), tokenizer, saved


def _load_gguf(path: Path, dtype: str | None) -> tuple[HybridLM, TextTokenizer, SavedConfig]:
    file = GGUFFile(path)
    saved, tokenizer = SavedConfig(model=file.config, chat=file.chat), file.tokenizer()
    _check_vocabulary(path, tokenizer, saved.model)
    return file.model(dtype), tokenizer, saved


def _load_directory(directory: Path, dtype: str | None) -> tuple[HybridLM, TextTokenizer, SavedConfig]:
    saved = read_config(directory)
    plain = read_json_object(directory / _CONFIG)
    tokenizer = _tokenizer(directory, plain)
    _check_vocabulary(directory / _TOKENIZER, tokenizer, saved.model)
    model = _load(directory, saved.model, dtype) if is_ours(plain) else load_model(directory, plain, dtype)
    return model, tokenizer, saved


def _check_vocabulary(file: Path, tokenizer: TextTokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{file} has {tokenizer.vocab_size} ids for config.vocab_size={config.vocab_size}; "
            "use the tokenizer that was saved with the model"
        )


def _load(directory: Path, config: ModelConfig, dtype: str | None) -> HybridLM:
    """A model that `save` wrote."""
    tensors = dict(Shards(directory).read_all())
    with torch.device("meta"):  # weights that are replaced at once need no memory and no random numbers
        model = HybridLM(config)
    _check_fit(directory / _WEIGHTS, model.state_dict(), tensors)
    model.load_state_dict({name: _cast(name, tensor, dtype) for name, tensor in tensors.items()}, assign=True)
    return model


def _tokenizer(directory: Path, plain: dict[str, Any]) -> TextTokenizer:
    file = _file(directory, _TOKENIZER)
    return Tokenizer.load(file) if is_ours(plain) and is_own_tokenizer(file) else PretrainedTokenizer.load(directory)


def read_config(source: str | Path) -> SavedConfig:
    """Reads only what describes a source: `config.json`, or the metadata of a GGUF file.

    Raises:
        ValueError: no such source, or a config that is unknown, of a later version, or of a released model that cannot be
            expressed.
    """
    path = find(source)
    if _is_gguf(path):
        opened = GGUFFile(path)
        return SavedConfig(model=opened.config, chat=opened.chat)
    file = _file(path, _CONFIG)
    plain = read_json_object(file)
    if is_ours(plain):
        return read_header(file, plain)
    if plain.get("model_type") is None:
        raise ValueError(f"{file} is not ours and has model_type=None; {_SUPPORTED}")
    try:
        config = model_config(plain)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return SavedConfig(model=config, chat=has_chat_template(file.parent))


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf"


def bundled() -> tuple[str, ...]:
    """Names of the checkpoints inside this package."""
    return tuple(sorted(path.name for path in _bundle().glob("*") if (path / _CONFIG).is_file()))


def find(source: str | Path) -> Path:
    """The directory or GGUF file a source stands for; a bundled name wins over a directory of that name ("./nano" reaches it).

    Raises:
        ValueError: neither a directory, nor a bundled name, nor a file named *.gguf; the directory of a run, whose
            model is a directory in it.
    """
    if isinstance(source, str) and source in bundled():
        return _bundle() / source
    path = Path(source)
    made = path / "model"
    if (made / _WEIGHTS).is_file() and not any(path.glob("*.safetensors*")):
        raise ValueError(f"source={str(source)!r} is no model but has one in it, as a run does; give {str(made)!r}")
    if path.is_dir() or (path.is_file() and _is_gguf(path)):
        return path
    if path.exists():
        raise ValueError(f"source={str(source)!r} is a file; {_SUPPORTED}")
    names = ", ".join(bundled()) or "none in this installation"
    raise ValueError(f"source={str(source)!r} is no directory and no bundled checkpoint; bundled: {names}")


def _bundle() -> Path:
    with resources.as_file(resources.files("tandem.hub")) as room:
        return room / "bundled"


def _check_target(target: Path) -> Path:
    """Only what `save` itself wrote may be replaced: the swap removes everything else in the directory."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"directory={str(target)!r} is a file; choose a new or empty directory")
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    foreign = sorted(names - {_CONFIG, _WEIGHTS, _TOKENIZER, *_BESIDE})
    if foreign or (names and _CONFIG not in names):
        found = (foreign or sorted(names))[0]
        raise ValueError(
            f"directory={str(target)!r} holds {found!r} and is not a model directory; choose a new or empty directory"
        )
    if names:
        plain = read_json_object(target / _CONFIG)
        if not is_ours(plain):
            kind = (
                f"a Hugging Face config of model_type={plain['model_type']!r}" if "model_type" in plain else "not ours"
            )
            raise ValueError(f"{target / _CONFIG} is {kind}, and only models written by `save` are replaced")
        read_header(target / _CONFIG, plain)
    return target


def _write_json(file: Path, plain: dict[str, Any]) -> None:
    file.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _cast(name: str, tensor: Tensor, dtype: str | None) -> Tensor:
    return tensor.to(kept_dtype(name, tensor.dtype, dtype))


def _file(directory: Path, name: str) -> Path:
    file = directory / name
    if not file.is_file():
        raise ValueError(f"{file} is missing; {_SUPPORTED}")
    return file


def _check_fit(file: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for problem, names in (
        ("lacks", expected.keys() - found.keys()),
        ("has unexpected", found.keys() - expected.keys()),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ValueError(f"{file} {problem} {shown}; use the config.json that was saved with these weights")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{file} has {name} of shape {list(found[name].shape)}, config.json asks for {list(tensor.shape)}; "
                "use the config.json that was saved with these weights"
            )
