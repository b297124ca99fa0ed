"""GGUF files, written here by the package `gguf` the way llama.cpp's converter lays them out, against the model they hold."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

import tandem
from tandem import hub
from tandem.nn import SequenceLayout

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")
gguf = pytest.importorskip("gguf", reason="needs gguf: pip install 'tandem-lm[hf]'")

VOCABULARY = 280
TEXT = "Returns 2048 buckets, it's\n  what we've asked for. über <|end|> " * 3
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def backend(split: str) -> tokenizers.Tokenizer:
    """A byte-level tokenizer whose words are split as the GGUF name says, with two special tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level]) if split == "smollm" else byte_level
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    return made


def build(kind: str, *, tied: bool, bias: bool) -> Any:
    """A small model with random weights in eval mode."""
    torch.manual_seed(0)
    prefix = {"llama": "Llama", "qwen2": "Qwen2"}[kind]
    options = {"attention_bias": bias} if kind == "llama" else {}
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        pad_token_id=None,
        **options,
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape) * 0.15 + ("norm" in name))
    return model


def write(model: Any, path: Path, *, split: str = "gpt-2", quantized: bool = False) -> Path:
    """A GGUF file of the model: float32, or Q8_0 blocks for its matrices."""
    config, kind, words = model.config, model.config.model_type, backend(split)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = [words.id_to_token(k) for k in range(VOCABULARY)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<|start|>", "<|end|>") else 1 for token in tokens])
    merges = tokenizer_merges(words)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(1)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weight.numpy()
        if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            # As in convert_hf_to_gguf.py: the two halves that RoPE turns become neighbors.
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if quantized and values.ndim == 2:
            block = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(renamed(name), gguf.quantize(values, block), raw_dtype=block)
        else:
            writer.add_tensor(renamed(name), values.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_merges(words: tokenizers.Tokenizer) -> list[str]:
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in json.loads(words.to_str())["model"]["merges"]]


def renamed(name: str) -> str:
    name = name.replace("model.layers.", "blk.")
    for theirs, ours in NAMES.items():
        name = name.replace(theirs, ours)
    return name


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, SequenceLayout.from_lengths([len(tokens)], chunk=model.config.chunk))


@pytest.mark.parametrize(
    ("kind", "tied", "bias"), [("llama", True, False), ("llama", False, True), ("qwen2", False, True)]
)
@torch.no_grad()
def test_logits_are_those_of_transformers(kind: str, tied: bool, bias: bool, tmp_path: Path):
    theirs, tokens = build(kind, tied=tied, bias=bias), torch.arange(5, 45)
    ours = tandem.load(write(theirs, tmp_path / "model.gguf", split="gpt-2")).model
    torch.testing.assert_close(logits(ours, tokens), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_quantized_weights_are_those_of_the_blocks(tmp_path: Path):
    theirs = build("llama", tied=True, bias=False)
    ours = tandem.load(write(theirs, tmp_path / "model.gguf", quantized=True), dtype="bfloat16").model
    exact = torch.from_numpy(
        gguf.dequantize(
            gguf.quantize(theirs.model.layers[1].mlp.down_proj.weight.numpy(), gguf.GGMLQuantizationType.Q8_0),
            gguf.GGMLQuantizationType.Q8_0,
        )
    )
    assert torch.equal(ours.state_dict()["layers.3.mixer.down.weight"], exact.bfloat16())
    want, got = theirs(torch.arange(5, 45)[None]).logits[0], logits(ours, torch.arange(5, 45))
    assert (got.float() - want).norm() < 0.1 * want.norm()


@pytest.mark.parametrize("split", ["gpt-2", "smollm"])
def test_the_tokenizer_splits_as_the_file_says(split: str, tmp_path: Path):
    model = tandem.load(write(build("llama", tied=True, bias=False), tmp_path / "model.gguf", split=split))
    words = backend(split)
    words.encode_special_tokens = True
    assert model.tokenizer.encode(TEXT) == words.encode(TEXT).ids
    assert model.tokenizer.decode(model.tokenizer.encode(TEXT)) == TEXT
    assert model.tokenizer.eos_id == 1
    assert not model.chat
    assert model.generate("Returns", max_tokens=4, temperature=0).tokens <= 4


def test_a_damaged_header_is_an_error_of_ours_or_none(tmp_path: Path):
    whole = write(build("llama", tied=True, bias=False), tmp_path / "model.gguf").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(min(len(whole), 9000), size=3):
            damaged[place] = random.integers(256)
        (tmp_path / "damaged.gguf").write_bytes(damaged)
        with contextlib.suppress(ValueError):
            hub.load(tmp_path / "damaged.gguf")


def test_what_cannot_be_read_is_one_line(tmp_path: Path):
    path = write(build("llama", tied=True, bias=False), tmp_path / "model.gguf")
    whole = path.read_bytes()
    for name, content in {"text": b"not a model", "cut": whole[: len(whole) // 2], "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="is no GGUF file or is cut off"):
            hub.load(tmp_path / f"{name}.gguf")
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"llama", b"phi99"))
    with pytest.raises(ValueError, match=r"general\.architecture='phi99'; supported: llama, qwen2"):
        hub.load(tmp_path / "other.gguf")
    (tmp_path / "split.gguf").write_bytes(whole.replace(b"gpt-2", b"gpt-9"))
    with pytest.raises(ValueError, match="with pre='gpt-9'; supported: gpt2 with pre='gpt-2'"):
        hub.load(tmp_path / "split.gguf")
