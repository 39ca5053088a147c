"""Thresholds keep what they promise: of the images they were made from, and of new ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from dassl.utils.errors import InputError
from detector.calibration import calibrate, check_read
from ood.metrics import threshold_at_tpr

tied_scores = st.lists(st.integers(-5, 5).map(lambda i: i / 4), min_size=1, max_size=60)
rates = st.floats(0.01, 1.0)


@given(tied_scores, rates)
def test_at_least_the_asked_share_is_kept_and_no_more_than_needed(scores, tpr):
    found = calibrate(scores, tpr)
    kept = np.asarray(scores) >= found.value
    assert found.kept == kept.sum() >= found.required
    assert kept.mean() >= tpr - 1e-9 and found.value in scores
    stricter = [s for s in scores if s > found.value]
    needed = min(len(scores), tpr * (len(scores) + 1))
    assert len(stricter) < needed  # the next higher threshold would promise too little
    assert found.promised == (tpr * (len(scores) + 1) <= len(scores) + 1e-9)


@given(tied_scores, rates)
def test_never_stricter_than_the_threshold_of_fpr95(scores, tpr):
    of_the_set = threshold_at_tpr(scores, [0.1, -0.3], tpr, rule="first").threshold
    found = calibrate(scores, tpr).value
    assert found <= of_the_set
    # By one image at most: both are order statistics, of n and of n + 1.
    ordered = sorted(scores)
    assert found >= ordered[max(0, ordered.index(of_the_set) - 1)]


@given(tied_scores, rates, rates)
def test_keeping_more_never_raises_the_threshold(scores, one, other):
    low, high = sorted((one, other))
    assert calibrate(scores, high).value <= calibrate(scores, low).value


@given(tied_scores, rates)
def test_interval_holds_the_rate_of_the_set_itself_and_is_clopper_and_pearsons(scores, tpr):
    found = calibrate(scores, tpr)
    low, high = found.interval
    assert low <= found.required / found.images <= found.kept / found.images <= high
    proper = binomtest(found.kept, found.images).proportion_ci(0.95, method="exact")
    assert high == pytest.approx(proper.high) and low <= proper.low + 1e-12
    if found.kept == found.required:
        assert low == pytest.approx(proper.low)


@pytest.mark.parametrize(("n", "tpr"), [(19, 0.95), (40, 0.9), (200, 0.95)])
def test_new_images_are_kept_as_promised_over_many_draws(n, tpr):
    """The rate itself, 1 - F(threshold), of uniform scores: its mean, its law and the interval."""
    rng = np.random.default_rng(0)
    found = [calibrate(rng.random(n), tpr) for _ in range(4000)]
    rates_kept = np.array([1 - f.value for f in found])
    assert rates_kept.mean() >= tpr - 3 * rates_kept.std() / 4000**0.5
    law = beta(found[0].required, n + 1 - found[0].required)
    shares = [0.1, 0.5, 0.9]
    assert np.quantile(rates_kept, shares) == pytest.approx(law.ppf(shares), abs=0.01)
    inside = np.mean(
        [f.interval[0] <= rate <= f.interval[1] for f, rate in zip(found, rates_kept, strict=True)]
    )
    assert inside >= 0.945


def test_interval_covers_scores_with_ties():
    """Scores on ten steps: the rate of each step is known."""
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(3000):
        found = calibrate(rng.integers(0, 10, 50), 0.9)
        inside.append(found.interval[0] <= 1 - found.value / 10 <= found.interval[1])
    assert np.mean(inside) >= 0.945


def test_few_images_promise_nothing_and_say_so():
    assert calibrate(range(19)).promised and calibrate(range(19)).value == 0
    few = calibrate(range(18))
    assert few.value == 0 and few.kept == 18
    assert "0, which keeps 18 of 18 held-out ID images (100.00 %); of new ones 81.5 to" in str(few)
    assert "18 images are too few to promise 95 %" in str(few)
    assert not calibrate(range(500), 1.0).promised
    rounded = calibrate(range(99), 0.07)  # 0.07 * 100 is 7.000000000000001
    assert rounded.required == 7 and rounded.promised


def test_ties_raise_the_upper_end_alone():
    found = calibrate([0.0] * 10 + [*range(1, 11)], 0.5)
    assert (found.value, found.required, found.kept) == (0, 11, 20)
    assert found.interval == pytest.approx((beta(11, 10).ppf(0.025), 1))


@pytest.mark.parametrize(
    ("scores", "tpr", "says"),
    [
        ([], 0.95, "0 ID scores"),
        ([1.0, float("nan")], 0.95, "1 of them not finite"),
        ([1.0, float("-inf")], 0.95, "1 of them not finite"),
        ([1.0], 0.0, "lies in"),
        ([1.0], 95.0, "--tpr 95.0"),
        ([1.0], float("nan"), "lies in"),
    ],
)
def test_mistakes_are_told(scores, tpr, says):
    with pytest.raises(InputError, match=says):
        calibrate(scores, tpr)


@pytest.mark.parametrize("count, first", [(1, ""), (3, ""), (4, ", first")])
def test_the_first_unreadable_images_are_named(caplog, count, first):
    errors = [f"{name} is no image." for name in "abcd"[:count]]
    check_read(9, errors, "")
    assert (
        f"could not be read{first}: a is no image" in caplog.text and "d is no" not in caplog.text
    )
    with pytest.raises(InputError, match=f"no ID image to calibrate on in pets: .*read{first}: a"):
        check_read(0, errors, "pets")
    with pytest.raises(InputError, match=r"no ID image to calibrate on: give images, or a folder"):
        check_read(0, [], "")
