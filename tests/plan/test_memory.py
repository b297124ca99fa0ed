"""Decode state against the one a model really makes; training memory against arithmetic done by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    presets,
)
from tandem.plan import ParallelLayout, all_attention, crossing, memory, parameters

KIB, MIB, GIB = 1024, 1024**2, 1024**3
DENSE = ModelConfig(vocab_size=64, width=16, pattern="FFFF", ffn=DenseConfig(hidden=32), tie_embeddings=False)


def test_turbos_state_is_the_published_arithmetic():
    bytes_of = memory(preset("turbos-560b"))
    assert bytes_of.kv_per_token == 17.5 * KIB
    assert bytes_of.ssm_per_sequence == 114 * MIB
    assert bytes_of.conv_per_sequence / MIB == pytest.approx(2.7, abs=0.05)
    assert bytes_of.kv_per_token * 262_144 / GIB == pytest.approx(4.4, abs=0.05)
    assert bytes_of.ssm_per_sequence / bytes_of.kv_per_token == pytest.approx(6.7e3, rel=0.01)


@pytest.mark.parametrize("name", [name for name in presets() if name != "turbos-560b"])
def test_decode_state_weighs_what_the_model_allocates(name: str):
    config = preset(name)
    with torch.device("meta"):
        model = HybridLM(config)
    state = model.new_state(3, device="meta")
    planned = memory(config, value_bytes=4)
    assert state.ssm_bytes == 3 * planned.fixed_per_sequence


@pytest.mark.parametrize("name", presets())
def test_decode_state_is_what_the_layers_say(name: str):
    config = preset(name)
    with torch.device("meta"):
        model = HybridLM(config)
    for context in (0, 1, 127, 128, 129, 4096, 8192):
        said = sum(layer.state_bytes(context) for layer in model.layers)
        assert memory(config).sequence(context) == said


@pytest.mark.parametrize("cache", ["running", "convert"])
@pytest.mark.parametrize("sizes", [{"groups": 2, "state": 4}, {"groups": 4, "state": 24}])
def test_transmambas_state_is_what_decoding_really_keeps(cache: str, sizes: dict[str, int]):
    shape = TransMambaConfig(heads=4, head_width=8, schedule=(0, 5, 12), cache=cache, **sizes)
    config = ModelConfig(
        vocab_size=16,
        width=16,
        pattern="TATTM",
        transmamba=shape,
        attention=AttentionConfig(heads=2, kv_heads=1, head_width=8),
        mamba=MambaConfig(heads=2, head_width=8, state=4),
    )
    bytes_of = memory(config, value_bytes=4)
    model = HybridLM(config).eval()
    state = model.new_state(1)
    with torch.no_grad():
        for read in range(1, 16):
            model.next_logits(torch.tensor([read]), state.layout([1]), state)
            assert bytes_of.sequence(read) == state.kv_bytes + state.ssm_bytes
    assert bytes_of.kv_per_token_at(12) == bytes_of.kv_per_token


def test_transmambas_memory_is_constant_behind_the_last_transpoint():
    bytes_of = memory(preset("transmamba-400m"))
    assert bytes_of.sequence(8191) > bytes_of.sequence(8192) == bytes_of.sequence(1_000_000)
    assert bytes_of.kv_until[7] == (8192, 2 * 16 * 128 * 2)
    assert bytes_of.kv_per_token == 0


@pytest.mark.parametrize("name", ["transmamba-nano", "transmamba-400m"])
@pytest.mark.parametrize("schedule", ["v9", "v1", "attention", "mamba"])
def test_transmamba_is_smaller_than_its_twin_from_the_crossing_on(name: str, schedule: str):
    config = preset(name).rescheduled(schedule)
    hybrid, twin, tokens = memory(config), memory(all_attention(config)), crossing(config)
    smaller = [n for n in range(1, 9000) if hybrid.sequence(n) <= twin.sequence(n)]
    assert smaller == list(range(math.ceil(tokens), 9000))


def test_sequence_is_fixed_plus_growing():
    bytes_of = memory(preset("nano"))
    assert bytes_of.sequence(0) == bytes_of.ssm_per_sequence + bytes_of.conv_per_sequence
    assert bytes_of.sequence(100) - bytes_of.sequence(99) == bytes_of.kv_per_token


def test_the_twin_has_no_fixed_state_and_the_lines_cross_where_said():
    config = preset("turbos-560b")
    twin = all_attention(config)
    assert twin.layers.count("A") == 64
    assert memory(twin).fixed_per_sequence == 0
    tokens = crossing(config)
    assert memory(config).sequence(int(tokens)) >= memory(twin).sequence(int(tokens))
    assert memory(config).sequence(int(tokens) + 1) <= memory(twin).sequence(int(tokens) + 1)


def test_models_without_attention_or_mamba_have_no_crossing():
    config = preset("nano")
    with pytest.raises(ValueError, match=r"model.attention=null"):
        crossing(config.replace(pattern="MF", attention=None))
    with pytest.raises(ValueError, match="has no M or T layer"):
        crossing(config.replace(pattern="AF"))


def test_one_device_holds_every_parameter():
    count = parameters(DENSE).total
    bytes_of = memory(DENSE)
    assert (bytes_of.weights, bytes_of.gradients, bytes_of.optimizer) == (2 * count, 4 * count, 12 * count)
    single = memory(DENSE, value_bytes=4)
    assert (single.weights, single.gradients, single.optimizer) == (4 * count, 4 * count, 8 * count)


@pytest.mark.parametrize(("shard", "divided"), [(0, ()), (1, ("optimizer",)), (2, ("optimizer", "gradients"))])
def test_zero_divides_what_its_stage_says(shard: int, divided: tuple[str, ...]):
    whole = memory(DENSE)
    split = memory(DENSE, ParallelLayout(data=4, shard=shard))
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(split, name) == getattr(whole, name) // (4 if name in divided else 1)


def test_sharded_weights_keep_one_gathered_layer():
    split = memory(DENSE, ParallelLayout(data=4, shard=3))
    layer = 3 * 16 * 32 + 16
    assert split.weights == pytest.approx(2 * (parameters(DENSE).total / 4 + layer), abs=1)


def test_tensor_and_pipeline_divide_weights():
    count = parameters(DENSE).total
    assert memory(DENSE, ParallelLayout(tensor=2)).weights == count
    layer, vocabulary, final_norm = 3 * 16 * 32 + 16, 64 * 16, 16
    assert memory(DENSE, ParallelLayout(pipeline=2)).weights in (
        2 * (2 * layer + vocabulary),
        2 * (2 * layer + vocabulary + final_norm),
    )


def test_experts_are_divided_by_expert_parallelism_and_replicated_over_the_rest():
    config = preset("nano")
    whole, split = memory(config), memory(config, ParallelLayout(data=4, expert=4))
    routed = parameters(config).by_kind["experts"]
    assert whole.weights - split.weights == pytest.approx(2 * routed * 3 / 4, abs=1)


SMALL = ModelConfig(
    vocab_size=64,
    width=96,
    pattern="AMFE MFA",
    attention=AttentionConfig(heads=6, kv_heads=2, head_width=40),
    mamba=MambaConfig(heads=10, head_width=20, state=48, groups=2, chunk=32),
    ffn=MoEConfig(experts=8, top_k=2, hidden=72),
    experts=DenseConfig(hidden=152),
)


def saved_bytes(config: ModelConfig, lengths: list[int]) -> int:
    """What autograd keeps of a forward pass, parameters left out."""
    torch.manual_seed(0)
    model = HybridLM(config).train()
    layout = SequenceLayout.from_lengths(lengths, chunk=config.chunk)
    tokens_T = torch.randint(config.vocab_size, (layout.tokens,))
    parameters_at = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters_at:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(tokens_T, layout, tokens_T)
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("config", [SMALL, preset("nano"), preset("mini")], ids=["small", "nano", "mini"])
def test_activations_are_what_autograd_saves(config: ModelConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tandem.ops.cpu.compiled.library", lambda: None)  # the plan counts PyTorch's operations
    planned = memory(config, ParallelLayout(tokens=384), value_bytes=4).activations
    assert planned == pytest.approx(saved_bytes(config, [256, 128]), rel=0.05)


@pytest.mark.parametrize("transpoint", [0, 8, 64, 128, 200, 256, 300])
@pytest.mark.parametrize("sizes", [{"heads": 3, "groups": 3, "state": 64}, {"heads": 8, "groups": 2, "state": 48}])
def test_transmambas_activations_are_what_autograd_saves(
    transpoint: int, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    """Copies that fill the last chunk of a part are not all counted."""
    monkeypatch.setattr("tandem.ops.cpu.compiled.library", lambda: None)
    shape = TransMambaConfig(head_width=64, schedule=(transpoint,), **sizes)
    config = ModelConfig(vocab_size=64, width=80, pattern="T", transmamba=shape, context=256)
    planned = memory(config, ParallelLayout(tokens=512), value_bytes=4).activations
    assert planned == pytest.approx(saved_bytes(config, [256, 256]), rel=0.05 if transpoint % 64 == 0 else 0.07)


@given(st.sampled_from(presets()), st.integers(0, 2), st.integers(0, 3), st.booleans())
def test_more_devices_never_need_more_memory_each(name: str, power: int, shard: int, checkpointing: bool):
    config = preset(name)
    less = memory(config, ParallelLayout(data=2**power, shard=shard, checkpointing=checkpointing))
    more = memory(config, ParallelLayout(data=2 ** (power + 1), shard=shard, checkpointing=checkpointing))
    assert more.training <= less.training
    assert memory(config, ParallelLayout(context=2)).activations < memory(config).activations


def test_checkpointing_keeps_less():
    config = preset("mini")
    assert memory(config, ParallelLayout(checkpointing=True)).activations < memory(config).activations / 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": 0}, "parallel.data=0 must be 1 or more"),
        ({"shard": 4}, "parallel.shard=4 is no ZeRO stage"),
        ({"expert": 3, "data": 4}, "parallel.expert=3 does not divide data × context = 4"),
        ({"pipeline": 64}, "parallel.pipeline=64 is above the model's 11 layers"),
        ({"expert": 16, "data": 16}, "parallel.expert=16 does not divide moe.experts=8"),
    ],
)
def test_layouts_that_cannot_be_are_refused(fields: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        memory(preset("nano"), ParallelLayout(**fields))
