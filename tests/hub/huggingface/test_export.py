"""Models of each family, read, written again as that family, and read by `transformers`."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from released import FAMILIES, Released, write
from safetensors.torch import load_file

import tandem
from tandem.hub.huggingface import released_config, released_tensors
from tandem.nn import AttentionConfig, DenseConfig, MambaConfig, ModelConfig, MoEConfig, preset

pytest.importorskip("transformers", reason="needs transformers: pip install 'tandem-lm[hf]'")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_read_is_written_again(family: str):
    @settings(max_examples=15, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(FAMILIES[family](), st.integers(0, 1000), st.sampled_from([torch.float32, torch.bfloat16]))
    @torch.no_grad()
    def check(released: Released, seed: int, dtype: torch.dtype) -> None:
        theirs = released.build(seed).to(dtype)
        with tempfile.TemporaryDirectory() as folder:
            directory = write(theirs, Path(folder) / "model")
            ours = tandem.load(directory)
            before = load_file(directory / "model.safetensors")
        plain = released_config(ours.config)
        assert plain is not None
        after = released_tensors(ours.model, plain)
        import transformers

        again = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(plain["model_type"], **json.loads(json.dumps(plain)))
        )
        found = transformers.AutoModelForCausalLM.from_pretrained(
            None, config=again.config, state_dict=after, dtype=dtype
        )
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
        if plain["model_type"] == family:
            assert {name: t.dtype for name, t in after.items()}.items() >= {
                name: t.dtype for name, t in before.items() if name in after
            }.items()
        tokens = torch.arange(9)[None]
        assert torch.equal(found.eval()(tokens).logits, theirs(tokens).logits)

    check()
