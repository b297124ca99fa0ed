"""Asking and telling: a search that can be saved after any answer and taken up again."""

import json
import os
from dataclasses import fields, is_dataclass
from math import ceil, log2
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from tandem.queries.answers import (
    Answers,
    ConfusedAnswers,
    ExactAnswers,
    GaussianAnswers,
    MissedAnswers,
    NoisyAnswers,
    PoissonAnswers,
    SaturatedAnswers,
)
from tandem.queries.policies import (
    BatchGreedyPolicy,
    BestRange,
    DyadicPolicy,
    EntropyPursuit,
    GreedyPolicy,
    HalfGreedyPolicy,
    Policy,
    RandomHalves,
    SequentialBifurcation,
)
from tandem.queries.posterior import Posterior
from tandem.queries.prior import Floats, Prior
from tandem.queries.region import Region

FORMAT = 1
SAVED = {
    kind.__name__: kind
    for kind in (
        *(
            ExactAnswers,
            SaturatedAnswers,
            NoisyAnswers,
            ConfusedAnswers,
            MissedAnswers,
            PoissonAnswers,
            GaussianAnswers,
        ),
        *(
            DyadicPolicy,
            GreedyPolicy,
            HalfGreedyPolicy,
            BatchGreedyPolicy,
            BestRange,
            SequentialBifurcation,
            RandomHalves,
            EntropyPursuit,
        ),
    )
}


class Session:
    """A search for k objects: `ask` for the next question, `tell` its answer, until `done`.

    >>> hidden = [77, 1000, 1000]
    >>> s = Session(Prior.uniform(2**20, k=3), seed=0)
    >>> while not s.done:
    ...     s.tell(s.ask().count(hidden))
    >>> s.answer
    (77, 1000, 1000)

    Args:
        policy: what to ask; `HalfGreedyPolicy()` by default.
        answers: what the oracle says about a count; the count itself by default.
        seed: the same seed, prior and answers make the same questions.
        confidence: done when one set of cells has this probability: 1 by default, 0.99 for answers with errors.
    """

    def __init__(
        self,
        prior: Prior,
        policy: Policy | None = None,
        answers: Answers | None = None,
        seed: int = 0,
        confidence: float | None = None,
    ):
        self.policy: Policy = HalfGreedyPolicy() if policy is None else policy
        self.posterior = Posterior(prior, answers)
        self.seed = seed
        self.confidence = confidence or (1.0 if self.posterior.answers.deterministic else 0.99)
        self._queue: list[Region] = []

    @property
    def prior(self) -> Prior:
        return self.posterior.prior

    @property
    def questions(self) -> int:
        """How many have been answered."""
        return len(self.posterior.history)

    def ask(self) -> Region:
        """The question to answer next; the same one until it is answered.

        Raises:
            ValueError: the search is done.
        """
        return self.ask_all()[0]

    def ask_all(self) -> list[Region]:
        """All questions that can be asked now, before any is answered; `tell` takes the answers in this order.

        Raises:
            ValueError: the search is done.
        """
        if self.done:
            raise ValueError("the search is done, there is nothing to ask; see answer")
        if not self._queue:
            self._queue = self.policy.questions(self.posterior, np.random.default_rng([self.seed, self.questions]))
        return [self.prior.show(region) for region in self._queue]

    def tell(self, answer: float) -> None:
        """Takes the answer to the question of `ask`.

        Raises:
            ValueError: the answer is impossible, by itself or (`ContradictionError`, which names the questions) given the
                others. The session is as it was.
        """
        self.ask()
        self.posterior = self.posterior.given(self._queue[0], answer)
        self._queue = self._queue[1:]

    def retract(self, question: int) -> None:
        """Takes back the answer to a question, counted from 1, and so what was learned from it. Other answers stay.

        Raises:
            ValueError: there is no such answer.
        """
        if not 1 <= question <= self.questions:
            raise ValueError(f"question={question} has no answer; answered are 1 to {self.questions}")
        history = self.posterior.history
        posterior = Posterior(self.prior, self.posterior.answers)
        for region, answer in (*history[: question - 1], *history[question:]):
            posterior = posterior.given(region, answer)
        self.posterior, self._queue = posterior, []

    @property
    def done(self) -> bool:
        """Whether one set of cells is as probable as `confidence` asks."""
        return self.posterior.best()[1] >= self.confidence - 1e-12

    @property
    def answer(self) -> tuple[float, ...]:
        """Where the objects are, sorted, with repeats where several share a cell.

        Raises:
            ValueError: the search is not done.
        """
        if not self.done:
            raise ValueError(
                f"the search is not done, {self.bits_left:.3g} bits are left; see expected_counts() and posterior"
            )
        return tuple(self.prior.place(np.array(self.posterior.best()[0], dtype=np.int64)))

    @property
    def bits_left(self) -> float:
        """Entropy of where the objects are, as a multiset of cells."""
        return self.posterior.entropy()

    @property
    def questions_left(self) -> int:
        """A lower bound of the questions still needed on average: bits left over log2(k + 1)."""
        return ceil(self.bits_left / log2(self.prior.k + 1) - 1e-9) if self.prior.k else 0

    def expected_counts(self) -> Floats:
        """How many objects to expect in each cell, shape (cells,)."""
        return self.posterior.expected_counts()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the session as JSON; what is at `path` is replaced whole or left as it was."""
        state = {
            "format": FORMAT,
            "prior": _prior_state(self.prior),
            "policy": _state(self.policy),
            "answers": _state(self.posterior.answers),
            "seed": self.seed,
            "confidence": self.confidence,
            "history": [[region.ranges, answer] for region, answer in self.posterior.history],
            "queue": [region.ranges for region in self._queue],
        }
        _write_whole(Path(path), json.dumps(state))

    @classmethod
    def load(cls, path: str | os.PathLike[str], prior: Prior | None = None, policy: Policy | None = None) -> "Session":
        """A session as `save` left it.

        Args:
            prior: needed where a function of one's own described it (`Prior.line`). policy: needed where it is one's own.
        Raises:
            ValueError: the file is no session, or one of these is needed.
        """
        state = _read(Path(path))
        session = cls(
            _prior_from(state["prior"]) if prior is None else prior,
            _object_from(state["policy"], "policy") if policy is None else policy,
            _object_from(state["answers"], "answers"),
            state["seed"],
            state["confidence"],
        )
        for ranges, answer in state["history"]:
            session.posterior = session.posterior.given(Region(ranges), answer)
        session._queue = [Region(ranges) for ranges in state["queue"]]
        return session


def _read(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        state = None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"path={path} holds no session of format {FORMAT}; give a file that Session.save wrote")
    return state


def _state(value: Any) -> Any:
    """A policy or a kind of answers as JSON: its class and its fields, and theirs."""
    if isinstance(value, int | float | list | dict):
        return value
    held = {field.name: _state(getattr(value, field.name)) for field in fields(value)} if is_dataclass(value) else {}
    return {"kind": type(value).__name__, **held}


def _object_from(state: Any, name: str) -> Any:
    if not isinstance(state, dict) or "kind" not in state:
        return {int(key): value for key, value in state.items()} if isinstance(state, dict) else state
    if state["kind"] not in SAVED:
        raise ValueError(f"{name} was a {state['kind']}, which is not Tandem's; pass {name}=... to Session.load")
    return SAVED[state["kind"]](**{key: _object_from(value, key) for key, value in state.items() if key != "kind"})


def _prior_state(prior: Prior) -> dict[str, Any]:
    masses = None if prior.cumulative is None else np.diff(prior.cumulative).tolist()
    line = prior.quantile is not None
    return {
        "cells": prior.cells,
        "objects": prior.objects,
        "at_most_one": prior.at_most_one,
        "masses": masses,
        "line": line,
    }


def _prior_from(state: dict[str, Any]) -> Prior:
    objects = {int(number): share for number, share in state["objects"].items()}
    if state["line"]:
        raise ValueError(
            "prior was one on the line, whose quantile function is not in the file; pass prior=... to Session.load"
        )
    if state["masses"] is None:
        return Prior.uniform(state["cells"], k=objects, at_most_one=state["at_most_one"])
    return Prior.weights(state["masses"], k=objects, at_most_one=state["at_most_one"])


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial-{uuid4().hex[:8]}")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
