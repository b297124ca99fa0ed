import math
from collections import Counter

import pytest

from tandem.data import Document, ShardSet, Tokenizer, compression_baselines, validation_batches


@pytest.mark.parametrize(("batch_tokens", "context"), [(64, 64), (100, 16), (5, 5), (1, 1)])
def test_every_token_is_scored_once(tiny_shards: ShardSet, batch_tokens: int, context: int):
    batches = validation_batches(tiny_shards, batch_tokens=batch_tokens, context=context)
    scored: list[tuple[int, int]] = []
    for batch in batches:
        assert batch.layout.tokens == batch_tokens
        assert max(batch.layout.lengths[:-1], default=0) <= context
        kept = batch.weights_T.bool()
        scored += zip(batch.tokens_T[kept].tolist(), batch.targets_T[kept].tolist(), strict=True)
    wanted = [pair for ids in tiny_shards for pair in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True)]
    assert Counter(scored) == Counter(wanted)
    assert len(scored) == batches.tokens
    targets = Counter(target for _, target in scored)
    assert targets[Tokenizer.eos_id] == batches.documents == len(tiny_shards)
    assert targets[Tokenizer.bos_id] == targets[Tokenizer.pad_id] == 0
    assert batches.bytes == tiny_shards.bytes


def test_uniform_model_has_the_entropy_of_its_tokens(tiny_shards: ShardSet):
    batches = validation_batches(tiny_shards, batch_tokens=128, context=64)
    nll = sum(float(batch.weights_T.sum()) for batch in batches) * math.log(tiny_shards.vocab_size)
    assert nll / math.log(2) / batches.bytes == pytest.approx(
        batches.tokens * math.log2(tiny_shards.vocab_size) / tiny_shards.bytes
    )


def test_beginning_of_the_split_and_its_text(
    tiny_shards: ShardSet, tiny_documents: list[Document], tiny_tokenizer: Tokenizer
):
    batches = validation_batches(tiny_shards, batch_tokens=128, context=64, max_bytes=1000)
    text = "".join(document.text for document in tiny_documents[: batches.documents]).encode()
    assert batches.text(tiny_tokenizer) == text
    last = len(tiny_documents[batches.documents - 1].text.encode())
    assert 1000 <= batches.bytes == len(text) < 1000 + last
    assert sum(int(batch.weights_T.sum()) for batch in batches) == batches.tokens
    assert set(compression_baselines(text)) == {"gzip", "xz"}
    assert validation_batches(tiny_shards, batch_tokens=64, context=64, max_bytes=10**9).bytes == tiny_shards.bytes


def test_context_must_fit_the_batch(tiny_shards: ShardSet):
    with pytest.raises(ValueError, match=r"validation\.context=65 must lie in 1\.\.64"):
        validation_batches(tiny_shards, batch_tokens=64, context=65)
