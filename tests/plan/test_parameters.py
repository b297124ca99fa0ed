"""The closed forms against the modules they describe, and against the published sizes of TurboS."""

from typing import Any

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
    TransMambaConfig,
    preset,
    presets,
)
from tandem.ops import ACTIVATIONS
from tandem.plan import Parameters, all_mamba, parameters, readable_count


def counted(config: ModelConfig) -> int:
    """Parameters of the real module, built without memory."""
    with torch.device("meta"):
        return sum(p.numel() for p in HybridLM(config).parameters())


@pytest.mark.parametrize("name", presets())
def test_every_preset_counts_as_its_module(name: str):
    assert parameters(preset(name)).total == counted(preset(name))


def recurrent(groups: int) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a layer of Mamba-2."""
    few = st.integers(1, 4)
    return st.fixed_dictionaries(
        {
            "heads": few.map(lambda number: groups * number),
            "head_width": few,
            "state": few,
            "groups": st.just(groups),
            "conv": st.integers(2, 4),
            "conv_bias": st.booleans(),
            "bias": st.booleans(),
        }
    )


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Small random models over the whole space of shapes."""
    few = st.integers(1, 4)
    kv_heads, groups, experts = draw(few), draw(few), draw(few)
    activation = st.sampled_from(list(ACTIVATIONS))
    shared = draw(st.integers(0, 2))
    feed_forward = st.one_of(
        st.builds(DenseConfig, hidden=few, activation=activation, bias=st.booleans()),
        st.builds(
            MoEConfig,
            experts=st.just(experts),
            top_k=st.integers(1, experts),
            hidden=few,
            shared=st.just(shared),
            selection_bias=st.booleans(),
            shared_hidden=st.one_of(st.none(), few) if shared else st.none(),
            activation=activation,
            bias=st.booleans(),
            latent=st.one_of(st.none(), few),
        ),
    )
    return ModelConfig(
        vocab_size=draw(st.integers(2, 40)),
        width=draw(few),
        pattern=draw(st.text("AMTFE", min_size=1, max_size=6)),
        attention=AttentionConfig(
            heads=kv_heads * draw(few),
            kv_heads=kv_heads,
            head_width=2 * draw(few),
            qk_norm=draw(st.booleans()),
            bias=draw(st.booleans()),
            out_bias=draw(st.booleans()),
        ),
        mamba=MambaConfig(**draw(recurrent(groups))),
        transmamba=TransMambaConfig(
            **draw(recurrent(groups)), rope_mode="none", schedule=draw(st.sampled_from(["v1", "v9"]))
        ),
        ffn=draw(feed_forward),
        experts=draw(feed_forward),
        tie_embeddings=draw(st.booleans()),
    )


@given(configs())
def test_any_config_counts_as_its_module(config: ModelConfig):
    assert parameters(config).total == counted(config)


@given(configs())
def test_active_parameters_leave_out_experts_that_are_not_chosen_and_nothing_else(config: ModelConfig):
    counts = parameters(config)
    idle = 0
    for symbol in config.layers:
        shape = {"F": config.ffn, "E": config.experts}.get(symbol)
        if isinstance(shape, MoEConfig):
            matrices = (shape.inputs + 1) * (shape.latent or config.width) * shape.hidden
            idle += (shape.experts - shape.top_k) * matrices
    assert counts.total - counts.active == idle


def test_turbos_has_the_published_size():
    counts = parameters(preset("turbos-560b"))
    assert counts.total / 1e9 == pytest.approx(558.15, abs=0.01)
    assert counts.active / 1e9 == pytest.approx(56.09, abs=0.01)
    assert (counts.by_kind["experts"] + counts.by_kind["shared_expert"]) / 1e9 == pytest.approx(552.26, abs=0.01)
    assert counts.by_kind["mamba"] / 57 / 1e6 == pytest.approx(84.3, abs=0.05)
    assert counts.by_kind["attention"] / 7 / 1e6 == pytest.approx(59.0, abs=0.05)


def test_turbos_untied_counts_embedding_and_head():
    tied, untied = (parameters(preset("turbos-560b").replace(tie_embeddings=tie)) for tie in (True, False))
    assert untied.total / 1e9 == pytest.approx(558.81, abs=0.01)
    assert untied.active - tied.active == untied.by_kind["head"]


def test_transmamba_has_the_published_sizes():
    """Table 8 counts the 400M without embeddings and, as far as one can tell, the 1.5B with them."""
    smaller, larger = (parameters(preset(f"transmamba-{size}")) for size in ("400m", "1.5b"))
    assert smaller.total - smaller.by_kind["embedding"] - smaller.by_kind["head"] == pytest.approx(415e6, rel=0.01)
    assert larger.total == pytest.approx(1.5e9, rel=0.01)


@given(st.sampled_from(["attention", "mamba", "v1", "v9"]), st.integers(1, 10_000))
def test_a_schedule_is_no_parameter(schedule: str, length: int):
    config = preset("transmamba-nano")
    assert parameters(config.rescheduled(schedule, length)) == parameters(config)
    assert parameters(config).by_kind["transmamba"] == parameters(all_mamba(config)).by_kind["mamba"]


def test_presets_have_the_size_their_docstring_promises():
    nano, mini, small = (parameters(preset(name)) for name in ("nano", "mini", "small"))
    assert nano.total <= 12e6
    assert nano.active == pytest.approx(5e6, rel=0.15)
    assert mini.total == pytest.approx(30e6, rel=0.1)
    assert small.total == pytest.approx(300e6, rel=0.1)


def test_kinds_that_do_not_occur_are_left_out():
    counts = parameters(ModelConfig(vocab_size=8, width=4, pattern="F", ffn=DenseConfig(hidden=3)))
    assert counts == Parameters(
        by_kind={"embedding": 32, "dense": 36, "norms": 8}, active_by_kind={"embedding": 32, "dense": 36, "norms": 8}
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.00K"), (40_894_464, "40.89M"), (7e9, "7.00B"), (1.7304e15, "1730.40T")],
)
def test_readable_count(count: float, text: str):
    assert readable_count(count) == text
    assert readable_count(2e9, "G") == "2.00G"
