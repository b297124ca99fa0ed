"""Work of a token against PyTorch's own counter and against what must hold for any model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tandem.nn import DenseConfig, HybridLM, ModelConfig, SequenceLayout, preset, presets
from tandem.plan import FORMULAS, flops, parameters


@pytest.mark.parametrize("name", ["nano", "mini"])
def test_forward_is_what_pytorch_counts(name: str):
    """Within a tenth: PyTorch counts attention without its causal half and the helper products of the scan."""
    config = preset(name)
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    layout = SequenceLayout.from_lengths([256, 128], chunk=config.chunk)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randint(config.vocab_size, (layout.tokens,)), layout)
    assert flops(config, lengths=layout.lengths).forward * layout.tokens == pytest.approx(
        counter.get_total_flops(), rel=0.1
    )


@pytest.mark.parametrize("name", presets())
def test_a_token_uses_its_active_matrices_once(name: str):
    """2 operations a parameter and token, and little more while the context is short; norms are not products."""
    config = preset(name)
    counts, work = parameters(config), flops(config, context=1)
    matrices = counts.active - counts.by_kind["norms"]
    assert 1.9 * matrices < work.forward < 2.6 * matrices
    assert set(work.by_kind) <= set(FORMULAS)


def test_dense_and_head_exactly():
    config = ModelConfig(vocab_size=11, width=6, pattern="FF", ffn=DenseConfig(hidden=5))
    work = flops(config, context=7)
    assert work.by_kind == {"dense": 2 * 6 * 6 * 5, "head": 2 * 6 * 11}
    assert work.training == 3 * work.forward


def test_attention_grows_with_context_and_mamba_does_not():
    config = preset("turbos-560b")
    short, middle, long = (flops(config, context=n) for n in (1024, 2048, 3072))
    growth = middle.by_kind["attention"] - short.by_kind["attention"]
    assert growth == pytest.approx(long.by_kind["attention"] - middle.by_kind["attention"])
    # 4·H·P a token seen, half of the 1024 more in a causal document, 7 layers
    assert growth == pytest.approx(7 * 4 * 64 * 80 * 512)
    assert short.by_kind["mamba"] == pytest.approx(long.by_kind["mamba"])


def test_lengths_average_over_documents():
    config = preset("nano")
    rows = flops(config, lengths=[512] * 3)
    assert rows.forward == pytest.approx(flops(config, context=512).forward)
    assert rows.forward < flops(config, lengths=[1536]).forward


def test_lengths_and_context_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        flops(preset("nano"), lengths=[3], context=3)
