import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tandem.data import Corpus, Document, cache_directory, prepare, print_corpus

SENTENCE = "And so it was that number {} of the many travelers who had come to the town told us about the road"


def texts(count: int):
    return [". ".join(SENTENCE.format(f"{k}-{'abcdefgh'[n]}") for n in range(8)) for k in range(count)]


def made(documents: list[str], **changes: Any):
    calls = []

    def read(downloads: Path):
        calls.append(downloads)
        return (Document(text=text, source=f"s{k}", group=f"g{k}") for k, text in enumerate(documents))

    corpus = Corpus(
        name="made", summary="made up", packages=("none",), license="CC0-1.0", read=read, near_duplicates=False
    )
    return replace(corpus, **changes), calls


def test_steps_are_counted_and_splits_are_disjoint(tmp_path: Path):
    documents = texts(40)
    corpus, _ = made([*documents, documents[0].upper(), "short", "12 34 56 " * 100])
    prepared = prepare(corpus, cache=tmp_path)
    counts = {step["step"]: step["documents"] for step in prepared.facts["steps"]}
    assert counts == {"read": 43, "normalized": 43, "exact duplicates": 42, "repeated lines": 42, "filters": 40}
    train, validation = (list(prepared.documents(split)) for split in ("train", "validation"))
    assert {d.text for d in train} | {d.text for d in validation} == set(documents)
    assert not {d.group for d in train} & {d.group for d in validation}
    assert prepared.facts["splits"]["validation"]["bytes"] == sum(len(d.text.encode()) for d in validation)
    assert prepared.facts["license"] == "CC0-1.0"


def test_prepared_once_until_the_recipe_changes(tmp_path: Path):
    corpus, calls = made(texts(10))
    first = prepare(corpus, cache=tmp_path)
    assert prepare(corpus, cache=tmp_path) == first
    assert len(calls) == 1
    changed = prepare(replace(corpus, recipe=2), cache=tmp_path)
    assert changed.path != first.path
    assert len(calls) == 2


def test_extra_stages_run_last_and_make_another_key(tmp_path: Path):
    corpus, _ = made(texts(20))

    def second_half(documents: Iterable[Document]):
        return (document for document in documents if int(document.source[1:]) >= 10)

    prepared = prepare(corpus, cache=tmp_path, extra={"second half": second_half})
    assert prepared.facts["steps"][-1]["step"] == "second half"
    assert prepared.facts["steps"][-1]["documents"] == 10
    assert prepared.path != prepare(corpus, cache=tmp_path).path


@pytest.mark.parametrize("documents", [[], ["too short"]])
def test_empty_corpora_are_refused_and_leave_nothing(tmp_path: Path, documents: list[str]):
    corpus, _ = made(documents)
    with pytest.raises(ValueError, match=r"corpus\.made is empty after cleaning"):
        prepare(corpus, cache=tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_near_duplicates_are_removed_by_default(tmp_path: Path):
    pytest.importorskip("datasketch", reason="pip install 'tandem-lm[data]'")
    unlike = [" ".join(f"the {word}{k} and the {word}{n} of it" for n in range(30)) for k, word in enumerate("abcdef")]
    corpus, _ = made([*unlike, unlike[0] + " or so"], near_duplicates=True, repeated_lines=False)
    corpus = replace(corpus, filters=replace(corpus.filters, min_letters=0.5))
    assert prepare(corpus, cache=tmp_path).facts["steps"][-1] == {
        "step": "near duplicates",
        "documents": 6,
        "characters": sum(map(len, unlike)),
    }


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("TANDEM_CACHE")
    assert cache_directory().parts[-2:] == (".cache", "tandem")


def test_counts_and_license_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prepared = prepare(made(texts(10))[0], cache=tmp_path)
    print_corpus(prepared)
    shown = capsys.readouterr().out
    assert "CC0-1.0" in shown
    assert "exact duplicates" in shown
    assert str(prepared.path) in shown
    assert json.loads((prepared.path / "corpus.json").read_text()) == prepared.facts
