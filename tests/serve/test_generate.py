"""The generation loop against full forward passes without any state."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from tandem.nn import HybridLM, SequenceLayout
from tandem.serve import Sampling, generate_batch, generate_tokens, sample

GREEDY = Sampling(temperature=0.0)
PATTERNS = ["M", "A", "MF", "MFAMF"]
# One token (a prefill too), shorter than the conv, on the chunk grid, off it.
LENGTHS = [1, 2, 8, 19]


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [1, *torch.randint(32, 300, (length - 1,), generator=generator).tolist()]


@torch.no_grad()
def forward_logits(model: HybridLM, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor(ids), SequenceLayout.from_lengths([len(ids)], chunk=model.config.chunk))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("length", LENGTHS)
def test_greedy_is_the_argmax_of_a_full_forward(make_model: Callable[..., HybridLM], pattern: str, length: int) -> None:
    model = make_model(pattern)
    new = list(generate_tokens(model, prompt(length), sampling=GREEDY, max_tokens=14))
    logits_TV = forward_logits(model, prompt(length) + new)
    assert new == logits_TV[length - 1 : -1].argmax(-1).tolist()
    assert len(new) == 14


def test_sampling_draws_from_the_logits_of_a_full_forward(model: HybridLM) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=3)
    new = list(generate_tokens(model, prompt(5), sampling=sampling, max_tokens=20))
    logits_TV = forward_logits(model, prompt(5) + new)
    generators = sampling.generators(1)
    assert new == [sample(logits_V[None], sampling, generators)[0] for logits_V in logits_TV[4:-1]]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=9.0, seed=11)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_batch_equals_its_sequences_one_by_one(
    make_model: Callable[..., HybridLM], pattern: str, sampling: Sampling
) -> None:
    model = make_model(pattern)
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    free = generate_batch(model, prompts, sampling=sampling, max_tokens=12)
    # Stop ids that rows meet at different steps, so that the batch narrows while it runs.
    stop_ids = {free[0][3], free[2][9]}
    rows = generate_batch(model, prompts, sampling=sampling, max_tokens=12, stop_ids=stop_ids)
    assert len({len(row) for row in rows}) > 1
    for index, (row, ids) in enumerate(zip(rows, prompts, strict=True)):
        own = sampling if sampling.seed is None else dataclasses.replace(sampling, seed=sampling.seed + index)
        assert row == list(generate_tokens(model, ids, sampling=own, max_tokens=12, stop_ids=stop_ids))
        assert not set(row[:-1]) & stop_ids
        assert len(row) == 12 or row[-1] in stop_ids


def test_seeds_repeat_and_differ(model: HybridLM) -> None:
    runs = [
        list(generate_tokens(model, prompt(4), sampling=Sampling(temperature=9.0, seed=s), max_tokens=20))
        for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_full_context_ends_the_text(make_model: Callable[..., HybridLM]) -> None:
    model = make_model("AMF", context=12)
    for length, count in ((10, 3), (12, 1)):
        assert len(list(generate_tokens(model, prompt(length), sampling=GREEDY, max_tokens=50))) == count
    assert [len(row) for row in generate_batch(model, [prompt(3), prompt(12)], sampling=GREEDY, max_tokens=5)] == [5, 1]


def test_wrong_requests_are_named_before_anything_runs(make_model: Callable[..., HybridLM]) -> None:
    model = make_model("M", context=12)
    with pytest.raises(ValueError, match=r"prompt of 13 tokens is longer than config\.context=12; shorten it to 12"):
        generate_tokens(model, prompt(13), sampling=GREEDY, max_tokens=1)
    with pytest.raises(ValueError, match="prompt has no tokens"):
        generate_batch(model, [[1], []], sampling=GREEDY, max_tokens=1)
    with pytest.raises(ValueError, match="prompt has no tokens"):
        generate_batch(model, [], sampling=GREEDY, max_tokens=1)
    with pytest.raises(ValueError, match="max_tokens=0 is below 1"):
        generate_tokens(model, [1], sampling=GREEDY, max_tokens=0)
    with pytest.raises(ValueError, match=r"prompt holds id 9999 outside \[0, "):
        generate_tokens(model, [1, 9999], sampling=GREEDY, max_tokens=1)


def test_training_goes_on_between_and_after_tokens(make_model: Callable[..., HybridLM]) -> None:
    model = make_model("MFAMF").train()
    layout = SequenceLayout.from_lengths([8], chunk=8)
    tokens = generate_tokens(model, prompt(3), sampling=GREEDY, max_tokens=5)
    for _ in range(2):
        next(tokens)
        assert model.training
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        model.zero_grad()
        model.loss(torch.tensor(prompt(8)), layout, torch.tensor(prompt(8, seed=1))).total.backward()
        assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_each_token_is_computed_only_when_asked_for(model: HybridLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    gradients: list[bool] = []
    original = HybridLM.next_logits

    def counted(self: HybridLM, tokens_T: torch.Tensor, *rest: object) -> torch.Tensor:
        calls.append(len(tokens_T))
        gradients.append(torch.is_grad_enabled())
        return original(self, tokens_T, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(HybridLM, "next_logits", counted)
    tokens = generate_tokens(model, prompt(7), sampling=GREEDY, max_tokens=9)
    assert calls == []
    next(tokens)
    assert calls == [7]
    next(tokens)
    assert calls == [7, 1]
    assert not any(gradients)
