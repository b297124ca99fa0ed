"""The image screening of Rajan, Han, Sznitman, Frazier and Jedynak (ICML 2015, §4), and the same task by counting alone.

k targets, one pixel each, lie in an M × M image. Every row digit and every column digit is asked about, 2 log2 M dyadic questions
with exact or noisy answers; then a perfect oracle is called on pixels until all targets are found. Start at `screen`.

Letters: M pixels a side, L = log2 M digits, N = 2 L questions, K targets, P = M² pixels, rows first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import binom

from tandem.queries import Answers, ExactAnswers, GaussianAnswers, Prior, Session

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RANKINGS = ("IR", "PR", "IPR")

READ_OFF = {
    (2, 0.0): {"PR": (2.8, 9.5), "IPR": (2.0, 7.6)},
    (3, 0.0): {"PR": (4.0, 13.3), "IPR": (2.9, 10.3)},
    (10, 0.0): {"PR": (5.7, 18.9), "IPR": (4.9, 15.9)},
    (2, 0.5): {"PR": (None, 13.0), "IPR": (None, 10.8)},
    (3, 0.5): {"PR": (None, 15.3), "IPR": (None, 12.6)},
    (10, 0.5): {"PR": (None, 19.0), "IPR": (None, 16.5)},
    (2, 1.0): {"PR": (None, 16.0), "IPR": (None, 16.0)},
    (3, 1.0): {"PR": (None, 17.3), "IPR": (None, 16.5)},
    (10, 1.0): {"PR": (None, 19.2), "IPR": (None, 18.3)},
}
"""Mean log2 oracle calls at M = 8 and 1024 in the paper's figure 4, by k and noise, read off by eye to about 0.3."""


def screen(k: int, side: int, noise: float, trials: int, seed: int = 0) -> dict[str, Any]:
    """Oracle calls until all of k random targets are found, of each image, by ranking.

    IR goes through pixels row by row. PR ranks them once by the expected number of targets given the answers. IPR ranks again
    after each find, given the targets found (paper eq. 20); that a pixel was empty is not used, as in the paper.

    Args:
        noise: standard deviation of the Gaussian noise on an answer; 0 for exact ones.
    """
    calls: dict[str, list[int]] = {name: [] for name in RANKINGS}
    answers = GaussianAnswers(noise) if noise else ExactAnswers()
    for trial in range(trials):
        rng = np.random.default_rng([seed, k, side, trial])
        pixel_K = rng.integers(side * side, size=k)
        counts_N = pixel_digits(pixel_K, side).sum(0)
        answer_N = counts_N + noise * rng.standard_normal(len(counts_N))
        calls["IR"].append(int(pixel_K.max()) + 1)
        calls["PR"].append(calls_of(pixel_K, side, answer_N, answers, again=False))
        calls["IPR"].append(calls_of(pixel_K, side, answer_N, answers, again=True))
    return {"k": k, "side": side, "noise": noise, "calls": calls}


def pixel_digits(pixel_K: Integers, side: int) -> Integers:
    """Binary digits of the rows, then of the columns, of pixels, the first digit first, shape (K, N)."""
    digits = 2 * (side.bit_length() - 1)
    return (pixel_K[:, None] >> np.arange(digits - 1, -1, -1)) & 1


def calls_of(pixel_K: Integers, side: int, answer_N: Floats, answers: Answers, *, again: bool) -> int:
    """Oracle calls until all targets are found, ranking the pixels once or again after each find."""
    likelihood_NX = np.stack([answers.likelihood(float(answer), len(pixel_K)) for answer in answer_N])
    open_P = np.ones(side * side, dtype=bool)
    left_K, found = np.unique(pixel_K), np.empty(0, dtype=np.int64)
    calls = 0
    while len(left_K):
        map_P = expected_map(likelihood_NX, pixel_digits(found, side).sum(0), len(pixel_K) - len(found))
        order = np.lexsort((left_K, -map_P[left_K]))
        pixel = int(left_K[order[0 if again else -1]])
        called_P = open_P & ((map_P > map_P[pixel]) | ((map_P == map_P[pixel]) & (np.arange(len(map_P)) <= pixel)))
        calls += int(called_P.sum())
        open_P &= ~called_P
        if not again:
            return calls
        found = np.concatenate([found, pixel_K[pixel_K == pixel]])
        left_K = left_K[left_K != pixel]
    return calls


def expected_map(likelihood_NX: Floats, found_N: Integers, left: int) -> Floats:
    """Log of the expected number of targets still to be found in each pixel, up to a constant, shape (P,).

    Π_n (e_n / k)^s (1 - e_n / k)^(1 - s) with s the pixel's digit n and e_n = E[Z_n | y_n], Z_n ~ Bin(k, ½), of the k targets left
    (paper Theorem 3); `found_N` targets with the digit are known. Rounded to 9 digits, because ties are many and go by index.
    """
    j = np.arange(left + 1)
    weight_NX = binom(left, j) * np.take_along_axis(likelihood_NX, found_N[:, None] + j, axis=1)
    share_N = (weight_NX @ j) / (left * weight_NX.sum(1))
    with np.errstate(divide="ignore"):  # log 0: no target can be there
        one_N, zero_N = np.log(share_N), np.log1p(-share_N)
    digits = len(share_N) // 2
    row, column = np.zeros(1), np.zeros(1)
    for n in range(digits):
        row = np.add.outer(row, [zero_N[n], one_N[n]]).ravel()
        column = np.add.outer(column, [zero_N[digits + n], one_N[digits + n]]).ravel()
    return np.asarray(np.round(np.add.outer(row, column).ravel(), 9), dtype=np.float64)


def count_instead(k: int, side: int, trials: int, seed: int = 0) -> dict[str, Any]:
    """Questions that half-greedy searches need to find the targets by exact counts alone."""
    questions = []
    for trial in range(trials):
        truth = np.random.default_rng([seed, k, side, trial]).integers(side * side, size=k)
        session = Session(Prior.uniform(side * side, k=k), seed=trial)
        while not session.done:
            session.tell(session.ask().count(truth))
        questions.append(session.questions)
    return {"k": k, "side": side, "questions": questions}
