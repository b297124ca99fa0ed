"""`tandem bench`: training and decoding beside transformers; kernels of a GPU beside PyTorch's forms; searches by questions."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from tandem.cli.arguments import parse
from tandem.recipes.benchmark import Ceiling, Work, compare
from tandem.recipes.gpu_decoding import NEW_TOKENS, PROMPT_TOKENS, measure_decoding
from tandem.recipes.gpu_rounding import TOKENS, WIDTH, GpuCost, measure_products, measure_rounding
from tandem.recipes.gpu_training import (
    DATASHEET,
    ROW_TOKENS,
    ROWS,
    captured_error,
    measure_training,
    operations_per_token,
)
from tandem.recipes.granite import GRANITE
from tandem.recipes.identification import SEARCHES, measure_searches
from tandem.recipes.kernels import has_peer, measure, measure_ceiling, require_gpu
from tandem.recipes.lengths import measure_lengths, write_lengths
from tandem.recipes.peers import compare_peers
from tandem.recipes.pretrain import read_model_config
from tandem.recipes.quickstart import fast_precision
from tandem.recipes.rounding import QUANTIZED, measure_quantizer, measure_steps
from tandem.recipes.switching import measure_switching, spread, total_ratios
from tandem.report import progress


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchArguments:
    """Times Tandem beside GraniteMoeHybrid of transformers, same shape and tokens, in interleaved pairs."""

    work: tyro.conf.Positional[
        Literal["train", "decode", "peers", "transmamba", "precision", "kernels", "lengths", "queries"]
    ]
    """train: forward, backward and AdamW on 4 × 512 tokens (on a GPU 4 × 2,048, and 1.3B parameters). decode: prefill of
    2,048 tokens, then tokens one by one (on a GPU 64 tokens after 128, 1 and 32 sequences, 1.3B parameters). peers: the same
    on the weights of one 112M model, beside transformers and, if installed, llama.cpp, bf16 and int8. transmamba: layers `T`
    at the TransPoints of V9 beside attention and Mamba-2 on the same tokens. precision: training steps of 4 × 512 tokens with
    operands rounded to E4M3 beside steps without, and the quantizer beside qtorch's, if installed (on a GPU the quantizer beside
    PyTorch's operations, and a linear layer with 8-bit operands beside bfloat16's). kernels: each op of a
    layer beside PyTorch's form of it, on a GPU. lengths: time a token of a Mamba-2 and an attention layer on texts of 1K to
    256K tokens, on a GPU. queries: questions and milliseconds that it takes to identify 2, 3, 5 and 10 objects by half-greedy
    counting questions, beside sequential bifurcation."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run: kernels and lengths on cuda, peers and queries on cpu, train, decode, transmamba and precision on either."""

    model: str | None = None
    """Preset, or a file with a model config in JSON: `transmamba-nano` for transmamba and `mini` for precision if left out."""

    length: int = 4096
    """For transmamba: tokens of the text."""

    out: Path = Path("bench")
    """Directory for the rows and the figure of lengths."""

    pairs: int = 5
    """Pairs counted, after a warm-up."""

    peer_keeps_memory: bool = False
    """Give the peer the allocator setting of Tandem's training as well, which transformers does not make by itself."""

    peer_compiled: bool = False
    """For train on cpu: let torch.compile fuse the peer's layers, which takes it minutes before the first pair."""

    trials: int = 200
    """For queries: searches of each kind; a quarter of them for 10 objects."""

    seed: int = 0
    """For queries: another one hides other objects."""

    json: bool = False
    """For queries: print JSON in place of a table."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), measures and prints a table."""
    arguments = parse(BenchArguments, "tandem bench", argv)
    work, device = arguments.work, arguments.device
    on_either = {
        "kernels": lambda: _kernels(device),
        "lengths": lambda: _lengths(device, arguments.out),
        "transmamba": lambda: _transmamba(arguments),
    }
    on_gpu = {
        "train": lambda: _train_on_gpu(device),
        "decode": lambda: _decode_on_gpu(device, arguments.pairs),
        "precision": lambda: _precision_on_gpu(device),
    }
    on_cpu = {
        "train": lambda: _beside_transformers(arguments, ("train",)),
        "decode": lambda: _beside_transformers(arguments, ("prefill", "decode", "decode-16")),
        "precision": lambda: _precision(arguments),
        "peers": lambda: _peers(arguments.pairs),
        "queries": lambda: _queries(arguments),
    }
    works = on_either | (on_cpu if device == "cpu" else on_gpu)
    if work not in works:
        raise ValueError(f"device={device!r} is for kernels; {work} is timed on cpu")
    works[work]()


def _beside_transformers(arguments: BenchArguments, works: Sequence[Work]) -> None:
    precision = fast_precision()
    ceiling = Ceiling.measure(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}, ours in {precision}"
    columns = ("work", "Tandem tokens/s", "its share of the measured ceiling", "transformers tokens/s", "ratio (range)")
    table = Table(*columns, title=title)
    for work in works:
        comparison = compare(
            work,
            pairs=arguments.pairs,
            peer_keeps_memory=arguments.peer_keeps_memory,
            peer_compiled=arguments.peer_compiled,
        )
        name, ours, theirs, ratio = comparison.row()
        table.add_row(name, ours, comparison.share(ceiling), theirs, ratio)
    Console().print(table)


def _peers(rounds: int) -> None:
    distances, rows = compare_peers(Ceiling.measure(torch.bfloat16), rounds=rounds)
    shown = ", ".join(f"{name} {distance:.1e}" for name, distance in distances.items())
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}, bf16 (int8 beside q8_0)"
    caption = f"logits off transformers' in float32 by: {shown}"
    columns = ("work", "Tandem tokens/s", "its share of the measured ceiling", "peer", "tokens/s", "ratio (range)")
    table = Table(*columns, title=title, caption=caption)
    for column in table.columns:
        column.overflow = "fold"  # on a narrow terminal nothing is cut off
    for row in rows:
        for cells in row.cells():
            table.add_row(*cells)
    Console().print(table)


def _transmamba(arguments: BenchArguments) -> None:
    model = arguments.model or "transmamba-nano"
    rows = measure_switching(
        read_model_config(model), length=arguments.length, device=arguments.device, rounds=arguments.pairs
    )
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    title = f"{model}, {arguments.length:,} tokens, forward + backward; {where}, torch {torch.__version__}"
    table = Table("TransPoint", "T ms", "attention ms", "Mamba-2 ms", "T / the two (range)", title=title)
    for row in rows:
        table.add_row(*row.cells())
    table.add_section()
    table.add_row("all", "", "", "", spread(total_ratios(rows)))
    Console().print(table)


def _precision(arguments: BenchArguments) -> None:
    model = arguments.model or "mini"
    where = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    steps = Table(
        *("operands in E4M3, block 128", "ms a step", f"ms in {fast_precision()}", "ratio (range)"),
        title=f"{model}, training step of 4 × 512 tokens; {where}",
    )
    for cost in measure_steps(read_model_config(model), pairs=arguments.pairs):
        steps.add_row(*cost.cells(slower=True))
    Console().print(steps)
    rows, columns = QUANTIZED
    rounding = Table(
        *("format", "ms, scales of 128 numbers", "qtorch ms, no scales", "qtorch / Tandem (range)"),
        title=f"quantize, {rows} × {columns} float32; {where}",
    )
    for cost in measure_quantizer(pairs=arguments.pairs):
        rounding.add_row(*cost.cells(slower=False))
    Console().print(rounding)


def _queries(arguments: BenchArguments) -> None:
    rows = []
    with progress("queries", len(SEARCHES), unit="kinds of search") as bar:
        for row in measure_searches(arguments.trials, arguments.seed):
            rows.append(row)
            bar.advance()
    if arguments.json:
        print(json.dumps([row.plain() for row in rows]))
        return
    columns = ("cells", "k", "questions (goal)", "ms a question (goal)", "bifurcation", "H0 / log2(k + 1)")
    table = Table(*columns, title=f"identified by half-greedy questions, {arguments.trials} searches, k = 10 a quarter")
    for row in rows:
        table.add_row(*row.cells_of_table())
    Console().print(table)


def _precision_on_gpu(device: str) -> None:
    require_gpu(device)
    ceiling, where = measure_ceiling(), f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    rounding = Table(
        *("a scale for", "ms (range)", "PyTorch's operations ms", "ratio", "share of a copy"),
        title=f"quantize to ocp:e4m3fn, {TOKENS:,} × {WIDTH:,} bfloat16; {where}",
        caption=f"a copy reads and writes {ceiling.read / 1e12:.2f} TB/s",
    )
    _show(rounding, measure_rounding(ceiling))
    products = Table(
        *("operands", "ms (range)", "bfloat16 ms", "ratio", "share of bfloat16's products"),
        title=f"a linear layer, forward and backward, {TOKENS:,} tokens, {WIDTH:,} → {WIDTH:,}; {where}",
        caption=f"a product in bfloat16 reaches {ceiling.matmul / 1e12:.0f} TFLOP/s",
    )
    _show(products, measure_products(ceiling))


def _show(table: Table, costs: Iterable[GpuCost]) -> None:
    for cost in costs:
        table.add_row(*cost.cells())
    Console().print(table)


def _train_on_gpu(device: str) -> None:
    sides = measure_training(device)
    ceiling = measure_ceiling().matmul
    error = captured_error(GRANITE, device)
    columns = ("side", "ms a step (range)", "tokens/s", "MFU, measured", "MFU, datasheet", "memory")
    caption = (
        f"MFU = {operations_per_token() / 1e9:.3f} GFLOP a token (3 × forward, tandem.plan.flops) × tokens/s ÷ "
        f"{ceiling / 1e12:.0f} TFLOP/s of a measured product, or ÷ {DATASHEET / 1e12:.1f} of the datasheet; "
        f"captured against plain steps: losses differ by {error:.1e} at most"
    )
    title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 1.3B parameters, {ROWS} × {ROW_TOKENS} tokens"
    table = Table(*columns, title=title, caption=caption)
    for side in sides:
        table.add_row(*side.cells(ceiling))
    Console().print(table)


def _decode_on_gpu(device: str, pairs: int) -> None:
    rows = measure_decoding(device, pairs)
    copy_rate = measure_ceiling().read
    columns = (
        *("batch", "greedy tokens", "Tandem tokens/s (range)", "transformers tokens/s (range)", "ratio (range)"),
        *("prefill ms", "step ms", "steps alone, tokens/s", "share of a copy"),
    )
    title = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, 1.3B parameters in bfloat16, "
        f"{NEW_TOKENS} tokens after {PROMPT_TOKENS}"
    )
    caption = (
        f"a copy reads and writes {copy_rate / 1e12:.2f} TB/s; a step must move weights once and states there and back"
    )
    table = Table(*columns, title=title, caption=caption)
    for row in rows:
        table.add_row(*row.cells(copy_rate))
    Console(width=200).print(table)


def _lengths(device: str, out: Path) -> None:
    rows, table = (
        [],
        Table("layer", "length", "forward, ns a token (range of ms)", "forward + backward, ns a token (range)"),
    )
    for row in measure_lengths(device=device):
        forward, both = row.nanoseconds
        ranges = [f"{min(times):.2f}–{max(times):.2f}" for times in (row.forward, row.both)]
        table.add_row(row.layer, f"{row.length:,}", f"{forward:.2f} ({ranges[0]})", f"{both:.2f} ({ranges[1]})")
        rows.append(row)
    Console().print(table)
    title = f"Time of one layer a token, {torch.cuda.get_device_name()}, ns"
    for path in write_lengths(rows, out, title):
        Console().print(f"wrote {path}")


def _kernels(device: str) -> None:
    ceiling, rows = measure(device)
    title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16"
    columns = [
        "op",
        "shape",
        "error",
        "Tandem ms (range)",
        "of the ceiling",
        "PyTorch ms",
        "ratio",
        "mamba_ssm ms",
        "ratio",
    ]
    caption = f"a product reaches {ceiling.matmul / 1e12:.0f} TFLOP/s, a copy {ceiling.read / 1e12:.2f} TB/s"
    table = Table(*(columns if has_peer() else columns[:-2]), title=title, caption=caption)
    for row in rows:
        table.add_row(*row.cells()[: len(table.columns)])
    Console(width=200).print(table)
