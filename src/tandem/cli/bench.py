"""`tandem bench`: training and decoding beside transformers; kernels of a GPU beside PyTorch's forms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from tandem.cli.arguments import parse
from tandem.recipes.benchmark import Ceiling, compare
from tandem.recipes.kernels import measure
from tandem.recipes.peers import compare_peers
from tandem.recipes.quickstart import fast_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchArguments:
    """Times Tandem beside GraniteMoeHybrid of transformers, same shape and tokens, in interleaved pairs."""

    work: tyro.conf.Positional[Literal["train", "decode", "peers", "kernels"]]
    """train: forward, backward and AdamW on 4 × 512 tokens. decode: prefill of 2,048 tokens, then tokens one by one.
    peers: the same on the weights of one 112M model, beside transformers and, if installed, llama.cpp, bf16 and int8.
    kernels: each op of a layer beside PyTorch's form of it, on a GPU."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run: kernels on cuda, the others on cpu."""

    pairs: int = 5
    """Pairs counted, after a warm-up."""

    peer_keeps_memory: bool = False
    """Give the peer the allocator setting of Tandem's training as well, which transformers does not make by itself."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), measures and prints a table."""
    arguments = parse(BenchArguments, "tandem bench", argv)
    if arguments.work == "kernels":
        _kernels(arguments.device)
        return
    if arguments.device != "cpu":
        raise ValueError(f"device={arguments.device!r} is for kernels; {arguments.work} is timed on cpu")
    if arguments.work == "peers":
        _peers(arguments.pairs)
        return
    precision = fast_precision()
    ceiling = Ceiling.measure(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}, ours in {precision}"
    columns = ("work", "Tandem tokens/s", "its share of the measured ceiling", "transformers tokens/s", "ratio (range)")
    table = Table(*columns, title=title)
    for work in ("train",) if arguments.work == "train" else ("prefill", "decode", "decode-16"):
        comparison = compare(work, pairs=arguments.pairs, peer_keeps_memory=arguments.peer_keeps_memory)
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
    for row in rows:
        for cells in row.cells():
            table.add_row(*cells)
    Console().print(table)


def _kernels(device: str) -> None:
    ceiling, rows = measure(device)
    title = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16"
    columns = ("op", "shape", "error", "Tandem ms (range)", "PyTorch ms", "ratio", "share of the ceiling")
    caption = f"a product reaches {ceiling.matmul / 1e12:.0f} TFLOP/s, a copy {ceiling.read / 1e12:.2f} TB/s"
    table = Table(*columns, title=title, caption=caption)
    for row in rows:
        table.add_row(*row.cells())
    Console().print(table)
