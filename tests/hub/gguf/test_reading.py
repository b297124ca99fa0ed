"""GGUF files, written here by the package `gguf` the way llama.cpp's converter lays them out, against the model they hold."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

import tandem
from tandem import hub
from tandem.hub.gguf import write_gguf
from tandem.nn import AttentionConfig, MambaConfig, ModelConfig, MoEConfig, SequenceLayout

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


def build(kind: str, *, tied: bool, bias: bool, **others: Any) -> Any:
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
        **others,
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape) * 0.15 + ("norm" in name))
    return model


def write(
    model: Any, path: Path, *, split: str = "gpt-2", quantized: bool = False, factors: np.ndarray | None = None
) -> Path:
    """A GGUF file of the model: float32, or Q8_0 blocks for its matrices; `factors` of RoPE's wavelengths."""
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
    if config.rope_parameters["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(config.rope_parameters["rope_type"]))
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(config.rope_parameters.get("original_max_position_embeddings", 128))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
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


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
)
@torch.no_grad()
def test_stretched_rope_is_that_of_transformers(rope: dict[str, Any], tmp_path: Path):
    theirs, tokens = (
        build("llama", tied=True, bias=False, rope_parameters={"rope_theta": 1e4, **rope}),
        torch.arange(5, 45),
    )
    ours = tandem.load(write(theirs, tmp_path / "model.gguf")).model
    torch.testing.assert_close(logits(ours, tokens), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_factors_of_llama3_are_those_of_transformers(tmp_path: Path):
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    rope = {"rope_type": "llama3", "rope_theta": 1e4, **llama3}
    theirs, tokens = build("llama", tied=True, bias=False, rope_parameters=rope), torch.arange(5, 45)
    plain = 1.0 / (1e4 ** (torch.arange(0, 16, 2).float() / 16))
    factors = (plain / theirs.model.rotary_emb.inv_freq).numpy()
    ours = tandem.load(write(theirs, tmp_path / "model.gguf", factors=factors)).model
    torch.testing.assert_close(logits(ours, tokens), theirs(tokens[None]).logits[0], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_read_is_one_line(tmp_path: Path):
    path = write(build("llama", tied=True, bias=False), tmp_path / "model.gguf")
    whole = path.read_bytes()
    for name, content in {"text": b"not a model", "cut": whole[: len(whole) // 2], "empty": b""}.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        with pytest.raises(ValueError, match="is no GGUF file or is cut off"):
            hub.load(tmp_path / f"{name}.gguf")
    (tmp_path / "other.gguf").write_bytes(whole.replace(b"llama", b"phi99"))
    with pytest.raises(ValueError, match=r"general\.architecture='phi99'; supported: qwen2, llama, granite"):
        hub.load(tmp_path / "other.gguf")
    (tmp_path / "split.gguf").write_bytes(whole.replace(b"gpt-2", b"gpt-9"))
    with pytest.raises(ValueError, match="with pre='gpt-9'; supported: gpt2 with pre='gpt-2'"):
        hub.load(tmp_path / "split.gguf")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file of every kind of layer."""
    config = ModelConfig(
        vocab_size=300,
        width=32,
        pattern="MFAF",
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=8, qk_norm=False),
        mamba=MambaConfig(heads=4, head_width=16, state=4),
        ffn=MoEConfig(experts=4, top_k=2, hidden=16),
    )
    folder = tmp_path_factory.mktemp("hybrid")
    return write_gguf(shapes.build(config, 0), shapes.tokenizer(), folder / "model.gguf").read_bytes()


HEADER = st.integers(0, 24_000)  # keys, vocabulary and the table of tensors


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(HEADER, st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_header_is_an_error_of_ours_or_none(hybrid: bytes, tmp_path: Path, changes: list[tuple[int, int]]):
    damaged = bytearray(hybrid)
    for place, value in changes:
        damaged[place % len(hybrid)] = value
    _loads_or_names(damaged, tmp_path / "damaged.gguf")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=HEADER, value=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62]))
def test_impossible_numbers_are_an_error_of_ours_or_none(hybrid: bytes, tmp_path: Path, place: int, value: int):
    place %= len(hybrid) - 8
    damaged = hybrid[:place] + value.to_bytes(8, "little") + hybrid[place + 8 :]
    _loads_or_names(damaged, tmp_path / "damaged.gguf")


def _loads_or_names(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        hub.load(path)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017 - an error is allowed, not demanded


@pytest.mark.parametrize("share", [0.001, 0.1, 0.4, 0.7, 0.95, 0.9999])
def test_a_file_that_is_cut_off_is_named(hybrid: bytes, tmp_path: Path, share: float):
    path = tmp_path / "cut.gguf"
    path.write_bytes(hybrid[: int(share * len(hybrid))])
    with pytest.raises(ValueError, match=r"cut\.gguf is no GGUF file or is cut off \(.*\); copy it again") as caught:
        hub.load(path)
    assert "\n" not in str(caught.value)


def rewritten(content: bytes, path: Path, keys: dict[str, Any], drop: str = "", twice: str = "") -> Path:
    """The file with other keys, without a tensor, or with one a second time under the name "extra"."""
    path.write_bytes(content)
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_suffix(".new"), "granitehybrid")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture" and name not in keys:
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub)
    for name, value in keys.items():
        if value is not None:
            kind = gguf.GGUFValueType.get_type(value)
            writer.add_key_value(name, value, kind, gguf.GGUFValueType.INT32 if isinstance(value, list) else None)
    for tensor in reader.tensors:
        if tensor.name != drop:
            for name in (tensor.name, "extra") if tensor.name == twice else (tensor.name,):
                writer.add_tensor(name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_suffix(".new").rename(path)


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"embedding_length": None}, "has no granitehybrid.embedding_length; use a file of a whole model"),
        ({"embedding_length": "32"}, "has granitehybrid.embedding_length='32', which must be of type int"),
        ({"embedding_length": 48}, "has token_embd.weight of shape [300, 32], its metadata asks for [300, 48]"),
        ({"block_count": 2**30}, "has 1073741824 blocks and 32 tensors; copy it again"),
        ({"block_count": 3}, "has granitehybrid.attention.head_count_kv=[0, 1], which must be 3 whole numbers"),
        ({"attention.head_count_kv": [1, 2]}, "head_count_kv=[1, 2], which must be the same number for all layers"),
        ({"attention.value_length": 16}, "attention.value_length=16, which must be attention.key_length=8"),
        ({"attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon='x', which must be a number"),
        (
            {"feed_forward_length": 2**31 - 1, "expert_feed_forward_length": None},
            "has blk.0.ffn_gate_exps.weight of shape",
        ),
        ({"expert_count": 0}, "lacks blk.0.ffn_down.weight, blk.0.ffn_gate.weight, "),
        ({"ssm.time_step_rank": 5}, "ssm.time_step_rank=5, which must be a divisor of ssm.inner_size=64"),
        ({"rope.scaling.type": "longrope"}, "rope.scaling.type='longrope', which must be none, linear or yarn"),
        ({"rope.scaling.factor": -1.0}, "attention.rope_scaling.factor=-1.0 must be a number above 0"),
    ],
)
def test_wrong_keys_are_named(hybrid: bytes, tmp_path: Path, keys: dict[str, Any], error: str):
    full = {f"granitehybrid.{key}": value for key, value in keys.items()}
    path = rewritten(hybrid, tmp_path / "model.gguf", full)
    with pytest.raises(ValueError, match=re.escape(error)) as caught:
        hub.load(path)
    assert "\n" not in str(caught.value)


def test_missing_and_left_over_tensors_are_named(hybrid: bytes, tmp_path: Path):
    for options, error in (
        ({"drop": "blk.0.ssm_a"}, "lacks blk.0.ssm_a, which does not fit its metadata"),
        ({"twice": "blk.0.ssm_a"}, "has unexpected extra, which does not fit its metadata"),
        ({"drop": "token_embd.weight"}, "has no token_embd.weight; use a file of a whole model"),
    ):
        path = rewritten(hybrid, tmp_path / "model.gguf", {}, **options)
        with pytest.raises(ValueError, match=error):
            hub.load(path)


def test_each_part_of_a_model_in_several_files_is_named(hybrid: bytes, tmp_path: Path):
    (tmp_path / "whole").write_bytes(hybrid)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "granitehybrid", split_max_tensors=12)
    for tensor in gguf.GGUFReader(tmp_path / "whole").tensors:
        writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(tmp_path.glob("model-*.gguf"))
    assert len(parts) == 3
    for number, part in enumerate(parts, start=1):
        with pytest.raises(ValueError, match=rf"is part {number} of 3, .* `llama-gguf-split --merge`"):
            hub.load(part)


def test_numbers_come_back_as_they_were_meant(hybrid: bytes, tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(hybrid)
    assert hub.read_config(tmp_path / "model.gguf").model.norm_eps == 1e-5
    assert not hub.read_config(tmp_path / "model.gguf").chat


_PEAK = """
import resource, sys, torch
from pathlib import Path
from tandem import hub
from tandem.hub.gguf import GGUFFile, write_gguf
from tandem.hub.gguf.package import library
from tandem.nn import AttentionConfig, DenseConfig, HybridLM, ModelConfig
sys.path.insert(0, sys.argv[2])
from shapes import tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

path = Path(sys.argv[1])
if sys.argv[3] == "write":
    config = ModelConfig(
        vocab_size=8192, width=1024, pattern="(AF)6",
        attention=AttentionConfig(heads=8, kv_heads=8, head_width=128, qk_norm=False), ffn=DenseConfig(hidden=4096),
    )
    model = HybridLM(config)
    library(), tokenizer()
    before = peak()
    write_gguf(model, tokenizer(), path, format="q8_0" if path.stem == "q8_0" else "f32")
else:
    library()
    before = peak()
    model = GGUFFile(path).model()
print(peak() - before, sum(t.nbytes for t in model.state_dict().values()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("format", ["f32", "q8_0"])
def test_memory_is_the_weights_and_one_tensor(format: str, tmp_path: Path):
    path, largest = tmp_path / f"{format}.gguf", 2 * 4096 * 1024 * 4
    for way in ("write", "read"):
        ran = subprocess.run(
            [sys.executable, "-c", _PEAK, str(path), str(Path(__file__).parent), way],
            capture_output=True,
            text=True,
            check=True,
        )
        peak, weights = map(int, ran.stdout.split())
        assert weights > 400e6
        # a piece of a parameter is copied, turned and encoded; a parameter of ours is at most two of theirs
        assert peak < (weights if way == "read" else 0) + 2 * largest + 60e6, (way, peak)
