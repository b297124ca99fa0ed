import base64
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tandem.cli.report import run as report_command
from tandem.report import MetricsWriter, write_report
from tandem.report.run import read_run

HOSTILE = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }} {% raw %}"


class Page(HTMLParser):
    """What a browser would find: tags, text and the addresses of images."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.images: dict[str, Image.Image] = {}
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "img":
            kind, _, data = values["src"].partition("base64,")
            assert kind == "data:image/png;"
            self.images[values["alt"]] = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))

    def handle_data(self, data: str):
        if self.lasttag != "style":
            self.words.append(data)


def page_of(run_dir: Path) -> Page:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def run_dir(tmp_path: Path):
    """A run of 60 steps with all that a language model logs."""
    directory = tmp_path / "nano"
    with MetricsWriter(directory / "metrics.jsonl") as metrics:
        for step in range(1, 61):
            loss, tokens = 2 + 6 / step, 4096 * step
            values = {
                "lr": 1e-3,
                "grad_norm": 0.5,
                "balance_loss": 1.0,
                "tokens_per_second": 9000.0,
                "seconds": 0.5 * step,
            }
            stage = "base" if step < 40 else "annealing"
            metrics.write(step=step, loss=loss, tokens=tokens, stage=stage, **values)
            if step % 20 == 0:
                bits = loss / math.log(2) / 3
                metrics.write(step=step, kind="validation", loss=loss, bits_per_byte=bits, tokens=tokens)
                metrics.write(step=step, kind="expert_load", layers=[[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]])
        metrics.write(step=33, kind="event", message="skipped: loss is not finite")
    (directory / "config.json").write_text(json.dumps({"seed": 7, "model": {"width": 256, "moe": {"experts": 3}}}))
    return directory


@pytest.fixture
def summary(run_dir: Path):
    contexts = [1024, 4096]
    summary = {
        "bits_per_byte": 1.25,
        "xz_bits_per_byte": 1.6,
        "gzip_bits_per_byte": 2.1,
        "corpus": {"license": "Apache-2.0"},
        "model": {"total_parameters": 11_300_000, "active_parameters": 4_980_000},
        "plan": {
            "contexts": contexts,
            "kv_bytes": [2**20, 2**22],
            "ssm_bytes": [2**20, 2**20],
            "attention_twin_bytes": [2**23, 2**25],
        },
        "samples": [{"prompt": "Once", "text": HOSTILE}],
        "command": "tandem pretrain",
        "commit": "abc1234",
    }
    (run_dir / "summary.json").write_text(json.dumps(summary))


@pytest.mark.usefixtures("summary")
def test_page_shows_numbers_figures_samples_events_and_configuration(run_dir: Path):
    page = page_of(run_dir)
    for text in (
        "Bits per byte 1.250 0.78 × xz -9 (1.600)",
        "Validation loss 2.100",
        "Training tokens 246k 60 steps",
        "Training time 30 s",
        "Parameters 11.3M 4.98M active a token",
        "At 4K tokens: 5 MiB, beside 32 MiB for attention alone (6.4 times as much).",
        "step 33 skipped: loss is not finite",
        "moe.experts 3",
        "license Apache-2.0",
        "commit abc1234",
    ):
        assert text in page.text
    assert list(page.images) == [
        "Training and validation loss",
        "Validation bits per byte",
        "Learning rate",
        "Training speed in tokens per second",
        "Load of each expert in each layer",
        "Bytes of decode state against context length",
        "Other logged quantities: grad_norm, balance_loss",
    ]


@pytest.mark.usefixtures("summary")
def test_embedded_figures_decode_and_are_sharp(run_dir: Path):
    for image in page_of(run_dir).images.values():
        image.load()
        assert image.format == "PNG"
        assert image.width >= 1000
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 20


def test_page_asks_no_network(run_dir: Path):
    html = write_report(run_dir).read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)|<link|@import|url\(", html)


@pytest.mark.usefixtures("summary")
def test_hostile_text_is_text(run_dir: Path):
    (run_dir / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": HOSTILE, "text": "</article>"}) + "\n")
    with MetricsWriter(run_dir / "metrics.jsonl") as metrics:
        metrics.write(step=60, kind="event", message=HOSTILE)
        metrics.write(step=60, **{"<b>x</b>": 1.0, "$\\frac{1$ broken math": 2.0})
    (run_dir / "config.json").write_text(json.dumps({"<i>": HOSTILE}))
    page = page_of(run_dir)
    assert not {"script", "b", "i"} & set(page.tags)
    assert page.text.count(HOSTILE) == 4
    assert any("<b>x</b>" in text for text in page.images)


def test_steps_made_again_after_a_kill_count_once(tmp_path: Path):
    rows = [
        {"step": step, "kind": "train", "loss": loss}
        for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.0), (3, 2.0))
    ]
    rows += [{"step": 2, "kind": "event", "message": message} for message in ("first", "second")]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(tmp_path)
    assert [(row["step"], row["loss"]) for row in run.kind("train")] == [(1, 5.0), (2, 3.0), (3, 2.0)]
    assert [row["message"] for row in run.kind("event")] == ["first", "second"]


def test_rows_without_tokens_take_the_count_of_their_step(run_dir: Path):
    assert [row["tokens"] for row in read_run(run_dir).kind("expert_load")] == [20 * 4096, 40 * 4096, 60 * 4096]


def test_a_run_of_another_room_gets_panels_for_its_own_quantities(tmp_path: Path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for step in range(3):
            metrics.write(step=step, loss=1.0, margin=0.1 * step, layer="x", flag=True)
            metrics.write(step=step, kind="validation", accuracy=0.5 + 0.1 * step, margin=0.2)
            metrics.write(step=step, kind="search", candidates=step)
    page = page_of(tmp_path)
    assert list(page.images) == [
        "Training and validation loss",
        "Other logged quantities: margin, accuracy, candidates",
    ]
    assert "Validation accuracy 0.7" in page.text


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "event", "message": "only this"},
        {"kind": "train", "loss": 3.0},
        {"kind": "train", "loss": float("nan"), "lr": None, "tokens_per_second": float("inf")},
        {"kind": "train", "tokens": 5, "tokens_per_second": 0.0, "lr": 0.0},
        {"kind": "validation", "bits_per_byte": 1.0},
        {"kind": "expert_load", "layers": []},
        {"kind": "expert_load", "layers": [[1.0], [0.5, 0.5], [None, None]]},
        {"kind": "expert_load", "layers": [[1 / 64] * 64] * 64},
    ],
)
def test_any_subset_of_rows_makes_a_page(tmp_path: Path, row: dict[str, Any]):
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write(step=1, **row)
    page_of(tmp_path)


def test_missing_and_empty_metrics_say_what_to_do(tmp_path: Path):
    with pytest.raises(ValueError, match=r"run_dir=.*none is not a directory; give"):
        write_report(tmp_path / "none")
    with pytest.raises(ValueError, match=r"metrics=.*metrics\.jsonl does not exist; give"):
        write_report(tmp_path)
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"metrics=.*metrics\.jsonl is empty; let"):
        write_report(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_broken_config_names_the_file_and_keeps_the_old_report(run_dir: Path, content: str):
    old = write_report(run_dir).read_bytes()
    (run_dir / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json .*restore it or move it away"):
        write_report(run_dir)
    assert (run_dir / "report.html").read_bytes() == old


def test_command_writes_the_page_and_prints_its_path(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    report_command([str(run_dir)])
    assert capsys.readouterr().out.strip() == str(run_dir / "report.html")
    assert (run_dir / "report.html").stat().st_size > 10_000


def test_the_door_is_light():
    script = "import sys, tandem.report; print({'torch', 'matplotlib', 'numpy', 'rich', 'jinja2'} & set(sys.modules))"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert imported.stdout.strip() == "set()"
