"""Metrics against definitions, the public code's numbers, and the published row."""

import gzip
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy import ma

from dassl.utils.errors import InputError
from ood.metrics import (
    CONVENTIONS,
    POSITIVES,
    PRIMARY,
    RULES,
    aupr_in,
    aupr_out,
    auroc,
    fpr_at_tpr,
    ood_metrics,
    roc_points,
    threshold_at_tpr,
)
from tests import oracles

with np.load(Path(__file__).parents[1] / "golden" / "ood_metrics.npz") as arrays:
    GOLDEN = dict(arrays)  # <project>/<case>/{id, ood, expected}; no `expected` = upstream fails
CASES = sorted({key.rsplit("/", 1)[0] for key in GOLDEN})
DEFINED = [case for case in CASES if f"{case}/expected" in GOLDEN]
REAL = Path(__file__).parents[3] / "shared" / "real" / "scores" / "mcm_zero_shot_vit-b16"
# Rates are quotients of counts and must agree to the bit; areas are sums, whose last bit is
# scikit-learn's affair.
LAST_BITS = 1e-15

# Few distinct values: nearly every threshold is shared by several images of both sets.
tied = st.lists(st.integers(-3, 4).map(lambda n: n / 2), min_size=1, max_size=25)
free = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=25)
levels = st.sampled_from([0.05, 0.5, 0.8, 0.9, 0.95, 1.0])


@given(st.one_of(st.tuples(tied, tied), st.tuples(free, free)))
def test_areas_are_their_definitions(sets):
    assert auroc(*sets) == pytest.approx(oracles.auroc(*sets), abs=1e-12)
    assert aupr_in(*sets) == pytest.approx(oracles.aupr_in(*sets), abs=1e-12)
    assert aupr_out(*sets) == pytest.approx(oracles.aupr_out(*sets), abs=1e-12)


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("rule", RULES)
@given(sets=st.one_of(st.tuples(tied, tied), st.tuples(free, free)), tpr=levels)
def test_fpr_is_a_scan_of_thresholds(positive, rule, sets, tpr):
    expected = oracles.fpr(*sets, tpr, positive, rule)
    assert fpr_at_tpr(*sets, tpr, positive, rule) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("rule", ["nearest", "first"])
@given(sets=st.tuples(tied, tied), tpr=levels)
def test_threshold_gives_the_rates_it_claims(positive, rule, sets, tpr):
    inside, outside = map(np.array, sets)
    point = threshold_at_tpr(inside, outside, tpr, positive, rule)
    if positive == "id":
        rates = np.mean(inside >= point.threshold), np.mean(outside >= point.threshold)
    else:
        rates = np.mean(outside <= point.threshold), np.mean(inside <= point.threshold)
    assert (point.tpr, point.fpr) == rates
    assert rule == "nearest" or point.tpr >= tpr


@given(sets=st.tuples(tied, tied))
def test_roc_points_span_the_square(sets):
    x, y = roc_points(*sets)
    assert (x[0], y[0]) == (0, 0) and (x[-1], y[-1]) == (1, 1)
    assert (np.diff(x) >= 0).all() and (np.diff(y) >= 0).all()
    assert np.trapezoid(y, x) == pytest.approx(auroc(*sets), abs=1e-12)


@pytest.mark.slow
@given(sets=st.tuples(tied, tied))
def test_only_the_order_of_scores_matters(sets):
    mapped = [np.exp(3 * np.array(s)) - 7 for s in sets]
    assert ood_metrics(*mapped) == ood_metrics(*sets)


@pytest.mark.slow
@given(sets=st.tuples(tied, tied))
def test_swapping_the_roles(sets):
    inside, outside = map(np.array, sets)
    figures, swapped = ood_metrics(inside, outside), ood_metrics(-outside, -inside)
    assert swapped["auroc"] == pytest.approx(figures["auroc"], abs=1e-12)
    assert swapped["aupr_in"] == figures["aupr_out"]
    for rule in RULES:
        assert swapped[f"fpr95_id_{rule}"] == figures[f"fpr95_ood_{rule}"]
    assert auroc(outside, inside) == pytest.approx(1 - figures["auroc"], abs=1e-12)


@pytest.mark.slow
@given(sets=st.tuples(tied, tied), seed=st.integers(0, 99))
def test_image_order_does_not_matter(sets, seed):
    shuffled = [np.random.default_rng(seed).permutation(s) for s in sets]
    assert ood_metrics(*shuffled) == ood_metrics(*sets)


def test_ood_metrics_is_the_single_functions():
    rng = np.random.default_rng(1)
    sets = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    figures = ood_metrics(*sets)
    assert figures["auroc"] == auroc(*sets)
    assert (figures["aupr_in"], figures["aupr_out"]) == (aupr_in(*sets), aupr_out(*sets))
    for positive in POSITIVES:
        for rule in RULES:
            name = f"fpr95_{positive}_{rule}"
            assert figures[name] == fpr_at_tpr(*sets, positive=positive, rule=rule)
    assert (figures["n_id"], figures["n_ood"]) == (300, 200)
    assert PRIMARY in figures
    explained = {"auroc", "aupr_in", "aupr_out", "fpr95_id", "fpr95_ood", *RULES}
    assert explained <= set(CONVENTIONS)


def test_both_conventions_differ():
    """One set of scores, two figures far apart: why a figure must name its positive class."""
    inside = np.concatenate([np.linspace(1, 2, 80), np.linspace(-1, 0, 20)])
    outside = np.concatenate([np.linspace(0.1, 0.9, 55), np.linspace(-0.75, 0, 40), [1.1] * 5])
    figures = ood_metrics(inside, outside)
    assert figures["fpr95_id_first"] > 2 * figures["fpr95_ood_first"]


@pytest.mark.parametrize("case", [c for c in DEFINED if not c.startswith("clipn/")])
def test_public_locoop_and_mcm_metrics(case):
    inside, outside = GOLDEN[f"{case}/id"], GOLDEN[f"{case}/ood"]
    area, precision, *rates = GOLDEN[f"{case}/expected"]
    assert auroc(inside, outside) == pytest.approx(area, abs=LAST_BITS)
    assert aupr_in(inside, outside) == pytest.approx(precision, abs=LAST_BITS)
    assert [fpr_at_tpr(inside, outside, tpr) for tpr in (0.95, 0.5, 0.8)[: len(rates)]] == rates


@pytest.mark.parametrize("case", [c for c in DEFINED if c.startswith("clipn/")])
def test_public_clipn_metrics(case):
    inside, outside = GOLDEN[f"{case}/id"], GOLDEN[f"{case}/ood"]
    area, rate = GOLDEN[f"{case}/expected"]
    assert auroc(inside, outside) == pytest.approx(area, abs=LAST_BITS)
    assert fpr_at_tpr(inside, outside, rule="interpolated") == pytest.approx(rate, abs=LAST_BITS)


@pytest.mark.parametrize("case", sorted(set(CASES) - set(DEFINED)))
def test_what_public_code_cannot_do_is_refused(case):
    """Empty sets, NaN, infinity: upstream raises something or returns NaN."""
    with pytest.raises(InputError, match=r"^(ID|OOD) scores (are empty|hold NaN or infinity)"):
        ood_metrics(GOLDEN[f"{case}/id"], GOLDEN[f"{case}/ood"])


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared real scores, research use only")
@pytest.mark.parametrize(
    "name, published", [("iNaturalist", (32.07, 94.43, 98.82)), ("Texture", (57.89, 86.13, 98.04))]
)
def test_published_row_from_real_scores(name, published):
    """Zero-shot CLIP ViT-B/16 with MCM on ImageNet; the files hold lower = more ID."""
    files = [REAL / "ID_ImageNet1K.csv.gz", REAL / f"OOD_{name}.csv.gz"]
    sets = []
    for path in files:
        with gzip.open(path, "rt") as file:
            sets.append(-np.loadtxt(file, skiprows=1).astype(np.float32))
    figures = ood_metrics(*sets)
    shown = (figures[PRIMARY], figures["auroc"], figures["aupr_in"])
    assert tuple(round(100 * value, 2) for value in shown) == published


def test_figures_of_known_distributions():
    """Two normal distributions one standard deviation and a half apart: figures from theory."""
    rng = np.random.default_rng(7)
    figures = ood_metrics(rng.normal(1.5, 1, 40000), rng.normal(0, 1, 40000))
    assert figures["auroc"] == pytest.approx(0.8556, abs=0.004)  # Phi(1.5 / sqrt 2)
    assert figures[PRIMARY] == pytest.approx(0.5576, abs=0.012)  # Phi(1.645 - 1.5)
    assert figures["fpr95_ood_nearest"] == pytest.approx(0.5576, abs=0.012)


@pytest.mark.parametrize(
    "bad, message",
    [
        ([], "empty"),
        ([1.0, np.nan], "NaN or infinity for 1 of 2"),
        ([np.inf], "NaN or infinity for 1 of 1"),
        ([[1.0, 2.0]], "one number per image"),
        (["high"], "not numbers"),
        ([10**400], "not numbers"),
        (ma.array([0.9, 0.8, -100], mask=[0, 0, 1]), "masked"),
        ([ma.array([0.9], mask=[1])], "masked"),
        (np.array([1 + 2j]), "real ones are needed, got complex128"),
        ([np.complex64(1j)], "real ones are needed, got complex"),
        (torch.tensor([1 + 2j]), "real ones are needed, got complex64"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "real ones are needed, got datetime64"),
        (torch.ones(3, device="meta"), "not numbers: .*meta"),
        ([torch.ones((), device="meta")], "not numbers: .*meta"),
    ],
)
def test_bad_arrays_name_the_set(bad, message):
    with pytest.raises(InputError, match=f"^ID scores .*{message}"):
        ood_metrics(bad, [1.0])
    with pytest.raises(InputError, match=f"^OOD scores .*{message}"):
        ood_metrics([1.0], bad)


def test_bad_convention():
    for wrong in ({"positive": "in"}, {"rule": "best"}, {"tpr": 0.0}, {"tpr": 95}):
        with pytest.raises(InputError):
            fpr_at_tpr([1.0], [0.0], **wrong)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wrong", ["0.95", None, 0.95j, float("nan"), [0.95], np.array([0.95])])
def test_tpr_must_be_a_number(rule, wrong):
    with pytest.raises(InputError, match=r"^tpr = .*: it must be a number in \(0, 1\]"):
        threshold_at_tpr([1.0], [0.0], wrong, rule=rule)
    with pytest.raises(InputError, match=r"^tpr = tensor.*: it must be a number in \(0, 1\]"):
        threshold_at_tpr([1.0], [0.0], torch.tensor([0.75]), rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("number", [np.float32, np.array, torch.tensor])
def test_tpr_of_numpy_or_torch_is_a_number(rule, number):
    sets = np.arange(10), np.arange(10) - 3.5
    point = threshold_at_tpr(*sets, number(0.75), rule=rule)
    assert point == threshold_at_tpr(*sets, 0.75, rule=rule) and type(point.tpr) is float


def test_signatures_name_their_types():
    """`help()` shows what ArrayLike stands for, 600 characters, unless annotations stay names."""
    assert len(str(inspect.signature(auroc))) < 80


@pytest.mark.parametrize(
    "make",
    [
        lambda values: np.array(values)[:, None],
        lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
        lambda values: torch.tensor(values, dtype=torch.bfloat16),
        lambda values: [*torch.tensor(values, dtype=torch.float32, requires_grad=True)],
        lambda values: tuple(torch.tensor(values, dtype=torch.bfloat16)),
        lambda values: ma.array(values),
    ],
)
def test_columns_integers_and_tensors_are_accepted(make):
    assert ood_metrics(make([3, 2]), make([1, 2])) == ood_metrics([3.0, 2.0], [1.0, 2.0])


@pytest.mark.parametrize("count, kept", [(10, 9), (30, 28), (50, 48), (70, 66)])
def test_rounding_decides_between_a_rate_below_and_one_as_far_above(count, kept):
    """As in the public code: |0.9 - 0.95| < |1 - 0.95| in floating point."""
    point = threshold_at_tpr(np.arange(count), [-1.0])
    assert point.tpr == kept / count and point.threshold == count - kept
