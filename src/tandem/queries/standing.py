"""How far a search is: what is certain, the best answer so far, and where objects may still be.

Letters: R rows, A atoms, C counts 0 … k.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

from tandem.queries.measures import sums
from tandem.queries.partition import Partition
from tandem.queries.posterior import Posterior, Rows
from tandem.queries.prior import Floats
from tandem.queries.region import Region
from tandem.queries.table import Table, runs_of


@dataclass(frozen=True)
class Standing:
    """A search after some answers; `str` says it in a sentence.

    Attributes:
        done: whether all objects are found, so that `guess` is the answer.
        certain: places of objects that are known, with repeats, each as likely as the session's confidence asks.
        guess: the most likely places of all objects; probability: of exactly these. An estimate where the posterior is one.
        open: where the other objects may be.
        questions: how many were answered. bits_left: entropy of where the objects are.
        stopped: why no more was asked: "questions" or "seconds" (the budget), "nothing to ask" (no question that the policy
            may ask tells more) or "".
    """

    done: bool
    certain: tuple[Any, ...]
    guess: tuple[Any, ...]
    probability: float
    open: Region
    questions: int
    bits_left: float
    stopped: str = ""

    def __str__(self) -> str:
        if self.done:
            return f"done after {self.questions} questions: {', '.join(map(str, self.guess)) or 'no objects'}"
        reason = f", stopped by {self.stopped}" if self.stopped else ""
        found = f"certain: {', '.join(map(str, self.certain))}; " if self.certain else ""
        starts, stops = self.open.starts, self.open.stops
        listed = starts.dtype.kind == "i"  # cells; on the line lengths, which have no number
        places = f"{int((stops - starts).sum()):,} places" if listed else f"{len(starts)} lengths"
        return (
            f"not done after {self.questions} questions{reason}: {found}others in {places}, {self.bits_left:.3g} bits left; "
            f"best guess {', '.join(map(str, self.guess))} with probability {self.probability:.2g}"
        )


def standing(posterior: Posterior, confidence: float, done: bool, stopped: str = "") -> Standing:
    """What a posterior says about a search."""
    rows, prior = _all_rows(posterior), posterior.prior
    sure_A = _sure(rows, confidence)
    held_A = np.bincount(rows.ids_RK[rows.ids_RK >= 0], minlength=rows.partition.atoms) > 0
    certain = [cell for atom in np.flatnonzero(sure_A) for cell in _cells(rows.partition, int(atom), int(sure_A[atom]))]
    known_A = sure_A == _highest(rows)
    likely, probability = most_likely(rows)
    return Standing(
        done,
        tuple(prior.place(np.array(sorted(certain), dtype=np.int64))),
        tuple(prior.place(np.array(likely, dtype=np.int64))),
        probability,
        prior.show(rows.partition.region(np.flatnonzero(held_A & ~known_A))),
        len(posterior.history),
        posterior.entropy(),
        stopped,
    )


def most_likely(rows: Rows) -> tuple[tuple[int, ...], float]:
    """The most likely cells of all objects, sorted, and the probability of exactly these.

    A row fixes how many objects each atom holds; within atoms they are independent, so that the best places of a row are the
    modes of its atoms. Cells of one atom that are alike tie, and the first of them are named.
    """
    runs, partition = runs_of(rows.ids_RK), rows.partition
    pairs, place = np.unique(np.stack([runs.atom, runs.count], axis=1), axis=0, return_inverse=True)
    modes = [_mode(partition, int(atom), int(count)) for atom, count in pairs]
    log_mode = np.array([value for _, value in modes])
    log_R = np.log(np.maximum(rows.weight_R, 1e-300))
    if len(modes):
        log_R = log_R + sums(runs.row, log_mode[place.ravel()], len(log_R))
    row = int(np.argmax(np.round(log_R, 9)))
    cells = [cell for mode in place.ravel()[runs.row == row] for cell in modes[mode][0]]
    return tuple(sorted(cells)), float(np.exp(log_R[row]))


def _mode(partition: Partition, atom: int, count: int) -> tuple[list[int], float]:
    """The most likely places of `count` objects in an atom, and the log of their probability."""
    if partition.prior.cumulative is None:
        cells = np.array(list(partition.region(np.array([atom])).first(count)), dtype=np.int64)
        share = np.full(len(cells), 1 / partition.size[atom])
    else:
        cells, share = partition.cells_of(atom), partition.cell_masses(atom) / partition.mass[atom]
        top = np.sort(np.argsort(-share, kind="stable")[:count])
        cells, share = cells[top], share[top]
    if partition.distinct is not None:
        log_distinct = float(np.log(partition.distinct[atom, count]))
        return cells.tolist(), float(gammaln(count + 1) + np.log(share).sum()) - log_distinct
    held = np.zeros(len(cells), dtype=np.int64)
    for _ in range(count):  # the mode of a multinomial, one object after the other
        held[int(np.argmax(share / (held + 1)))] += 1
    log_probability = gammaln(count + 1) + (held * np.log(share) - gammaln(held + 1)).sum()
    return np.repeat(cells, held).tolist(), float(log_probability)


def _all_rows(posterior: Posterior) -> Rows:
    engine = posterior.engine
    return posterior.rows(len(engine.weight_R)) if isinstance(engine, Table) else posterior.rows()


def _counts(rows: Rows) -> Floats:
    """P(an atom holds c objects), shape (A, C)."""
    runs, k = runs_of(rows.ids_RK), rows.ids_RK.shape[1]
    key = runs.atom * (k + 1) + runs.count
    counts_AC = sums(key, rows.weight_R[runs.row], rows.partition.atoms * (k + 1)).reshape(-1, k + 1)
    counts_AC[:, 0] = np.maximum(rows.weight_R.sum() - counts_AC[:, 1:].sum(1), 0.0)
    return counts_AC


def _sure(rows: Rows, confidence: float) -> np.ndarray:
    """How many objects each atom holds at least for certain, where that says which cells, shape (A,)."""
    counts_AC = _counts(rows)
    at_least_AC = np.cumsum(counts_AC[:, ::-1], axis=1)[:, ::-1]
    sure_A = (at_least_AC >= confidence - 1e-12).sum(1) - 1
    size = rows.partition.size
    full = (sure_A == size) & rows.partition.prior.at_most_one
    return np.where((size == 1) | full, np.maximum(sure_A, 0), 0)


def _highest(rows: Rows) -> np.ndarray:
    """The largest count of each atom that any row has, shape (A,)."""
    counts_AC = _counts(rows)
    return np.where(counts_AC > 0, np.arange(counts_AC.shape[1]), 0).max(1)


def _cells(partition: Partition, atom: int, count: int) -> list[int]:
    cells = list(partition.region(np.array([atom])).first(count))
    return cells if len(cells) > 1 else cells * count
