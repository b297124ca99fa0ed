"""Every verb tells a mistake in one line with field, value and remedy, and leaves with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tandem.cli.main import VERBS, main
from tandem.nn import preset

PRETRAIN = ("pretrain", "--run-dir", "r", "--data", "d")
GENERATE = ("generate", "nano", "--prompt", "x")
PLAN = ("plan", "model", "nano")
EVAL = ("eval", "nano", "--tasks")
TOKENIZE = ("data", "tokenize", "--out", "o")

OPTIONS = [
    (("quickstart", "--stepz", "4"), "--stepz is unknown; did you mean --steps?"),
    (("quickstart", "--steps"), "--steps has no value; give one"),
    (("quickstart", "--steps", "many"), "--steps='many' is not a whole number; give one"),
    (("quickstart", "--steps", "0"), "steps=0 is below 1; use 1 or more"),
    (("quickstart", "--batch-tokens", "-8"), "batch_tokens=-8 is below 1; use 1 or more"),
    (("plan",), "a command is missing; use one of model"),
    (("plan", "modell"), "modell is unknown; use one of model"),
    (("plan", "model"), "MODEL is missing"),
    ((*PLAN, "--contxt", "3"), "--contxt is unknown; did you mean --context?"),
    ((*PLAN, "--context", "x"), "--context='x' is not a whole number; give one"),
    ((*PLAN, "--parallel.tensor", "0"), "parallel.tensor=0 must be 1 or more"),
    (("data",), "a command is missing; use one of fetch, tokenize, list, bundle"),
    (("data", "fetsh"), "fetsh is unknown; use one of fetch, tokenize, list, bundle"),
    (("data", "fetch", "novels"), "corpus.name='novels' is unknown; use one of api-docs, classics, "),
    (("data", "fetch", "--nope"), "--nope is unknown"),
    (("data", "list", "all"), "all is unknown"),
    (("data", "tokenize"), "--out PATH is missing"),
    ((*TOKENIZE, "--vocab", "4k"), "--vocab='4k' is not a whole number; give one"),
    (("pretrain",), "--run-dir PATH, --data [PATH [PATH ...]] is missing"),
    ((*PRETRAIN, "--contxt", "3"), "--contxt is unknown; did you mean --context?"),
    ((*PRETRAIN, "--train.steps", "1.5"), "--train.steps='1.5' is not a whole number; give one"),
    ((*PRETRAIN, "--train.optimizer.lr", "high"), "--train.optimizer.lr='high' is not a number; give one"),
    ((*PRETRAIN, "--train.precision", "fp8"), "--train.precision='fp8' is no choice; use one of 'float32', 'bfloat16'"),
    ((*PRETRAIN, "--train.steps", "0"), "train.steps=0 is below 1; use 1 or more"),
    ((*PRETRAIN, "--weights", "1", "x"), "--weights='1', 'x' does not fit its type; see tandem pretrain --help"),
    ((*PRETRAIN, "--weights", "1", "2"), "weights=(1.0, 2.0) has 2 values for 1 data; give one for each"),
    ((*PRETRAIN, "--stages", "x.json"), "stages=x.json is not a file; give the path of a JSON file"),
    ((*PRETRAIN, "--model", "x.json"), "model=x.json is not a file; give the path of a JSON file"),
    (PRETRAIN, "tokenizer.path=d does not exist; make it with `tandem data tokenize`"),
    (("generate",), "MODEL, --prompt STR is missing"),
    (("generate", "nano", "--promt", "x"), "--prompt STR is missing; --promt is unknown"),
    ((*GENERATE, "--temperature", "hot"), "--temperature='hot' is not a number; give one"),
    ((*GENERATE, "--seed", "q"), "--seed='q' is not a whole number; give one"),
    ((*GENERATE, "--top-p", "3"), "top_p=3.0 is outside (0, 1]; use 1 to keep all tokens"),
    (("generate", "nana", "--prompt", "x"), "source='nana' is no directory and no bundled checkpoint; bundled: nano"),
    (("chat",), "MODEL is missing"),
    (("chat", "nano", "--sistem", "x"), "--sistem is unknown; did you mean --system?"),
    (("chat", "nano", "--max-tokens", "x"), "--max-tokens='x' is not a whole number; give one"),
    (("chat", "nano", "--thinking", "deep"), "--thinking='deep' is no choice; use one of 'auto', 'short', 'long'"),
    (("eval",), "MODEL, --tasks STR is missing"),
    ((*EVAL, "needle", "--precision.kv", "E4"), "precision.kv: format='E4' is not known; use E4M3"),
    (("eval", "nano", "--task", "needle"), "--tasks STR is missing; --task is unknown"),
    (("eval", "nana", "--tasks", "needle"), "source='nana' is no directory and no bundled checkpoint; bundled: nano"),
    ((*EVAL, ","), "tasks=',' names no task; use perplexity, needle, phone-book"),
    ((*EVAL, "perplexity"), "text is missing for perplexity; give --text FILE"),
    ((*EVAL, "perplexity", "--text", "x.txt"), "text=x.txt is not a file; give a text file"),
    ((*EVAL, "needle", "--lengths", "many"), "--lengths='many' does not fit its type; see tandem eval --help"),
    ((*EVAL, "needle", "--lengths", "20"), "length=20 has no room for needle, which takes at least "),
    ((*EVAL, "needle", "--samples", "0"), "samples=0 is below 1; use 1 or more"),
    ((*EVAL, "needle", "--reading", "fast"), "--reading='fast' is no choice; use one of 'windows', 'state'"),
    ((*EVAL, "needle", "--device", "tpu"), "device='tpu' is not known; use auto, cpu, cuda or cuda:N"),
    (("convert", "nano"), "OUT, --to {transformers,tandem,gguf} is missing"),
    (("convert", "nano", "o", "--to", "onnx"), "--to='onnx' is no choice; use one of 'transformers', 'tandem', 'gguf'"),
    (
        ("convert", "nana", "o", "--to", "tandem"),
        "source='nana' is no directory and no bundled checkpoint; bundled: nano",
    ),
    (("convert", "nano", "o", "--to", "gguf"), "target='o' must be a file that ends in .gguf"),
    (("convert", "nano", "o.gguf", "--to", "gguf"), "no architecture of llama.cpp computes this model"),
    (("bench",), "{train,decode,peers,transmamba,precision,kernels,lengths,queries} is missing"),
    (
        ("bench", "fly"),
        "work='fly' is no choice; use one of 'train', 'decode', 'peers', 'transmamba', 'precision', 'kernels', 'lengths', 'queries'",
    ),
    (
        ("bench", "transmamba", "--model", "nano"),
        "model.pattern='(MF)2 AMF (MF)2' has no T layers; use a model with some",
    ),
    (("bench", "transmamba", "--length", "8"), "length=8 and rounds=5 must be 64 or more and 1 or more"),
    ((*GENERATE, "--schedule", "v7"), "schedule='v7' needs T layers, but model.pattern="),
    (("bench", "train", "--pears", "3"), "--pears is unknown; did you mean --pairs?"),
    (("bench", "train", "--pairs", "x"), "--pairs='x' is not a whole number; give one"),
    (("bench", "kernels"), "device='cpu' cannot time kernels; run on a machine with an NVIDIA GPU"),
    (("bench", "lengths"), "device='cpu' cannot be timed; run on a machine with an NVIDIA GPU, with --device cuda"),
    (("recipe", "twins", "--seeds", "0"), "seeds=0 is below 1"),
    (
        ("recipe", "retrieval", "--twins", "t"),
        "twins=t is no run of `tandem recipe twins`; make one, or name its directory",
    ),
    (("bench", "queries", "--trials", "1"), "trials=1 is below 2; use 2 or more, 200 for the documented rows"),
    (("recipe", "queries", "--cells", "1000"), "cells=1000 is no power of 2 from 4 on; use one, such as 1024"),
    (("recipe", "queries", "--subjects", "faces", "nose"), "--subjects='nose' is no choice; use one of 'entropy', "),
    (("recipe", "queries", "--images", "1"), "images=1 is below 2; use 2 or more"),
    (("locate",), "a command is missing; use one of command, sqlite, answers, retract"),
    (
        ("locate", "command", "--items", "4", "--max-questions", "few"),
        "--max-questions='few' is not a whole number; give one",
    ),
    (("locate", "command", "--items", "4", "--max-seconds", "x"), "--max-seconds='x' does not fit; give "),
    (
        ("locate", "command", "--items", "4", "--objects", "1", "--max-questions", "-1", "--", "true"),
        "max_questions=-1 is below 0",
    ),
    (("locate", "answers", "nowhere.json"), "session=nowhere.json is no file; give one that --session kept"),
    (("locate", "retract", "nowhere.json", "1"), "session=nowhere.json is no file; give one that --session kept"),
    (("locate", "retract"), "PATH, INT is missing"),
    (("locate", "retract", "s.json", "x"), "INT='x' is not a whole number"),
    (("locate", "sqlite"), "--database PATH, --table STR, --rows PATH is missing"),
    (("report",), "RUN_DIR is missing"),
    (("report", "a", "b"), "b is unknown"),
    (("report", "nowhere"), "run_dir=nowhere is not a directory; give the run directory that holds metrics.jsonl"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No relative path of a command exists, and nothing is fetched into a user's cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))


def mistake(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail as a user's mistake does; returns what it says after the verb."""
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    captured = capsys.readouterr()
    assert (exit_info.value.code, captured.out) == (2, "")
    assert captured.err.count("\n") == 1
    assert not set("│╭╰─").intersection(captured.err)
    begin = f"tandem {argv[0]}: "
    assert captured.err.startswith(begin)
    return captured.err.removeprefix(begin)


@pytest.mark.parametrize(
    ("argv", "message"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_mistaken_option_is_one_line(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]):
    assert mistake(argv, capsys).startswith(message)


def test_the_table_has_every_verb():
    assert {argv[0] for argv, _ in OPTIONS} == set(VERBS)


def test_an_unknown_preset(capsys: pytest.CaptureFixture[str]):
    message = "preset='turbo' is unknown; use one of nano, mini, small, turbos-560b, transmamba-nano, transmamba-400m, transmamba-1.5b"
    message += ", or give a .json file with a model config, or a model's directory\n"
    assert mistake(("plan", "model", "turbo"), capsys) == message
    assert mistake((*PRETRAIN, "--model", "turbo"), capsys) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "MFX"}, "pattern='MFX' at character 3 has no layer called 'X'; "),
        (
            {"attention": {"heads": 5, "kv_heads": 2, "head_width": 64}},
            "kv_heads=2 does not divide attention.heads=5; ",
        ),
    ],
)
@pytest.mark.parametrize("command", [("plan", "model"), (*PRETRAIN, "--model")])
def test_a_model_that_cannot_be(
    command: tuple[str, ...], change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
):
    Path("mine.json").write_text(json.dumps(preset("nano").to_dict() | change))
    assert message in mistake((*command, "mine.json"), capsys)


@pytest.mark.parametrize(
    "command", [("data", "fetch", "text"), (*TOKENIZE, "--corpus", "text", "--paths"), ("quickstart", "--text")]
)
def test_text_that_is_none(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    Path("empty.txt").touch()
    Path("picture.txt").write_bytes(b"P6 1 1 255 \xff\xd8\x00")
    assert mistake((*command, "empty.txt"), capsys) == (
        "corpus.paths=['empty.txt'] is an empty corpus, 0 bytes; give files with text\n"
    )
    binary = (
        f"corpus.file={Path('picture.txt').absolute()} is not UTF-8 text: byte 0xff at offset 11; convert it to UTF-8"
    )
    assert mistake((*command, "picture.txt"), capsys).startswith(binary)


def test_a_prompt_longer_than_the_context(capsys: pytest.CaptureFixture[str]):
    words = " ".join(map(str, range(2000)))
    line = mistake(("generate", "nano", "--prompt", words), capsys)
    assert line.startswith("prompt of ")
    assert f"tokens is longer than config.context={preset('nano').context}; shorten it to " in line


def test_the_process_too():
    """Its exit code and streams, with no terminal on either."""
    command = [
        sys.executable,
        "-c",
        "from tandem.cli import main; main()",
        "data",
        "tokenize",
        "--vocab",
        "x",
        "--out",
        "o",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tandem data: --vocab='x' is not a whole number; give one; see tandem data --help\n"
