"""The oracles themselves, on cases worked out by hand."""

import math

import pytest

from tests import oracles


def test_metrics_by_hand():
    inside, outside = [3, 2, 2], [2, 1]
    # Pairs: 3 beats both, each 2 ties once and wins once: 2 + 1.5 + 1.5 of 6.
    assert oracles.auroc(inside, outside) == 5 / 6
    # At threshold 3: recall 1/3, precision 1. At 2: recall 1, precision 3/4.
    assert oracles.aupr_in(inside, outside) == pytest.approx(1 / 3 + 2 / 3 * 3 / 4)
    assert oracles.fpr(inside, outside) == 0.5
    assert oracles.fpr(inside, outside, 1 / 3) == 0
    # Half way from (0, 1/3) to (1/2, 1).
    assert oracles.fpr(inside, outside, 2 / 3, rule="interpolated") == pytest.approx(0.25)
    # OOD positive: 95 % of [2, 1] needs threshold 2, which rejects two of three ID images.
    assert oracles.fpr(inside, outside, positive="ood") == pytest.approx(2 / 3)


def test_learning_rate_of_the_published_schedule():
    assert oracles.lr(0, 50) == 1e-5
    assert oracles.lr(1, 50) == 0.002
    assert oracles.lr(49, 50) == pytest.approx(7.9e-6, rel=0.01)


def test_locoop_loss_by_hand():
    cosines, local = [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]]
    # Label 0, K = 1: only the second region is irrelevant; with scale 0 its softmax is uniform.
    expected = math.log(2) - 0.25 * -math.log(0.5 + 1e-5)
    assert oracles.locoop_loss(cosines, local, 0.0, [0], 1, 0.25) == pytest.approx(expected)
    # K = 2: no region is irrelevant.
    assert oracles.locoop_loss(cosines, local, 5.0, [0], 2, 0.25) == pytest.approx(math.log(2))


def test_scores_by_hand():
    row = [[math.log(1), math.log(3)]]
    assert oracles.msp(row) == [pytest.approx(0.75)]
    assert oracles.mcm([[0.0, 0.5 * math.log(3)]], 0.5) == [pytest.approx(0.75)]
    assert oracles.energy(row) == [pytest.approx(math.log(4))]
    assert oracles.entropy(row) == [pytest.approx(0.25 * math.log(0.25) + 0.75 * math.log(0.75))]
    assert oracles.gl_mcm(row, [[[0.0, 0.0], row[0]]], 1.0, 0.5) == [pytest.approx(0.75 * 1.5)]
    assert oracles.maxlogit(row) == [math.log(3)]
