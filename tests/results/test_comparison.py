"""Two methods on the same images."""

import csv

import numpy as np
import pytest

from dassl.utils.errors import InputError
from ood.metrics import auroc
from results import delong
from results.comparison import Side, compare, find_sides, two_sided_p
from results.runs import gather

RNG = np.random.default_rng(3)


def sides(study, first="LoCoOp", second="CoOp"):
    return find_sides(gather([study]), f"{first}:MCM", f"{second}:MCM")[0]


def test_the_other_way_round_is_the_mirror_image(study):
    first, second = sides(study)
    there, back = compare(first, second, 200), compare(second, first, 200)
    assert [d.set_name for d in there[::3]] == ["nature", "indoor", "average"]
    for a, b in zip(there, back, strict=True):
        assert (a.set_name, a.metric) == (b.set_name, b.metric)
        assert (a.first, a.second) == (b.second, b.first)
        assert a.difference == -b.difference
        assert (a.low, a.high) == pytest.approx((-b.high, -b.low), abs=1e-12)
        assert a.p == b.p and a.p_delong == pytest.approx(b.p_delong)
        assert a.seeds == 3 and a.wins + b.wins <= 3


def test_a_better_method_is_found_better(study):
    found = {(d.set_name, d.metric): d for d in compare(*sides(study), 300)}
    row = found["average", "auroc"]
    assert row.low < row.difference < row.high and row.low > 0
    assert row.p <= 0.01 and row.p_delong < 0.01 and row.wins == 3
    runs = {name: gather([study])[name] for name in ("LoCoOp", "CoOp")}
    means = [
        np.mean([r.result["figures"]["MCM"]["average"]["auroc"] for r in own])
        for own in runs.values()
    ]
    assert row.difference == pytest.approx(means[0] - means[1])


def test_equal_scores_do_not_differ(write_run, tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    for row in compare(Side("a", runs[:1], "MCM"), Side("b", runs[1:], "MCM"), 100):
        assert row.low == row.high == row.difference == 0 and row.p == 1
        assert row.p_delong in (None, 1) and row.wins == 0


def test_p_values():
    assert two_sided_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.array([-1.0] * 99 + [1.0] * 900)) == pytest.approx(2 * 100 / 1000)
    assert two_sided_p(np.zeros(10)) == 1


def test_the_order_of_images_does_not_matter(study):
    before = compare(*sides(study), 100)
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([header, *RNG.permutation(rows)]) + "\n", encoding="utf-8")
    assert compare(*sides(study), 100) == before


def test_other_images_are_refused(study):
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    rows[5][0] = "nature/other.png"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(InputError, match=r"same images of nature .*80 and 80; nature/class0/4.png"):
        compare(*sides(study), 100)


def test_what_cannot_be_compared(study, write_run, tmp_path_factory):
    groups = gather([study])
    for arguments, words in (
        (("CoOp", "CoOp"), "compared with itself"),
        (("CoOp", "LoCoop"), "Did you mean 'LoCoOp'"),
        (("CoOp:MCMM", "LoCoOp"), "score of CoOp"),
    ):
        with pytest.raises(InputError, match=words):
            find_sides(groups, *arguments)
    assert [str(side) for side in find_sides(groups, "CoOp:GL-MCM", "CoOp:MCM")[0]] == [
        "CoOp, GL-MCM",
        "CoOp, MCM",
    ]
    assert [first.score for first, _ in find_sides(groups, "CoOp", "LoCoOp")] == ["MCM", "GL-MCM"]
    other = write_run(tmp_path_factory.mktemp("other"), sets=("nature",))
    with pytest.raises(InputError, match="different OOD sets"):
        compare(Side("CoOp", groups["CoOp"], "MCM"), Side("other", [other], "MCM"), 100)
    with pytest.raises(InputError, match="at least 100 resamples"):
        compare(*sides(study), 10)


def slow_delong(inside, outside):
    """AUROC and its variance from all pairs, by the paper's sums."""
    kernel = np.array([[1.0 if i > o else 0.5 if i == o else 0.0 for o in outside] for i in inside])
    v10, v01, mean = kernel.mean(axis=1), kernel.mean(axis=0), kernel.mean()
    s10 = sum((v - mean) ** 2 for v in v10) / (len(inside) - 1)
    s01 = sum((v - mean) ** 2 for v in v01) / (len(outside) - 1)
    return mean, s10 / len(inside) + s01 / len(outside)


def test_delong_is_the_sum_over_pairs():
    inside, outside = RNG.integers(0, 9, 40) / 4, RNG.integers(-4, 6, 30) / 4  # with ties
    found, (mean, variance) = delong.placements(inside, outside), slow_delong(inside, outside)
    assert found.mean == pytest.approx(mean) == pytest.approx(auroc(inside, outside))
    assert found.standard_error**2 == pytest.approx(variance)


def test_delong_of_paired_differences_by_simulation():
    """What it calls the standard error is how much the difference scatters over new images."""
    differences, errors = [], []
    for _ in range(400):
        parts = []
        common = RNG.normal(1, 1, 80), RNG.normal(0, 1, 60), RNG.normal(0.2, 1, 50)
        for _ in range(2):
            inside, *sets = (c + RNG.normal(0, 0.5, len(c)) for c in common)
            parts.append(delong.mean_over_sets([delong.placements(inside, s) for s in sets]))
        difference = parts[0] - parts[1]
        differences.append(difference.mean)
        errors.append(difference.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.12)


def test_delong_of_the_mean_over_runs():
    outside, runs = RNG.normal(0, 1, 30), [RNG.normal(1, 1, 40) for _ in range(3)]
    mean = delong.mean_over_runs([delong.placements(inside, outside) for inside in runs])
    assert mean.mean == pytest.approx(np.mean([auroc(inside, outside) for inside in runs]))
    assert delong.two_sided_p(mean - mean) == 1
