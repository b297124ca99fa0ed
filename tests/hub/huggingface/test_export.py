"""Models of each family, read, written again as a family of `transformers`, and read by it."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from released import FAMILIES, Released, write
from safetensors.torch import load_file, save_file

import tandem
from tandem import hub
from tandem.data import Tokenizer
from tandem.hub.huggingface import released_config, released_tensors
from tandem.hub.huggingface.shards import spelled
from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    HybridLM,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    TransMambaConfig,
    preset,
)

pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")

from transformers import AutoModelForCausalLM

TOKENS = torch.arange(9)[None]
ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_width=8, qk_norm=False)
MAMBA = MambaConfig(heads=4, head_width=8, state=8, chunk=8)
DENSE = DenseConfig(hidden=24)
MIXTURE = MoEConfig(experts=4, top_k=2, hidden=16)


def model_of(**changes: Any) -> ModelConfig:
    shapes = {"attention": ATTENTION, "mamba": MAMBA, "ffn": DENSE, "experts": MIXTURE}
    return ModelConfig(**{"vocab_size": 64, "width": 32, "pattern": "AFAF", **shapes, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_is_written_again(family: str):
    # Without shrinking: each example writes and reads files.
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
    @given(FAMILIES[family](), st.integers(0, 1000), st.sampled_from([torch.float32, torch.bfloat16]))
    @torch.no_grad()
    def check(released: Released, seed: int, dtype: torch.dtype) -> None:
        theirs = released.build(seed).to(dtype)
        with tempfile.TemporaryDirectory() as folder:
            directory, again = write(theirs, Path(folder) / "model"), Path(folder) / "again"
            ours = tandem.load(directory)
            plain = released_config(ours.config)
            assert plain is not None
            tensors = released_tensors(ours.model, plain)
            again.mkdir()
            save_file(tensors, again / "model.safetensors", metadata={"format": "pt"})
            (again / "config.json").write_text(json.dumps(plain))
            found, info = AutoModelForCausalLM.from_pretrained(again, dtype=torch.float32, output_loading_info=True)
            assert not any(info.values()), info
            want = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)(TOKENS, use_cache=False).logits
            before = {spelled(name): tensor for name, tensor in load_file(directory / "model.safetensors").items()}
        for name, tensor in tensors.items():
            original = before.get(spelled(name))  # stacked experts are written one by one
            if original is not None and plain["model_type"] == family:
                assert torch.equal(tensor, original), name
                assert tensor.dtype == original.dtype, name
        got = found(TOKENS, use_cache=False).logits
        assert (got - want).abs().max() <= 1e-4 * want.abs().max()

    check()


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (model_of(), "llama"),
        (model_of(attention=AttentionConfig(heads=4, kv_heads=2, head_width=8, qk_norm=False, bias=True)), "qwen2"),
        (model_of(pattern="MFAF", ffn=MIXTURE), "granitemoehybrid"),
        (model_of(pattern="MFAF", embedding_scale=12.0, logit_scale=0.125), "granitemoehybrid"),
        (model_of(pattern="MF"), "granitemoehybrid"),
        (model_of(pattern="MM"), "mamba2"),
        (model_of(pattern="MAM", attention=AttentionConfig(heads=4, kv_heads=2, head_width=8, qk_norm=False)), None),
        (model_of(attention=AttentionConfig(heads=4, kv_heads=2, head_width=8)), None),  # norms of queries and keys
        (model_of(pattern="MFAF", ffn=MoEConfig(experts=4, top_k=2, hidden=16, shared=0)), None),
        (model_of(pattern="MM", mamba=MambaConfig(heads=3, head_width=8, state=8)), None),  # not a whole multiple of 32
        (model_of(pattern="MM", mamba=MambaConfig(heads=4, head_width=8, state=8, groups=2, norm_groups=1)), None),
        (preset("nano"), None),
    ],
)
def test_the_family_is_the_first_that_says_all(config: ModelConfig, family: str | None) -> None:
    found = released_config(config)
    assert (None if found is None else found["model_type"]) == family


@pytest.mark.parametrize(
    ("config", "family"),
    [
        # what stands in the config beside the layers fits no class: heads, activation, a layer that none has
        (
            model_of(pattern="AFAF", logit_scale=0.5, mamba=MambaConfig(heads=3, head_width=8, state=8)),
            "granitemoehybrid",
        ),
        (
            model_of(
                pattern="MAF",
                attention=AttentionConfig(heads=4, kv_heads=2, head_width=8, qk_norm=False, rope=False),
                ffn=DenseConfig(hidden=24, activation="relu2"),
                tie_embeddings=False,
            ),
            "nemotron_h",
        ),
        (model_of(transmamba=TransMambaConfig(heads=4, head_width=8, state=8)), "llama"),
        # heads that do not divide the width, which the class of Llama refuses
        (
            model_of(attention=AttentionConfig(heads=3, kv_heads=3, head_width=8, qk_norm=False)),
            "granitemoehybrid",
        ),
    ],
)
def test_what_a_class_would_refuse_is_left_out_or_goes_to_another(
    config: ModelConfig, family: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    hub.save(HybridLM(config.replace(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path / "ours")
    done = hub.convert(tmp_path / "ours", tmp_path / "theirs", to="transformers")  # which compares the logits
    assert done.family == family
