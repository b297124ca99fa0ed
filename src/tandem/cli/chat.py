"""`tandem chat`: a conversation in the terminal, streamed.

A model tuned on conversations gets the turns as messages. A base model has no notion of turns: what was typed and what it
wrote is one running text that it continues.
"""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from tandem.cli.arguments import parse
from tandem.cli.generate import write
from tandem.report import atomic_path

if TYPE_CHECKING:
    from tandem import LanguageModel
    from tandem.serve import TextStream

_HELP = """\
/reset        forget the conversation
/save FILE    write the conversation to a file
/help         this list
/exit         leave (also Ctrl-D)
Ctrl-C        stop the answer"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatArguments:
    """Talk to a model in the terminal. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.

    Example: tandem chat nano --temperature 0.8 --top-p 0.95
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Name of a bundled checkpoint ("nano") or a model directory."""
    system: str | None = None
    """Instruction ahead of the conversation; a base model has none."""
    thinking: Literal["auto", "short", "long"] = "auto"
    """Let the model decide, answer at once, or think first; a base model ignores it."""
    max_tokens: int = 256
    """Most tokens of one answer."""
    temperature: float = 0.7
    """Divides the logits; 0 always takes the most likely token."""
    top_p: float = 1.0
    """Draw from the most likely tokens that together reach this probability."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the most likely one."""
    top_k: int = 0
    """Draw from this many most likely tokens; 0 from all."""
    seed: int | None = None
    """Of the first answer, the next one draws with seed + 1; a new one each time when left out."""
    stop: tuple[str, ...] = ()
    """Texts to stop before."""
    device: str = "auto"
    """`auto` takes a CUDA GPU if there is one, else the CPU; or cpu, cuda, cuda:N."""
    weights: Literal["stored", "int8"] = "stored"
    """int8 rounds the matrices to 8 bits and decodes faster on a CPU; stored takes them as they are."""


@dataclass(kw_only=True, slots=True)
class Dialogue:
    """Turns with a model that was tuned on conversations."""

    model: "LanguageModel"
    system: str | None
    messages: list[dict[str, str]] = field(default_factory=list)

    def prompt(self, line: str, room: int) -> list[dict[str, str]]:
        """The messages with the new one; the oldest turns are left out until `room` tokens stay free for the answer."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        turns = [*self.messages, {"role": "user", "content": line}]
        while len(turns) > 1 and len(self.model.prompt_ids([*head, *turns])) > self.model.config.context - room:
            turns = turns[2:]
        return [*head, *turns]

    def record(self, line: str, text: str) -> None:
        """Adds a turn."""
        self.messages += [{"role": "user", "content": line}, {"role": "assistant", "content": text}]

    def saved(self) -> str:
        """The messages as JSON."""
        return json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n"


@dataclass(kw_only=True, slots=True)
class RunningText:
    """One text that a base model and its reader write in turn, a line break between their parts."""

    model: "LanguageModel"
    text: str = ""

    def prompt(self, line: str, room: int) -> str:
        """The text with the new line; its beginning is left out until `room` tokens stay free for the answer."""
        tokenizer = self.model.tokenizer
        text, limit = self._joined(line), self.model.config.context - room - 1
        while len(ids := tokenizer.encode(text)) > limit:
            text = tokenizer.decode(ids[-limit:]).lstrip("\ufffd")
        return text

    def record(self, line: str, text: str) -> None:
        """Adds what was typed and what the model wrote."""
        self.text = self._joined(line) + text

    def saved(self) -> str:
        """The text."""
        return self.text + "\n"

    def _joined(self, line: str) -> str:
        return f"{self.text}\n{line}" if self.text else line


@dataclass(kw_only=True, slots=True)
class Session:
    """The loop of one `tandem chat`."""

    model: "LanguageModel"
    arguments: ChatArguments
    console: Console = field(default_factory=lambda: Console(highlight=False))
    history: Dialogue | RunningText = field(init=False)
    answers: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def talk(self) -> None:
        """Reads lines until the end of input or /exit."""
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                self.console.print()
                return
            except KeyboardInterrupt:
                self.console.print("\nCtrl-D or /exit leaves", style="dim")
                continue
            if line == "/exit":
                return
            # A mistake in one line (a prompt too long, a file that cannot be written) must not end the conversation.
            try:
                if line.startswith("/"):
                    self.command(line)
                elif line:
                    self.answer(line)
            except (ValueError, OSError) as error:
                self.console.print(str(error), style="red", markup=False)

    def answer(self, line: str) -> None:
        """Streams one answer; Ctrl-C keeps what was written so far."""
        start = time.perf_counter()
        stream = self.stream(line)
        with contextlib.suppress(KeyboardInterrupt):
            for piece in stream:
                write(piece)
        done = stream.completion
        self.answers += 1
        self.history.record(line, done.answer if self.model.chat else done.text)
        rate = done.tokens / (time.perf_counter() - start)
        self.console.print(f"\n[{done.tokens} tokens, {rate:.0f} tokens/s]", style="dim", markup=False)

    def stream(self, line: str) -> "TextStream":
        """Prepares an answer; the model starts with the first piece.

        Raises:
            ValueError: an option outside its range, or a line longer than the context.
        """
        a = self.arguments
        return self.model.stream(
            self.history.prompt(line, min(a.max_tokens, self.model.config.context // 2)),
            thinking=a.thinking,
            max_tokens=a.max_tokens,
            temperature=a.temperature,
            top_p=a.top_p,
            min_p=a.min_p,
            top_k=a.top_k,
            seed=None if a.seed is None else a.seed + self.answers,
            stop=a.stop,
        )

    def command(self, line: str) -> None:
        """Obeys a line that starts with a slash.

        Raises:
            ValueError: an unknown command, or /save without a file.
            OSError: the file cannot be written.
        """
        name, _, rest = line.partition(" ")
        if name == "/help":
            self.console.print(_HELP, markup=False)
        elif name == "/reset":
            self.reset()
            self.console.print("forgotten", style="dim")
        elif name == "/save":
            self.console.print(f"saved {self.save(rest.strip())}", style="dim", markup=False)
        else:
            raise ValueError(f"command {name!r} is unknown; /help lists them")

    def reset(self) -> None:
        """Starts with an empty history."""
        if self.model.chat:
            self.history = Dialogue(model=self.model, system=self.arguments.system)
        else:
            self.history = RunningText(model=self.model)

    def save(self, name: str) -> Path:
        """Writes the conversation; returns the file."""
        if not name:
            raise ValueError("/save needs a file; for example /save talk.json")
        path = Path(name).expanduser()
        if path.is_dir():
            raise ValueError(f"/save {name} names a directory; give a file in it")
        with atomic_path(path) as temporary:
            temporary.write_text(self.history.saved(), encoding="utf-8")
        return path


def run(argv: Sequence[str]) -> None:
    """Parses `argv` (without the verb) and talks until the reader leaves."""
    arguments = parse(ChatArguments, "tandem chat", argv)
    # torch takes seconds to import; `--help` and a mistyped option should not wait for it.
    import tandem

    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and a history; Windows has none

    session = Session(
        model=tandem.load(arguments.model, device=arguments.device, weights=arguments.weights), arguments=arguments
    )
    session.stream("")  # a wrong option is told now, not after the first line was typed
    kind = "" if session.model.chat else " is a base model, it continues your text instead of answering"
    session.console.print(f"{arguments.model}{kind}: /help lists the commands", style="dim", markup=False)
    session.talk()
