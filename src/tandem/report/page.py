"""One self-contained HTML page of a run: headline numbers, figures, samples, configuration, events.

Start at `write_report`. What the page knows by name it shows with care; any other number a room logs gets a small
panel of its own, so that a run on images or volumes needs no report of its own.
"""

import base64
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.report import figures
from tandem.report.files import atomic_path
from tandem.report.run import Run, read_run

if TYPE_CHECKING:
    import matplotlib.figure

_KINDS_WITHOUT_CURVES = ("event", "expert_load")
_HAS_A_PLACE = {"step", "kind", "loss", "lr", "tokens", "tokens_per_second", "seconds", "stage", "bits_per_byte"}
_COMPRESSORS = {"gzip -9": "gzip_bits_per_byte", "xz -9": "xz_bits_per_byte"}
_SUMMARY_WITH_A_PLACE = {"bits_per_byte", "model", "plan", "samples", "command", "machine", "commit"}
_SUMMARY_WITH_A_PLACE |= set(_COMPRESSORS.values())


@dataclass(frozen=True, slots=True)
class Card:
    """One headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure as a data address, with its text alternative and a caption."""

    source: str
    text: str
    caption: str
    wide: bool


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory from the files that are there, and returns its path.

    Reads `metrics.jsonl`; `config.json`, `samples.jsonl` and `summary.json` are used when present. The page embeds all
    it shows and asks no network.

    Raises:
        ValueError: metrics are missing or empty, or one of the files is not what its name says.
    """
    # Deferred: most who import this room never render a page.
    from jinja2 import Environment, StrictUndefined

    run = read_run(Path(run_dir))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("tandem.report") / "page.html").read_text(encoding="utf-8"))
    page = template.render(
        run=run,
        facts=[(name, run.summary[name]) for name in ("command", "machine", "commit") if run.summary.get(name)],
        cards=list(_cards(run)),
        pictures=list(_pictures(run)),
        samples=_samples(run),
        tables=_tables(run),
        events=run.kind("event"),
    )
    path = Path(run_dir) / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _cards(run: Run) -> Iterator[Card]:
    bits = run.summary.get("bits_per_byte") or run.last("validation", "bits_per_byte")
    if bits is not None:
        xz = run.summary.get("xz_bits_per_byte")
        yield Card("Bits per byte", f"{bits:.3f}", f"{bits / xz:.2f} × xz -9 ({xz:.3f})" if xz else "validation")
    yield from _loss_card(run)
    yield from _progress_card(run)
    speed = figures.median(figures.column(run.kind("train"), "tokens_per_second"))
    if math.isfinite(speed):
        yield Card("Tokens per second", figures.short_number(speed), "median of the run")
    seconds = run.last("train", "seconds")
    if seconds is not None:
        yield Card("Training time", _duration(seconds), f"{seconds:,.0f} seconds")
    model = run.summary.get("model", {})
    if "total_parameters" in model:
        total, active = model["total_parameters"], model.get("active_parameters")
        note = f"{figures.short_number(active)} active a token" if active else ""
        yield Card("Parameters", figures.short_number(total), note)
    for name in _unplaced_names(run, ["validation"])[:4]:
        yield Card(f"Validation {name.replace('_', ' ')}", f"{run.last('validation', name):.4g}")


def _loss_card(run: Run) -> Iterator[Card]:
    kind = "validation" if run.last("validation", "loss") is not None else "train"
    losses = [value for value in figures.column(run.kind(kind), "loss") if math.isfinite(value)]
    if losses:
        shown = losses if kind == "validation" else figures.running_mean(losses)
        label = "Validation loss" if kind == "validation" else "Training loss"
        yield Card(label, f"{shown[-1]:.3f}", f"lowest {min(shown):.3f}")


def _progress_card(run: Run) -> Iterator[Card]:
    steps = run.last("train", "step")
    tokens = run.last("train", "tokens")
    if tokens is not None:
        yield Card("Training tokens", figures.short_number(tokens), f"{steps:,} steps")
    elif steps is not None:
        yield Card("Training steps", f"{steps:,}")


def _pictures(run: Run) -> Iterator[Picture]:
    curves = list(_curves(run))
    for index, (draw, text, caption) in enumerate(curves):
        # Curves stand in pairs; the first takes a whole line when their number is odd.
        wide = index == 0 and len(curves) % 2 == 1
        yield _picture(draw(figures.WIDE if wide else figures.HALF), text, caption, wide=wide)
    load = [row for row in run.kind("expert_load") if row.get("layers")]
    if load:
        caption = "Rust: idle experts. Blue: busy experts; the scale ends at twice the even share."
        yield _picture(figures.expert_load_figure(load), "Load of each expert in each layer", caption, wide=True)
    if run.summary.get("plan"):
        yield _budget_picture(run.summary["plan"])
    kinds = [kind for kind in run.rows if kind not in _KINDS_WITHOUT_CURVES]
    names = _unplaced_names(run, kinds)
    if names:
        figure = figures.small_multiples_figure({kind: run.kind(kind) for kind in kinds}, names)
        yield _picture(figure, "Other logged quantities: " + ", ".join(names), "", wide=True)


def _curves(run: Run) -> Iterator[tuple[Callable[[float], "matplotlib.figure.Figure"], str, str]]:
    """What to draw at a given width, its text alternative and its caption."""
    train, validation = run.kind("train"), run.kind("validation")
    if run.last("train", "loss") is not None or run.last("validation", "loss") is not None:
        caption = "Thin: each logged step. Thick: running mean. Outliers may be cut off."
        yield partial(figures.loss_figure, train, validation), "Training and validation loss", caption
    with_bits = [row for row in validation if row.get("bits_per_byte") is not None]
    if with_bits:
        present = {name: run.summary[key] for name, key in _COMPRESSORS.items() if run.summary.get(key)}
        caption = "Dashed: what general compressors need for the same held-out text." if present else ""
        yield partial(figures.bits_per_byte_figure, with_bits, present), "Validation bits per byte", caption
    if run.last("train", "lr") is not None:
        yield partial(figures.learning_rate_figure, train), "Learning rate", ""
    if run.last("train", "tokens_per_second") is not None:
        yield partial(figures.speed_figure, train), "Training speed in tokens per second", ""


def _budget_picture(plan: Mapping[str, Any]) -> Picture:
    twin = plan.get("attention_twin_bytes")
    figure = figures.budget_figure(plan["contexts"], plan["kv_bytes"], plan["ssm_bytes"], twin)
    own = plan["kv_bytes"][-1] + plan["ssm_bytes"][-1]
    caption = f"At {figures.binary_number(plan['contexts'][-1])} tokens: {figures.binary_bytes(own)}"
    if twin:
        caption += f", beside {figures.binary_bytes(twin[-1])} for attention alone ({twin[-1] / own:.1f} times as much)"
    return _picture(figure, "Bytes of decode state against context length", caption + ".", wide=True)


def _picture(figure: "matplotlib.figure.Figure", text: str, caption: str, *, wide: bool) -> Picture:
    data = base64.b64encode(figures.png(figure)).decode("ascii")
    return Picture(f"data:image/png;base64,{data}", text, caption, wide)


def _unplaced_names(run: Run, kinds: list[str]) -> list[str]:
    """Numeric fields of these kinds that have no figure of their own, in order of first sight."""
    names = {
        name: None
        for kind in kinds
        for row in run.kind(kind)
        for name, value in row.items()
        if name not in _HAS_A_PLACE and figures.is_number(value)
    }
    return list(names)


def _duration(seconds: int | float) -> str:
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= size)
    return f"{seconds / (size or 1):.3g} {unit}"


def _samples(run: Run) -> list[dict[str, Any]]:
    """Samples of the summary first, then the newest of the run."""
    newest = sorted(run.samples, key=lambda row: row.get("step", 0), reverse=True)
    return [
        {"step": row.get("step"), "prompt": str(row.get("prompt", "")), "text": str(row.get("text", ""))}
        for row in [*run.summary.get("samples", []), *newest]
    ]


def _tables(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """A table for each group of the configuration and of the rest of the summary: title and rows of name and value."""
    rest = {name: value for name, value in run.summary.items() if name not in _SUMMARY_WITH_A_PLACE}
    return [*_groups(rest, "summary"), *_groups(run.config, "run")]


def _groups(tree: Mapping[str, Any], title: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    loose = {name: value for name, value in tree.items() if not isinstance(value, Mapping)}
    if loose:
        yield title, list(_flat(loose))
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield name, list(_flat(value))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                yield from _flat(item, f"{prefix}{name}.{index}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
