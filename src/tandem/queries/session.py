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
from tandem.queries.constraints import Constraints, constrained
from tandem.queries.policies import (
    BatchGreedyPolicy,
    BestBox,
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
from tandem.queries.standing import Standing, standing

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
            BestBox,
            BestRange,
            SequentialBifurcation,
            RandomHalves,
            EntropyPursuit,
        ),
        *(Constraints, Region),
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
        constraints: what a question may be; the policy keeps them.
    Raises:
        ValueError: the policy cannot keep the constraints, or no question can.
    """

    def __init__(
        self,
        prior: Prior,
        policy: Policy | None = None,
        answers: Answers | None = None,
        seed: int = 0,
        confidence: float | None = None,
        constraints: Constraints | None = None,
    ):
        self.policy: Policy = HalfGreedyPolicy() if policy is None else policy
        if constraints is not None:
            self.policy = constrained(self.policy, constraints)
        self.constraints: Constraints = getattr(self.policy, "constraints", Constraints())
        if self.constraints.used:
            self.constraints.allowed(prior)
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
            rng = np.random.default_rng([self.seed, self.questions])
            self._queue = self._checked(self.policy.questions(self.posterior, rng))
        return [self.prior.show(region) for region in self._queue]

    def ask_ahead(self, number: int) -> list[Region]:
        """Questions that are open together, up to `number`: those asked before that have no answer yet, then new ones.

        New ones are chosen by what they reveal beside the open ones. Policies that cannot choose so (all but `HalfGreedyPolicy`
        and `BatchGreedyPolicy`) ask as many as `ask_all` gives.

        Raises:
            ValueError: the search is done.
        """
        self.ask_all()
        beside = getattr(self.policy, "beside", None)
        while beside is not None and len(self._queue) < number:
            rng = np.random.default_rng([self.seed, self.questions, len(self._queue)])
            region = beside(self.posterior, self._queue, rng)
            if region is None:
                break
            self._queue = [*self._queue, *self._checked([region])]
        return self.ask_all()

    def tell(self, answer: float, question: Region | None = None) -> None:
        """Takes the answer to the question of `ask`, or to any question that is open.

        Args:
            question: as `ask_all` or `ask_ahead` gave it.
        Raises:
            ValueError: the answer is impossible, by itself or (`ContradictionError`, which names the questions) given the
                others; or the question is not open. The session is as it was.
        """
        asked = self.ask_all()
        place = 0 if question is None else next((i for i, region in enumerate(asked) if region == question), None)
        if place is None:
            raise ValueError(f"question={question} is not open; open are the {len(asked)} that ask_all() gives")
        self.posterior = self.posterior.given(self._queue[place], answer)
        self._queue = [*self._queue[:place], *self._queue[place + 1 :]]

    def _checked(self, regions: list[Region]) -> list[Region]:
        if self.constraints.used:
            for region in regions:
                self.constraints.check(region, self.prior)
        return regions

    def retract(self, question: int) -> None:
        """Takes back the answer to a question, counted from 1, and so what was learned from it. Other answers stay.

        Raises:
            ValueError: there is no such answer.
        """
        if not 1 <= question <= self.questions:
            answered = f"1 to {self.questions}" if self.questions else "none yet"
            raise ValueError(f"question={question} has no answer; answered are {answered}")
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
    def answer(self) -> tuple[Any, ...]:
        """Where the objects are, sorted, with repeats where several share a cell; tuples where cells have several axes.

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
        """How many objects to expect in each cell, shape (cells,), or that of the axes."""
        return self.posterior.expected_counts().reshape(self.prior.shape or -1)

    def standing(self, stopped: str = "") -> Standing:
        """What is certain, the best answer so far, and what is open, at any time."""
        return standing(self.posterior, self.confidence, self.done, stopped)

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
            prior: needed where functions of one's own described it (`Prior.line`, `Prior.space`). policy: needed where it is one's own.
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
    if value is None or isinstance(value, str | int | float | list | dict):
        return value
    if isinstance(value, Region):
        return {"kind": "Region", "ranges": value.ranges}
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
    line = prior.quantile is not None or prior.axes is not None
    return {
        "cells": prior.cells,
        "objects": prior.objects,
        "at_most_one": prior.at_most_one,
        "masses": masses,
        "line": line,
        "shape": prior.shape,
    }


def _prior_from(state: dict[str, Any]) -> Prior:
    objects = {int(number): share for number, share in state["objects"].items()}
    if state["line"]:
        raise ValueError(
            "prior was one on the line or in space, whose quantile functions are not in the file; pass prior=... to Session.load"
        )
    if state.get("shape") is not None:
        if state["masses"] is None:
            return Prior.grid(state["shape"], k=objects, at_most_one=state["at_most_one"])
        masses = np.array(state["masses"]).reshape(state["shape"])
        return Prior.image(masses, k=objects, at_most_one=state["at_most_one"])
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
