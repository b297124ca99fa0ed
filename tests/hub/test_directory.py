"""Model directories: bit-exact round trips, and one clear line for every way a directory can be wrong."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tandem import hub
from tandem.data import Tokenizer
from tandem.nn import HybridLM, SequenceLayout


def assert_same_tensors(first: HybridLM, second: HybridLM) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def is_island(name: str) -> bool:
    return "island" in name.split(".")


@pytest.mark.parametrize("tie", [True, False])
def test_round_trip_is_bit_exact(
    make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path, tie: bool
) -> None:
    model = make_model(tie=tie)
    hub.save(model, tokenizer, tmp_path / "m")
    loaded, loaded_tokenizer, saved = hub.load(tmp_path / "m")
    assert_same_tensors(model, loaded)
    assert saved == hub.read_config(tmp_path / "m")
    assert saved.model == model.config == loaded.config
    assert loaded_tokenizer.fingerprint == tokenizer.fingerprint
    assert not loaded.training
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    assert len({path.stat().st_mode for path in (tmp_path / "m").iterdir()}) == 1
    ids_T, layout = torch.arange(40, 60), SequenceLayout.from_lengths([20], chunk=8)
    assert torch.equal(model(ids_T, layout), loaded(ids_T, layout))


def test_tied_embeddings_are_stored_once_and_stay_tied(
    make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    vocabulary, width = tokenizer.vocab_size, 32
    stored = {}
    for tie in (True, False):
        file = hub.save(make_model(tie=tie), tokenizer, tmp_path / str(tie)) / "model.safetensors"
        stored[tie] = sum(tensor.shape == (vocabulary, width) for tensor in load_file(file).values())
    assert stored == {True: 1, False: 2}
    loaded, _, _ = hub.load(tmp_path / "True")
    ids_T, layout = torch.arange(40, 60), SequenceLayout.from_lengths([20], chunk=8)
    loaded.train().loss(ids_T, layout, ids_T).total.backward()
    assert sum(p.shape == (vocabulary, width) for p in loaded.parameters()) == 1
    assert all(p.grad is not None for p in loaded.parameters())


@pytest.mark.parametrize("when", ["save", "load"])
def test_bfloat16_spares_the_island(model: HybridLM, tokenizer: Tokenizer, tmp_path: Path, when: str) -> None:
    hub.save(model, tokenizer, tmp_path / "m", dtype="bfloat16" if when == "save" else None)
    loaded, _, _ = hub.load(tmp_path / "m", dtype="bfloat16" if when == "load" else None)
    original = model.state_dict()
    islands = 0
    for name, tensor in loaded.state_dict().items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, original[name])
        elif is_island(name):
            islands += 1
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, original[name])
        else:
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, original[name].bfloat16())
    assert islands
    ids_T, layout = torch.arange(40, 60), SequenceLayout.from_lengths([20], chunk=8)
    exact_TV = model(ids_T, layout)
    assert (loaded(ids_T, layout).float() - exact_TV).norm() < 0.05 * exact_TV.norm()


def test_float64_is_kept(make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = make_model().double()
    hub.save(model, tokenizer, tmp_path / "m")
    loaded, _, _ = hub.load(tmp_path / "m")
    assert_same_tensors(model, loaded)
    assert {t.dtype for t in loaded.state_dict().values() if t.is_floating_point()} == {torch.float64}
    narrowed, _, _ = hub.load(tmp_path / "m", dtype="float32")
    assert {t.dtype for t in narrowed.state_dict().values() if t.is_floating_point()} == {torch.float32}


def test_config_says_what_it_is(saved: Path, model: HybridLM, tokenizer: Tokenizer) -> None:
    plain = json.loads((saved / "config.json").read_text())
    assert (plain["format"], plain["version"], plain["chat"]) == ("tandem", 2, False)
    assert hub.read_config(saved) == hub.SavedConfig(model=model.config, chat=False)
    hub.save(model, tokenizer, saved, chat=True)
    assert hub.read_config(saved).chat is True


def test_the_first_version_had_the_shape_beside_its_own_keys(saved: Path, model: HybridLM) -> None:
    flat = {"format": "tandem", "version": 1, "chat": True, **model.config.to_dict()}
    (saved / "config.json").write_text(json.dumps(flat))
    assert hub.read_config(saved) == hub.SavedConfig(model=model.config, chat=True)
    assert_same_tensors(hub.load(saved)[0], model)


def test_a_model_may_be_replaced_but_nothing_else(
    saved: Path, make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other = make_model(seed=1)
    hub.save(other, tokenizer, saved)
    assert_same_tensors(hub.load(saved)[0], other)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"directory='.*' holds 'notes\.txt' and is not a model directory"):
        hub.save(other, tokenizer, saved)
    assert (saved / "notes.txt").read_text() == "mine"

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    hub.save(other, tokenizer, foreign)  # empty: fine
    (foreign / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="Hugging Face config of model_type='llama'"):
        hub.save(other, tokenizer, foreign)
    (foreign / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds 'generation_config\.json' and is not a model directory"):
        hub.save(other, tokenizer, foreign)
    with pytest.raises(ValueError, match="is a file"):
        hub.save(other, tokenizer, saved / "notes.txt")


def test_a_failed_save_leaves_the_old_model(
    saved: Path, model: HybridLM, make_model: Callable[..., HybridLM], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    class Failing(Tokenizer):
        def save(self, path: Path | str) -> Path:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        hub.save(make_model(seed=1), Failing(tokenizer.backend), saved)
    assert_same_tensors(hub.load(saved)[0], model)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_one_line(saved: Path, share: float) -> None:
    file = saved / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut off .*; copy the model") as caught:
        hub.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        hub.load(saved)


def test_weights_that_may_not_be_read_are_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, plain_open = saved / "model.safetensors", Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain_open(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*model\.safetensors"):
        hub.load(saved)


def test_weights_that_do_not_fit_are_named(
    saved: Path, make_model: Callable[..., HybridLM], tokenizer: Tokenizer
) -> None:
    file = saved / "model.safetensors"
    whole = load_file(file)
    name = next(name for name in whole if is_island(name))
    save_file({key: whole[key] for key in whole if key != name}, file)
    with pytest.raises(ValueError, match=rf"lacks {name}; use the config\.json"):
        hub.load(saved)
    save_file({**whole, "extra.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"has unexpected extra\.weight"):
        hub.load(saved)
    save_file({**whole, name: torch.zeros(1, 7)}, file)
    with pytest.raises(ValueError, match=rf"has {name} of shape \[1, 7\], config\.json asks for \["):
        hub.load(saved)
    hub.save(make_model(width=64), tokenizer, saved)
    plain = json.loads((saved / "config.json").read_text())
    plain["model"]["width"] = 32
    (saved / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(ValueError, match=r"of shape \[.*config\.json asks for"):
        hub.load(saved)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            {"format": None, "model_type": "gpt2"},
            r"config\.json: config model_type='gpt2' is not supported; supported: llama",
        ),
        ({"format": None, "model_type": None}, "is not ours and has model_type=None; this version loads"),
        ({"version": 3}, "has version=3, this Tandem reads up to 2"),
        ({"chat": "yes"}, "has chat='yes'; use true or false"),
        ({"model": 3}, "has model=3; it must be the object"),
        ({"model.depth": 3}, "model.depth is not a known key"),
        ({"model.vocab_size": 64}, r"tokenizer\.json has \d+ ids for config\.vocab_size=64"),
    ],
)
def test_wrong_configs_are_named(saved: Path, change: dict[str, object], error: str) -> None:
    file = saved / "config.json"
    plain = json.loads(file.read_text())
    for key, value in change.items():
        (plain["model"] if key.startswith("model.") else plain)[key.removeprefix("model.")] = value
    file.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=error) as caught:
        hub.load(saved)
    assert "\n" not in str(caught.value)


def test_configs_that_are_no_objects_are_named(saved: Path) -> None:
    for text, error in (("{", r"config\.json is not JSON"), ("[1]", r"config\.json holds a JSON list")):
        (saved / "config.json").write_text(text)
        with pytest.raises(ValueError, match=error):
            hub.load(saved)


def test_sources_that_are_no_models_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source='nowhere' is no directory and no bundled checkpoint; bundled: "):
        hub.load("nowhere")
    with pytest.raises(ValueError, match=r"source='.*model\.safetensors' is a file; this version loads directories"):
        hub.load(saved / "model.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config\.json is missing; this version loads directories"):
        hub.load(tmp_path / "empty")
    for read in (hub.load, hub.read_config):
        with pytest.raises(ValueError, match=r"' is no model but has one in it, as a run does; give '.*/model'"):
            read(saved.parent)
    with pytest.raises(ValueError, match="dtype='int3' is unknown; use one of float32, bfloat16, float16"):
        hub.load(saved, dtype="int3")


def test_a_bundled_name_wins_over_a_directory(
    model: HybridLM, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    hub.save(model, tokenizer, package / "bundled" / "tiny")
    (package / "bundled" / "unfinished").mkdir()
    (tmp_path / "tiny").mkdir()
    monkeypatch.setattr("tandem.hub.directory.resources.files", lambda _: package)
    monkeypatch.chdir(tmp_path)
    assert hub.bundled() == ("tiny",)
    assert_same_tensors(hub.load("tiny")[0], model)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        hub.load("./tiny")


@pytest.mark.parametrize("name", hub.bundled())
def test_bundled_checkpoints_load(name: str) -> None:
    model, tokenizer, saved = hub.load(name)
    assert tokenizer.vocab_size <= saved.model.vocab_size
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
