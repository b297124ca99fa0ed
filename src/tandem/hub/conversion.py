"""From one format of a model to another, with a check of its logits before anything is in place. Start at `convert`.

What is written stays under a temporary name until another reading of it (`transformers` where it can, else this room's own)
gives the logits of the model it was written from; a released model is compared with `transformers` as it is read, too.

Shapes: T tokens, V vocabulary.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tandem.data import TextTokenizer, read_json_object
from tandem.hub.directory import find, load, save
from tandem.hub.gguf import FORMATS, architecture_of, has_llama_cpp, llama_cpp_logits, write_gguf
from tandem.hub.header import SavedConfig, generation_header, is_ours
from tandem.hub.huggingface import released_config, released_tensors
from tandem.nn import HybridLM, SequenceLayout
from tandem.report import atomic_directory, atomic_path

Format = Literal["tandem", "transformers", "gguf"]
_LENGTHS = (1, 3, 60)  # of the texts of random ids: one token, shorter than a convolution, longer
_EXACT, _FLIPPED = 1e-3, 0.1  # error that rounding explains; share of tokens that may change an expert on a near tie
_ROUNDED = {"f16": 0.02, "bf16": 0.1, "q8_0": 0.2}  # median error that a number format of less precision explains
_NARROW = 0.1  # the same of llama.cpp, which rounds what it multiplies with weights of less precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """Logits of two readings of a model, on the same random ids.

    Attributes:
        what: the two, in words.
        errors: ‖difference‖ / ‖logits‖ of each token.
    """

    what: str
    errors: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the errors."""
        return sorted(self.errors)[len(self.errors) // 2]

    @property
    def usual(self) -> float:
        """What nine of ten tokens stay under; a router near a tie may choose another expert for a rounding error."""
        return sorted(self.errors)[int((1 - _FLIPPED) * (len(self.errors) - 1))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What `convert` did.

    Attributes:
        family: "tandem", the `model_type` of `transformers`, or the architecture of the GGUF file.
        parities: the comparisons made, all of them passed.
    """

    path: Path
    family: str
    parities: tuple[Parity, ...]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Format,
    dtype: str | None = None,
    tell: Callable[[str], None] = lambda stage: None,
) -> Conversion:
    """Writes a model in another format, if the logits of what was written are those of the source.

    Args:
        source: whatever `load` takes.
        target: a new or empty directory; for "gguf" a file.
        to: "tandem" is what `save` writes; "transformers" a family that `transformers` has, where one says all of the model,
            else what `save` writes, which loads there after `import tandem.hub.transformers`; "gguf" a file of llama.cpp.
        dtype: "float32", "bfloat16" or "float16"; of a GGUF file "f32", "bf16", "f16" or "q8_0". None keeps the format.
        tell: called with a few words before each stage.
    Raises:
        ImportError: what the check needs is missing.
        ValueError: what `load` refuses, a target that is taken, a model that the format cannot express, or logits that
            differ; nothing is written then.
    """
    tell(f"reading {source}")
    path, place = find(source), Path(target)
    _check_target(place, to, dtype)
    model, tokenizer, saved = load(source, dtype=None if to == "gguf" else dtype)
    parities = _check_reading(path, tell)
    write = {"tandem": _to_tandem, "transformers": _to_transformers, "gguf": _to_gguf}[to]
    with (atomic_path if to == "gguf" else atomic_directory)(place) as temporary:
        tell(f"writing {place}")
        family = write(model, tokenizer, saved, temporary, dtype)
        tell(f"checking {place}")
        parities += _check_writing(model, temporary, to, family, dtype)
    return Conversion(path=place, family=family, parities=tuple(parities))


def _to_tandem(model: HybridLM, tokenizer: TextTokenizer, saved: SavedConfig, place: Path, dtype: str | None) -> str:
    save(model, tokenizer, place, chat=saved.chat)
    return "tandem"


def _to_transformers(
    model: HybridLM, tokenizer: TextTokenizer, saved: SavedConfig, place: Path, dtype: str | None
) -> str:
    plain = released_config(model.config)
    if plain is None:
        return _to_tandem(model, tokenizer, saved, place, dtype)
    ends = generation_header(tokenizer)
    kind = str(model.embedding.dtype).removeprefix("torch.")
    for name, content in (("config.json", {**plain, "dtype": kind, **ends}), ("generation_config.json", ends)):
        (place / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(place)
    library = _library("huggingface_hub")
    library.save_torch_state_dict(released_tensors(model, plain), place)
    for file in place.glob("*.safetensors"):  # safetensors makes its files private to the user
        file.chmod((place / "config.json").stat().st_mode)
    return plain["model_type"]


def _to_gguf(model: HybridLM, tokenizer: TextTokenizer, saved: SavedConfig, place: Path, dtype: str | None) -> str:
    write_gguf(model, tokenizer, place, format=dtype, chat=saved.chat)
    return architecture_of(model.config).name


def _check_target(target: Path, to: Format, dtype: str | None) -> None:
    if to == "gguf":
        if target.suffix != ".gguf":
            raise ValueError(f"target={str(target)!r} must be a file that ends in .gguf")
        if dtype is not None and dtype not in FORMATS:
            raise ValueError(f"dtype={dtype!r} is no format of GGUF files here; use one of {', '.join(FORMATS)}")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"target={str(target)!r} exists and is not empty; choose a new directory")


def _check_reading(path: Path, tell: Callable[[str], None]) -> list[Parity]:
    """A released directory against `transformers`, both in float32."""
    if not path.is_dir() or is_ours(read_json_object(path / "config.json")):
        return []
    tell(f"comparing {path} with transformers")
    model, _, _ = load(path, dtype="float32")
    expected = _theirs(path, _ids(model))
    return [_compare("transformers and Tandem, both reading the source", _ours(model), expected)]


def _check_writing(model: HybridLM, written: Path, to: Format, family: str, dtype: str | None) -> Iterator[Parity]:
    own = _GGUF_OF.get(model.embedding.dtype, "f32")
    kind = dtype or own  # of a GGUF file
    model = model.float()
    ids, expected = _ids(model), _ours(model)
    if to == "transformers":
        yield _compare(f"the source and what transformers reads as {family}", _theirs(written, ids), expected)
        return
    found = _ours(load(written, dtype="float32")[0])
    rounding = None if to != "gguf" or kind in ("f32", own) else _ROUNDED[kind]
    yield _compare("the source and what was written", found, expected, rounding)
    if to == "gguf" and has_llama_cpp():
        theirs = [llama_cpp_logits(written, tokens_T) for tokens_T in ids]
        what = f"llama.cpp as {family} and Tandem, both reading what was written"
        yield _compare(what, theirs, found, None if kind == "f32" else _NARROW)


_GGUF_OF = {torch.float16: "f16", torch.bfloat16: "bf16"}


def _compare(what: str, found: list[Tensor], expected: list[Tensor], rounding: float | None = None) -> Parity:
    """Raises ValueError unless they agree; `rounding` is the median error to be expected of a narrower format."""
    pairs = list(zip(found, expected, strict=True))
    wrong = next((shape for a, b in pairs if (shape := a.shape) != b.shape), None)
    if wrong is not None:
        raise ValueError(f"{what}: logits of shape {tuple(wrong)} differ from what they must be; nothing was written")
    errors = torch.cat([(a - b).norm(dim=-1) / b.norm(dim=-1) for a, b in pairs])
    parity = Parity(what=what, errors=tuple(errors.nan_to_num(float("inf")).tolist()))
    got, limit = (parity.usual, _EXACT) if rounding is None else (parity.median, rounding)
    if got > limit:
        raise ValueError(
            f"{what}: logits differ by {got:.1e} of their size, more than {limit:.0e}; nothing was written"
        )
    return parity


def _ids(model: HybridLM) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    config = model.config
    return [torch.randint(config.vocab_size, (min(n, config.context),), generator=generator) for n in _LENGTHS]


@torch.inference_mode()
def _ours(model: HybridLM) -> list[Tensor]:
    rows = _ids(model)
    return [model(ids, SequenceLayout.from_lengths([len(ids)], chunk=model.config.chunk)) for ids in rows]


def _theirs(directory: Path, rows: list[Tensor]) -> list[Tensor]:
    """Logits by `transformers`, in float32."""
    transformers = _library("transformers")
    _library("tandem.hub.transformers")  # registers models of ours
    with _without_bars(transformers.logging):
        options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    with torch.inference_mode():
        return [model(ids[None], use_cache=False).logits[0] for ids in rows]


@contextmanager
def _without_bars(logging: Any) -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _library(name: str) -> Any:
    # On use: what this room reads and writes by itself needs none of them.
    if importlib.util.find_spec("transformers") is None:
        raise ImportError("converting checks logits against transformers: pip install 'tandem-lm[hf]'")
    return importlib.import_module(name)
