"""Logits of llama.cpp: what is asked of it, and what is said where it cannot answer."""

import importlib.util
from pathlib import Path

import pytest
import torch
from shapes import PEER, build, logits, tokenizer

from tandem.hub.gguf import llama_cpp_logits, write_gguf
from tandem.nn import AttentionConfig, DenseConfig, ModelConfig

CONFIG = ModelConfig(
    vocab_size=300,
    width=32,
    pattern="AF",
    attention=AttentionConfig(heads=2, kv_heads=1, head_width=16, qk_norm=False),
    ffn=DenseConfig(hidden=32),
)


def test_a_text_of_one_token_and_one_longer_than_a_batch(tmp_path: Path):
    pytest.importorskip("llama_cpp", reason=PEER)
    pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")
    model = build(CONFIG, 0)
    path = write_gguf(model, tokenizer(), tmp_path / "model.gguf")
    for length in (1, 600):
        tokens = torch.arange(length) % 300
        torch.testing.assert_close(llama_cpp_logits(path, tokens), logits(model, tokens), rtol=1e-3, atol=1e-4)


def test_a_foreign_file_is_refused(tmp_path: Path):
    pytest.importorskip("llama_cpp", reason=PEER)
    (tmp_path / "model.gguf").write_bytes(b"no model")
    with pytest.raises(ValueError, match="Failed to load model"):
        llama_cpp_logits(tmp_path / "model.gguf", torch.arange(3))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs its package: pip install llama-cpp-python"):
        llama_cpp_logits(Path("model.gguf"), torch.arange(3))
