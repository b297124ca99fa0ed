"""What other people's programs rely on: names, lightness of import, and the rules every file keeps."""

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

import tandem
from tandem.cli.main import VERBS
from tandem.nn import preset

SOURCE = Path(tandem.__file__).parent
ROOMS = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = ("torch", "transformers", "matplotlib", "numpy", "scipy")


def modules_after(code: str) -> set[str]:
    """Names in sys.modules after a fresh interpreter ran some code."""
    script = f"import sys, json\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(result.stderr))


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("tandem", "load LanguageModel __version__"),
        (
            "tandem.nn",
            "ModelConfig AttentionConfig MambaConfig MoEConfig DenseConfig HybridLM SequenceLayout preset parse_pattern "
            "hybrid_pattern",
        ),
        ("tandem.ops", "SequenceLayout ssd_reference ssd_chunked ssd_step"),
        ("tandem.plan", "parameters flops memory"),
        ("tandem.precision", "FloatFormat IntFormat quantize QuantizedLinear Recipe CAPYBARA"),
        ("tandem.train", "fit"),
        (
            "tandem.queries",
            "Prior Posterior DyadicPolicy GreedyPolicy HalfGreedyPolicy SequentialBifurcation Session Region lower_bound",
        ),
        ("tandem.data", "Tokenizer Batch Packer open_shards"),
        ("tandem.report", "write_report MetricsWriter read_metrics progress atomic_path"),
    ],
)
def test_contracted_names_are_exported(room: str, names: str):
    module = importlib.import_module(room)
    for name in names.split():
        assert hasattr(module, name), f"{room}.{name}"
        assert name in module.__all__


def test_annotations_are_checked_while_the_tests_run():
    with pytest.raises(TypeCheckError):
        preset(5)


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tandem.nonsense


@pytest.mark.parametrize(
    "code",
    [
        "import tandem",
        "from tandem.cli import main; main(['--help'])",
        "from tandem.cli import main; main(['--version'])",
        "import tandem.report",
    ],
)
def test_import_and_help_stay_light(code: str):
    assert not modules_after(code).intersection(HEAVY)


def test_rooms_import_no_optional_package():
    rooms = ", ".join(f"tandem.{room}" for room in ROOMS)
    assert not modules_after(f"import {rooms}").intersection({"transformers", "datasketch", "matplotlib.pyplot"})


def test_every_verb_is_a_module_with_run():
    for verb, (module, line) in VERBS.items():
        assert importlib.util.find_spec(module), verb
        tree = ast.parse(Path(SOURCE, "cli", f"{module.rsplit('.', 1)[1]}.py").read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body), verb
        assert line


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_one_explicit_door(room: str):
    tree = ast.parse((SOURCE / room / "__init__.py").read_text())
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom | ast.Assign), f"tandem.{room}: line {node.lineno} is no import"
    module = importlib.import_module(f"tandem.{room}")
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_short(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than 60 lines"
