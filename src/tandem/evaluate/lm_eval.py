"""Tasks of EleutherAI's lm-eval on a model of this package, offline: only those whose data is on disk.

Needs `pip install 'tandem-lm[eval]'`; importing this module without it is an ImportError that says so.
"""

import contextlib
import difflib
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tandem.evaluate.estimate import Estimate, normal
from tandem.evaluate.perplexity import windows
from tandem.evaluate.subject import GREEDY, Subject
from tandem.report import progress
from tandem.serve import Completion, Sampling, chat_ids

# Before `datasets` is imported, which reads them once: a task without its data fails at once instead of asking a server.
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    _model_api = importlib.import_module("lm_eval.api.model")
except ImportError as error:
    raise ImportError("tasks of lm-eval need it: pip install 'tandem-lm[eval]'") from error

VERSION = importlib.metadata.version("lm-eval")
_MAX_TOKENS = 256  # of a generation whose task names no limit, as in lm-eval's own models
Row = TypeVar("Row")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class TandemLM(_model_api.LM):
    """A model of this package as lm-eval's `LM`.

    >>> lm_eval.simple_evaluate(TandemLM(Subject.load("nano")), tasks=["mine"])       # doctest: +SKIP

    Args:
        batch: requests side by side, packed without padding.
        seed: of tasks that sample.
    """

    def __init__(self, subject: Subject, *, batch: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.subject, self.batch, self.seed = subject, batch, seed
        # lm-eval passes chats as text. Ours are ids that no text can imitate, so the text is only their name.
        self._chats: dict[str, list[int]] = {}

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's request cache calls the chat layout."""
        return f"tandem-{self.subject.thinking}"

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation, laid out for the next answer, as the text that lm-eval hands back as a context.

        Raises:
            ValueError: the last message is not from the user, as in tasks that begin the answer themselves.
        """
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in chat_history]
        ids = chat_ids(self.subject.tokenizer, messages, thinking=self.subject.thinking)
        text = self.subject.tokenizer.decode(ids, skip_special=False)
        self._chats[text] = ids
        return text

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation in nats, and whether greedy decoding would write it.

        A context that is too long loses its beginning.

        Raises:
            ValueError: a continuation longer than the context.
        """
        rows = [self._cut(*self._pair(*request.args[:2])) for request in requests]
        return self._in_batches("loglikelihood", rows, self._score, key=lambda row: len(row[0]))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts in windows of the context, each token scored once, the last window a full one."""
        rows: list[tuple[list[int], int]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            ids = [self.subject.tokenizer.start_of_text(), *self.subject.tokenizer.encode(request.args[0])]
            cut = windows(len(ids), self.subject.context, 0) if len(ids) > 1 else ()
            for window in cut:
                rows.append((ids[window.begin : window.end], window.first - window.begin))
                owners.append(owner)
        totals = [0.0] * len(requests)
        scored = self._in_batches("loglikelihood_rolling", rows, self._score, key=lambda row: len(row[0]))
        for owner, (logp, _) in zip(owners, scored, strict=True):
            totals[owner] += logp
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes behind each context, up to the first stop string, think blocks stripped.

        A context that leaves no room for the answer loses its beginning.
        """
        normalize = importlib.import_module("lm_eval.models.utils").normalize_gen_kwargs
        groups: dict[str, list[int]] = {}
        options = [normalize(request.args[1], _MAX_TOKENS) for request in requests]
        for index, option in enumerate(options):
            groups.setdefault(repr(sorted(option.items())), []).append(index)
        answers = [""] * len(requests)
        for indices in groups.values():
            prompts = [self._prompt(requests[k].args[0], options[k]["max_gen_toks"]) for k in indices]
            write = self._writer(options[indices[0]])
            for index, text in zip(indices, self._in_batches("generate_until", prompts, write, key=len), strict=True):
                answers[index] = text
        return answers

    def _pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        if context in self._chats:
            asked = self._chats[context]
            return asked + self.subject.tokenizer.encode(continuation), len(asked)
        return self.subject.continued(context, continuation)

    def _cut(self, ids: list[int], start: int) -> tuple[list[int], int]:
        extra = len(ids) - 1 - self.subject.context
        if extra <= 0:
            return ids, start
        if extra >= start:
            raise ValueError(
                f"continuation of {len(ids) - start} tokens is longer than config.context={self.subject.context}; "
                "leave that task out"
            )
        _log.warning("a context of %d tokens loses the first %d", start, extra)
        return ids[extra:], start - extra

    def _prompt(self, context: str, max_tokens: int) -> list[int]:
        ids = self._chats.get(context) or self.subject.tokenizer.text_ids(context)
        # A task may ask for more than the context holds; then the prompt keeps half of it.
        room = max(self.subject.context - max_tokens + 1, (self.subject.context + 1) // 2)
        if len(ids) > room:
            _log.warning("a prompt of %d tokens loses the first %d", len(ids), len(ids) - room)
        return ids[-room:]

    def _score(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        scored = [row for row in rows if row[1] < len(row[0])]  # an empty continuation is certain
        if not scored:
            return [(0.0, True)] * len(rows)
        scores = iter(self.subject.scores([ids for ids, _ in scored], [start for _, start in scored]))
        results: list[tuple[float, bool]] = []
        for ids, start in rows:
            if start < len(ids):
                one = next(scores)
                results.append((float(one.logp_T.double().sum()), bool(one.greedy_T.all())))
            else:
                results.append((0.0, True))
        return results

    def _writer(self, options: Mapping[str, Any]) -> Callable[[Sequence[list[int]]], list[str]]:
        names = ("top_p", "top_k", "min_p")
        sampling = GREEDY
        if options["do_sample"]:
            filters = {name: options[name] for name in names if name in options}
            sampling = Sampling(temperature=options["temperature"], seed=self.seed, **filters)
        stop = [text for text in options["until"] if text]

        def write(prompts: Sequence[list[int]]) -> list[str]:
            limit = options["max_gen_toks"]
            written = self.subject.answers(prompts, sampling=sampling, max_tokens=limit, stop=stop)
            return [_bare(completion) for completion in written]

        return write

    def _in_batches(
        self,
        name: str,
        rows: Sequence[Row],
        run: Callable[[Sequence[Row]], Sequence[Result]],
        key: Callable[[Row], int],
    ) -> list[Result]:
        """Runs rows of like length together, the longest first so that memory fails early; results in the rows' order."""
        order = sorted(range(len(rows)), key=lambda k: -key(rows[k]))
        results: dict[int, Result] = {}
        with progress(name, len(rows), unit="requests") as bar:
            for at in range(0, len(rows), self.batch):
                indices = order[at : at + self.batch]
                results |= zip(indices, run([rows[k] for k in indices]), strict=True)
                bar.advance(len(indices))
        return [results[k] for k in range(len(rows))]


def _bare(completion: Completion) -> str:
    """The text as lm-eval's own models give it: untouched, but without think blocks where there are any."""
    has_marks = "<think>" in completion.text or "</think>" in completion.text
    return completion.answer if has_marks else completion.text


def check_tasks(names: Sequence[str], include_path: Path | None) -> None:
    """Looks whether lm-eval knows the tasks.

    Raises:
        ValueError: an unknown name, or a directory that is none.
    """
    if include_path is not None and not include_path.is_dir():
        raise ValueError(f"include_path={include_path} is not a directory; give the one with your task YAML files")
    known = _task_manager(include_path).all_tasks
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, "perplexity", "needle", "phone-book"], n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see `lm-eval ls tasks`, or give --include-path"
            raise ValueError(f"tasks={name!r} is unknown; {hint}")


def evaluate_task(
    subject: Subject,
    name: str,
    *,
    include_path: Path | None = None,
    fewshot: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 4,
) -> dict[str, Any]:
    """Runs one task (or group) of lm-eval; a chat model gets conversations.

    Returns:
        `metrics` (an `Estimate` each) and the task's `version`.
    Raises:
        ValueError: data that is not on disk.
    """
    evaluator = importlib.import_module("lm_eval.evaluator")
    try:
        with _quiet():
            found = evaluator.simple_evaluate(
                TandemLM(subject, batch=batch, seed=seed),
                tasks=[name],
                num_fewshot=fewshot,
                limit=limit,
                bootstrap_iters=1000,
                log_samples=False,
                apply_chat_template=subject.chat,
                fewshot_as_multiturn=subject.chat,
                task_manager=_task_manager(include_path),
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
    except (ConnectionError, FileNotFoundError) as error:  # of `datasets`: DatasetNotFoundError and the like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"tasks={name!r} has no data on disk ({reason}); runs are offline, see --include-path"
        ) from error
    return {"metrics": dict(_metrics(found, name)), "version": found["versions"].get(name)}


def _metrics(found: Mapping[str, Any], name: str) -> Iterator[tuple[str, Estimate]]:
    """lm-eval's "acc,none" with its "acc_stderr,none"; a tag without numbers of its own gives those of its tasks."""
    rows = {name: found["results"][name]} if name in found["results"] else found["results"]
    for task, row in rows.items():
        n = found["n-samples"].get(task, {}).get("effective", 0)
        for key, value in row.items():
            metric, _, kind = key.partition(",")
            if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
                error = row.get(f"{metric}_stderr,{kind}")
                error = float(error) if isinstance(error, int | float) else None
                label = metric if kind == "none" else key
                yield (label if task == name else f"{task}.{label}"), normal(float(value), n, error)


_managers: dict[Path | None, Any] = {}


def _task_manager(include_path: Path | None) -> Any:
    """lm-eval's index of tasks, read once: it takes seconds."""
    if include_path not in _managers:
        tasks = importlib.import_module("lm_eval.tasks")
        _managers[include_path] = tasks.TaskManager(include_path=include_path and str(include_path))
    return _managers[include_path]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval prints and logs as a program of its own; here only its warnings are told, on standard error."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.WARNING)
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # its bootstrap would fork a process that holds a model
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
