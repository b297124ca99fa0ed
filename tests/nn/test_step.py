"""Recorded steps give what the layers give one by one, and never outlive the weights and the state they were made for."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tandem.nn import (
    AttentionConfig,
    DecodeState,
    DenseConfig,
    HybridLM,
    MambaConfig,
    ModelConfig,
    MoEConfig,
    SequenceLayout,
    TransMambaConfig,
    TransSlots,
)
from tandem.ops.cpu.compiled import library

VOCABULARY = 60


@pytest.fixture(autouse=True)
def _kernels():
    if library() is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")


def build(pattern: str = "(MF)2 AMFE", dtype: torch.dtype = torch.float32, **changes: object) -> HybridLM:
    torch.manual_seed(0)
    shapes = {
        "attention": AttentionConfig(heads=4, kv_heads=2, head_width=8),
        "mamba": MambaConfig(heads=4, head_width=8, state=8, groups=2, chunk=8),
        "ffn": MoEConfig(experts=4, top_k=2, hidden=32, selection_bias=True),
        "experts": DenseConfig(hidden=24),
    }
    config = ModelConfig(vocab_size=VOCABULARY, width=32, pattern=pattern, **{**shapes, **changes})
    model = HybridLM(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "bias" in name or name.endswith("island.weight"):  # clear choices; biases start at 0
                tensor.add_(torch.randn_like(tensor))
    return model.to(dtype)


def stepped(model: HybridLM, state: DecodeState, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.next_logits(tokens, state.layout([1] * len(tokens)), state)


def by_layers(model: HybridLM, state: DecodeState, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(tokens, state.layout([1] * len(tokens)), state)


def was_replayed(state: DecodeState) -> bool:
    return state.step is not None and state.step._program is not None


def drawn(slots: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (slots,))


def assert_close(got: Tensor, want: Tensor):
    tolerance = 5e-2 if got.dtype == torch.bfloat16 else 1e-5
    assert (got.double() - want.double()).norm() <= tolerance * want.double().norm()


OPTIONS: list[dict[str, object]] = [
    {},
    {"tie_embeddings": False, "embedding_scale": 3.0, "residual_scale": 0.5, "logit_scale": 0.25},
    {"mamba": MambaConfig(heads=4, head_width=8, state=8, conv=3, conv_bias=False, bias=True, step_max=0.2)},
    {"attention": AttentionConfig(heads=4, kv_heads=1, head_width=8, qk_norm_first=True, bias=True, out_bias=True)},
    {"attention": AttentionConfig(heads=4, kv_heads=4, head_width=8, qk_norm=False, rotary_width=4, scale=0.3)},
    {"attention": AttentionConfig(heads=2, kv_heads=2, head_width=8, qk_norm=False, rope=False)},
    {"ffn": MoEConfig(experts=8, top_k=3, hidden=64, shared_hidden=20), "experts": DenseConfig(hidden=7, bias=True)},
    {"ffn": MoEConfig(experts=2, top_k=1, hidden=32, shared=0), "experts": DenseConfig(hidden=9, activation="relu2")},
]


TRANS = TransMambaConfig(heads=4, head_width=8, state=16, groups=2, chunk=8, schedule=(0, 2, 5))
TRANS_OPTIONS = [
    {},
    {"norm_groups": 1, "rope_mode": "none", "scale": 0.3},
    {"norm": "ssm", "conv": 3, "conv_bias": False, "bias": True, "step_max": 0.2},
]


@settings(max_examples=20)
@given(
    option=st.sampled_from(TRANS_OPTIONS),
    slots=st.sampled_from([1, 2, 5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_steps_of_transmamba_are_replayed_on_both_sides_of_the_transpoint(
    option: dict[str, object], slots: int, dtype: torch.dtype
):
    model = build("TFTFT", dtype, transmamba=replace(TRANS, **option))
    state, twin = model.new_state(slots), model.new_state(slots)
    for _ in range(8):
        tokens = drawn(slots)
        assert_close(stepped(model, state, tokens), by_layers(model, twin, tokens))
        assert was_replayed(state)
    assert [slots.is_released for slots in state.layers if isinstance(slots, TransSlots)] == [True] * 3


def test_documents_on_both_sides_of_a_transpoint_step_layer_by_layer():
    model = build("T", transmamba=replace(TRANS, schedule=(6,)))
    state, twin = model.new_state(2), model.new_state(2)
    tokens = torch.arange(9)
    for each in (state, twin):
        with torch.inference_mode():
            model(tokens, each.layout([3, 6]), each)
    replayed = []
    for _ in range(5):
        tokens = drawn(2)
        assert_close(stepped(model, state, tokens), by_layers(model, twin, tokens))
        replayed.append(was_replayed(state))
    assert replayed == [False] * 3 + [True] * 2


@settings(max_examples=40)
@given(
    pattern=st.sampled_from(["M", "A", "F", "E", "(MF)2 AMFE", "AFAF", "EMMA"]),
    option=st.sampled_from(OPTIONS),
    slots=st.sampled_from([1, 2, 5, 16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_replay_is_the_layers_one_by_one(pattern: str, option: dict[str, object], slots: int, dtype: torch.dtype):
    model = build(pattern, dtype, **option)
    state, twin = model.new_state(slots), model.new_state(slots)
    for _ in range(4):
        tokens = drawn(slots)
        got, want = stepped(model, state, tokens), by_layers(model, twin, tokens)
        if "A" in pattern:  # cosines are another library's
            assert_close(got, want)
        else:
            assert torch.equal(got, want)
    assert was_replayed(state)
    assert state.lengths == twin.lengths == [4] * slots


def test_prefill_then_replay_is_one_forward_pass_while_caches_grow():
    model = build()
    tokens = torch.randint(0, VOCABULARY, (2, 140))
    with torch.inference_mode():
        whole = model(tokens.flatten(), SequenceLayout.from_lengths([140, 140], chunk=8)).unflatten(0, (2, -1))
        state = model.new_state(2)
        model(tokens[:, :50].flatten(), state.layout([50, 50]), state)
    for index in range(50, 140):  # over 64 and 128, where the cache doubles
        assert_close(stepped(model, state, tokens[:, index]), whole[:, index])
    assert was_replayed(state)


def test_a_prefill_between_steps_is_seen():
    model = build()
    state, twin = model.new_state(1), model.new_state(1)
    for count in (1, 5, 1, 3, 1):
        tokens = drawn(count)
        with torch.inference_mode():
            got = model.next_logits(tokens, state.layout([count]), state)
            want = model(tokens, twin.layout([count]), twin)[-1:]
        assert_close(got, want)


def test_selected_slots_go_on_alone():
    model = build()
    state = model.new_state(3)
    stepped(model, state, drawn(3))
    twin = model.new_state(3)
    twin = copy.deepcopy(state)
    some, same = state.select([2, 0]), twin.select([2, 0])
    tokens = drawn(2)
    assert_close(stepped(model, some, tokens), by_layers(model, same, tokens))
    rest = drawn(3)
    assert_close(stepped(model, state, rest), by_layers(model, twin, rest))


def optimize(model: HybridLM) -> None:
    layout = SequenceLayout.from_lengths([8], chunk=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    model.loss(torch.arange(8), layout, torch.arange(8)).total.backward()
    optimizer.step()
    model.eval()


def load(model: HybridLM, assign: bool) -> None:
    state = {name: tensor + 0.1 * torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)


def replace_parameter(model: HybridLM) -> None:
    model.layers[0].mixer.into.weight = nn.Parameter(torch.randn_like(model.layers[0].mixer.into.weight))


def replace_data(model: HybridLM) -> None:
    model.layers[0].mixer.out.weight.data = torch.randn_like(model.layers[0].mixer.out.weight)


def replace_module(model: HybridLM) -> None:
    torch.manual_seed(7)
    model.layers[1].mixer.shared = copy.deepcopy(model.layers[1].mixer.shared)
    model.layers[1].mixer.shared.init_weights(1.0)


def add_bias(model: HybridLM) -> None:
    model.layers[4].mixer.out.bias = nn.Parameter(torch.ones(32))


def there_and_back(model: HybridLM) -> None:
    model.bfloat16().float()


CHANGES: list[Callable[[HybridLM], None]] = [
    optimize,
    lambda model: load(model, assign=False),
    lambda model: load(model, assign=True),
    replace_parameter,
    replace_data,
    replace_module,
    add_bias,
    there_and_back,
]


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_used_at_once(change: Callable[[HybridLM], None], int8: bool):
    model = build(dtype=torch.float32)
    state, twin = model.new_state(1), model.new_state(1)
    if int8:
        model.round_to_int8()
    for _ in range(2):
        tokens = drawn(1)
        before = stepped(model, state, tokens)
        by_layers(model, twin, tokens)
    change(model)
    if int8:
        model.round_to_int8()
    after = stepped(model, state.clone(), tokens)
    got, want = stepped(model, state, tokens), by_layers(model, twin, tokens)
    assert was_replayed(state)
    assert not torch.equal(before, want)
    assert torch.equal(got, after)
    assert (got - want).norm() <= (5e-3 if int8 else 1e-5) * want.norm()


def test_int8_copies_follow_weights_that_are_written_to():
    model = build("MF")
    model.round_to_int8()
    state = model.new_state(1)
    first = stepped(model, state, drawn(1))
    with torch.no_grad():
        model.embedding.zero_()
    assert torch.equal(stepped(model, state, drawn(1)), torch.zeros_like(first))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_steps_agree_with_a_forward_pass(dtype: torch.dtype):
    model = build(dtype=dtype)
    tokens = torch.randint(0, VOCABULARY, (20,))
    layout = SequenceLayout.from_lengths([20], chunk=8)
    with torch.inference_mode():
        stored = model(tokens, layout)
        model.round_to_int8()
        whole = model(tokens, layout)
    assert not torch.equal(stored, whole)
    state = model.new_state(1)
    for index, token in enumerate(tokens.split(1)):
        got = stepped(model, state, token)[0].double()
        assert (got - whole[index].double()).norm() <= (6e-2 if dtype == torch.bfloat16 else 5e-3) * whole[index].norm()
    assert was_replayed(state)


def test_hooks_are_called():
    model, seen = build(), []
    state = model.new_state(1)
    stepped(model, state, drawn(1))
    handle = model.layers[2].register_forward_hook(lambda *_: seen.append(1))
    twin = state.clone()
    tokens = drawn(1)
    assert torch.equal(stepped(model, state, tokens), by_layers(model, twin, tokens))
    assert len(seen) == 2
    handle.remove()
    stepped(model, state, drawn(1))
    assert len(seen) == 2


def test_a_replaced_forward_or_a_foreign_module_is_called():
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x)

    model = build("AF")
    state, twin = model.new_state(1), model.new_state(1)
    tokens = drawn(1)
    before = stepped(model, state, tokens)
    by_layers(model, twin, tokens)
    model.layers[0].mixer.out = Doubled(model.layers[0].mixer.out)
    got, want = stepped(model, state, tokens), by_layers(model, twin, tokens)
    assert not was_replayed(state)
    assert torch.equal(got, want)
    assert not torch.equal(got, before)
    other = build("AF")
    other.layers[0].forward = lambda x_TD, *_: (x_TD, torch.zeros_like(x_TD), None)
    state = other.new_state(1)
    stepped(other, state, tokens)
    assert not was_replayed(state)


@pytest.mark.parametrize(
    "case",
    ["odd experts", "narrow experts", "gelu", "latent", "float64", "training", "autocast", "many", "off", "compiled"],
)
def test_what_cannot_be_replayed_runs_layer_by_layer(case: str, monkeypatch: pytest.MonkeyPatch):
    options: dict[str, dict[str, object]] = {
        "odd experts": {"ffn": MoEConfig(experts=4, top_k=2, hidden=24)},
        "narrow experts": {"ffn": MoEConfig(experts=4, top_k=2, hidden=16)},
        "gelu": {"experts": DenseConfig(hidden=24, activation="gelu")},
        "latent": {"ffn": MoEConfig(experts=4, top_k=2, hidden=32, latent=32)},
    }
    model = build(dtype=torch.float64 if case == "float64" else torch.float32, **options.get(case, {}))
    if case == "training":
        model.train()
    if case == "off":
        library.cache_clear()
        monkeypatch.setenv("TANDEM_KERNELS", "off")
    if case == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    slots = 33 if case == "many" else 2
    state, twin = model.new_state(slots), model.new_state(slots)
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        for _ in range(2):
            tokens = drawn(slots)
            assert torch.equal(stepped(model, state, tokens), by_layers(model, twin, tokens))
    assert not was_replayed(state)
    library.cache_clear()


def test_logits_are_the_callers_to_keep():
    model = build()
    state = model.new_state(1)
    first = stepped(model, state, drawn(1))
    kept = first.clone()
    stepped(model, state, drawn(1))
    assert torch.equal(first, kept)


def test_a_copied_state_records_again():
    model = build()
    state = model.new_state(1)
    stepped(model, state, drawn(1))
    for made in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert made.step is None
        tokens = drawn(1)
        twin = state.clone()
        assert torch.equal(stepped(model, made, tokens), stepped(model, twin, tokens))


def test_a_state_that_another_model_steps_on_is_recorded_for_it():
    one, two = build("MF"), build("MF")
    with torch.no_grad():
        two.embedding.mul_(2)
    state = one.new_state(1)
    stepped(one, state, drawn(1))
    twin, tokens = state.clone(), drawn(1)
    assert torch.equal(stepped(two, state, tokens), by_layers(two, twin, tokens))


def test_wrong_calls_are_named():
    model = build()
    state = model.new_state(2)
    stepped(model, state, drawn(2))
    with pytest.raises(ValueError, match=r"an id outside \[0, 60\)"):
        stepped(model, state, torch.tensor([3, 60]))
    with torch.no_grad(), pytest.raises(ValueError, match=r"differ from state.lengths=\[1, 1\]"):
        model.next_logits(drawn(2), SequenceLayout.from_lengths([1, 1], starts=[0, 1]), state)
    with pytest.raises(ValueError, match="updated in place"):
        model.next_logits(drawn(2), state.layout([1, 1]), state)
