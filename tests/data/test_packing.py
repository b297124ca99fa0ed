from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.data import Batch, Document, Packer, ShardSet, Source, Tokenizer, open_shards, write_shards
from tandem.data.batches import make_batch


def documents_of(batch: Batch):
    """(inputs, targets, weights) of each packed document as lists."""
    lengths = batch.layout.lengths
    parts = (batch.tokens_T.split(lengths), batch.targets_T.split(lengths), batch.weights_T.split(lengths))
    return [tuple(part.tolist() for part in row) for row in zip(*parts, strict=True)]


def same(first: Batch, second: Batch):
    return (
        torch.equal(first.tokens_T, second.tokens_T)
        and torch.equal(first.targets_T, second.targets_T)
        and torch.equal(first.weights_T, second.weights_T)
        and first.layout.lengths == second.layout.lengths
    )


def pairs(ids: npt.NDArray[np.integer]):
    return list(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))


@pytest.mark.parametrize(("batch_tokens", "context"), [(64, 64), (64, 16), (7, 100), (1, 1), (256, 33)])
def test_an_epoch_shows_every_token_once_and_nothing_else(tiny_shards: ShardSet, batch_tokens: int, context: int):
    packer = Packer(tiny_shards, batch_tokens=batch_tokens, context=context, seed=3)
    total = tiny_shards.tokens - len(tiny_shards)
    seen = []
    while len(seen) < total:
        batch = next(packer)
        assert batch.tokens_T.dtype == batch.targets_T.dtype == torch.int64
        assert batch.weights_T.dtype == torch.float32
        assert len(batch.tokens_T) == len(batch.targets_T) == batch.layout.tokens == batch_tokens
        assert max(batch.layout.lengths) <= context
        assert batch.weights_T.min() == 1
        seen += zip(batch.tokens_T.tolist(), batch.targets_T.tolist(), strict=True)
    wanted = Counter(pair for ids in tiny_shards for pair in pairs(ids))
    assert Counter(seen[:total]) == wanted


def test_pieces_of_a_document_continue_each_other(tiny_shards: ShardSet):
    packer = Packer(tiny_shards, batch_tokens=24, context=10, seed=0)
    total = tiny_shards.tokens - len(tiny_shards)
    stream = [
        pair
        for batch in islice(packer, total // 24 + 1)
        for pair in zip(batch.tokens_T.tolist(), batch.targets_T.tolist(), strict=True)
    ]
    starts = [k for k, (token, _) in enumerate(stream[:total]) if token == Tokenizer.bos_id]
    assert len(starts) == len(tiny_shards)
    for begin, end in zip(starts, [*starts[1:], total], strict=True):
        row = stream[begin:end]
        assert row[-1][1] == Tokenizer.eos_id
        assert all(target == token for (_, target), (token, _) in pairwise(row))


def test_epochs_and_seeds_differ_in_order(tiny_shards: ShardSet):
    def first(seed: int):
        return next(Packer(tiny_shards, batch_tokens=200, context=64, seed=seed))

    total = tiny_shards.tokens - len(tiny_shards)
    assert same(first(0), first(0))
    assert not same(first(0), first(1))
    packer = Packer(tiny_shards, batch_tokens=total, context=64, seed=0)
    assert not same(next(packer), next(packer))
    assert packer.epoch == pytest.approx(2.0)


@settings(max_examples=40, deadline=None)
@given(
    cut=st.booleans(),
    steps=st.integers(0, 25),
    batch_tokens=st.integers(64, 160),
    context=st.integers(20, 64),
    seed=st.integers(0, 5),
    mixture=st.booleans(),
)
def test_resumed_at_any_batch_is_bit_identical(
    tiny_shards: ShardSet,
    more_shards: ShardSet,
    cut: bool,
    steps: int,
    batch_tokens: int,
    context: int,
    seed: int,
    mixture: bool,
):
    sources = [Source(shards=tiny_shards, weight=3), Source(shards=more_shards)] if mixture else tiny_shards

    def make():
        return Packer(sources, batch_tokens=batch_tokens, context=context, chunk=8, seed=seed, cut=cut, look_ahead=6)

    running = make()
    for _ in range(steps):
        next(running)
    state = running.state_dict()
    resumed = make()
    next(resumed)
    resumed.load_state_dict(state)
    for _ in range(12):
        assert same(next(running), next(resumed))
    assert running.state_dict() == resumed.state_dict()


def test_a_saved_state_does_not_move_with_the_packer(tiny_shards: ShardSet):
    packer = Packer(tiny_shards, batch_tokens=32, context=16)
    state = packer.state_dict()
    before = repr(state)
    next(packer)
    assert repr(state) == before


@pytest.mark.parametrize("cut", [True, False])
def test_state_is_small_and_of_plain_values(tiny_shards: ShardSet, cut: bool, tmp_path: Path):
    packer = Packer(tiny_shards, batch_tokens=64, context=32, cut=cut, look_ahead=4)
    next(packer)
    torch.save(packer.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == packer.state_dict()
    assert len(repr(packer.state_dict())) < 600


def test_whole_documents_are_never_cut(tiny_shards: ShardSet):
    context = 40
    packer = Packer(tiny_shards, batch_tokens=100, context=context, cut=False, look_ahead=8)
    lengths = tiny_shards.lengths - 1
    wanted = Counter(tuple(ids.tolist()) for ids in tiny_shards if len(ids) - 1 <= context)
    seen: Counter[tuple[int, ...]] = Counter()
    padding = 0
    for batch in islice(packer, 60):
        for tokens, targets, weights in documents_of(batch):
            if weights[0]:
                assert min(weights) == 1
                seen[(*tokens, targets[-1])] += 1
            else:
                assert set(tokens) == set(targets) == {Tokenizer.pad_id}
                assert set(weights) == {0}
                padding += len(tokens)
    assert packer.deferred == int((lengths > context).sum()) > 0
    assert set(seen) == set(wanted)
    times = [seen[row] / wanted[row] for row in wanted]
    assert max(times) - min(times) <= 2
    assert 0 < padding < 0.1 * 60 * 100


def test_deferred_documents_are_shown_with_a_longer_context(tiny_shards: ShardSet):
    longest = int(tiny_shards.lengths.max()) - 1
    source = Source(shards=tiny_shards, min_length=41)
    packer = Packer([source], batch_tokens=2 * longest, context=longest, cut=False)
    assert packer.deferred == 0
    waiting = {tuple(ids.tolist()) for ids in tiny_shards if len(ids) - 1 > 40}
    seen = {
        (*tokens, targets[-1])
        for batch in islice(packer, 40)
        for tokens, targets, weights in documents_of(batch)
        if weights[0]
    }
    assert seen == waiting


@pytest.mark.parametrize("cut", [True, False])
def test_mixture_follows_its_weights_by_tokens(tiny_shards: ShardSet, more_shards: ShardSet, cut: bool):
    short = Source(shards=tiny_shards, weight=3, max_length=63)
    long = Source(shards=more_shards, weight=1, min_length=64)
    packer = Packer([short, long], batch_tokens=512, context=256, cut=cut)
    for _ in range(100):
        next(packer)
    drawn = [reader[2] for reader in packer.state_dict()["readers"]]
    assert sum(drawn) >= 100 * 500
    assert abs(drawn[0] / 3 - drawn[1]) <= more_shards.lengths.max()


def test_mixture_is_what_the_batches_hold(tiny_shards: ShardSet, more_shards: ShardSet):
    short = Source(shards=tiny_shards, weight=3, max_length=63)
    long = Source(shards=more_shards, weight=1, min_length=64)
    packer = Packer([short, long], batch_tokens=512, context=256, cut=False, look_ahead=16)
    sizes = [len(tokens) for batch in islice(packer, 100) for tokens, _, weights in documents_of(batch) if weights[0]]
    assert sum(n for n in sizes if n < 64) / sum(n for n in sizes if n >= 64) == pytest.approx(3, rel=0.05)


def test_bounds_of_a_source_are_kept(more_shards: ShardSet):
    packer = Packer([Source(shards=more_shards, min_length=20, max_length=50)], batch_tokens=128, context=64, cut=False)
    for batch in islice(packer, 20):
        assert all(20 <= len(tokens) <= 50 for tokens, _, weights in documents_of(batch) if weights[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_tokens": 0}, r"data\.batch_tokens=0 is below 1"),
        ({"context": -1}, r"data\.context=-1 is below 1"),
        ({"seed": -1}, r"data\.seed=-1 is negative"),
        ({"cut": False, "context": 65}, r"data\.context=65 is above data\.batch_tokens=64"),
        ({"cut": False, "context": 1, "sources": "long"}, r"data\.sources\[0\]=.* has no document within its bounds"),
        ({"sources": []}, r"data\.sources=\(\) is empty"),
    ],
)
def test_impossible_packers_are_refused(tiny_shards: ShardSet, change: dict[str, Any], message: str):
    if change.get("sources") == "long":
        change = change | {"sources": [Source(shards=tiny_shards, min_length=2)]}
    arguments = {"sources": tiny_shards, "batch_tokens": 64, "context": 32} | change
    with pytest.raises(ValueError, match=message):
        Packer(arguments.pop("sources"), **arguments)


def test_other_data_or_settings_are_refused_on_resume(tiny_shards: ShardSet, more_shards: ShardSet):
    state = Packer(tiny_shards, batch_tokens=64, context=32).state_dict()
    with pytest.raises(ValueError, match=r"data\.context=16 but the saved position has 32"):
        Packer(tiny_shards, batch_tokens=64, context=16).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.sources are not those of the saved position"):
        Packer(more_shards, batch_tokens=64, context=32).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.weight=0 of a source must be above 0"):
        Source(shards=tiny_shards, weight=0)


def test_sources_must_share_a_tokenizer(tiny_shards: ShardSet, tmp_path: Path, tiny_documents: list[Document]):
    other = Tokenizer.train(["entirely different words"] * 5, vocab_size=300)
    mixed = open_shards(write_shards(tiny_documents, other, tmp_path / "s"))
    with pytest.raises(ValueError, match="different tokenizers"):
        Packer([Source(shards=tiny_shards), Source(shards=mixed)], batch_tokens=64, context=32)


def test_make_batch_pads_with_one_document():
    batch = make_batch([np.array([1, 40, 2]), np.array([1, 2])], batch_tokens=8, chunk=4)
    assert batch.layout.lengths == (2, 1, 5)
    assert batch.layout.chunk == 4
    assert batch.tokens_T.tolist() == [1, 40, 1, 0, 0, 0, 0, 0]
    assert batch.targets_T.tolist() == [40, 2, 2, 0, 0, 0, 0, 0]
    assert batch.weights_T.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    moved = batch.to("meta")
    assert moved.tokens_T.device.type == moved.layout.device.type == "meta"
