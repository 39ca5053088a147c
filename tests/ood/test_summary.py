"""Means over seeds, and the refusal to average what does not belong together."""

import copy
import json
import statistics

import numpy as np
import pytest

from dassl.utils.errors import InputError
from ood.metrics import CONVENTIONS
from ood.results import evaluate_sets
from ood.summary import check_comparable, gather, main, mean_and_spread, only, summary_table


def run(seed, shift=1.0, sets=("nature", "indoor"), n=200, **comparable):
    rng = np.random.default_rng(seed)
    inside = {name: rng.normal(shift, 1, n) for name in ("MCM", "GL-MCM")}
    outside = {s: {name: rng.normal(0, 1, 90) for name in inside} for s in sets}
    parameters = {"MCM": {"temperature": 1.0}}
    same = {"classes": "ab12", "transform": "bicubic 224", "parameters": parameters}
    return {
        "schema": 1,
        "figures": evaluate_sets(inside, outside),
        "conventions": dict(CONVENTIONS),
        "accuracy": {"toy": 0.5 + seed / 100},
        "provenance": {"seed": seed, "comparable": {**same, **comparable}},
    }


def test_mean_and_sample_deviation():
    runs = [run(seed) for seed in (1, 2, 3)]
    spread = mean_and_spread(runs)["GL-MCM"]["average"]["auroc"]
    values = [r["figures"]["GL-MCM"]["average"]["auroc"] for r in runs]
    assert spread.mean == pytest.approx(np.mean(values))
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    assert spread.runs == 3
    assert mean_and_spread(runs[:1])["MCM"]["nature"]["auroc"].std is None


@pytest.mark.parametrize("change, key", [
    ({"classes": "cd34"}, "classes: 'ab12' and 'cd34'"),
    ({"transform": "bilinear 224"}, "transform"),
    ({"parameters": {"MCM": {"temperature": 0.5}}}, r"parameters.MCM.temperature: 1.0 and 0.5"),
    ({"precision": "fp16"}, r"precision: '\(absent\)' and 'fp16'"),
    ({"sets": ("nature", "texture")}, "images .ID, OOD..MCM.indoor"),
    ({"n": 201}, "images .ID, OOD..MCM.nature: .200, 90. and .201, 90."),
])  # fmt: skip
def test_incomparable_runs_are_not_averaged(change, key):
    runs = [run(1), run(2), run(3, **change)]
    with pytest.raises(InputError, match=f"CoOp: runs 1 and 3 cannot be averaged.*{key}"):
        summary_table({"CoOp": runs})


def test_other_conventions_are_not_averaged():
    other = run(2)
    other["conventions"]["fpr95_id"] = "something else"
    with pytest.raises(InputError, match="differ in conventions.fpr95_id"):
        check_comparable([run(1), other])


def test_no_or_unlabelled_results():
    with pytest.raises(InputError, match="no result to average"):
        mean_and_spread([])
    with pytest.raises(InputError, match="no results to tabulate"):
        summary_table({})
    bare = run(1)
    del bare["provenance"]["comparable"]
    with pytest.raises(InputError, match="comparable"):
        summary_table({"CoOp": [bare]})


def test_seed_may_differ_and_inputs_stay():
    runs = [run(1), run(2)]
    before = copy.deepcopy(runs)
    check_comparable(runs)
    mean_and_spread(runs)
    assert runs == before


def test_text_table():
    groups = {"zero-shot": [run(9, shift=0.5)], "LoCoOp": [run(seed) for seed in (1, 2, 3)]}
    table = summary_table(groups)
    assert max(map(len, table.splitlines())) <= 100
    fpr = [r["figures"]["MCM"]["average"]["fpr95_id_nearest"] for r in groups["LoCoOp"]]
    cell = f"{100 * statistics.fmean(fpr):.2f} ± {100 * statistics.stdev(fpr):.2f}"
    line = next(x for x in table.splitlines() if x.startswith("LoCoOp") and " MCM" in x)
    assert line.endswith(cell)
    assert "52.00 ± 1.00" in table  # accuracy of seeds 1, 2, 3
    single = f"{100 * groups['zero-shot'][0]['figures']['MCM']['nature']['auroc']:.2f}"
    assert any(x.startswith("zero-shot") and single in x for x in table.splitlines())
    assert "±" not in "".join(x for x in table.splitlines() if x.startswith("zero-shot"))


def test_markdown_table():
    table = summary_table({"a|b": [run(1), run(2)]}, markdown=True)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == "| method | runs | score | nature | indoor | average |"
    assert rows[1] == "|---|---|---|---|---|---|"
    assert rows[2].startswith("| a\\|b | 2 | MCM | ")
    assert len(rows) == 2 * 4 + 3


def test_methods_need_the_same_sets():
    with pytest.raises(InputError, match="CoOp and LoCoOp .*different OOD sets.*; nature"):
        summary_table({"CoOp": [run(1)], "LoCoOp": [run(1, sets=("nature",))]})


def test_accuracy_only_where_all_have_it():
    bare = run(1)
    del bare["accuracy"]
    assert "Accuracy" not in summary_table({"CoOp": [run(1)], "LoCoOp": [bare]})


@pytest.fixture
def study(tmp_path):
    """Two methods with two seeds each, one with a single run, as their files."""
    for trainer, method in (("CoOp", "CoOp/16shots"), ("LoCoOp", "LoCoOp/16shots"),
                            ("LoCoOp", "LoCoOp/1shots")):
        for seed in (1, 2):
            folder = tmp_path / method / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(run(seed, trainer=trainer)))
    folder = tmp_path / "ZeroshotCLIP"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(run(1, trainer="ZeroshotCLIP")))
    return tmp_path


def test_runs_are_gathered_by_all_but_their_seed(study):
    groups = gather([study])
    assert list(groups) == ["ZeroshotCLIP", "CoOp", f"LoCoOp ({study}/LoCoOp/16shots)",
                            f"LoCoOp ({study}/LoCoOp/1shots)"]
    assert [len(runs) for runs in groups.values()] == [1, 2, 2, 2]
    assert gather([study, study / "CoOp"]).keys() == groups.keys()


def test_only_some_scores(study):
    groups = only(gather([study]), ["MCM"])
    assert all(list(r["figures"]) == ["MCM"] for runs in groups.values() for r in runs)
    with pytest.raises(InputError, match="Energy is not in every run"):
        only(gather([study]), ["Energy"])


def test_the_command_prints_and_saves(study, monkeypatch, capsys):
    table = study / "summary.md"
    monkeypatch.setattr("sys.argv", ["summary", str(study), "--markdown", str(table)])
    main()
    printed = capsys.readouterr().out
    assert "ZeroshotCLIP" in printed and "±" in printed
    assert table.read_text(encoding="utf-8").count("| CoOp |") == 5  # 2 scores, 2 metrics, accuracy

    monkeypatch.setattr("sys.argv", ["summary", str(study / "nothing")])
    with pytest.raises(SystemExit, match="there are no results"):
        main()
