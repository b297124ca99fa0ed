import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from tandem.queries import (
    BatchGreedyPolicy,
    BestRange,
    ConfusedAnswers,
    ContradictionError,
    DyadicPolicy,
    GaussianAnswers,
    GreedyPolicy,
    HalfGreedyPolicy,
    MissedAnswers,
    NoisyAnswers,
    PoissonAnswers,
    Posterior,
    Prior,
    RandomHalves,
    Region,
    SaturatedAnswers,
    Session,
)


def test_the_contract(tmp_path: Path):
    """The example of the package's contract, with an oracle."""
    hidden = (5, 77_777, 1_000_000)

    def count_in(region: Region) -> int:
        return sum(place in region for place in hidden)

    s = Session(Prior.uniform(2**20, k=3), policy=None, seed=0)
    assert s.ask() == s.ask()
    assert len(s.ask()) == 2**19
    while not s.done:
        s.tell(count_in(s.ask()))
    assert s.answer == hidden
    assert s.bits_left == 0.0
    assert s.questions_left == 0
    np.testing.assert_array_equal(np.flatnonzero(s.expected_counts()), hidden)
    s.save(tmp_path / "session.json")
    assert Session.load(tmp_path / "session.json").answer == hidden


def test_torch_is_not_imported():
    code = "import sys, tandem.queries; print(sorted({'torch', 'jaxtyping', 'matplotlib'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("seed", range(8))
def test_every_noiseless_search_finds_the_truth(seed: int):
    rng = np.random.default_rng(seed)
    cells, k = int(rng.integers(1, 300)), int(rng.integers(0, 5))
    weights = rng.random(cells) ** 3
    weights[rng.random(cells) < 0.2] = 0.0
    weights[0] = 1.0
    priors = [
        Prior.uniform(cells, k=k),
        Prior.weights(weights, k=k),
        Prior.uniform(cells, k={k: 0.5, k + 2: 0.5}),
        Prior.uniform(cells, k=min(k, cells), at_most_one=True),
        Prior.weights(weights, k=min(k, int((weights > 0).sum())), at_most_one=True),
    ]
    for prior in priors:
        truth = Posterior(prior).sample(1, seed=seed)[0]
        truth = truth[truth >= 0]
        session = Session(prior, seed=seed)
        while not session.done:
            session.tell(session.ask().count(truth))
            assert session.questions < 200
        assert session.answer == tuple(truth)


def test_the_same_seed_asks_the_same():
    def asked(seed: int) -> list[Region]:
        session, regions = Session(Prior.uniform(500, k=3), policy=RandomHalves(), seed=seed), []
        while not session.done:
            regions.append(session.ask())
            session.tell(regions[-1].count([3, 100, 499]))
        return regions

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


@pytest.mark.parametrize(
    ("policy", "answers"),
    [
        (HalfGreedyPolicy(restarts=1), None),
        (DyadicPolicy(then=GreedyPolicy(restarts=1)), None),
        (BatchGreedyPolicy(size=3), None),
        (BestRange(longest=20, per_cell=0.01), None),
        (None, NoisyAnswers({-1: 0.1, 0: 0.8, 1: 0.1})),
        (None, ConfusedAnswers([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.2, 0.8]])),
        (None, MissedAnswers(0.9)),
        (None, PoissonAnswers(4.0, 0.1)),
        (None, GaussianAnswers(0.3)),
        (None, SaturatedAnswers(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_session_goes_on_where_it_was_saved(policy: object, answers: object, tmp_path: Path):
    prior = Prior.uniform(32, k=2)
    session = Session(prior, policy=policy, answers=answers, seed=3)  # type: ignore[arg-type]
    truth, path = [4, 21], tmp_path / "s.json"
    for _ in range(60):
        if session.done:
            break
        session.ask()
        session.save(path)
        resumed = Session.load(path)
        assert resumed.ask_all() == session.ask_all()
        assert resumed.bits_left == pytest.approx(session.bits_left)
        x = session.ask().count(truth)
        session.tell(_likely(session, x))
    assert session.done
    assert session.answer == (4, 21)
    assert [item.name for item in tmp_path.iterdir()] == ["s.json"]


def _likely(session: Session, x: int) -> int:
    """A likely answer at a count."""
    answers = session.posterior.answers
    if isinstance(answers, PoissonAnswers):
        return round(answers.background + answers.rate * x)
    return min(x, 1) if isinstance(answers, SaturatedAnswers) else x


def test_weights_and_numbers_survive_saving(tmp_path: Path):
    prior = Prior.weights([1, 2, 0, 4], k={1: 0.25, 2: 0.75}, at_most_one=True)
    session = Session(prior)
    session.save(tmp_path / "s.json")
    loaded = Session.load(tmp_path / "s.json").prior
    np.testing.assert_allclose(loaded.cumulative, prior.cumulative)
    assert (loaded.objects, loaded.at_most_one) == (prior.objects, True)


def test_the_line_is_searched_down_to_its_cells(tmp_path: Path):
    prior = Prior.line(norm.ppf, k=2, cells=2**12)
    session, hidden = Session(prior), [-0.5, 1.25]
    assert session.ask().ranges == ((0.0, np.inf),)
    while not session.done:
        session.tell(session.ask().count(hidden))
    np.testing.assert_allclose(session.answer, hidden, atol=2e-3)
    session.save(tmp_path / "s.json")
    with pytest.raises(ValueError, match="pass prior="):
        Session.load(tmp_path / "s.json")
    assert Session.load(tmp_path / "s.json", prior=prior).answer == session.answer


class OneByOne:
    def questions(self, posterior: Posterior, rng: np.random.Generator) -> list[Region]:
        number = len(posterior.history)
        return [Region([(number, number + 1)])]


def test_a_policy_of_ones_own(tmp_path: Path):
    session = Session(Prior.uniform(4, k=1), policy=OneByOne())
    session.tell(0)
    session.save(tmp_path / "s.json")
    with pytest.raises(ValueError, match="policy was a OneByOne"):
        Session.load(tmp_path / "s.json")
    assert Session.load(tmp_path / "s.json", policy=OneByOne()).ask().ranges == ((1, 2),)


def test_wrong_answers_leave_the_session_as_it_was(tmp_path: Path):
    session = Session(Prior.uniform(8, k=2), policy=OneByOne())
    session.tell(1)
    session.ask()
    session.save(tmp_path / "before.json")
    for answer in (-1, 3, 0.5):
        with pytest.raises(ValueError, match=f"answer={answer} about 2 objects is impossible"):
            session.tell(answer)
    with pytest.raises(ContradictionError, match="questions 1, 2 cannot"):
        session.tell(2)
    session.save(tmp_path / "after.json")
    assert (tmp_path / "after.json").read_text() == (tmp_path / "before.json").read_text()
    session.tell(1)
    with pytest.raises(ValueError, match="the search is done"):
        session.ask()


def test_a_contradiction_is_diagnosed_and_can_be_retracted(tmp_path: Path):
    session = Session(Prior.uniform(8, k=2), seed=1)
    for region, answer in (((0, 4), 1), ((0, 6), 2), ((2, 4), 1)):
        session._queue = [Region([region])]
        session.tell(answer)
    session._queue = [Region([(6, 8)])]
    session.save(tmp_path / "before.json")
    with pytest.raises(ContradictionError) as caught:
        session.tell(1)
    assert caught.value.questions == (2, 4)
    session.save(tmp_path / "after.json")
    assert (tmp_path / "after.json").read_text() == (tmp_path / "before.json").read_text()
    session.retract(2)
    assert session.questions == 2
    session._queue = [Region([(6, 8)])]
    session.tell(1)
    session.tell(session.ask().count([3, 6]))
    with pytest.raises(ValueError, match="answered are 1 to"):
        session.retract(9)


def test_answers_that_cannot_say_more_end_with_a_reason():
    session = Session(Prior.uniform(1, k={1: 0.5, 2: 0.5}), answers=SaturatedAnswers(1))
    with pytest.raises(ValueError, match="no question tells apart"):
        session.ask()


def test_unfinished_searches_have_no_answer():
    session = Session(Prior.uniform(8, k=2))
    with pytest.raises(ValueError, match=r"not done, 5\.12 bits"):
        _ = session.answer
    assert session.questions_left == 4


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": 99})])
def test_other_files_are_refused(text: str, tmp_path: Path):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="holds no session of format 1"):
        Session.load(path)
