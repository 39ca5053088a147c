"""Means over seeds, the refusal to average what does not belong together, and outlying seeds."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from dassl.utils.errors import InputError
from results.averages import check_comparable, mean_and_spread, outliers, outlying_seeds


@pytest.fixture
def run(write_run, tmp_path):
    return lambda seed=1, **how: write_run(tmp_path / f"seed{seed}", seed, **how)


def test_mean_and_sample_deviation(run):
    runs = [run(seed) for seed in (1, 2, 3)]
    spread = mean_and_spread(runs)["GL-MCM"]["average"]["auroc"]
    values = [r.result["figures"]["GL-MCM"]["average"]["auroc"] for r in runs]
    assert spread.mean == pytest.approx(np.mean(values))
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    assert spread.runs == 3
    assert mean_and_spread(runs[:1])["MCM"]["nature"]["auroc"].std is None


@pytest.mark.parametrize(
    "change, key",
    [
        ({"classes": "cd34"}, "classes: 'ab12' and 'cd34'"),
        ({"transform": "bilinear 224"}, r"transform: '\(absent\)' and 'bilinear 224'"),
        ({"parameters": {"MCM": {"temperature": 0.5}}}, r"parameters.MCM.temperature: 1.0 and 0.5"),
        ({"sets": ("nature", "texture")}, "images .ID, OOD..MCM.indoor"),
        ({"n": 121}, "images .ID, OOD..MCM.nature: .120, 80. and .121, 80."),
    ],
)
def test_incomparable_runs_are_not_averaged(run, change, key):
    runs = [run(1), run(2), run(3, **change)]
    with pytest.raises(InputError, match=f"CoOp: .*seed1 and .*seed3 cannot be averaged.*{key}"):
        check_comparable(runs, "CoOp")


def test_other_conventions_are_not_averaged(run):
    other = copy.deepcopy(run(2).result)
    other["conventions"]["fpr95_id"] = "something else"
    with pytest.raises(InputError, match=r"differ in conventions.fpr95_id"):
        check_comparable([run(1), replace(run(2), result=other)])


def test_no_or_unlabelled_results(run):
    with pytest.raises(InputError, match="no result to average"):
        mean_and_spread([])
    bare = copy.deepcopy(run(1).result)
    del bare["provenance"]["comparable"]
    with pytest.raises(InputError, match="comparable"):
        check_comparable([replace(run(1), result=bare)])


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.284, 0.291, 0.457], [2]),  # one seed in three far off
        ([0.457, 0.284, 0.291, 0.30], [0]),
        ([0.30, 0.30, 0.31], []),
        ([0.30, 0.30, 0.35], []),  # two close by chance do not make the third an outlier
        ([0.30, 0.40, 0.50], []),  # seeds that scatter widely have no outlier
        ([0.1, 0.9], []),
        ([0.3], []),
    ],
)
def test_outliers(values, expected):
    assert outliers(values, 0.02) == expected


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("scatter", [0.005, 0.02, 0.03])
def test_noise_is_no_outlier(n, scatter):
    """Seeds that scatter up to half as much again as is typical: in 3 % of studies at most."""
    rng = np.random.default_rng(n)
    flagged = sum(bool(outliers(rng.normal(0.4, scatter, n).tolist(), 0.02)) for _ in range(600))
    assert flagged <= (9 if scatter == 0.02 else 24 if scatter > 0.02 else 0) + 3


def test_an_outlying_seed_is_named(run):
    runs = [run(1), run(2), run(3, shift=0.5, accuracy=0.2)]
    (note,) = outlying_seeds({"CoOp": runs})
    assert note.startswith("CoOp, seed 3 is far off the others: FPR95 of MCM ")
    assert "accuracy on ID 20.00 (others 50.00, 50.00)" in note
    assert outlying_seeds({"CoOp": [run(1), run(2), run(3)]}) == []
