"""What the papers on questions about several objects show, made again: `tandem recipe queries`.

Start at `ask_again`. The work is cut into parts; each leaves a file, so that an interrupted run goes on where it was.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markdown import Markdown

from tandem.queries import GreedyPolicy, HalfGreedyPolicy, Policy, SequentialBifurcation
from tandem.recipes.face_sheets import find_faces
from tandem.recipes.question_entropy import RISING, UNIFORM, bits_by_question, dyadic_spread
from tandem.recipes.question_results import write_results
from tandem.recipes.screening import count_instead, screen
from tandem.report import atomic_path, progress
from tandem.train import claim_run_dir

Subject = Literal["entropy", "normality", "screening", "faces"]

SPREADS = ((2, 20, UNIFORM), (3, 30, UNIFORM), (5, 50, UNIFORM), (16, 50, UNIFORM), (5, 14, RISING))
"""Objects, questions and density of the posterior entropies that are compared with a normal distribution."""
SCREENED = (2, 3, 10)
SIDES = (8, 16, 32, 64, 128, 256, 512, 1024)
NOISES = (0.0, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionsConfig:
    """Makes the figures of the papers on questions about several objects again, and reports where numbers agree.

    entropy: bits left after each question, by policy. normality: the entropy after dyadic questions beside its normal
    approximation. screening: an image searched by screening questions and then an oracle, as in the paper of 2015, and by
    counts alone. faces: faces on sheets of photographs, counted by a trained detector (needs scikit-image, of the extra
    `images`). Ctrl-C leaves what is finished; the same command goes on. The run directory holds queries.json, queries.md and a
    PNG for each subject.
    """

    run_dir: Path = Path("runs/queries")
    """Where everything is written."""

    subjects: tuple[Subject, ...] = ("entropy", "normality", "screening")
    """Which of them to make."""

    objects: tuple[int, ...] = (2, 3, 5, 8, 12, 16)
    """Numbers of objects of the entropy curves."""

    cells: int = 2**10
    """Cells that the objects of the entropy curves lie in, a power of 2."""

    searches: int = 48
    """Searches by each policy for two objects; for more objects fewer, by the square of their number, 3 at least."""

    greedy_objects: int = 8
    """Up to this number of objects the greedy policy is run as well; it takes ten times longer than the half-greedy one."""

    draws: int = 20_000
    """Random answers whose posterior entropies are compared with the normal distribution."""

    images: int = 100
    """Images screened for each number of targets, size and noise; the paper has 100."""

    sheets: int = 12
    """Sheets of photographs that faces are looked for on."""

    seed: int = 0
    """Another one draws other objects."""

    def __post_init__(self) -> None:
        for name in ("searches", "draws", "images", "sheets"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name}={getattr(self, name)} is below 2; use 2 or more")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is below 0; use 0 or more")
        if not self.subjects:
            raise ValueError("subjects is empty; use some of entropy normality screening faces")
        if not self.objects or min(self.objects) < 1:
            raise ValueError(f"objects={self.objects} must be one or more numbers, each 1 or more")
        if self.cells < 4 or self.cells & (self.cells - 1):
            raise ValueError(f"cells={self.cells} is no power of 2 from 4 on; use one, such as 1024")


@dataclass(frozen=True)
class Part:
    """A piece of the work with a file of its own."""

    name: str
    compute: Callable[[], dict[str, Any]]


def ask_again(config: QuestionsConfig) -> Path:
    """Computes what is not there yet, writes the report and prints it; returns the run directory.

    Raises:
        ValueError: a run directory of other settings.
        ImportError: faces are wanted and scikit-image is missing.
    """
    settings = json.loads(json.dumps(asdict(config), default=str))
    del settings["run_dir"]  # a run may be moved
    claim_run_dir(config.run_dir, settings, {"subjects"})
    parts = list(parts_of(config))
    rows: dict[str, Any] = {}
    with progress("queries", len(parts), unit="parts") as bar:
        for part in parts:
            rows[part.name] = _kept(config.run_dir / "parts" / f"{part.name}.json", part)
            bar.advance(1, part=part.name)
    write_results(config, rows)
    console = Console(highlight=False, soft_wrap=True)
    console.print(Markdown((config.run_dir / "queries.md").read_text(encoding="utf-8")))
    console.print(f"report: {config.run_dir / 'queries.json'}, queries.md and a PNG for each subject beside it")
    return config.run_dir


def _kept(path: Path, part: Part) -> dict[str, Any]:
    """The part's result, from its file if there is one."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    result = part.compute()
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def parts_of(config: QuestionsConfig) -> Iterator[Part]:
    """All pieces of the wanted subjects, each once; names begin with the subject."""
    makers = {"entropy": _entropy, "normality": _normality, "screening": _screening, "faces": _faces}
    for subject in dict.fromkeys(config.subjects):
        yield from makers[subject](config)


def _entropy(config: QuestionsConfig) -> Iterator[Part]:
    for k in config.objects:
        policies: dict[str, Policy] = {
            "bifurcation": SequentialBifurcation(),
            "half-greedy": HalfGreedyPolicy(ahead=0.0),
        }
        if k <= config.greedy_objects:
            policies["greedy"] = GreedyPolicy(restarts=2)
        trials = max(3, round(4 * config.searches / k**2)) if k > 2 else config.searches
        for name, policy in policies.items():
            yield Part(
                f"entropy-{k}-{name}",
                lambda policy=policy, k=k, trials=trials: bits_by_question(
                    policy, k, config.cells, trials, config.seed
                ),
            )


def _normality(config: QuestionsConfig) -> Iterator[Part]:
    for k, n, density in SPREADS:
        yield Part(
            f"normality-{k}-{n}-{density.name}",
            lambda k=k, n=n, density=density: dyadic_spread(k, n, config.draws, density, config.seed),
        )


def _screening(config: QuestionsConfig) -> Iterator[Part]:
    for k in SCREENED:
        for side in SIDES:
            for noise in NOISES:
                yield Part(
                    f"screening-{k}-{side}-{noise}",
                    lambda k=k, side=side, noise=noise: screen(k, side, noise, config.images, config.seed),
                )
            searches = max(2, config.images // (2 * k))
            yield Part(
                f"screening-{k}-{side}-counts",
                lambda k=k, side=side, searches=searches: count_instead(k, side, searches, config.seed),
            )


def _faces(config: QuestionsConfig) -> Iterator[Part]:
    for sheet in range(config.sheets):
        yield Part(f"faces-{sheet}", lambda sheet=sheet: find_faces(k=4, side=12, sheet=sheet, seed=config.seed))
