"""What `tandem recipe queries` has measured: tables, pictures, and where the papers agree. Start at `write_results`.

What is compared: the theorems of Han et al. (2017) and Rajan et al. (2015), and the latter's figure 4 as read off by eye. The
former's own figures were not at hand.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from math import log2
from typing import Any

import numpy as np
import torch

from tandem.queries import Region, dyadic_information, lower_bound
from tandem.recipes.comparison import command_of, machine, write_files
from tandem.recipes.face_sheets import SCALED, Detector, make_sheet
from tandem.recipes.screening import RANKINGS, READ_OFF
from tandem.report import faces_figure, png, questions_figure, screening_figure, spread_figure

Rows = Mapping[str, Any]

SHOWN_QUESTIONS = (2, 4, 8)
TOLERANCE = 0.3
"""Of a point read off the paper's figure, in log2 calls."""


def write_results(config: Any, rows: Rows) -> None:
    """Writes queries.json, queries.md and the PNGs of the subjects that were made."""
    names = ("subjects", "objects", "cells", "searches", "greedy_objects", "draws", "images", "sheets", "seed")
    end = f"{machine(torch.device('cpu'))}. `{command_of('queries', config, names)}`"
    reports = {"entropy": entropy_report, "normality": normality_report, "screening": screening_report}
    reports["faces"] = faces_report
    texts, files = [], {"queries.json": json.dumps({"rows": rows, "run": end}, indent=1).encode()}
    for subject in dict.fromkeys(config.subjects):
        of_subject = {name: row for name, row in rows.items() if name.startswith(f"{subject}-")}
        text, figure = reports[subject](of_subject)
        texts.append(f"## {subject}\n\n{text}")
        files[f"{subject}.png"] = png(figure)
    files["queries.md"] = ("\n\n".join([*texts, end]) + "\n").encode()
    write_files(config.run_dir, files)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def entropy_report(rows: Rows) -> tuple[str, Any]:
    """Bits removed by policy, and whether the theorems hold for what was measured; with the picture."""
    by_k: dict[int, dict[str, Any]] = {}
    for name, row in rows.items():
        _, k, policy = name.split("-", 2)
        by_k.setdefault(int(k), {})[policy] = row
    lines = [_entropy_lines(k, policies) for k, policies in by_k.items()]
    head = ["k", "policy", *(f"bits after {n}" for n in SHOWN_QUESTIONS), "questions to identify", "searches (cut)"]
    text = table(head, [line for of_k in lines for line in of_k])
    return f"{text}\n\n{_theorems(by_k)}", questions_figure({k: _curves(k, of_k) for k, of_k in by_k.items()})


def _entropy_lines(k: int, policies: Mapping[str, Any]) -> list[list[str]]:
    dyadic = dyadic_information(k)
    bounds = [-lower_bound(k, n) for n in SHOWN_QUESTIONS]
    lines = [
        [str(k), "bound of all policies", *(f"{bits:.3f}" for bits in bounds), "", ""],
        [str(k), "dyadic, exact", *(f"{n * dyadic:.3f}" for n in SHOWN_QUESTIONS), "", ""],
    ]
    for name, row in policies.items():
        bits = [_at(row, n) for n in SHOWN_QUESTIONS]
        count = f"{len(row['questions'])} ({row['cut']})" if row["cut"] else str(len(row["questions"]))
        lines.append([str(k), name, *bits, "" if row["cut"] else _mean(row["questions"]), count])
    return lines


def _at(row: Mapping[str, Any], n: int) -> str:
    if n > len(row["bits"]) and row["cut"]:
        return "cut"
    last = min(n, len(row["bits"])) - 1
    return f"{row['bits'][last]:.3f} ± {row['error'][last]:.3f}"


def _mean(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {error:.2f}"


def _theorems(by_k: Mapping[int, Mapping[str, Any]]) -> str:
    """One line a statement of the theory: in how many of the points measured it holds, within two standard errors."""
    above_dyadic, below_bound, nested, half = [], [], [], []
    for k, policies in by_k.items():
        dyadic, half_of = dyadic_information(k), log2(k + 1) / 2
        half.append(dyadic >= half_of)
        for name, row in policies.items():
            digits = _digits(row)
            for n, (bits, error) in enumerate(zip(row["bits"], row["error"], strict=True), start=1):
                slack = 2 * error + 1e-9
                below_bound.append(bits <= -lower_bound(k, n) + slack)
                if n <= digits and name == "bifurcation":
                    nested.append(bits <= n * dyadic + slack)
                elif n <= digits // 2:
                    above_dyadic.append(bits >= n * dyadic - slack)
    statements = (
        ("no policy removes more than 2 D_k + (n - 2) log2(k + 1) bits", below_bound),
        ("n dyadic questions remove at least half of n log2(k + 1) bits", half),
        (
            "greedy and half-greedy questions remove at least n D_k bits, n up to half the digits of a cell",
            above_dyadic,
        ),
        ("sequential bifurcation removes at most n D_k bits", nested),
    )
    return "\n".join(f"- {text}: holds at {sum(held)} of {len(held)} points." for text, held in statements if held)


def _digits(row: Mapping[str, Any]) -> int:
    """How many dyadic questions there are."""
    return row["cells"].bit_length() - 1


def _curves(k: int, policies: Mapping[str, Any]) -> dict[str, Any]:
    entropy = next(iter(policies.values()))["entropy"]
    digits = _digits(next(iter(policies.values())))
    left = {name: [entropy, *(max(entropy - bits, 0.0) for bits in row["bits"])] for name, row in policies.items()}
    longest = max(map(len, left.values()))
    bound = [bits for n in range(longest) if (bits := lower_bound(k, n, entropy)) >= 0]
    return {
        "policies": left,
        "bound": bound,
        "dyadic": [lower_bound(k, n, entropy, adaptive=False) for n in range(digits + 1)],
    }


def normality_report(rows: Rows) -> tuple[str, Any]:
    """Moments and distances of the entropies after dyadic questions, with the histograms."""
    head = ["k", "n", "f0", "mean", "theory", "variance", "theory", "within 1.96 σ", "KS distance"]
    lines = [
        [
            *(str(row["k"]), str(row["n"]), row["density"]),
            *(f"{row['mean']:.3f}", f"{row['theory'][0]:.3f}", f"{row['variance']:.3f}", f"{row['theory'][1]:.3f}"),
            *(f"{row['within']:.3f}", f"{row['distance']:.3f}"),
        ]
        for row in rows.values()
    ]
    cases = [{**row, "title": f"k = {row['k']}, {row['n']} questions, f0 = {row['density']}"} for row in rows.values()]
    return table(head, lines), spread_figure(cases)


def screening_report(rows: Rows) -> tuple[str, Any]:
    """Mean log2 oracle calls beside the paper's figure, and questions of searches by counts alone, with the picture."""
    screened = [row for row in rows.values() if "calls" in row]
    counted = {(row["k"], row["side"]): row["questions"] for row in rows.values() if "questions" in row}
    lines = [line for row in screened for line in _screening_lines(row)]
    agree = sum(line[-1] == "agrees" for line in lines)
    head = ["k", "noise", "pixels a side", "ranking", "mean log2 calls", "log2 of the mean", "paper, read off", ""]
    text = table(head, lines)
    counts = table(
        ["k", "pixels a side", "questions by counts alone", "screening questions, then mean calls by IPR"],
        [_count_line(row, counted) for row in screened if not row["noise"] and row["side"] in _ends(screened)],
    )
    note = f"{agree} of {len(lines)} points agree with the paper's figure within {TOLERANCE} and two standard errors."
    return f"{text}\n\n{note}\n\n{counts}", _screening_figure(screened, counted)


def _ends(screened: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    sides = [row["side"] for row in screened]
    return min(sides), max(sides)


def _screening_lines(row: Mapping[str, Any]) -> list[list[str]]:
    """A line for each ranking whose point the paper's figure was read off at."""
    lines = []
    of_paper = READ_OFF[row["k"], row["noise"]]
    for name in RANKINGS[1:]:
        paper = {8: of_paper[name][0], 1024: of_paper[name][1]}.get(row["side"])
        if paper is None:
            continue
        logs = np.log2(row["calls"][name])
        error = float(logs.std(ddof=1)) / len(logs) ** 0.5
        agrees = abs(logs.mean() - paper) <= TOLERANCE + 2 * error
        lines.append(
            [
                *(str(row["k"]), f"{row['noise']:g}", str(row["side"]), name, f"{logs.mean():.2f} ± {error:.2f}"),
                *(f"{log2(statistics.mean(row['calls'][name])):.2f}", f"{paper:g}", "agrees" if agrees else "differs"),
            ]
        )
    return lines


def _count_line(row: Mapping[str, Any], counted: Mapping[tuple[int, int], Sequence[int]]) -> list[str]:
    k, side = row["k"], row["side"]
    questions = 2 * (side.bit_length() - 1)
    calls = f"{questions} + {statistics.mean(row['calls']['IPR']):,.0f}"
    return [str(k), str(side), f"{_mean(counted[k, side])} ({len(counted[k, side])} searches)", calls]


def _screening_figure(screened: Sequence[Mapping[str, Any]], counted: Mapping[tuple[int, int], Sequence[int]]) -> Any:
    panels: dict[str, dict[str, dict[int, float]]] = {}
    points: dict[str, list[tuple[int, float]]] = {}
    for row in screened:
        title = f"{row['k']} targets"
        lines = panels.setdefault(title, {})
        for name in RANKINGS:
            if name == "IR" and row["noise"]:
                continue  # it does not look at answers
            label = f"{name}, noise {row['noise']:g}" if row["noise"] else name
            lines.setdefault(label, {})[row["side"]] = float(np.log2(row["calls"][name]).mean())
        lines.setdefault("counts", {})[row["side"]] = float(np.log2(counted[row["k"], row["side"]]).mean())
        of_paper = READ_OFF[row["k"], row["noise"]]
        ends = {8: 0, 1024: 1}
        if row["side"] in ends:
            read = (of_paper[name][ends[row["side"]]] for name in RANKINGS[1:])
            points.setdefault(title, []).extend((row["side"], value) for value in read if value is not None)
    return screening_figure(panels, points)


def faces_report(rows: Rows) -> tuple[str, Any]:
    """How the searches for faces ended, with the sheets of an early, a middle and the last question of the first."""
    sheets = list(rows.values())
    head = ["sheet", "faces", "looks", "counts added up", "found all faces", "as one by one", "seconds", "one by one"]
    lines = [
        [
            *(str(row["sheet"]), str(len(row["faces"])), str(row["looks"]), "yes" if row["additive"] else "no"),
            *("yes" if row["found"] == row["faces"] else "no", "yes" if row["found"] == row["one_by_one"] else "no"),
            *(f"{row['seconds'][0]:.1f}", f"{row['side'] ** 2} looks, {row['seconds'][1]:.2f}"),
        ]
        for row in sheets
    ]
    right = sum(row["found"] == row["one_by_one"] for row in sheets)
    note = (
        f"{sum(row['additive'] for row in sheets)} of {len(sheets)} searches met counts that add up; {right} found what the "
        f"detector sees one by one; {_mean([row['looks'] for row in sheets])} looks on average, against {sheets[0]['side'] ** 2}."
    )
    return f"{table(head, lines)}\n\n{note}", _faces_figure(sheets[0])


def _faces_figure(row: Mapping[str, Any]) -> Any:
    sheet = make_sheet(len(row["faces"]), row["side"], row["sheet"], row["seed"], Detector())
    shown = [Region([(0, row["side"] ** 2)]), *(Region(asked) for asked in row["asked"][1:3])]
    titles = [f"look {number}: the detector counts {row['counts'][number - 1]}" for number in (1, 2, 3)]
    places = [[((p % row["side"]) * SCALED, (p // row["side"]) * SCALED, SCALED) for p in row["found"]], [], []]
    return faces_figure([sheet.picture(region) for region in shown], places, titles)
