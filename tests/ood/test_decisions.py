"""CLIPN's threshold-free decisions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood.decisions import DECISIONS, decide, decision_rates, warn_if_few_classes
from tests import oracles

ORACLES = {"CTW": oracles.ctw_decision, "ATD": oracles.atd_decision}


@pytest.mark.parametrize(
    "case", ["normal", "saturated", "ties", "C1", "one_vs_one", "twenty", "small_scale"]
)
def test_decisions_computed_apart(case, golden):
    """Of the goldens' harness, in float64, by the paper's equations."""
    arrays = golden("clipn_scores.npz")
    for part in ("id", "ood"):
        inputs = {
            "logits": torch.from_numpy(arrays[f"{case}/{part}/yes"]),
            "no_logits": torch.from_numpy(arrays[f"{case}/{part}/no"]),
        }
        rejected = decide(inputs)
        for name in DECISIONS:
            expected = arrays[f"{case}/{part}/{name.lower()}_ood"].astype(bool)
            assert (rejected[name].numpy() == expected).all(), name


@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([1.0, 100.0, 1e4]))
def test_decisions_are_their_formulas(seed, classes, scale):
    generator = torch.Generator().manual_seed(seed)
    yes, no = (
        scale * torch.randn(5, classes, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    for name, rejected in decide({"logits": yes, "no_logits": no}).items():
        assert rejected.tolist() == ORACLES[name](yes.tolist(), no.tolist())


def test_one_class_leaves_one_decision(caplog):
    generator = torch.Generator().manual_seed(0)
    yes, no = (torch.randn(50, 1, generator=generator) for _ in range(2))
    rejected = decide({"logits": yes, "no_logits": no})
    assert torch.equal(rejected["CTW"], rejected["ATD"])
    for classes, warns in ((1, True), (3, True), (4, False)):
        caplog.clear()
        warn_if_few_classes(classes)
        assert ("known to reject nearly everything" in caplog.text) == warns


def test_a_model_without_a_no_branch_decides_nothing():
    assert decide({"logits": torch.zeros(2, 3)}) == {}
    assert decision_rates({}, {"far": {}}, {"average": ["far"]}) == {}


def test_rates():
    inside = {"CTW": np.array([False, False, False, True])}
    outside = {"near": {"CTW": np.array([True, False])}, "far": {"CTW": np.array([True, True])}}
    rates = decision_rates(inside, outside, {"average": ["near", "far"]})
    assert rates == {
        "CTW": {
            "id_acceptance": 0.75,
            "sets": {
                "near": {"ood_rejection": 0.5, "accuracy": pytest.approx(4 / 6)},
                "far": {"ood_rejection": 1.0, "accuracy": pytest.approx(5 / 6)},
                "average": {"ood_rejection": 0.75, "accuracy": pytest.approx(0.75)},
            },
        }
    }
    rows = decision_rates(inside, outside, {"average": ["far"]})["CTW"]["sets"]
    assert rows["average"] == rows["far"]
