"""A model, its tokenizer and its config as a GGUF file for llama.cpp."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tandem.data import TextTokenizer
from tandem.hub.gguf.architectures import Architecture, architecture_of
from tandem.hub.gguf.metadata import Value, written
from tandem.hub.gguf.names import entries
from tandem.hub.gguf.package import library
from tandem.hub.gguf.vocabulary import written_vocabulary
from tandem.nn import HybridLM, Llama3Scaling, ModelConfig, PairScaling, rotary_frequencies
from tandem.report import atomic_path

FORMATS = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7}
"""Number formats of matrices, and llama.cpp's number for a file of them (`general.file_type`)."""
_OF_DTYPE = {torch.bfloat16: "bf16", torch.float16: "f16"}
_BLOCK = 32  # numbers that share a scale in q8_0


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor to be written: made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    format: str
    make: Callable[[], Tensor]


def write_gguf(
    model: HybridLM, tokenizer: TextTokenizer, path: str | Path, *, format: str | None = None, chat: bool = False
) -> Path:
    """Writes a model as a GGUF file, whole or not at all; returns its path.

    Matrices have the given format; norms, routers, biases and what drives Mamba-2's state are float32, as llama.cpp asks of
    them. In "q8_0" a matrix whose rows are no multiple of 32 numbers is float16, as in llama.cpp's own converter. Memory holds
    one tensor beside the model.

    Args:
        format: "f32", "f16", "bf16" or "q8_0"; None is that of the embedding.
        chat: the model was tuned on conversations, so the file gets a chat template.
    Raises:
        ImportError: the package `gguf` is missing.
        ValueError: llama.cpp has no architecture that computes this model, or no tokenizer like this one (both name what
            differs), an unknown format, or a path that is a directory.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"path={str(target)!r} is a directory; name a file, e.g. {str(target / 'model.gguf')!r}")
    if format is not None and format not in FORMATS:
        raise ValueError(f"format={format!r} is unknown; use one of {', '.join(FORMATS)}")
    format = format or _OF_DTYPE.get(model.embedding.dtype, "f32")
    architecture = architecture_of(model.config)
    keys: dict[str, Value] = {
        "general.file_type": FORMATS[format],
        "general.quantization_version": library().GGML_QUANT_VERSION,
        **written(model.config, architecture),
        **written_vocabulary(tokenizer, model.config.vocab_size, chat),
    }
    with atomic_path(target) as temporary:
        _write(temporary, architecture.name, keys, list(_tensors(model, architecture, format)))
    return target


def _tensors(model: HybridLM, architecture: Architecture, format: str) -> Iterator[_Tensor]:
    parameters = model.state_dict()
    for entry in entries(model.config, architecture):
        row = 0
        for part, shape in entry.pieces():
            if entry.target is None:
                make = partial(torch.zeros, part.shape)
            else:
                piece = parameters[entry.target].narrow(entry.axis, row, shape[entry.axis])
                make = partial(_laid, piece, part.layout.theirs)
            yield _Tensor(part.name, part.shape, "f32" if part.fine else _fitting(part.shape, format), make)
            row += shape[entry.axis]
    factors = _pair_factors(model.config)
    if factors is not None:
        yield _Tensor("rope_freqs.weight", tuple(factors.shape), "f32", lambda: factors)


def _laid(piece: Tensor, layout: Callable[[Tensor], Tensor]) -> Tensor:
    return layout(piece.detach().cpu().float())


def _fitting(shape: tuple[int, ...], format: str) -> str:
    return "f16" if format == "q8_0" and shape[-1] % _BLOCK else format


def _pair_factors(config: ModelConfig) -> Tensor | None:
    """How many times slower each pair of channels turns, where a rule or a list of ours says so."""
    shape = config.attention
    if (
        shape is None
        or "A" not in config.layers
        or not shape.rope
        or not isinstance(shape.rope_scaling, Llama3Scaling | PairScaling)
    ):
        return None
    plain, stretched = (
        rotary_frequencies(shape.turned_width, shape.rotary_base, scaling, torch.device("cpu"))
        for scaling in (None, shape.rope_scaling)
    )
    return plain / stretched


def _write(path: Path, architecture: str, keys: dict[str, Value], tensors: list[_Tensor]) -> None:
    gguf = library()
    writer = gguf.GGUFWriter(path, architecture)
    try:
        for key, value in keys.items():
            _add(writer, key, value)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.format.upper()]
            numbers, size = gguf.GGML_QUANT_SIZES[kind]
            bytes_ = math.prod(tensor.shape) * size // numbers
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), bytes_, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.format.upper()]
            writer.write_tensor_data(gguf.quantize(tensor.make().contiguous().numpy(), kind))
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Value) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
