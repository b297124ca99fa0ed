"""What must hold of every pattern: packed = separate, prefill + decode = forward, causality, and the float32 island."""

import pytest
import torch
import torch.nn.functional as F

from tandem.nn import (
    AttentionConfig,
    DenseConfig,
    HybridLM,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    SequenceLayout,
    TransMambaConfig,
    preset,
)

LENGTHS = [1, 3, 17, 8]
PATTERNS = ["M", "A", "(MF)2 AMF (MF)2", "AMFE", "T", "TFMF AF TTF", preset("turbos-560b").pattern[:32]]


RELEASED = {  # every option that released models have and ours do not
    "attention": AttentionConfig(
        heads=4, kv_heads=2, head_width=8, qk_norm=False, rotary_width=4, bias=True, out_bias=True, scale=0.2
    ),
    "mamba": MambaConfig(
        heads=4, head_width=8, state=8, groups=2, chunk=8, conv_bias=False, bias=True, step_min=0.02, step_max=0.2
    ),
    "ffn": DenseConfig(hidden=16, activation="geglu_tanh", bias=True),
    "experts": MoEConfig(
        experts=8,
        top_k=2,
        hidden=16,
        shared_hidden=24,
        activation="relu2",
        bias=True,
        selection_bias=True,
        scores="sigmoid",
        renormalize=False,
        routed_scale=2.5,
        expert_groups=4,
        top_groups=2,
        latent=12,
    ),
    "embedding_scale": 3.0,
    "residual_scale": 0.5,
    "logit_scale": 0.25,
    "tie_embeddings": False,
}
CASES = [*((pattern, {}) for pattern in PATTERNS), ("(MF)2 AMEFE", RELEASED), ("AEM", RELEASED)]


def build(pattern: str, **changes: object) -> HybridLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=60,
        width=32,
        pattern=pattern,
        attention=AttentionConfig(heads=4, kv_heads=2, head_width=8),
        mamba=MambaConfig(heads=4, head_width=8, state=8, groups=2, chunk=8),
        transmamba=TransMambaConfig(
            heads=4, head_width=8, state=8, groups=2, chunk=8, schedule="v9", schedule_length=250
        ),
        ffn=MoEConfig(experts=4, top_k=2, hidden=16),
        experts=DenseConfig(hidden=24),
    ).replace(**changes)
    model = HybridLM(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bias" in name:  # those start at 0, where a mistake would not show
                tensor.add_(torch.randn_like(tensor), alpha=0.3)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor, SequenceLayout]:
    torch.manual_seed(1)
    return *torch.randint(0, 60, (2, sum(LENGTHS))), SequenceLayout.from_lengths(LENGTHS, chunk=8)


@pytest.mark.parametrize(("pattern", "changes"), CASES)
def test_packed_equals_separate_loss_and_gradients(pattern: str, changes: dict[str, object]):
    tokens, targets, layout = batch()
    # Training would move the selection bias of RELEASED with every batch.
    packed, separate = (build(pattern, **changes).double().train(not changes) for _ in range(2))
    loss = packed.loss(tokens, layout, targets)
    loss.nll_sum.backward()
    nll = 0.0
    for ids, wanted in zip(tokens.split(LENGTHS), targets.split(LENGTHS), strict=True):
        one = separate.loss(ids, SequenceLayout.from_lengths([len(ids)], chunk=8), wanted)
        one.nll_sum.backward()
        nll += float(one.nll_sum.detach())
    assert float(loss.nll_sum.detach()) == pytest.approx(nll, abs=1e-9)
    for (name, parameter), other in zip(packed.named_parameters(), separate.parameters(), strict=True):
        got, want = (torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, other))
        torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize(("pattern", "changes"), CASES)
@torch.no_grad()
def test_prefill_and_decode_equal_forward(pattern: str, changes: dict[str, object]):
    model = build(pattern, **changes).eval()
    tokens, _, layout = batch()
    whole = model(tokens, layout).split(LENGTHS)
    prefix = [1, 2, 9, 4]
    state = model.new_state(4)
    ids = torch.cat([row[:n] for row, n in zip(tokens.split(LENGTHS), prefix, strict=True)])
    got = model(ids, state.layout(prefix), state).split(prefix)
    for rows, want, n in zip(got, whole, prefix, strict=True):
        torch.testing.assert_close(rows, want[:n], atol=1e-4, rtol=1e-4)
    live = state.select([2, 3])
    rows = [tokens.split(LENGTHS)[d] for d in (2, 3)]
    for step in range(4):
        ids = torch.stack([row[n + step] for row, n in zip(rows, (9, 4), strict=True)])
        logits = model.next_logits(ids, live.layout([1, 1]), live)
        torch.testing.assert_close(logits, torch.stack([whole[2][9 + step], whole[3][4 + step]]), atol=1e-4, rtol=1e-4)
    again = model(rows[0][9:], state.select([2]).layout([8]), state.select([2]))
    torch.testing.assert_close(again, whole[2][9:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
@torch.no_grad()
def test_a_token_changes_nothing_before_it_nor_in_another_document(pattern: str):
    model = build(pattern).double().eval()
    tokens, _, layout = batch()
    before = model(tokens, layout)
    tokens[10] = (tokens[10] + 1) % 60  # in the third document, tokens 4 to 20
    changed = (model(tokens, layout) - before).abs().amax(1) > 1e-10
    assert not changed[:10].any()
    assert not changed[21:].any()
    assert changed[10]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_island_never_goes_below_float32_and_keeps_its_bits_through_a_cast_and_back(dtype: torch.dtype):
    model = build("MFAMF")
    before = {name: p.clone() for name, p in model.named_parameters() if ".island." in name}
    assert {name.rsplit(".", 1)[1] for name in before} == {"A_log", "dt_bias", "D", "weight"}
    model.to(dtype)
    assert model.embedding.dtype == dtype
    assert model.new_state(1).layers[0].state_SHPN.dtype == torch.float32
    for name, parameter in model.float().named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name]), name


def test_double_widens_everything():
    assert {p.dtype for p in build("MFAMF").double().parameters()} == {torch.float64}


def test_loss_is_cross_entropy_plus_balance():
    model = build("MFAMF")
    tokens, targets, layout = batch()
    loss = model.loss(tokens, layout, targets)
    want = F.cross_entropy(model(tokens, layout), targets)
    torch.testing.assert_close(loss.total, want + loss.aux.balance_loss, atol=1e-5, rtol=1e-5)
    assert loss.aux.expert_load.sum(1).tolist() == pytest.approx([1.0, 1.0])


def test_recorded_routes_replay_the_same_pass():
    model = build("MFAMF").eval()
    tokens, _, layout = batch()
    x, aux = model.hidden(tokens, layout)
    torch.testing.assert_close(model.hidden(tokens, layout, routes=aux.routes)[0], x)
    other = [route.roll(1, 0) for route in aux.routes]
    assert not torch.allclose(model.hidden(tokens, layout, routes=other)[0], x)
    with pytest.raises(ValueError, match="routes need one"):
        model(tokens, layout, routes=aux.routes[:1])


def test_autocast_computes_in_bf16_and_stays_near_float32():
    model = build("(MF)2 AMF")
    tokens, targets, layout = batch()
    exact = model.loss(tokens, layout, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(tokens, layout, targets)
        assert model.hidden(tokens, layout)[0].dtype == torch.bfloat16
    assert rough.total.item() == pytest.approx(exact.total.item(), rel=2e-2)


def test_wrong_calls_are_named():
    model = build("MA")
    tokens, _, layout = batch()
    with pytest.raises(ValueError, match="do not fit layout of 29 tokens"):
        model(tokens[:5], layout)
    with pytest.raises(ValueError, match="which gradients cannot follow"):
        model(tokens, layout, model.new_state(4))
    with pytest.raises(ValueError, match="pass its state"):
        model(tokens[:2], SequenceLayout.from_lengths([2], starts=[3]))
    with torch.no_grad(), pytest.raises(ValueError, match=r"differ from state.lengths=\[0\]"):
        model(tokens[:2], SequenceLayout.from_lengths([2], starts=[3]), model.new_state(1))
