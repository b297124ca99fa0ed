"""An open GGUF file: the model's config from its metadata, its weights dequantized tensor by tensor, its tokenizer."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tandem.data import PretrainedTokenizer, Tokenizer
from tandem.hub.dtypes import kept_dtype
from tandem.hub.gguf.architectures import ARCHITECTURES
from tandem.hub.gguf.metadata import Metadata, read
from tandem.hub.gguf.names import Entry, Part, entries
from tandem.hub.gguf.package import library
from tandem.hub.gguf.vocabulary import read_vocabulary
from tandem.nn import HybridLM, ModelConfig

_logger = logging.getLogger(__name__)
_FREQUENCIES = "rope_freqs.weight"  # factors of RoPE's wavelengths, which are part of the config
_BLOCK = re.compile(r"blk\.(\d+)\.")


class GGUFFile:
    """An open GGUF file.

    Attributes:
        path: where it lies.
        config: the shape of its model.
        chat: whether it has a chat template.

    Raises:
        ImportError: the package `gguf` is missing.
        ValueError: a damaged file, one of several parts, an architecture that is not supported, or metadata that cannot be
            expressed; named.
    """

    def __init__(self, path: Path) -> None:
        self._library = library()
        self.path = path
        try:
            reader = _reader(self._library)(path)
            self._keys: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
            raise ValueError(f"{path} is no GGUF file or is cut off ({error}); copy it again") from error
        parts, number = (self._keys.get(f"split.{key}") for key in ("count", "no"))
        if isinstance(parts, int) and parts > 1 and isinstance(number, int):
            raise ValueError(
                f"{path} is part {number + 1} of {parts}, each with some of the weights; "
                "make one file of them with llama.cpp's `llama-gguf-split --merge`"
            )
        name = self._keys.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ValueError(f"{path} has general.architecture={name!r}; supported: {', '.join(ARCHITECTURES)}")
        self._architecture = ARCHITECTURES[name]
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        pairs = tuple(self._read(_FREQUENCIES).tolist()) if _FREQUENCIES in self._tensors else ()
        metadata = Metadata(path, self._architecture, self._keys, frozenset(self._tensors), pairs)
        self._leave_out(metadata.blocks)
        if "token_embd.weight" not in self._tensors:
            raise ValueError(f"{path} has no token_embd.weight; use a file of a whole model")
        self.config: ModelConfig = read(metadata, self._shape("token_embd.weight")[0])
        self.chat: bool = "tokenizer.chat_template" in self._keys

    def tokenizer(self) -> Tokenizer | PretrainedTokenizer:
        """The tokenizer and chat template that the file carries.

        Raises:
            ValueError: another kind than byte-level BPE, or one that splits words by rules not known here.
        """
        return read_vocabulary(self.path, self._keys)

    def model(self, dtype: str | None = None) -> HybridLM:
        """The model with its weights; memory never holds more than these and one tensor beside them.

        Args:
            dtype: "float32", "bfloat16" or "float16"; None is float32.
        Raises:
            ValueError: weights that are missing, left over, or of another shape or block format than the package
                `gguf` knows; named.
        """
        plan = list(entries(self.config, self._architecture))
        self._check(plan)
        filled = {entry.target: self._fill(entry, entry.target, dtype) for entry in plan if entry.target is not None}
        with torch.device("meta"):  # weights that are replaced at once need no memory and no random numbers
            model = HybridLM(self.config)
        model.load_state_dict(filled, assign=True)
        return model

    def _leave_out(self, blocks: int) -> None:
        """Drops blocks that predict several tokens at once, which follow the others."""
        extra = [name for name in self._tensors if (found := _BLOCK.match(name)) and int(found[1]) >= blocks]
        if extra and blocks > 0 and self._keys.get(f"{self._architecture.name}.nextn_predict_layers"):
            few = ", ".join(sorted(extra)[:2])
            _logger.info("%s: skipped %d weights of multi-token prediction (%s, …)", self.path, len(extra), few)
            self._tensors = {name: tensor for name, tensor in self._tensors.items() if name not in extra}

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))  # llama.cpp counts columns first

    def _check(self, plan: Iterable[Entry]) -> None:
        parts = {part.name: part for entry in plan for part in entry.parts}
        spare = {_FREQUENCIES} if self._architecture.pair_factors else set()
        for problem, names in (
            ("lacks", parts.keys() - self._tensors.keys()),
            ("has unexpected", self._tensors.keys() - parts.keys() - spare),
        ):
            if names:
                shown = ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                raise ValueError(f"{self.path} {problem} {shown}, which does not fit its metadata; copy it again")
        for part in parts.values():
            self._check_shape(part)

    def _check_shape(self, part: Part) -> None:
        found = self._shape(part.name)
        # Older files drop axes of one, and the groups of a norm.
        if [size for size in found if size != 1] != [size for size in part.shape if size != 1]:
            raise ValueError(
                f"{self.path} has {part.name} of shape {list(found)}, its metadata asks for {list(part.shape)}; copy it again"
            )

    def _fill(self, entry: Entry, target: str, dtype: str | None) -> Tensor:
        filled = torch.empty(entry.shape, dtype=kept_dtype(target, torch.float32, dtype))
        row = 0
        for part, shape in entry.pieces():
            found = self._read(part.name).reshape(part.shape)
            filled.narrow(entry.axis, row, shape[entry.axis]).copy_(part.layout.ours(found))
            row += shape[entry.axis]
        return filled

    def _read(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        # Not from the reader's mapping: what a mapping has touched counts as memory.
        kind, shape = tensor.data.dtype, tensor.data.shape
        data = np.fromfile(self.path, dtype=kind, count=tensor.data.size, offset=tensor.data_offset).reshape(shape)
        try:
            values = self._library.dequantize(data, tensor.tensor_type)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} has {name} as {tensor.tensor_type.name}, unsupported: {error}") from error
        return torch.from_numpy(values)


def _reader(library: Any) -> Any:
    """The package's reader, which here refuses to read behind the end instead of reading nothing over and over."""

    class Reader(library.GGUFReader):
        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if isinstance(self.data, np.memmap):  # whose subclass costs as much as all the rest of reading a vocabulary
                self.data = self.data.view(np.ndarray)
            found = super()._get(offset, dtype, count, override_order)
            if len(found) != int(count):
                raise ValueError(f"it ends at byte {len(self.data)}")
            return found

    return Reader
