"""Fits of runs made from known constants, on the grid of sizes, tokens and formats that the paper ran."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tandem.precision import CAPYBARA, Chinchilla, Kaplan, Kumar, PrecisionLaw, Run, fit
from tandem.precision.law import bits_of

SIZES = (40894464, 84934656, 154140672, 679477248)
TOKENS = (10.49e9, 20.97e9, 52.43e9, 104.86e9)
CHANNEL = "E1M2 E1M3 E1M4 E1M5 E1M6 E2M1 E2M3 E3M1 E3M2 E4M1 E4M3 E4M5 E5M1 E5M2 E6M1".split()
# Coefficients of variation of the constants under a noise of 0.003 nats, by another program on this grid.
SPREAD = {
    "alpha": 0.005,
    "beta": 0.003,
    "epsilon": 0.0025,
    "delta": 0.005,
    "nu": 0.0045,
    "n": 0.018,
    "d": 0.037,
    "gamma": 0.053,
}
ORIGINAL_CHINCHILLA = Chinchilla(n=406.4, alpha=0.34, d=410.7, beta=0.28, epsilon=1.69)


def paper_grid() -> list[tuple[float, float, str, int | str]]:
    rows = []
    for N, D in itertools.product(SIZES, TOKENS):
        blocks = [32, 64, 128, 256, *([512] if N in (SIZES[0], SIZES[-1]) else []), "channel"]
        rows += [(N, D, "E1M1", block) for block in blocks]
        rows += [(N, D, name, "channel") for name in CHANNEL if (N, D, name) != (SIZES[-1], TOKENS[-1], "E5M1")]
    return rows


def runs_of(law: Any, noise: float = 0, seed: int = 0) -> list[Run]:
    generator, runs = np.random.default_rng(seed), []
    for N, D, name, block in paper_grid():
        loss = law.predict(N, D, *bits_of(name), CAPYBARA.log2_block(block)) + noise * generator.standard_normal()
        runs.append(Run(N=N, D=D, format=name, block=block, loss=float(loss)))
    return runs


def off(got: Any, law: Any) -> dict[str, float]:
    """Relative errors of the constants."""
    names = [field.name for field in dataclasses.fields(law) if field.name != "channel"]
    return {name: abs(math.log(getattr(got, name) / getattr(law, name))) for name in names}


def test_the_grid_has_as_many_runs_as_the_paper_fitted():
    assert len(paper_grid()) == 327


def test_without_noise_the_constants_come_back():
    got = fit(runs_of(CAPYBARA), resamples=0)
    assert max(off(got.law, CAPYBARA).values()) < 1e-4
    assert max(map(abs, got.errors)) < 1e-6
    assert max(map(abs, got.left_out)) < 1e-5
    assert got.intervals == {}


def test_with_noise_the_constants_come_back_within_what_it_allows():
    got = fit(runs_of(CAPYBARA, noise=0.003), resamples=60)
    inside = 0
    for name, error in off(got.law, CAPYBARA).items():
        assert error < 3.5 * SPREAD[name], name
        low, high = got.intervals[name]
        assert low < getattr(got.law, name) < high
        # A middle of 90 % is 3.3 standard deviations wide.
        assert SPREAD[name] * 1.6 < math.log(high / low) < SPREAD[name] * 6, name
        inside += low < getattr(CAPYBARA, name) < high
    assert inside >= 5
    assert np.std(got.errors) == pytest.approx(0.003, rel=0.15)
    assert 0.003 * 0.85 < np.sqrt(np.mean(np.square(got.left_out))) < 0.003 * 1.3


def test_runs_that_went_wrong_do_not_carry_the_fit():
    runs = runs_of(CAPYBARA, noise=0.003, seed=1)
    for place in range(0, len(runs), 20):
        runs[place] = dataclasses.replace(runs[place], loss=runs[place].loss + 0.4)
    got = fit(runs, resamples=0)
    assert all(error < 6 * SPREAD[name] for name, error in off(got.law, CAPYBARA).items())


def test_sizes_that_were_left_out_are_predicted_from_the_others():
    got = fit(runs_of(CAPYBARA, noise=0.001, seed=2), resamples=0, leave_out=lambda run: run.N)
    assert np.sqrt(np.mean(np.square(got.left_out))) < 0.02
    assert np.std(got.left_out) > np.std(got.errors)


@pytest.mark.parametrize(
    "law",
    [
        ORIGINAL_CHINCHILLA,
        Kaplan(n=6.4e13, alpha=0.076, d=1.8e13, beta=0.103, epsilon=0.4),
        Kumar(n=406.4, alpha=0.34, d=410.7, beta=0.28, epsilon=1.69, gamma=2.2),
    ],
    ids=lambda law: type(law).__name__,
)
def test_peers_come_back_too(law: Chinchilla | Kaplan | Kumar):
    got = fit(runs_of(law), type(law), resamples=0)
    assert type(got.law) is type(law)
    assert max(map(abs, got.errors)) < 1e-4
    assert off(got.law, law)["epsilon"] < 0.02


def test_a_law_without_formats_leaves_what_formats_do():
    runs = runs_of(CAPYBARA)
    blind = np.std(fit(runs, Chinchilla, resamples=0).errors)
    counting = np.std(fit(runs, Kumar, resamples=0).errors)
    assert blind > 5e-3
    assert 1e-4 < counting < blind
    assert np.std(fit(runs, PrecisionLaw, resamples=0).errors) < 1e-6


def test_chinchilla_is_the_law_without_its_last_term():
    law = Chinchilla(**{name: getattr(CAPYBARA, name) for name in ("n", "alpha", "d", "beta", "epsilon")})
    assert law.predict(1e9, 1e11) == pytest.approx(CAPYBARA.bf16_loss(N=1e9, D=1e11))


KAPLAN = Kaplan(n=6.4e13, alpha=0.076, d=1.8e13, beta=0.103, epsilon=0.4)


@pytest.mark.parametrize("law", [CAPYBARA, pytest.param(KAPLAN, marks=pytest.mark.slow)])
def test_fixed_constants_stay_and_the_others_come_back(law: PrecisionLaw | Kaplan):
    known = {"epsilon": law.epsilon, "beta": law.beta}
    got = fit(runs_of(law), type(law), fixed=known, resamples=5)
    assert {name: getattr(got.law, name) for name in known} == known
    assert set(got.intervals) == {field.name for field in dataclasses.fields(law)} - {*known, "channel"}
    assert max(map(abs, got.errors)) < 1e-4
    assert max(off(got.law, law).values()) < 0.02


def test_a_constant_that_no_run_reaches_may_be_held_at_zero():
    law = dataclasses.replace(CAPYBARA, epsilon=0.0)
    got = fit(runs_of(law), fixed={"epsilon": 0}, resamples=0)
    assert got.law.epsilon == 0
    assert max(map(abs, got.errors)) < 1e-4


def test_a_fixed_constant_must_be_one_of_the_law():
    with pytest.raises(
        ValueError, match="fixed='gamma' is no constant of Chinchilla; use some of n, alpha, d, beta, eps"
    ):
        fit(runs_of(CAPYBARA), Chinchilla, fixed={"gamma": 1})


def bad_runs(change: Callable[[list[Run]], list[Run]]) -> list[Run]:
    return change(runs_of(CAPYBARA))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs[:8], "runs=8 cannot determine 8 constants of PrecisionLaw; give more runs"),
        (lambda runs: [r for r in runs if r.format == "E1M1"], r"do not tell .*delta.* apart; add runs that differ"),
        (lambda runs: [r for r in runs if r.N < 5e7], r"do not tell .*\b(n|alpha)\b.* apart; add runs that differ"),
        (lambda runs: [dataclasses.replace(runs[0], loss=math.nan), *runs], "leave out runs that diverged"),
        (lambda runs: [dataclasses.replace(runs[0], format="E0M7"), *runs], "has no exponent bits"),
    ],
)
def test_runs_that_cannot_be_fitted_are_refused(change: Callable[[list[Run]], list[Run]], message: str):
    with pytest.raises(ValueError, match=message):
        fit(bad_runs(change), resamples=0)
