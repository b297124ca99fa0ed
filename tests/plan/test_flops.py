"""Work of a token against PyTorch's own counter and against what must hold for any model."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tandem.nn import DenseConfig, HybridLM, ModelConfig, SequenceLayout, TransMamba, preset, presets
from tandem.plan import FORMULAS, counted_cost, flops, parameters


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


@pytest.mark.parametrize("transpoint", [0, 8, 100, 256, 512, 1000])
def test_transmamba_is_what_pytorch_counts(transpoint: int, monkeypatch: pytest.MonkeyPatch):
    """Within a tenth, once the pairs are added that PyTorch counts above the diagonal."""
    monkeypatch.setattr("tandem.ops.cpu.compiled.library", lambda: None)  # the counter sees PyTorch's operations
    config = preset("transmamba-nano").replace(pattern="T", ffn=None).rescheduled([transpoint])
    shape = config.transmamba
    assert shape is not None
    torch.manual_seed(0)
    model = HybridLM(config).eval()
    layout = SequenceLayout.from_lengths([512, 256], chunk=config.chunk)
    # The math backend, because the counter does not know the fused one.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.randint(config.vocab_size, (layout.tokens,)), layout)
    unseen = sum(n * (n - 1) // 2 for n in (min(length, transpoint) for length in layout.lengths))
    extra = 2 * (shape.groups * shape.state + shape.inner) * unseen
    assert flops(config, lengths=layout.lengths).by_kind["transmamba"] * layout.tokens + extra == pytest.approx(
        counter.get_total_flops() - 2 * config.width * config.vocab_size * layout.tokens, rel=0.1
    )


@pytest.mark.parametrize("gate", ["ssm", "both"])
@pytest.mark.parametrize("name", ["transmamba-nano", "transmamba-400m"])
def test_the_counted_cost_is_the_layers_own_but_for_what_all_tokens_need(name: str, gate: str):
    config, context = preset(name), 512
    assert config.transmamba is not None
    shape = replace(config.transmamba, gate=gate, convert=gate == "ssm")
    cost = counted_cost(config.replace(transmamba=shape), context)
    layout = SequenceLayout.from_lengths([context], chunk=shape.chunk)
    with torch.device("meta"):
        layers = {point: TransMamba(shape, config.width, 1e-5, point) for point in (0, 1, 64, 100, 511, 512, 600)}
    for point, layer in layers.items():
        own = layer.flops(layout) - layers[0].flops(layout)
        assert cost.layer(point) - cost.mamba == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize("name", presets())
def test_a_token_uses_its_active_matrices_once(name: str):
    """2 operations a parameter and token, and little more while the context is short; norms are not products."""
    config = preset(name)
    counts, work = parameters(config), flops(config, context=1)
    matrices = counts.active - counts.by_kind["norms"]
    # An embedding with a head of its own is looked up; a gate is for tokens behind the TransPoint, of which there are none.
    matrices -= 0 if config.tie_embeddings else counts.by_kind["embedding"]
    gates = sum(transpoint > 0 for transpoint in config.transpoints)
    matrices -= gates * config.width * config.transmamba.inner if config.transmamba else 0
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
