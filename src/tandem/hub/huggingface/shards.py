"""The tensors of a Hugging Face directory, read one at a time from one or several safetensors files."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tandem.data import read_json_object

_logger = logging.getLogger(__name__)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# A model is saved with or without its base's name before every tensor, and by the names of its family's first or later
# classes. One spelling is enough for the tables of weights.py.
_SPELLINGS = (
    (re.compile(r"^(backbone|model)\."), ""),
    (re.compile(r"^(embedding|embed_tokens)\."), "embeddings."),
    (re.compile(r"block_sparse_moe\.experts\.gate_up_proj$"), "block_sparse_moe.input_linear.weight"),
    (re.compile(r"block_sparse_moe\.experts\.down_proj$"), "block_sparse_moe.output_linear.weight"),
    (re.compile(r"block_sparse_moe\.router\.weight$"), "block_sparse_moe.router.layer.weight"),
)
_DERIVED = re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$")  # old checkpoints carry what others compute
_MULTI_TOKEN = re.compile(r"^mtp\.")


class Shards:
    """Tensors by their name in one spelling.

    Attributes:
        path: the directory.
        names: what can be read. Weights of multi-token prediction are left out, after one log line that names them.

    Raises:
        ValueError: no safetensors file, a damaged one, or an index that names a file elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self._place: dict[str, tuple[Path, str]] = {}
        skipped = []
        for name, file in _tensors(directory):
            one = spelled(name)
            if _MULTI_TOKEN.match(one):
                skipped.append(name)
            elif not _DERIVED.search(one):
                self._place[one] = (file, name)
        if skipped:
            few = ", ".join(sorted(skipped)[:2])
            _logger.info("%s: skipped %d weights of multi-token prediction (%s, …)", directory, len(skipped), few)

    @property
    def names(self) -> set[str]:
        """All names, in one spelling."""
        return set(self._place)

    def read_all(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every name and its tensor, file by file."""
        names = sorted(self._place, key=lambda name: (self._place[name][0], name))
        yield from zip(names, self.read(names), strict=True)

    def read(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yields tensors in order, each mapped from its file and let go with it.

        A file stays open as long as the next tensor lies in it, and no longer: what a mapping has touched counts as memory.
        """
        rest = list(names)
        while rest:
            file = self._place[rest[0]][0]
            try:
                with _opened(file) as opened:
                    while rest and self._place[rest[0]][0] == file:
                        yield opened.get_tensor(self._place[rest.pop(0)][1])
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged or cut off ({error}); copy the model directory again") from error


def _opened(file: Path) -> safe_open:
    with file.open("rb"):
        pass  # safetensors says of a file that may not be read that it does not exist
    return safe_open(file, framework="pt")


def spelled(name: str) -> str:
    """A tensor's name in the spelling of the tables of weights.py."""
    for pattern, replacement in _SPELLINGS:
        name = pattern.sub(replacement, name)
    return name


def _tensors(directory: Path) -> Iterator[tuple[str, Path]]:
    """Names as the files have them, and the file of each."""
    index = directory / _INDEX
    if index.is_file():
        yield from _indexed(directory, index)
        return
    file = directory / _WEIGHTS
    if not file.is_file():
        raise ValueError(_nothing_to_read(directory))
    try:
        with _opened(file) as opened:
            names = list(opened.keys())
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or cut off ({error}); copy the model directory again") from error
    yield from ((name, file) for name in names)


def _indexed(directory: Path, index: Path) -> Iterator[tuple[str, Path]]:
    table = read_json_object(index).get("weight_map")
    if not isinstance(table, dict):
        raise ValueError(f"{index} has no weight_map; copy the model directory again")
    for name, file in table.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"{index} sends {name} to {file!r}, which is no file of this directory")
        if not (directory / file).is_file():
            raise ValueError(f"{directory / file} is missing; copy the model directory again")
        yield name, directory / file


def _nothing_to_read(directory: Path) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        return (
            f"{directory / _WEIGHTS} is missing, and {pickles[0]} is a pickle, which can run code and is never read; "
            "save the model as safetensors"
        )
    return f"{directory / _WEIGHTS} is missing; supported: one or several safetensors files"
