"""Steps from graphs against steps one by one. Without a GPU a step that is launched again each time stands in for a graph."""

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch

from tandem.nn import HybridLM
from tandem.serve import Sampling, generate_batch, generate_tokens, graphs, without_graphs

GREEDY = Sampling(temperature=0.0)


def prompt(length: int) -> list[int]:
    return [1, *torch.randint(32, 300, (length - 1,), generator=torch.Generator().manual_seed(length)).tolist()]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Takes every model for one that can be captured, and counts the slots of what is captured."""
    slots: list[int] = []

    def repeat(run: graphs.Run, rehearsal: graphs.Run) -> graphs.Run:
        slots.append(len(rehearsal()[0]))
        return run

    monkeypatch.setattr(HybridLM, "steps_on_device", True)
    monkeypatch.setattr(graphs, "StepGraphs", partial(graphs.StepGraphs, repeat))
    monkeypatch.setattr(graphs, "_LEAST", 4)
    return slots


def plainly(run: Callable[[], list[list[int]]]) -> list[list[int]]:
    with without_graphs():
        return run()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=9.0, seed=11)])
@pytest.mark.parametrize("pattern", ["M", "AF", "MFAMF"])
def test_sequences_that_end_leave_their_slots(
    make_model: Callable[..., HybridLM],
    pattern: str,
    sampling: Sampling,
    captured: list[int],
):
    model = make_model(pattern)
    prompts = [prompt(length) for length in (1, 2, 8, 19, 5)]
    free = plainly(lambda: generate_batch(model, prompts, sampling=sampling, max_tokens=12))
    stop_ids = {free[0][2], free[1][4], free[3][6]}
    run = partial(generate_batch, model, prompts, sampling=sampling, max_tokens=12, stop_ids=stop_ids)
    want = plainly(run)
    assert run() == want
    assert sorted({8, *captured}, reverse=True)[:2] == [8, 4]
    before = len(captured)
    assert run() == want
    assert len(captured) == before  # all graphs were there


def test_more_text_than_the_pool_holds_is_captured_again(make_model: Callable[..., HybridLM], captured: list[int]):
    model = make_model("MFAMF", context=300)
    run = lambda: [list(generate_tokens(model, prompt(3), sampling=GREEDY, max_tokens=140))]  # noqa: E731
    assert run() == plainly(run)
    assert captured == [1] * 3  # with room for 64, 128 and 256 tokens
    assert run() == plainly(run)
    assert len(captured) == 3


def test_two_generations_at_once_have_their_own_slots(make_model: Callable[..., HybridLM], captured: list[int]):
    model = make_model("MFAMF")
    start = lambda length: generate_tokens(model, prompt(length), sampling=GREEDY, max_tokens=6)  # noqa: E731
    want = plainly(lambda: [list(start(3)), list(start(9))])
    assert [list(row) for row in zip(*zip(start(3), start(9), strict=True), strict=True)] == want
    before = len(captured)
    next(start(3))  # an abandoned one gives its graphs back
    assert [list(row) for row in zip(*zip(start(3), start(9), strict=True), strict=True)] == want
    assert len(captured) == before


def test_other_weights_are_captured_again(make_model: Callable[..., HybridLM], captured: list[int]):
    model = make_model("MF")
    run = lambda: [list(generate_tokens(model, prompt(3), sampling=GREEDY, max_tokens=3))]  # noqa: E731
    run()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    assert run() == plainly(run)
    assert captured == [1, 1]
    tokens = generate_tokens(model, prompt(3), sampling=GREEDY, max_tokens=3)
    next(tokens)
    model.embedding.data = model.embedding.data.clone()  # as a cast of the model does, between two tokens
    next(tokens)
    assert captured == [1, 1, 1]


def test_graphs_do_not_keep_their_model(make_model: Callable[..., HybridLM], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(HybridLM, "steps_on_device", True)
    monkeypatch.setattr(
        graphs, "StepGraphs", partial(graphs.StepGraphs, lambda _, rehearsal: partial(tuple, rehearsal()))
    )
    model = make_model("M")
    list(generate_tokens(model, prompt(3), sampling=GREEDY, max_tokens=3))
    assert graphs._idle[model]
    model = weakref.ref(model)
    gc.collect()
    assert model() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["M", "AF", "MFAMF"])
def test_a_gpu_gives_the_same_ids(make_model: Callable[..., HybridLM], pattern: str, dtype: torch.dtype):
    model = make_model(pattern, context=900).to("cuda", dtype)
    assert model.steps_on_device
    prompts = [prompt(length) for length in (1, 2, 8, 300, 5)]
    free = plainly(lambda: generate_batch(model, prompts, sampling=GREEDY, max_tokens=250))
    stop_ids = {free[0][20], free[1][40], free[3][60]}
    run = partial(generate_batch, model, prompts, sampling=GREEDY, max_tokens=250, stop_ids=stop_ids)
    want = plainly(run)
    assert run() == want
    assert run() == want
