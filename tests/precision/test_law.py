"""The law's numbers against those printed in the paper or derived from it, and its closed forms against searches."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import fminbound, minimize, minimize_scalar

from tandem.precision import CAPYBARA, FloatFormat, IntFormat

BLOCKS = (16, 32, 64, 128, 512, "channel")


def test_two_losses():
    assert CAPYBARA.loss(N=1e9, D=1e11, format="E4M3", block=128) == pytest.approx(2.563070, abs=5e-7)
    assert CAPYBARA.loss(N=7e9, D=2e12, format="E2M1", block=32) == pytest.approx(2.334308, abs=5e-7)


@pytest.mark.parametrize(
    ("N", "format", "block", "tokens", "losses"),
    [
        (1233125376, "E1M2", 512, (10.49e9, 20.97e9, 52.43e9, 104.86e9), (2.8718, 2.7390, 2.6300, 2.5843)),
        (1233125376, "E4M3", 512, (10.49e9, 20.97e9, 52.43e9, 104.86e9), (2.8568, 2.7175, 2.5955, 2.5349)),
        (7083130880, "E4M3", 64, (10.49e9, 104.86e9), (2.6916, 2.3695)),
        (71236059136, "E4M3", 64, (10.49e9, 20.97e9), (2.5560, 2.4166)),
    ],
)
def test_losses_of_the_papers_validation_runs(
    N: float, format: str, block: int, tokens: tuple[float, ...], losses: tuple[float, ...]
):
    got = [CAPYBARA.loss(N=N, D=D, format=format, block=block) for D in tokens]
    assert got == pytest.approx(losses, abs=1e-4)


@pytest.mark.parametrize(("format", "trillions"), [("E8M7", 1730.4), ("E4M3", 27.33), ("E2M1", 0.393)])
def test_the_papers_critical_sizes(format: str, trillions: float):
    tokens = CAPYBARA.critical_tokens(N=1e9, format=format, block=128)
    assert tokens / 1e12 == pytest.approx(trillions, rel=1.5e-3)


@pytest.mark.parametrize(
    ("format", "N", "trillions"),
    [
        ("E4M3", 1e9, (47.0, 37.9, 31.7, 27.3, 21.4, 14.8)),
        ("E4M3", 7e9, (73.4, 59.2, 49.6, 42.7, 33.5, 23.2)),
        ("E4M3", 70e9, (125, 100, 84.1, 72.4, 56.8, 39.3)),
        ("E2M1", 1e9, (0.676, 0.544, 0.456, 0.393, 0.308, 0.213)),
        ("E2M1", 7e9, (1.06, 0.850, 0.713, 0.614, 0.481, 0.333)),
        ("E2M1", 70e9, (1.79, 1.44, 1.21, 1.04, 0.816, 0.565)),
    ],
)
def test_the_table_of_critical_sizes(format: str, N: float, trillions: tuple[float, ...]):
    got = [CAPYBARA.critical_tokens(N=N, format=format, block=block) / 1e12 for block in BLOCKS]
    assert got == pytest.approx(trillions, rel=6e-3)


@pytest.mark.parametrize(
    ("format", "trillions"),
    [
        ("E8M7", (1730, 2703, 4583)),
        ("E5M2", (19.4, 30.3, 51.4)),
        ("E3M2", (4.80, 7.50, 12.7)),
        ("E1M1", (0.081, 0.127, 0.215)),
    ],
)
def test_critical_sizes_of_more_formats(format: str, trillions: tuple[float, ...]):
    got = [CAPYBARA.critical_tokens(N=N, format=format, block=128) / 1e12 for N in (1e9, 7e9, 70e9)]
    assert got == pytest.approx(trillions, rel=6e-3)


@pytest.mark.parametrize(("format", "block"), [*itertools.product(("E1M1", "E4M3", "E8M7"), (16, 128, "channel"))])
def test_the_loss_is_least_at_the_critical_size(format: str, block: int | str):
    critical = CAPYBARA.critical_tokens(N=1e9, format=format, block=block)
    best = minimize_scalar(
        lambda u: CAPYBARA.loss(N=1e9, D=math.exp(u), format=format, block=block),
        bounds=(math.log(critical) - 3, math.log(critical) + 3),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert math.exp(best.x) == pytest.approx(critical, rel=1e-4)


FORMATS = "E1M1 E2M1 E2M2 E3M2 E3M3 E4M3 E4M4 E5M4 E5M5 E6M5 E6M6 E7M6 E7M7 E8M7"
SPLITS = {3: (0.94, 1.06), 4: (1.42, 1.58), 8: (3.34, 3.66), 12: (5.27, 5.73), 16: (7.19, 7.81)}


def test_the_table_of_best_formats():
    assert [str(CAPYBARA.best_format(bits=P)) for P in range(3, 17)] == FORMATS.split()
    assert str(CAPYBARA.best_format(bits=2)) == "E1M0"
    for P, (M, E) in SPLITS.items():
        assert CAPYBARA.best_split(bits=P) == pytest.approx((E, M), abs=0.006)


@pytest.mark.parametrize("bits", range(2, 17))
def test_no_format_of_as_many_bits_loses_less(bits: int):
    best = CAPYBARA.loss(N=1e8, D=1e11, format=CAPYBARA.best_format(bits=bits), block=32)
    for E in range(1, min(bits, 9)):
        assert best <= CAPYBARA.loss(N=1e8, D=1e11, format=FloatFormat(E, bits - 1 - E), block=32)
    assert CAPYBARA.loss_at_bits(N=1e8, D=1e11, bits=bits, block=32) <= best


def test_penalties_of_eight_bits():
    def penalty(format: str) -> float:
        return CAPYBARA.loss(N=1e9, D=1e11, format=format, block=128) - CAPYBARA.bf16_loss(N=1e9, D=1e11)

    assert penalty("E5M2") / penalty("E4M3") == pytest.approx(1.42, abs=0.005)
    assert penalty("E4M3") / penalty("E3M4") == pytest.approx(4643 / 4929, rel=1e-3)


def test_derived_constants():
    assert CAPYBARA._gamma_rho == pytest.approx(160.697, abs=1e-3)
    assert CAPYBARA._gamma_D == pytest.approx(2.24328e-3, rel=1e-5)
    assert CAPYBARA._gamma_N == pytest.approx(1.16458e-6, rel=1e-5)
    assert CAPYBARA._lambda == pytest.approx(1926.25, abs=0.01)
    power = CAPYBARA._total * (CAPYBARA.alpha + CAPYBARA.beta) / CAPYBARA.beta + CAPYBARA.alpha
    assert power == pytest.approx(9.2035, abs=5e-5)


def test_optimal_bits_by_compute_and_by_tokens():
    computes = (1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e28, 1e30, 1e31, 1e32)
    wanted = (3.95, 4.19, 4.45, 4.72, 5.01, 5.31, 5.63, 6.34, 7.14, 7.58, 8.04)
    assert [CAPYBARA.optimal_bits(compute=C, block=128) for C in computes] == pytest.approx(wanted, abs=0.0051)
    tokens = (1e10, 1e11, 1e12, 1e13, 1e14, 1e15)
    wanted = (3.52, 4.27, 5.18, 6.28, 7.62, 9.25)
    assert [CAPYBARA.optimal_bits(D=D, block=128) for D in tokens] == pytest.approx(wanted, abs=0.0051)


@pytest.mark.parametrize("compute", [1e21, 1e25, 1e31])
def test_the_free_optimum_is_what_a_search_finds(compute: float):
    def loss(point: np.ndarray) -> float:
        bits, D = np.exp(point)
        return CAPYBARA.loss_at_bits(N=compute / (6 / 16 * bits * D), D=D, bits=bits, block=128)

    found = minimize(
        loss, np.log([6, 1e12]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000}
    )
    best = CAPYBARA.optimum(compute=compute, block=128)
    assert np.exp(found.x) == pytest.approx((best.bits, best.D), rel=1e-4)
    assert 6 / 16 * best.bits * best.N * best.D == pytest.approx(compute)


@pytest.mark.parametrize("fixed", ["N", "D"])
def test_optima_with_one_number_fixed_are_what_a_search_finds(fixed: str):
    compute, block = 1e23, 64

    def loss(log_bits: float) -> float:
        bits = math.exp(log_bits)
        other = compute / (6 / 16 * bits * 1e10)
        N, D = (1e10, other) if fixed == "N" else (other, 1e10)
        return CAPYBARA.loss_at_bits(N=N, D=D, bits=bits, block=block)

    found = fminbound(loss, math.log(1.5), math.log(40), xtol=1e-10)
    given = {"compute": compute, "N": 1e10} if fixed == "N" else {"D": 1e10}
    assert CAPYBARA.optimal_bits(**given, block=block) == pytest.approx(np.exp(found), rel=1e-4)


def test_whole_formats_around_the_optimum_agree_with_it():
    """Over formats of hardware-sized numbers, each with its own best N and D, the least loss is at the bits next to the optimum."""
    compute = 1e25
    best = CAPYBARA.optimal_bits(compute=compute, block=128)

    def least(format: FloatFormat) -> float:
        D = np.logspace(9, 16, 4000)
        N = compute / (6 / 16 * format.bits * D)
        return CAPYBARA.predict(N, D, format.exponent, format.mantissa, 7.0).min()

    formats = [FloatFormat(E, M) for E in range(1, 9) for M in range(9)]
    assert abs(min(formats, key=least).bits - best) < 1


def test_laws_of_one_variable_are_the_law():
    N, D = 2e8, 3e10
    exponent = CAPYBARA.exponent_law(N=N, D=D, M=3, block=64)
    mantissa = CAPYBARA.mantissa_law(N=N, D=D, E=2, block="channel")
    block = CAPYBARA.block_law(N=N, D=D, format="E3M2")
    for bits in (1, 4, 7):
        assert exponent.loss(bits) == pytest.approx(CAPYBARA.loss(N=N, D=D, format=FloatFormat(bits, 3), block=64))
        assert mantissa.loss(bits) == pytest.approx(
            CAPYBARA.loss(N=N, D=D, format=FloatFormat(2, bits), block="channel")
        )
        assert block.loss(2**bits) == pytest.approx(CAPYBARA.loss(N=N, D=D, format="E3M2", block=2**bits))


def test_a_scale_for_every_number_costs_nothing():
    assert CAPYBARA.loss(N=1e9, D=1e11, format="E1M1", block=1) == CAPYBARA.bf16_loss(N=1e9, D=1e11)
    assert CAPYBARA.critical_tokens(N=1e9, format="E1M1", block=1) == math.inf
    with pytest.raises(ValueError, match="block=1 costs no loss"):
        CAPYBARA.optimal_bits(compute=1e21, block=1)


@pytest.mark.parametrize(
    ("format", "block", "message"),
    [
        ("E0M7", 32, "format='E0M7' has no exponent bits"),
        (IntFormat(3), 32, "format='E0M3' has no exponent bits"),
        ("E4M3", "tensor", "block='tensor' is not covered by the law; use a number of elements or 'channel'"),
        ("E4M3", 0, "block=0 must be 1 or more elements"),
        ("fp8", 32, "format='fp8' is not known"),
    ],
)
def test_what_the_law_does_not_cover_is_said(format: str | IntFormat, block: int | str, message: str):
    for call in (
        lambda: CAPYBARA.loss(N=1e9, D=1e11, format=format, block=block),
        lambda: CAPYBARA.critical_tokens(N=1e9, format=format, block=block),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_arguments_that_ask_nothing():
    with pytest.raises(ValueError, match="takes compute, compute and N, or D"):
        CAPYBARA.optimal_bits(block=128)
    with pytest.raises(ValueError, match="takes compute, compute and N, or D"):
        CAPYBARA.optimal_bits(compute=1e21, D=1e10, block=128)
    for bits in (1, 17):
        with pytest.raises(ValueError, match=f"bits={bits} must be 2 to 16"):
            CAPYBARA.best_format(bits=bits)
