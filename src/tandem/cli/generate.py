"""`tandem generate`: continues a prompt on standard output, and tells on standard error how fast it went."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from tandem.cli.arguments import parse


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateArguments:
    """Continue a prompt with a model. The text goes to standard output while it is written.

    Example: tandem generate nano --prompt "Returns a list of" --max-tokens 80 --seed 0
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Name of a bundled checkpoint ("nano") or a model directory."""
    prompt: str
    """Text to continue; "-" reads it from standard input (one newline at the end is dropped)."""
    max_tokens: int = 256
    """Most tokens to write."""
    temperature: float = 0.7
    """Divides the logits; 0 always takes the most likely token."""
    top_p: float = 1.0
    """Draw from the most likely tokens that together reach this probability."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    top_k: int = 0
    """Draw from this many most likely tokens; 0 from all."""
    seed: int | None = None
    """Same seed, same text; a new one each time when left out."""
    stop: tuple[str, ...] = ()
    """Texts to stop before."""
    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""
    schedule: tuple[int, ...] | str | None = None
    """TransPoints of the T layers in place of the model's: a name such as v7, or one a layer."""
    weights: Literal["stored", "int8"] = "stored"
    """int8 rounds the matrices to 8 bits and decodes faster on a CPU; stored takes them as they are."""


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and streams the continuation."""
    arguments = parse(GenerateArguments, "tandem generate", argv)
    prompt = read_prompt() if arguments.prompt == "-" else arguments.prompt
    # torch takes seconds to import; `--help` and a mistyped option should not wait for it.
    import tandem

    model = tandem.load(arguments.model, device=arguments.device, weights=arguments.weights)
    if arguments.schedule is not None:
        model.reschedule(arguments.schedule)
    start = time.perf_counter()
    stream = model.stream(
        prompt,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        top_k=arguments.top_k,
        seed=arguments.seed,
        stop=arguments.stop,
    )
    for piece in stream:
        write(piece)
    write("\n")
    tokens, seconds = stream.completion.tokens, time.perf_counter() - start
    print(f"{tokens} tokens in {seconds:.2f} s, prompt included: {tokens / seconds:.1f} tokens/s", file=sys.stderr)


def read_prompt() -> str:
    """All of standard input, less one newline at the end.

    Raises:
        ValueError: the input is not UTF-8.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"prompt on standard input is not UTF-8 text ({error.reason}); give a text file") from error


def write(text: str) -> None:
    """Prints a piece of text at once; on a terminal without the control characters a model may have written."""
    if sys.stdout.isatty():
        text = "".join(c for c in text if c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0))
    print(text, end="", flush=True)
