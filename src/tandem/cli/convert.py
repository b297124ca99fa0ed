"""`tandem convert`: a model in another format, if its logits stay what they were."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tandem.cli.arguments import parse


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertArguments:
    """Write a model in another format. Before the result is put in place, its logits are compared with those of the source.

    Example: tandem convert granite-4.0-h-tiny granite --to tandem
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """Name of a bundled checkpoint ("nano"), a model directory (of Tandem or in Hugging Face format) or a GGUF file."""
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """A new directory; with --to gguf a file."""
    to: Literal["transformers", "tandem", "gguf"]
    """transformers: the family it knows where one says all of the model, else a directory that loads there after `import
    tandem.hub.transformers`. tandem: what tandem saves. gguf: a file for llama.cpp."""
    dtype: str | None = None
    """Number format of the weights: float32, bfloat16, float16; for GGUF f32, bf16, f16, q8_0. As they are when left out."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb), converts and says what was compared."""
    arguments = parse(ConvertArguments, "tandem convert", argv)
    # torch takes seconds to import; `--help` and a mistyped option should not wait for it.
    from rich.console import Console

    from tandem.hub import convert

    console = Console(stderr=True)
    with console.status("converting") as status:
        done = convert(arguments.source, arguments.target, to=arguments.to, dtype=arguments.dtype, tell=status.update)
    size = _size(done.path)
    print(f"{done.path}: {done.family}, {size / 1e6:,.1f} MB")
    if arguments.to == "transformers" and done.family == "tandem":
        print("no family of transformers says all of this model; it loads there after `import tandem.hub.transformers`")
    for parity in done.parities:
        print(
            f"{parity.what}: logits differ by {parity.median:.1e} of their size (median), {parity.usual:.1e} (9 of 10)"
        )


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
