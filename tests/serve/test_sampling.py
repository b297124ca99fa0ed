"""Sampling against a token-by-token reference in plain Python, and drawn frequencies against the probabilities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.serve import Sampling, probabilities, sample


def reference(logits: list[float], sampling: Sampling) -> list[float]:
    """Softmax, then walk the tokens from the most likely down, dropping what each filter drops."""
    peak = max(logits)
    weight = [math.exp((x - peak) / sampling.temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda k: (-weight[k], k))
    kept = order[: sampling.top_k] if sampling.top_k else order
    total = sum(weight[k] for k in kept)
    nucleus, mass = [], 0.0
    for k in kept:
        if not nucleus or mass < sampling.top_p or sampling.top_p == 1:
            nucleus.append(k)
        mass += weight[k] / total
    nucleus = [k for k in nucleus if weight[k] >= sampling.min_p * weight[order[0]]]
    total = sum(weight[k] for k in nucleus)
    return [weight[k] / total if k in nucleus else 0.0 for k in range(len(logits))]


# Steps of 1/8 give ties; the odd thresholds below never fall on a cumulative sum of such weights by rounding alone.
logit_lists = st.lists(st.integers(-40, 40).map(lambda k: k / 8), min_size=1, max_size=12)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    top_k=st.integers(0, 15),
    top_p=st.sampled_from([0.013, 0.317, 0.613, 0.917, 1.0]),
    min_p=st.sampled_from([0.0, 0.0512, 0.313, 1.0]),
)


@settings(max_examples=150)
@given(logit_lists, samplings)
def test_probabilities_equal_the_reference(logits: list[float], sampling: Sampling) -> None:
    p_SV = probabilities(torch.tensor([logits, logits[::-1]], dtype=torch.float64), sampling)
    torch.testing.assert_close(p_SV[0], torch.tensor(reference(logits, sampling), dtype=torch.float64))
    torch.testing.assert_close(p_SV[1], torch.tensor(reference(logits[::-1], sampling), dtype=torch.float64))


def test_nucleus_includes_the_token_that_crosses_the_line() -> None:
    logits_SV = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    kept = [
        int((probabilities(logits_SV, Sampling(temperature=1.0, top_p=p)) > 0).sum())
        for p in (0.1, 0.49, 0.6, 0.8, 1.0)
    ]
    assert kept == [1, 1, 2, 3, 4]
    even = [int((probabilities(torch.zeros(1, 4), Sampling(top_p=p)) > 0).sum()) for p in (0.25, 0.26, 0.5, 0.75)]
    assert even == [1, 2, 2, 3]


def test_masked_tokens_and_extreme_temperatures() -> None:
    logits_SV = torch.tensor([[1e4, -math.inf, 1e4 - 1, -1e4]])
    p_V = probabilities(logits_SV, Sampling(temperature=1.0))[0]
    torch.testing.assert_close(p_V[:2], torch.tensor([1 / (1 + math.exp(-1)), 0.0], dtype=torch.float64))
    assert probabilities(logits_SV, Sampling(temperature=1e-300))[0].tolist() == [1, 0, 0, 0]
    assert probabilities(logits_SV.bfloat16().float(), Sampling(temperature=1e300))[0, 1] == 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5, top_k=5),
        Sampling(temperature=1.5, top_p=0.8),
        Sampling(temperature=1.0, min_p=0.2),
        Sampling(temperature=1.3, top_k=9, top_p=0.95, min_p=0.05),
    ],
)
def test_frequencies_follow_the_probabilities(sampling: Sampling) -> None:
    draws, logits_V = 20_000, torch.randn(16, generator=torch.Generator().manual_seed(5)) * 2
    ids = sample(logits_V.expand(draws, -1), sampling, torch.Generator().manual_seed(6))
    expected_V = probabilities(logits_V[None], sampling)[0] * draws
    counted_V = torch.bincount(torch.tensor(ids), minlength=16).double()
    assert counted_V[expected_V == 0].sum() == 0
    possible_V = expected_V > 0
    chi_square = ((counted_V - expected_V)[possible_V] ** 2 / expected_V[possible_V]).sum()
    # Mean df, variance 2 df: five standard deviations above is beyond one in 10⁵.
    df = int(possible_V.sum()) - 1
    assert chi_square <= df + 5 * math.sqrt(2 * df)


def test_greedy_takes_the_most_likely_and_draws_nothing() -> None:
    logits_SV = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert sample(logits_SV, Sampling(temperature=0.0), generator) == logits_SV.argmax(-1).tolist()
    assert torch.equal(before, generator.get_state())
    assert torch.equal(probabilities(logits_SV, Sampling(temperature=0.0)).argmax(-1), logits_SV.argmax(-1))


def test_rows_with_their_own_generators_do_not_see_each_other() -> None:
    logits_SV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=2.0, seed=7)
    together = [sample(logits_SV, sampling, generators) for generators in [sampling.generators(3)] for _ in range(20)]
    alone_generator = sampling.generators(3)[2]
    alone = [sample(logits_SV[2:], sampling, [alone_generator])[0] for _ in range(20)]
    assert [row[2] for row in together] == alone
    assert sampling.generators(3)[2].initial_seed() == 9
    assert Sampling(seed=None).generators(1)[0].initial_seed() != Sampling(seed=None).generators(1)[0].initial_seed()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, r"temperature=-0.1 is not a number ≥ 0; use 0 for greedy"),
        ("temperature", math.nan, r"temperature=nan is not"),
        ("top_k", -1, r"top_k=-1 is below 0"),
        ("top_p", 0.0, r"top_p=0.0 is outside \(0, 1\]"),
        ("top_p", 1.5, r"top_p=1.5 is outside"),
        ("min_p", 1.01, r"min_p=1.01 is outside \[0, 1\]"),
        ("seed", -1, r"seed=-1 is outside"),
    ],
)
def test_wrong_fields_are_named(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Sampling(**{field: value})  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)


def test_broken_logits_and_generators_are_named() -> None:
    for logits_SV in (torch.tensor([[0.0, math.nan]]), torch.tensor([[-math.inf, -math.inf]])):
        for sampling in (Sampling(temperature=0.0), Sampling()):
            with pytest.raises(ValueError, match="logits hold NaN or infinity"):
                sample(logits_SV, sampling, torch.Generator())
    with pytest.raises(ValueError, match="generator has 1 entries for 2 rows"):
        sample(torch.zeros(2, 3), Sampling(), [torch.Generator()])
