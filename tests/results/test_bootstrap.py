"""The bootstrap against its definition, image by image, and its intervals' coverage."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ood.metrics import auroc, fpr_at_tpr
from results.bootstrap import METRICS, interval, resample, two_sided_p

RNG = np.random.default_rng(7)
INSIDE = [RNG.normal(1, 1, 90), RNG.normal(2, 1, 90)]
OUTSIDE = {
    "SUN": [RNG.normal(0, 1, 70), RNG.normal(0, 1, 70)],
    "Places": [RNG.normal(0, 1, 41), RNG.normal(0, 2, 41)],
}


def slow(inside, outside, name, resamples, seed):
    """The same figures by drawing images and calling the metrics."""
    n, m = len(inside), len(outside)
    drawn_id = np.random.default_rng([seed]).integers(0, n, (resamples, n))
    drawn_ood = np.random.default_rng([seed, *name.encode()]).integers(0, m, (resamples, m))
    pairs = [(inside[i], outside[o]) for i, o in zip(drawn_id, drawn_ood, strict=True)]
    return np.array([[fpr_at_tpr(i, o), auroc(i, o)] for i, o in pairs])


def some_scores(step):
    """Few distinct values: ties inside a class and between the classes."""
    values = st.integers(-6, 6).map(lambda i: i * step)
    return arrays(np.float32, st.integers(1, 45), elements=values)


@pytest.mark.slow
@given(inside=some_scores(0.25), outside=some_scores(0.25), seed=st.integers(0, 2**32))
def test_every_resample_has_the_metrics_of_its_images(inside, outside, seed):
    found = resample([inside], {"SUN": [outside]}, 4, seed)[0, :, 0]
    assert METRICS == ("fpr95_id_nearest", "auroc")
    assert found == pytest.approx(slow(inside, outside, "SUN", 4, seed), abs=1e-12)


def test_many_scores_and_sets_at_once():
    found = resample(INSIDE, OUTSIDE, 30, seed=5)
    assert found.shape == (2, 30, 3, 2)
    assert found[:, :, 2] == pytest.approx(found[:, :, :2].mean(axis=2))
    for k in range(2):
        for column, (name, scores) in enumerate(OUTSIDE.items()):
            expected = slow(INSIDE[k], scores[k], name, 30, 5)
            assert found[k, :, column] == pytest.approx(expected, abs=1e-12)


def test_of_equally_near_thresholds_the_laxest_counts():
    """47 and 48 of 50 are equally near to 95 %, also in floating point."""
    inside, outside = RNG.normal(1, 1, 50), RNG.normal(0, 1, 400)
    found = resample([inside], {"SUN": [outside]}, 60)[0, :, 0]
    assert found == pytest.approx(slow(inside, outside, "SUN", 60, 0), abs=1e-12)


@pytest.mark.parametrize("count", [7, 60])  # of 7 images all are kept: 6 are further from 95 %
def test_ties_count_half_and_thresholds_lie_between_images(count):
    inside, outside = RNG.integers(0, 9, count) / 4, RNG.integers(-3, 7, 50) / 4
    found = resample([inside], {"SUN": [outside]}, 40)[0, :, 0]
    assert found == pytest.approx(slow(inside, outside, "SUN", 40, 0), abs=1e-12)


def test_company_changes_nothing():
    whole = resample(INSIDE, OUTSIDE, 30)
    assert (resample(INSIDE, OUTSIDE, 20) == whole[:, :20]).all()
    alone = resample(INSIDE[1:], {"Places": OUTSIDE["Places"][1:]}, 30)
    assert (alone[0, :, 0] == whole[1, :, 1]).all()
    assert (resample(INSIDE, OUTSIDE, 30, seed=1) != whole).any()


def test_interval_is_of_the_percentiles():
    assert interval(np.arange(1001)) == pytest.approx((25, 975))


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Two normal distributions one apart: both figures are known. 95 % of 200: 190 +- 3."""
    normal, rng = NormalDist(), np.random.default_rng(11)
    truth = {
        "auroc": normal.cdf(1 / 2**0.5),
        "fpr95_id_nearest": 1 - normal.cdf(1 + normal.inv_cdf(0.05)),
    }
    held = dict.fromkeys(truth, 0)
    for trial in range(200):
        inside, outside = rng.normal(1, 1, 120), rng.normal(0, 1, 100)
        figures = resample([inside], {"SUN": [outside]}, 200, trial)[0, :, 0]
        for name, value in truth.items():
            low, high = interval(figures[:, METRICS.index(name)])
            held[name] += low <= value <= high
    assert 180 <= held["auroc"] <= 198
    assert 176 <= held["fpr95_id_nearest"] <= 198


def test_p_values():
    assert two_sided_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.array([-1.0] * 99 + [1.0] * 900)) == pytest.approx(2 * 100 / 1000)
    assert two_sided_p(np.zeros(10)) == 1
