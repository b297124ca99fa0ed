"""Fitting a law of the loss to runs, with what the fit is worth: intervals, and errors on runs that were left out.

Constants are positive and span many orders, so their logarithms are fitted, from several starts; a run that went wrong counts by
its distance and not by its square (soft L1).

Shapes: R runs, K constants.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from tandem.precision.formats import Format
from tandem.precision.law import CAPYBARA, PrecisionLaw, bits_of
from tandem.precision.peer_laws import Chinchilla, Kaplan, Kumar

LawT = TypeVar("LawT", bound=PrecisionLaw | Chinchilla | Kaplan | Kumar)
Floats = NDArray[np.float64]
_DRAWS = 300  # exponents tried for a start; each costs one small linear problem
_FIRST_SCALE = 0.01  # nats: errors beyond it count linearly until the runs' own spread is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training: N parameters of linear layers, D tokens, format, block, and its validation loss in nats a token."""

    N: float
    D: float
    format: str | Format
    block: int | str
    loss: float


@dataclass(frozen=True, slots=True)
class Fit(Generic[LawT]):
    """A fitted law and how far to trust it.

    Args:
        intervals: by constant, where the middle 90 % of its refits to resampled runs lie; empty without them.
        errors: predicted - measured loss of each run.
        left_out: the same by laws that were fitted without the run's group; empty when no group was left out.
    """

    law: LawT
    intervals: dict[str, tuple[float, float]]
    errors: tuple[float, ...]
    left_out: tuple[float, ...]


def fit(
    runs: Sequence[Run],
    law: type[LawT] = PrecisionLaw,
    *,
    fixed: Mapping[str, float] | None = None,
    starts: int = 8,
    resamples: int = 100,
    leave_out: Callable[[Run], Hashable] | None = None,
    seed: int = 0,
) -> Fit[LawT]:
    """Fits the constants of a law to measured losses.

    Args:
        law: the class of the law.
        fixed: constants that are known or cannot be told from these runs, by name; they are not fitted, and 0 is allowed.
        starts: how many of the best first guesses are followed; the best end is taken.
        resamples: how often the runs are drawn again, with replacement, for the intervals.
        leave_out: a run's group: `lambda run: run.N` predicts each size from the others. When None, five groups by chance.
    Raises:
        ValueError: there are fewer runs than constants, a loss is no positive number, the law has no constant of a name in
            `fixed`, or the runs do not tell constants apart.
    """
    form, table = _Form.of(law, fixed or {}), _Table.of(runs)
    if len(runs) < len(form.names) + 1:
        raise ValueError(
            f"runs={len(runs)} cannot determine {len(form.names)} constants of {law.__name__}; give more runs"
        )
    generator = np.random.default_rng(seed)
    ends = [_descend(form, table, start, _FIRST_SCALE) for start in _starts(form, table, starts, generator)]
    first_K = min(ends, key=lambda end_K: float(np.abs(_errors(form, table, end_K)).sum()))
    scale = _spread(_errors(form, table, first_K))
    best_K = _descend(form, table, first_K, scale)
    _require_determined(form, table, best_K)

    def refit(rows: NDArray[np.int64]) -> Floats:
        return _descend(form, table.rows(rows), best_K, scale)

    draws = [refit(generator.integers(len(runs), size=len(runs))) for _ in range(resamples)]
    groups = generator.permutation(len(runs)) % 5 if leave_out is None else [leave_out(run) for run in runs]
    return Fit(
        law=form.law_of(best_K),
        intervals=_intervals(form.names, draws),
        errors=tuple(_errors(form, table, best_K).tolist()),
        left_out=_left_out(form, table, list(groups), refit),
    )


class _Table(NamedTuple):
    """Runs by column, as laws read them."""

    N: Floats
    D: Floats
    E: Floats
    M: Floats
    log2_block: Floats
    loss: Floats

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "_Table":
        for run in runs:
            if not (0 < run.loss < math.inf and run.N > 0 and run.D > 0):
                raise ValueError(f"{run} must have N, D and loss above 0; leave out runs that diverged")
        rows = [(r.N, r.D, *bits_of(r.format), CAPYBARA.log2_block(r.block), r.loss) for r in runs]
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, 6).T)

    def rows(self, chosen: NDArray[Any]) -> "_Table":
        return _Table(*(column[chosen] for column in self))


class _Form(NamedTuple):
    """A law with some constants given, and the names of those that are fitted."""

    law: type[Any]
    fixed: Mapping[str, float]
    names: list[str]

    @classmethod
    def of(cls, law: type[Any], fixed: Mapping[str, float]) -> "_Form":
        constants = [field.name for field in dataclasses.fields(law) if field.name != "channel"]
        if unknown := [name for name in fixed if name not in constants]:
            raise ValueError(
                f"fixed={unknown[0]!r} is no constant of {law.__name__}; use some of {', '.join(constants)}"
            )
        return cls(law, fixed, [name for name in constants if name not in fixed])

    def law_of(self, logarithms_K: Floats) -> Any:
        return self.law(**self.fixed, **dict(zip(self.names, np.exp(logarithms_K).tolist(), strict=True)))


def _errors(form: _Form, table: _Table, logarithms_K: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        predicted_R = form.law_of(logarithms_K).predict(*table[:5])
    # Far from any loss, but finite: what a start may run into.
    return np.nan_to_num(predicted_R - table.loss, nan=1e6, posinf=1e6)


def _descend(form: _Form, table: _Table, start_K: Floats, scale: float) -> Floats:
    """The nearest least sum of errors that count linearly beyond `scale`."""
    return least_squares(
        lambda logarithms_K: _errors(form, table, logarithms_K),
        start_K,
        bounds=(-100, 100),
        x_scale="jac",
        loss="soft_l1",
        f_scale=scale,
        max_nfev=4000,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-14,
    ).x


def _spread(errors_R: Floats) -> float:
    """Three standard deviations, from the median so that runs gone wrong do not count, but above rounding."""
    return max(3 * 1.4826 * float(np.median(np.abs(errors_R))), 1e-5)


def _starts(form: _Form, table: _Table, count: int, generator: np.random.Generator) -> list[Floats]:
    """Logarithms of constants: exponents by chance, factors by the linear problem that is left; the best of many."""
    guesses = [_guess(form, table, generator) for _ in range(_DRAWS)]
    return sorted(guesses, key=lambda guess_K: float(np.abs(_errors(form, table, guess_K)).sum()))[:count]


def _guess(form: _Form, table: _Table, generator: np.random.Generator) -> Floats:
    exponents = _exponents(form, generator)
    columns = _columns(form.law, table, exponents)
    known = {name: _inside(form.law, name, form.fixed[name], exponents, -1) for name in columns if name in form.fixed}
    sought = [name for name in columns if name not in known]
    factors: dict[str, float] = {}
    if sought:
        rest_R = table.loss - sum(part * columns[name] for name, part in known.items())
        tops = [columns[name].max() or 1.0 for name in sought]
        parts, _ = nnls(np.stack([columns[name] / top for name, top in zip(sought, tops, strict=True)], axis=1), rest_R)
        # A factor that came out as 0 starts at a thousandth of a nat.
        found = [max(part, 1e-3) / top for part, top in zip(parts, tops, strict=True)]
        factors = {n: _inside(form.law, n, part, exponents, 1) for n, part in zip(sought, found, strict=True)}
    return np.log([{**exponents, **factors}[name] for name in form.names])


def _exponents(form: _Form, generator: np.random.Generator) -> dict[str, float]:
    """What a law is not linear in, by chance where it is not fixed."""
    drawn: dict[str, float] = {}
    drawn["alpha"], drawn["beta"] = generator.uniform(0.05, 1, 2)
    if form.law is Kumar:
        drawn["gamma"] = math.exp(generator.uniform(-1, 2))
    if form.law is PrecisionLaw:
        drawn["delta"], drawn["nu"] = generator.uniform(0.5, 6, 2)
    return {name: float(form.fixed.get(name, value)) for name, value in drawn.items()}


def _columns(law: type[Any], table: _Table, exponents: dict[str, float]) -> dict[str, Floats]:
    """What each factor is multiplied with, by name."""
    N, alpha, beta = table.N, exponents["alpha"], exponents["beta"]
    if law is Kumar:
        N = N * -np.expm1(-(table.E + table.M + 1) / exponents["gamma"])
    columns = {"n": N**-alpha, "d": table.D**-beta, "epsilon": np.ones_like(N)}
    if law is PrecisionLaw:
        layout = (table.E + 0.5) ** exponents["delta"] * (table.M + 0.5) ** exponents["nu"]
        columns["gamma"] = table.D**beta / N**alpha * table.log2_block / layout
    return columns


def _inside(law: type[Any], name: str, value: float, exponents: dict[str, float], way: int) -> float:
    """A constant from its factor (`way` = 1), or the factor from the constant (-1): γ divides, Kaplan's are inside powers."""
    if law is PrecisionLaw and name == "gamma":
        return 1 / value
    power = {"n": "alpha", "d": "beta"}.get(name) if law is Kaplan else None
    return value if power is None else value ** (exponents[power] ** -way)


def _require_determined(form: _Form, table: _Table, best_K: Floats) -> None:
    """ValueError when some mix of constants can move without any loss of a run moving."""
    step = 1e-5
    slopes = [_errors(form, table, best_K + d) - _errors(form, table, best_K - d) for d in step * np.eye(len(best_K))]
    _, size, mixes = np.linalg.svd(np.stack(slopes, axis=1))
    free = mixes[size < 1e-7 * size[0]]
    if len(free):
        loose = [name for name, shares in zip(form.names, free.T, strict=True) if np.abs(shares).max() > 0.1]
        raise ValueError(
            f"runs do not tell {', '.join(loose)} of {form.law.__name__} apart; add runs that differ in N, D, format or block"
        )


def _intervals(names: list[str], draws: list[Floats]) -> dict[str, tuple[float, float]]:
    if not draws:
        return {}
    low_K, high_K = np.exp(np.quantile(np.stack(draws), (0.05, 0.95), axis=0))
    return dict(zip(names, zip(low_K.tolist(), high_K.tolist(), strict=True), strict=True))


def _left_out(
    form: _Form, table: _Table, groups: list[Hashable], refit: Callable[[NDArray[np.int64]], Floats]
) -> tuple[float, ...]:
    """Errors of each run by a law that has not seen its group; none when there is a single group."""
    if len(set(groups)) < 2:
        return ()
    errors_R = np.empty(len(groups))
    for chosen_R in _members(groups):
        end_K = refit(np.flatnonzero(~chosen_R))
        errors_R[chosen_R] = _errors(form, table.rows(chosen_R), end_K)
    return tuple(errors_R.tolist())


def _members(groups: list[Hashable]) -> Iterator[NDArray[np.bool_]]:
    for group in dict.fromkeys(groups):
        yield np.array([member == group for member in groups])
