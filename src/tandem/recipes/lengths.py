"""How the time of a layer grows with the length of a text on a GPU. Start at `measure_lengths`.

Every length runs on the same number of tokens, as so many documents, so that the GPU is as full at each; the time a token
of a Mamba-2 layer should then be flat, and that of attention grow as the pairs of tokens do.
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tandem.nn import HybridLM, Layer, ModelConfig, SequenceLayout
from tandem.recipes.granite import GRANITE
from tandem.recipes.kernels import milliseconds
from tandem.report import atomic_path, lengths_figure, png

TOKENS = 1 << 18
LENGTHS = tuple(1 << n for n in range(10, 19))


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthRow:
    """Device time of one layer at one length, run by run, in milliseconds for `TOKENS` tokens."""

    layer: str
    length: int
    forward: tuple[float, ...]
    both: tuple[float, ...]

    @property
    def nanoseconds(self) -> tuple[float, float]:
        """Medians a token: forward, and forward with backward."""
        forward, both = (1e6 * statistics.median(times) / TOKENS for times in (self.forward, self.both))
        return forward, both


def measure_lengths(shape: ModelConfig = GRANITE, device: str = "cuda") -> Iterator[LengthRow]:
    """Rows as they are measured: the layers `M` and `A` of the shape without norm and residual, in bfloat16.

    Raises:
        ValueError: there is no such device.
    """
    if device != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"device={device!r} cannot be timed; run on a machine with an NVIDIA GPU, with --device cuda")
    return _rows(shape, device)


def write_lengths(rows: list[LengthRow], directory: Path, title: str) -> tuple[Path, Path]:
    """Writes the rows as JSON lines and as a figure."""
    directory.mkdir(parents=True, exist_ok=True)
    table, picture = directory / "lengths.jsonl", directory / "lengths.png"
    with atomic_path(table) as path:
        path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")
    with atomic_path(picture) as path:
        path.write_bytes(png(lengths_figure([_record(row) for row in rows], title)))
    return table, picture


def _record(row: LengthRow) -> dict[str, Any]:
    forward, both = row.nanoseconds
    return {"layer": row.layer, "length": row.length, "forward": forward, "both": both}


def _rows(shape: ModelConfig, device: str) -> Iterator[LengthRow]:
    with torch.device(device):
        model = HybridLM(shape)
    for symbol in "MA":
        mixer = cast(Layer, model.layers[shape.layers.index(symbol)]).mixer.bfloat16()
        for length in LENGTHS:
            layout = SequenceLayout.from_lengths([length] * (TOKENS // length), shape.chunk, device=device)
            x_TD = torch.randn(TOKENS, shape.width, device=device, dtype=torch.bfloat16)
            runs = 3 if symbol == "A" and length > 1 << 15 else 10
            forward = milliseconds(partial(_forward, mixer, layout), [[x_TD]], runs=runs)
            both = milliseconds(partial(_both, mixer, layout, torch.randn_like(x_TD)), [[x_TD]], runs=runs)
            yield LengthRow(layer=symbol, length=length, forward=forward, both=both)


def _forward(mixer: nn.Module, layout: SequenceLayout, leaves: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return mixer(leaves[0], layout)


def _both(mixer: nn.Module, layout: SequenceLayout, pull_TD: Tensor, leaves: list[Tensor]) -> None:
    x_TD = leaves[0].detach().requires_grad_()
    torch.autograd.grad(mixer(x_TD, layout), [x_TD, *mixer.parameters()], pull_TD)
