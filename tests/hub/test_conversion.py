from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tandem
from tandem import hub
from tandem.data import PretrainedTokenizer, Tokenizer
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, ModelConfig

pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")

from tandem.hub import conversion


@pytest.fixture
def dense(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A model that the family `llama` expresses."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        width=32,
        pattern="AFAF",
        attention=AttentionConfig(heads=4, kv_heads=2, head_width=8, qk_norm=False),
        ffn=DenseConfig(hidden=48),
        context=128,
    )
    return hub.save(HybridLM(config), tokenizer, tmp_path / "dense", chat=True)


def weights(source: Path) -> dict[str, torch.Tensor]:
    return tandem.load(source).model.state_dict()


def assert_same(left: Path, right: Path) -> None:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name


def test_a_family_of_transformers_is_written_and_read_back_bit_for_bit(dense: Path, tmp_path: Path) -> None:
    there = hub.convert(dense, tmp_path / "llama", to="transformers")
    assert there.family == "llama"
    assert max(there.parities[0].errors) < 1e-5
    back = hub.convert(tmp_path / "llama", tmp_path / "back", to="tandem")
    assert [len(parity.errors) for parity in back.parities] == [64, 64]  # read as transformers does, written as read
    assert back.parities[1].errors == (0.0,) * 64
    assert_same(dense, tmp_path / "back")
    ours, theirs = tandem.load(dense), tandem.load(tmp_path / "llama")
    assert isinstance(theirs.tokenizer, PretrainedTokenizer)
    assert theirs.chat
    turns = [{"role": "user", "content": "the name"}]
    assert theirs.prompt_ids("the name 12") == ours.prompt_ids("the name 12")
    assert theirs.prompt_ids(turns) == ours.prompt_ids(turns)
    assert theirs.tokenizer.stop_ids == ours.tokenizer.stop_ids


def test_a_model_no_family_expresses_is_written_as_our_own(saved: Path, tmp_path: Path) -> None:
    done = hub.convert(saved, tmp_path / "out", to="transformers")
    assert done.family == "tandem"
    assert max(done.parities[0].errors) < 1e-5
    assert_same(saved, tmp_path / "out")


def test_a_narrower_format_is_that_of_save(dense: Path, tmp_path: Path) -> None:
    hub.convert(dense, tmp_path / "narrow", to="tandem", dtype="bfloat16")
    tandem.load(dense).save(tmp_path / "saved", dtype="bfloat16")
    assert_same(tmp_path / "narrow", tmp_path / "saved")


@pytest.mark.parametrize("format", [None, "q8_0"])
def test_a_gguf_file_is_written(dense: Path, tmp_path: Path, format: str | None) -> None:
    pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")
    stages: list[str] = []
    done = hub.convert(dense, tmp_path / "m.gguf", to="gguf", dtype=format, tell=stages.append)
    assert done.parities[0].median < (1e-5 if format is None else 0.05)
    assert [stage.split()[0] for stage in stages] == ["reading", "writing", "checking"]
    assert tandem.load(tmp_path / "m.gguf").prompt_ids("the name") == tandem.load(dense).prompt_ids("the name")


@pytest.mark.parametrize("format", [None, "bf16", "q8_0"])
def test_a_gguf_file_is_compared_with_llama_cpp_where_it_is_installed(
    dense: Path, tmp_path: Path, format: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")
    pytest.importorskip("llama_cpp", reason="needs llama.cpp: pip install llama-cpp-python")
    done = hub.convert(dense, tmp_path / "m.gguf", to="gguf", dtype=format)
    assert done.family == "llama"
    assert done.parities[1].what == "llama.cpp as llama and Tandem, both reading what was written"
    assert done.parities[1].median < (1e-5 if format is None else 0.05)

    def others(path: Path, tokens_T: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(tokens_T), tandem.load(dense).config.vocab_size)

    monkeypatch.setattr(conversion, "llama_cpp_logits", others)
    with pytest.raises(ValueError, match=r"llama\.cpp as llama and Tandem.*: logits differ by .* nothing was written"):
        hub.convert(dense, tmp_path / "other.gguf", to="gguf", dtype=format)
    assert [file.name for file in tmp_path.glob("*.gguf")] == ["m.gguf"]


def scaled(directory: Path) -> None:
    """Damages what was written: one matrix is off by a tenth."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and "layers" in name)
    save_file({**tensors, name: tensors[name] * 1.1}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("to", ["tandem", "transformers"])
def test_logits_that_differ_leave_nothing_behind(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    name = f"_to_{to}"
    write = getattr(conversion, name)

    def damaging(*arguments: Any) -> str:
        family = write(*arguments)
        scaled(arguments[3])
        return family

    monkeypatch.setattr(conversion, name, damaging)
    with pytest.raises(ValueError, match=r"logits differ by .* of their size, more than 1e-03; nothing was written"):
        hub.convert(dense, tmp_path / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_a_source_that_transformers_reads_otherwise_is_refused(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.convert(dense, tmp_path / "llama", to="transformers")
    read = conversion.load

    def misreading(source: Path, **options: Any) -> Any:
        model, *rest = read(source, **options)
        with torch.no_grad():
            model.norm.weight.mul_(torch.linspace(0.9, 1.1, len(model.norm.weight)))
        return model, *rest

    monkeypatch.setattr(conversion, "load", misreading)
    with pytest.raises(ValueError, match="transformers and Tandem, both reading the source: logits differ"):
        hub.convert(tmp_path / "llama", tmp_path / "out", to="tandem")
    assert not (tmp_path / "out").exists()


def taken(dense: Path, tmp_path: Path) -> Any:
    return hub.convert(dense, dense, to="tandem")


def no_file(dense: Path, tmp_path: Path) -> Any:
    return hub.convert(dense, tmp_path / "m", to="gguf")


def wrong_format(dense: Path, tmp_path: Path) -> Any:
    return hub.convert(dense, tmp_path / "m.gguf", to="gguf", dtype="bfloat16")


def unknown_dtype(dense: Path, tmp_path: Path) -> Any:
    return hub.convert(dense, tmp_path / "m", to="tandem", dtype="int3")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (taken, "exists and is not empty; choose a new directory"),
        (no_file, r"must be a file that ends in \.gguf"),
        (wrong_format, "dtype='bfloat16' is no format of GGUF files here; use one of f32, f16, bf16, q8_0"),
        (unknown_dtype, "dtype='int3' is unknown; use one of float32, bfloat16, float16"),
    ],
)
def test_mistakes_are_named(dense: Path, tmp_path: Path, call: Callable[[Path, Path], Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        call(dense, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]
