import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.report import budget_figure, comparison_figure, figures, lengths_figure, retrieval_figure


def test_budget_figure_draws_the_given_bytes():
    contexts, kv, ssm, twin = [1024, 4096], [2**20, 2**22], [2**20, 2**20], [2**23, 2**25]
    (axes,) = budget_figure(contexts, kv, ssm, twin).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn == {
        "all-attention twin": twin,
        "hybrid": [2**21, 2**22 + 2**20],
        "its keys and values": kv,
        "its recurrent state": ssm,
    }
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_comparison_figure_draws_mean_and_range_of_what_all_seeds_logged():
    def run(losses: list[float], *, without: int = -1) -> list[dict[str, float]]:
        return [{"step": k, "loss": loss, "tokens": 10 * k} for k, loss in enumerate(losses) if k != without]

    curves = {"hybrid": [run([4, 3, 2]), run([6, 5, 4], without=1)], "attention": [run([5, 4, 3])]}
    bits = {"hybrid": [1.2, 1.4], "attention": [1.5]}
    left, right = comparison_figure(curves, bits, {"hybrid": 2**20, "attention": 2**24}, context=8192).axes
    x, y = left.lines[0].get_data()
    assert list(x) == [0, 20]  # one seed left a row out
    assert y[0] == 5
    band = left.collections[0].get_paths()[0].vertices
    assert sorted(set(band[band[:, 0] == 0, 1])) == [4, 6]
    means = [line for line in right.lines if line.get_markersize() == 8]
    assert [tuple(line.get_xydata()[0]) for line in means] == [(2**20, pytest.approx(1.3)), (2**24, 1.5)]
    assert right.get_xlabel() == "decode state of 8K tokens"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["hybrid 1.300", "attention 1.500"]


def test_retrieval_figure_draws_results_bands_and_guesses():
    hybrid = {512: (0.3, 0.2, 0.4), 1024: (0.1, 0.1, 0.2)}
    panels = {"Needle": {"hybrid": hybrid, "mamba": {512: (0.0, 0.0, 0.1), 1024: (0.5, 0.3, 0.6)}}}
    axes, hidden = retrieval_figure(panels, {"Needle": {512: 0.05, 1024: 0.02}}, trained_length=512).axes
    lines = {line.get_label(): [list(values) for values in line.get_data()] for line in axes.lines[:3]}
    assert lines == {
        "hybrid": [[512, 1024], [0.3, 0.1]],
        "mamba": [[512, 1024], [0.0, 0.5]],
        "a guess": [[512, 1024], [0.05, 0.02]],
    }
    band = axes.collections[0].get_paths()[0].vertices
    assert sorted(set(band[band[:, 0] == 512, 1])) == [0.2, 0.4]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["512", "1,024"]
    assert axes.get_title(loc="left") == "Needle"
    assert not hidden.get_visible()


def test_loss_figure_leaves_a_gap_at_a_lost_value_and_marks_stages():
    train = [
        {"step": step, "tokens": 10 * step, "loss": 3.0, "stage": "base" if step < 50 else "long"}
        for step in range(100)
    ]
    train[20]["loss"] = None
    (axes,) = figures.loss_figure(train, [{"step": 99, "tokens": 990, "loss": 2.5}]).axes
    assert [text.get_text() for text in axes.texts] == ["long", "base"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training 3.000", "validation 2.500"]
    assert axes.get_xlabel() == "training tokens"


def test_bits_per_byte_figure_draws_a_line_for_each_compressor():
    rows = [{"step": step, "bits_per_byte": 8 / (1 + step)} for step in range(5)]
    (axes,) = figures.bits_per_byte_figure(rows, {"gzip -9": 2.5, "xz -9": 2}).axes
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == [2.5, 2]
    low, high = axes.get_ylim()
    assert low < 1.6 < 2.5 < high < 8


def test_expert_load_is_shown_in_units_of_the_even_share():
    records = [{"step": 1, "layers": [[0.5, 0.25, 0.25]]}, {"step": 2, "layers": [[0.4, 0.4, 0.2]]}]
    heat, line = figures.expert_load_figure(records).axes[:2]
    np.testing.assert_allclose(heat.images[0].get_array(), [[1.2, 1.2, 0.6]])
    np.testing.assert_allclose(line.lines[0].get_ydata(), [1.5, 1.2])


@given(st.lists(st.floats(-5, 5) | st.just(math.nan), max_size=300))
def test_running_mean_stays_within_the_values_and_keeps_gaps(values: list[float]):
    means = figures.running_mean(values)
    finite = [value for value in values if math.isfinite(value)]
    assert [math.isnan(mean) for mean in means] == [math.isnan(value) for value in values]
    assert all(min(finite) - 1e-9 <= mean <= max(finite) + 1e-9 for mean in means if math.isfinite(mean))


def test_running_mean_of_a_long_line_forgets():
    assert figures.running_mean([10.0] * 500 + [1.0] * 500)[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1500, "1.5k"), (558.15e9, "558B"), (-2e6, "-2M"), (0.00125, "0.00125")]
)
def test_short_numbers(value: float, text: str):
    assert figures.short_number(value) == text


@pytest.mark.parametrize(("value", "text"), [(17.5 * 1024, "17.5 KiB"), (114 * 2**20, "114 MiB"), (12, "12 B")])
def test_binary_bytes(value: float, text: str):
    assert figures.binary_bytes(value) == text


def test_lengths_figure_draws_both_layers_in_both_directions():
    rows = [{"layer": x, "length": n, "forward": 10.0, "both": n / 8} for x in "MA" for n in (1024, 2048)]
    (axes,) = lengths_figure(rows, "Time a token").axes
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[128.0, 256.0], [10.0, 10.0]] * 2
    assert [line.get_label() for line in axes.get_lines()][2:] == [
        "attention, forward + backward",
        "attention, forward",
    ]


def test_figures_leave_pyplot_alone():
    script = (
        "import sys; from tandem.report import budget_figure, comparison_figure, figures, retrieval_figure\n"
        "figures.png(budget_figure([1024, 2048], [1, 2], [3, 3])); print('matplotlib.pyplot' in sys.modules)"
    )
    drawn = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert drawn.stdout.strip() == "False"
