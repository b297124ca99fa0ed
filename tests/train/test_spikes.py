import pytest

from tandem.train import SpikeConfig
from tandem.train.spikes import SpikeDetector


def test_nothing_is_judged_before_a_quarter_of_the_window():
    detector = SpikeDetector(SpikeConfig(grad_norm=2.0, window=8))
    assert detector.judge(1.0, 1.0) is None
    assert detector.judge(1.0, 100.0) is None
    assert detector.judge(1.0, 1000.0) == "gradient norm 1000 is above 2 × the median 50.5"


def test_a_spike_does_not_raise_the_bar():
    detector = SpikeDetector(SpikeConfig(grad_norm=None, loss=3.0, window=4))
    assert detector.judge(1.0, 1.0) is None
    assert [detector.judge(4.0, 1.0) is None for _ in range(10)] == [False] * 10
    assert detector.judge(2.9, 1e9) is None


def test_losses_around_zero_are_never_spikes():
    detector = SpikeDetector(SpikeConfig(loss=3.0, window=4))
    assert all(detector.judge(loss, 1.0) is None for loss in (-1.0, -2.0, 0.0, 5.0, -3.0))


def test_infinities_are_left_out_and_counted():
    detector = SpikeDetector(SpikeConfig(max_consecutive=2))
    assert detector.judge(float("inf"), 1.0) == "loss is inf"
    assert detector.judge(1.0, 1.0) is None
    assert detector.judge(1.0, float("nan")) == "gradient norm is nan"
    other = SpikeDetector(SpikeConfig(max_consecutive=2))
    other.load_state_dict(detector.state_dict())
    with pytest.raises(ValueError, match="max_consecutive=2 steps in a row"):
        other.judge(1.0, float("nan"))
