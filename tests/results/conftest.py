"""Fixtures: evaluated runs for tables and reports."""

import numpy as np
import pytest

from ood.decisions import decision_rates
from ood.set_scores import SetScores
from results.files import evaluate_sets, read_results, write_results
from results.runs import Run, find_runs, group_runs


def write_run(
    folder,
    /,
    seed=1,
    trainer="CoOp",
    shift=1.5,
    sets=("nature", "indoor"),
    n=120,
    m=80,
    scores=("MCM", "GL-MCM"),
    decisions=False,
    accuracy=0.5,
    image="{}.png",
    provenance=(),
    **comparable,
):
    """Write a results folder whose ID scores are on average `shift` above those of the OOD sets.

    The difficulty of images depends only on their set; `seed` and `trainer` add noise to it.
    """
    noise = np.random.default_rng([seed, *trainer.encode()])
    parts = []
    for name, count in (("ID", n), *((s, m) for s in sets)):
        rng = np.random.default_rng([*name.encode()])
        common = rng.normal(shift if name == "ID" else 0, 1, count)
        values = {s: (common + noise.normal(0, 0.3, count)).astype(np.float32) for s in scores}
        labels = np.arange(count) % 4 if name == "ID" else None
        right = np.arange(count) < accuracy * count
        predictions = np.where(right, np.arange(count) % 4, (np.arange(count) + 1) % 4)
        rejected = {"CTW": common < 0} if decisions else {}
        images = [f"{name}/class{i % 4}/{image.format(i)}" for i in range(count)]
        parts.append(SetScores(name, images, values, labels, predictions, rejected))
    inside, *outside = parts
    figures = evaluate_sets(inside.scores, {part.name: part.scores for part in outside})
    out = {part.name: part.rejected for part in outside}
    rates = decision_rates(inside.rejected, out, {"average": list(out)})
    comparable = {
        "trainer": trainer,
        "training": None if trainer == "ZeroshotCLIP" else {"shots": 16},
        "classes": "ab12",
        "parameters": {"MCM": {"temperature": 1.0}},
        **comparable,
    }
    provenance = {"seed": seed, "comparable": comparable, **dict(provenance)}
    write_results(folder, figures, parts, provenance, rates)
    return Run(folder, read_results(folder))


def gather(folders):
    """Return the runs under `folders`, grouped by method."""
    return group_runs(find_runs(folders)[0])


@pytest.fixture(name="gather")
def _gather():
    return gather


@pytest.fixture(name="write_run")
def _write_run():
    return write_run


@pytest.fixture
def study(tmp_path):
    """Write CoOp and LoCoOp with three seeds each, and zero-shot CLIP."""
    for trainer, shift in (("CoOp", 1.5), ("LoCoOp", 1.9)):
        for seed in (1, 2, 3):
            write_run(tmp_path / trainer / "16shots" / f"seed{seed}", seed, trainer, shift)
    write_run(tmp_path / "ZeroshotCLIP", 1, "ZeroshotCLIP", 1.2)
    return tmp_path
