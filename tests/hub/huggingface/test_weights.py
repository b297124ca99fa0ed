"""Files of released models: shards, names of several ages, formats, what is skipped, and what is refused by name."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from released import Released, write
from safetensors.torch import load_file, save_file
from torch import Tensor

import tandem
from tandem.nn import HybridLM, SequenceLayout

pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")

GRANITE = Released(
    "granitemoehybrid",
    {
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_local_experts": 4,
        "shared_intermediate_size": 24,
        "layer_types": ["linear_attention", "full_attention"],
        "mamba_n_heads": 4,
        "mamba_d_state": 8,
        "tie_word_embeddings": True,
    },
)
NEMOTRON = Released(
    "nemotron_h",
    {
        "hidden_size": 32,
        "layers_block_type": ["linear_attention", "moe"],
        "num_attention_heads": 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "n_routed_experts": 4,
        "moe_intermediate_size": 8,
        "moe_shared_expert_intermediate_size": 12,
    },
)
TOKENS = torch.arange(20) % 64


def logits(model: HybridLM) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, SequenceLayout.from_lengths([len(TOKENS)], chunk=model.config.chunk))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("released")
    return {r.family: write(r.build(), folder / r.family) for r in (GRANITE, NEMOTRON)}


@pytest.fixture
def granite(saved: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(saved["granitemoehybrid"], tmp_path / "granite")


@pytest.fixture
def nemotron(saved: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(saved["nemotron_h"], tmp_path / "nemotron")


def change(directory: Path, tensors: dict[str, Tensor], remove: tuple[str, ...] = ()) -> None:
    file = directory / "model.safetensors"
    whole = {name: tensor for name, tensor in load_file(file).items() if name not in remove}
    save_file({**whole, **tensors}, file)


def rename(directory: Path, pattern: str, replacement: str) -> None:
    file = directory / "model.safetensors"
    save_file({re.sub(pattern, replacement, name): tensor for name, tensor in load_file(file).items()}, file)


def test_names_of_other_ages_load(granite: Path, nemotron: Path):
    for directory, names in (
        (granite, [("input_linear.weight$", "experts.gate_up_proj"), (r"^model\.", "")]),
        (nemotron, [(r"^backbone\.", "model."), (r"embeddings\.", "embedding.")]),
    ):
        want = logits(tandem.load(directory).model)
        for pattern, replacement in names:
            if "experts" in replacement:
                pattern = "(?<=block_sparse_moe.)" + pattern
            rename(directory, pattern, replacement)
            assert torch.equal(logits(tandem.load(directory).model), want)


def test_stacked_experts_load(nemotron: Path):
    want = logits(tandem.load(nemotron).model)
    whole = load_file(nemotron / "model.safetensors")
    stacked: dict[str, Tensor] = {}
    for name in ("up_proj", "down_proj"):
        prefix = "backbone.layers.1.mixer.experts"
        stacked[f"{prefix}.{name}"] = torch.stack([whole.pop(f"{prefix}.{e}.{name}.weight") for e in range(4)])
    save_file({**whole, **stacked}, nemotron / "model.safetensors")
    assert torch.equal(logits(tandem.load(nemotron).model), want)


def test_formats(granite: Path):
    whole = load_file(granite / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in whole.items()}, granite / "model.safetensors")
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        for name, tensor in tandem.load(granite, dtype=dtype).model.state_dict().items():
            assert tensor.dtype == (torch.float32 if "island" in name else expected), name


def test_derived_and_multi_token_weights_are_skipped(nemotron: Path, caplog: pytest.LogCaptureFixture):
    want = logits(tandem.load(nemotron).model)
    extra = {"mtp.layers.0.norm.weight": torch.ones(3), "mtp.layers.0.mixer.up_proj.weight": torch.ones(3)}
    change(nemotron, {**extra, "backbone.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    with caplog.at_level(logging.INFO):
        assert torch.equal(logits(tandem.load(nemotron).model), want)
    lines = [record.getMessage() for record in caplog.records if "multi-token" in record.getMessage()]
    assert len(lines) == 1
    assert "skipped 2 weights of multi-token prediction (mtp.layers.0.mixer.up_proj.weight, " in lines[0]


def test_a_tied_head_may_lie_in_the_file(granite: Path):
    want = logits(tandem.load(granite).model)
    change(granite, {"lm_head.weight": load_file(granite / "model.safetensors")["model.embed_tokens.weight"].clone()})
    assert torch.equal(logits(tandem.load(granite).model), want)


@pytest.mark.parametrize(
    ("tensors", "remove", "error"),
    [
        ({}, ("model.layers.0.mamba.A_log",), "lacks layers.0.mamba.A_log; use the config.json"),
        ({"score.weight": torch.ones(2)}, (), "has unexpected score.weight; use the config.json"),
        ({"model.norm.weight": torch.ones(31)}, (), r"has norm.weight of shape \[31\], which does not fit config.json"),
        ({"model.norm.weight": torch.tensor(1.0)}, (), r"has norm.weight of shape \[\], which does not fit"),
        ({"model.layers.1.self_attn.v_proj.weight": torch.ones(8, 32)}, (), "v_proj.weight.*does not fit config.json"),
        ({"model.layers.1.self_attn.k_proj.weight": torch.ones(99, 32)}, (), "k_proj.weight.*does not fit config.json"),
        ({"model.norm.weight": torch.ones(32, dtype=torch.int8)}, (), "has norm.weight in int8; supported: float32"),
    ],
)
def test_wrong_tensors_are_named(granite: Path, tensors: dict[str, Tensor], remove: tuple[str, ...], error: str):
    change(granite, tensors, remove)
    with pytest.raises(ValueError, match=error) as caught:
        tandem.load(granite)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(granite: Path):
    file = granite / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut off"):
        tandem.load(granite)
    file.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing; supported: one or several safetensors"):
        tandem.load(granite)
    (granite / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle, which can run code and is never read"):
        tandem.load(granite)
    (granite / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        tandem.load(granite)


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ({}, "has no weight_map"),
        (
            {"weight_map": {"a": "../secret.safetensors"}},
            "sends a to '../secret.safetensors', which is no file of this",
        ),
        ({"weight_map": {"a": 5}}, "sends a to 5, which is no file"),
        ({"weight_map": {"a": "gone.safetensors"}}, r"gone\.safetensors is missing"),
        ({"weight_map": {"model.norm.weight": "model.safetensors"}}, "lacks embeddings.weight, "),
    ],
)
def test_wrong_indexes_are_named(granite: Path, index: dict[str, Any], error: str):
    (granite / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=error):
        tandem.load(granite)


def test_what_was_loaded_can_be_saved(nemotron: Path, tmp_path: Path):
    loaded = tandem.load(nemotron)
    again = tandem.load(loaded.save(tmp_path / "ours"))
    assert again.config == loaded.config
    assert torch.equal(logits(again.model), logits(loaded.model))
    assert again.tokenizer.encode("w3 w4") == [3, 4]
    (nemotron / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="only models written by `save` are replaced"):
        loaded.save(nemotron)


_PEAK = """
import resource, sys, torch, tandem
from pathlib import Path
from tandem.hub.huggingface import load_model
from tandem.data import read_json_object
folder = Path(sys.argv[1])
plain = read_json_object(folder / "config.json")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_model(folder, plain)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024, sum(t.nbytes for t in model.state_dict().values()))
"""


@pytest.mark.slow
def test_memory_is_the_weights_and_one_tensor(tmp_path: Path):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, num_attention_heads=8
    )
    write(transformers.LlamaForCausalLM(config), tmp_path / "big", max_shard_size="100MB")
    ran = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path / "big")], capture_output=True, text=True, check=True
    )
    peak, weights = map(int, ran.stdout.split())
    largest = 8192 * 1024 * 4
    assert weights > 400e6
    assert peak < weights + largest + 30e6  # code that is loaded on first use
