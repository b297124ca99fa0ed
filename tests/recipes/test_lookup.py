"""Books for teaching: their text is what `tandem eval` asks in, and only the numbers asked for weigh in full."""

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_toys import toy_hybrid

from tandem import hub
from tandem.data import Batch, Tokenizer
from tandem.nn import HybridLM
from tandem.recipes import lookup
from tandem.recipes.lookup import Books, teach_lookup


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(hub.find("nano") / "tokenizer.json")


@pytest.fixture
def make_books(tokenizer: Tokenizer) -> Callable[..., Books]:
    return lambda **changes: Books(tokenizer, **{"context": 400, "chunk": 8, "steps": 20, "seed": 0, **changes})


def documents(batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Targets and weights of each book, padding left out."""
    lengths = list(batch.layout.lengths)
    parts = zip(batch.targets_T.split(lengths), batch.weights_T.split(lengths), strict=True)
    return [(targets, weights) for targets, weights in parts if weights.any()]


def test_books_ask_for_every_line_once(make_books: Callable[..., Books], tokenizer: Tokenizer):
    for batch in islice(make_books(), 12):
        assert batch.layout.tokens == 2048
        for targets_T, weights_T in documents(batch):
            text = tokenizer.decode(targets_T.tolist())
            book, _, asked = text.partition("\n\nNumbers asked for:\n")
            assert targets_T.tolist() == tokenizer.encode(text)
            lines = re.findall(r"^\w+ \w+: \+\d{7}$", book, re.MULTILINE)
            if len(targets_T) < 400:  # else it was cut
                assert sorted(asked.split("\n")[:-1]) == sorted(lines)
            known = [tokenizer.decode([k]) for k in targets_T[weights_T == 1].tolist()]
            assert "".join(known) == "".join(re.findall(r"\d", asked))
            assert weights_T.unique().tolist() == pytest.approx([0.05, 1.0])


def test_books_are_short_at_first(make_books: Callable[..., Books], tokenizer: Tokenizer):
    def lines(batch: Batch) -> list[int]:
        texts = (tokenizer.decode(targets_T.tolist()) for targets_T, _ in documents(batch))
        return [text.partition("\n\n")[0].count("\n") for text in texts]

    sizes = [lines(batch) for batch in islice(make_books(), 20)]
    assert {size for batch in sizes[:10] for size in batch} == {2, 3, 4}
    assert max(size for batch in sizes[10:] for size in batch) > 8


def test_books_go_on_where_they_stood(make_books: Callable[..., Books]):
    books, again = make_books(), make_books()
    for _ in range(3):
        next(books)
    again.load_state_dict(books.state_dict())
    assert torch.equal(next(books).tokens_T, next(again).tokens_T)
    assert not torch.equal(next(make_books()).tokens_T, next(make_books(seed=1)).tokens_T)


def test_teaching_is_kept_and_not_repeated(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    shape = toy_hybrid().replace(vocab_size=tokenizer.vocab_size)
    source = str(hub.save(HybridLM(shape), tokenizer, tmp_path / "source"))
    monkeypatch.setattr(lookup, "_BATCH_TOKENS", 256)
    options: dict[str, Any] = {"steps": 6, "context": 128, "device": torch.device("cpu")}
    found = teach_lookup(source, tmp_path / "run", **options)
    assert found == tmp_path / "run" / "model"
    before, after = hub.load(source)[0], hub.load(found)[0]
    assert not torch.equal(before.embedding, after.embedding)
    written = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert teach_lookup(source, tmp_path / "run", **options) == found
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == written
    assert torch.equal(hub.load(found)[0].embedding, after.embedding)
    with pytest.raises(ValueError, match="steps=7 but run_dir="):
        teach_lookup(source, tmp_path / "run", **{**options, "steps": 7})
