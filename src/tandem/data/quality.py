"""A small quality classifier: does a text look more like the given good examples or the given bad ones?

It knows words and nothing else, so it finds what differs in vocabulary (prose against menus, logs, spam); it does not
judge truth or style. Optional: no corpus is filtered with it unless examples are given.
"""

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse

from tandem.data.documents import Document

_WORD = re.compile(r"\w+|[^\w\s]")
_BUCKETS = 1 << 16
_FEW = 4


class QualityClassifier:
    """Logistic regression on which words and word pairs occur, hashed into 65,536 buckets.

        P(good | text) = σ(b + w·x),  x the L2-normalized indicator of the buckets

    Fitted by L-BFGS on the mean log loss plus `penalty`/2·‖w‖²; the two classes count equally whatever their sizes.

    Raises:
        ValueError: fewer than 4 texts of a class.
    """

    def __init__(self, good: Sequence[str], bad: Sequence[str], *, penalty: float = 1e-4) -> None:
        for name, texts in (("good", good), ("bad", bad)):
            if len(texts) < _FEW:
                raise ValueError(f"quality.{name} has {len(texts)} texts; give at least {_FEW}, better hundreds")
        from scipy import optimize, special  # here: only those who classify pay for loading it

        features = _features([*good, *bad])
        sign = np.repeat([1.0, -1.0], [len(good), len(bad)])
        share = np.repeat([0.5 / len(good), 0.5 / len(bad)], [len(good), len(bad)])

        def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            weights, bias = parameters[:-1], parameters[-1]
            margin = sign * (features @ weights + bias)
            slope = -share * sign * special.expit(-margin)
            gradient = np.append(features.T @ slope + penalty * weights, slope.sum())
            return float(share @ np.logaddexp(0, -margin) + penalty / 2 * weights @ weights), gradient

        fitted = optimize.minimize(loss, np.zeros(_BUCKETS + 1), jac=True, method="L-BFGS-B")
        self._weights, self._bias = fitted.x[:-1], float(fitted.x[-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(self._weights.tobytes()).hexdigest()

    def scores(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Probability of being good, one a text."""
        from scipy import special

        return special.expit(_features(texts) @ self._weights + self._bias)

    def stage(self, threshold: float = 0.5) -> Callable[[Iterable[Document]], Iterator[Document]]:
        """A cleaning step that keeps documents with a score of at least `threshold`."""
        return lambda documents: (d for d in documents if self.scores([d.text])[0] >= threshold)


def _features(texts: Sequence[str]) -> "sparse.csr_matrix":
    """One row a text: the hashed words and word pairs in it, each row of length 1."""
    from scipy import sparse

    columns: list[npt.NDArray[np.int64]] = []
    for text in texts:
        words = _WORD.findall(text.casefold())
        pairs = [f"{first} {second}" for first, second in itertools.pairwise(words)]
        columns.append(np.unique([zlib.crc32(item.encode()) % _BUCKETS for item in [*words, *pairs]]).astype(np.int64))
    counts = np.array([len(row) for row in columns])
    values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    indices = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
    return sparse.csr_matrix((values, indices, ends), shape=(len(texts), _BUCKETS))
