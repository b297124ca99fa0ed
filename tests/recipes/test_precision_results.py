"""What a report says of losses that a known law has made."""

import pytest

from tandem.precision import CAPYBARA
from tandem.precision.recipe import PAPER_TARGETS
from tandem.recipes.precision_results import BF16, linear_parameters, report_of, results_of
from tandem.recipes.precision_sweep import PrecisionSweepConfig, grid, sweep_model

SCALE = 10_000  # the law's constants are for models so much larger; N and D both grow
LOSS_OF_P5 = 0.25


def rows() -> list[dict[str, object]]:
    """The default grid, every run with the loss of the paper's law; P5 alone costs more, others nothing."""
    config = PrecisionSweepConfig()
    made = []
    for cell in grid(config):
        N = SCALE * linear_parameters(sweep_model(cell.width, 4096, 512))
        D = SCALE * cell.steps * config.batch_tokens
        loss = CAPYBARA.loss(N=N, D=D, format=cell.format or BF16, block=cell.block if cell.format else 64)
        if cell.format and cell.targets != PAPER_TARGETS:
            loss = CAPYBARA.loss(N=N, D=D, format=BF16, block=64) + LOSS_OF_P5 * ("P5" in cell.targets)
        made.append(
            {
                "width": cell.width,
                "N": N,
                "D": D,
                "format": cell.format,
                "block": cell.block if cell.format else None,
                "targets": list(cell.targets) if cell.format else [],
                "seed": cell.seed,
                "loss": loss,
            }
        )
    return made


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    return results_of(rows())


def test_the_law_that_made_the_losses_comes_back(results: dict[str, dict[str, dict[str, float]]]):
    for name in ("alpha", "beta", "epsilon", "gamma", "delta", "nu"):
        assert results["law"][name]["value"] == pytest.approx(getattr(CAPYBARA, name), rel=0.02), name


def test_what_an_operand_costs_is_measured_against_the_same_run_without(results: dict[str, dict[str, list[float]]]):
    costs = results["operands"]
    assert costs["P5"] == pytest.approx([LOSS_OF_P5] * 3)
    assert costs["P1"] == pytest.approx([0] * 3)
    assert costs["P1 P2 P3 P4 P5 P6"] == pytest.approx([LOSS_OF_P5])


def test_formats_are_listed_from_the_best(results: dict[str, object]):
    text = report_of(results | {"machine": "a machine", "command": "a command"})
    table = text.partition("format, block 64")[2].partition("\n\n")[0]
    listed = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert listed == sorted(listed, key=lambda name: CAPYBARA.loss(N=1e9, D=1e11, format=name, block=64))
    assert "| alpha | 0.2368 |" in text


def test_too_few_runs_are_said_to_be_too_few():
    few = [row for row in rows() if row["targets"] == ["P5"] or row["format"] is None][:12]
    assert "do not tell" in results_of(few)["law"]


def test_a_floor_that_runs_do_not_tell_is_held_at_zero_and_said_so():
    without = CAPYBARA.epsilon
    got = results_of([row | {"loss": float(str(row["loss"])) - without} for row in rows()])
    assert got["held"] == {"epsilon": 0}
    assert got["law"]["alpha"]["value"] == pytest.approx(CAPYBARA.alpha, rel=0.02)
    text = report_of(got | {"machine": "a machine", "command": "a command"})
    assert f"| epsilon | 0, not told by these runs | – | {CAPYBARA.epsilon:.6g} |" in text
