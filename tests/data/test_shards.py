import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tandem.data import Document, ShardSet, Tokenizer, open_shards, write_shards
from tandem.data import shards as shards_module


def test_documents_come_back_with_bos_and_eos(
    tiny_shards: ShardSet, tiny_documents: list[Document], tiny_tokenizer: Tokenizer
):
    assert len(tiny_shards) == len(tiny_documents)
    for document, ids in zip(tiny_documents, tiny_shards, strict=True):
        assert ids.tolist() == [tiny_tokenizer.bos_id, *tiny_tokenizer.encode(document.text), tiny_tokenizer.eos_id]


def test_meta_counts_what_is_there(tiny_shards: ShardSet, tiny_documents: list[Document], tiny_tokenizer: Tokenizer):
    assert tiny_shards.tokens == sum(map(len, tiny_shards)) == tiny_shards.lengths.sum()
    assert tiny_shards.bytes == sum(len(d.text.encode()) for d in tiny_documents) == tiny_shards.document_bytes.sum()
    assert tiny_shards.meta["tokenizer"] == tiny_tokenizer.fingerprint
    assert tiny_shards.vocab_size == tiny_tokenizer.vocab_size
    assert tiny_shards.meta["dtype"] == "uint16"


def test_many_files_hold_the_same_documents(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_shards: ShardSet,
    tiny_documents: list[Document],
    tiny_tokenizer: Tokenizer,
):
    monkeypatch.setattr(shards_module, "_DOCUMENTS_AT_ONCE", 7)
    write_shards(tiny_documents, tiny_tokenizer, tmp_path / "s", tokens_per_file=300, facts={"license": "CC0-1.0"})
    split = open_shards(tmp_path / "s")
    assert len(list((tmp_path / "s").glob("tokens-*.bin"))) > 2
    assert split.meta["license"] == "CC0-1.0"
    assert all(np.array_equal(a, b) for a, b in zip(split, tiny_shards, strict=True))
    assert split.fingerprint != tiny_shards.fingerprint


def test_large_vocabularies_take_four_bytes(tmp_path: Path):
    class Wide(Tokenizer):
        vocab_size = 70_000

        def encode_batch(self, texts: Sequence[str]):
            return [[69_999] for _ in texts]

    tokenizer = Wide(Tokenizer.train(["a"], 288).backend)
    write_shards([Document(text="a", source="s", group="g")], tokenizer, tmp_path / "s")
    assert open_shards(tmp_path / "s").document(0).tolist() == [1, 69_999, 2]


@pytest.fixture
def copy(tmp_path: Path, tiny_shards: ShardSet):
    return shutil.copytree(tiny_shards.directory, tmp_path / "copy")


@pytest.mark.parametrize("name", ["tokens-00000.bin", "lengths.bin", "bytes.bin"])
def test_truncated_missing_and_changed_files_are_named(copy: Path, name: str):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-3])
    with pytest.raises(ValueError, match=rf"{name} has \d+ bytes of \d+, so it is cut off; .*tandem data tokenize"):
        open_shards(copy)
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{name} was changed after it was written"):
        open_shards(copy)
    open_shards(copy, verify=False)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(No such file"):
        open_shards(copy)


def test_unreadable_descriptions_are_named(copy: Path):
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        open_shards(copy)
    for text in ("{", "[]", "{}"):
        (copy / "meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"meta\.json is unreadable"):
            open_shards(copy)
    (copy / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"has no meta\.json"):
        open_shards(copy)


def test_empty_corpus_leaves_nothing_behind(tmp_path: Path, tiny_tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="is an empty corpus"):
        write_shards([], tiny_tokenizer, tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
