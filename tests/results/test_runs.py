"""Runs on disk: grouped by all but their seed, and what is missing among them."""

import shutil

import pytest

from dassl.utils.errors import InputError
from dassl.utils.files import read_json, write_json
from results.files import OPTIONAL_PARTS, PARTS
from results.runs import choose_scores, find_runs, missing_seeds


def test_runs_are_gathered_by_all_but_their_seed(study, write_run, gather):
    write_run(study / "LoCoOp/1shots/seed1", 1, "LoCoOp")
    write_run(study / "CoOp/16shots/seed10", 10, "CoOp")
    groups = gather([study])
    assert list(groups) == ["ZeroshotCLIP", "CoOp", "LoCoOp (16shots)", "LoCoOp (1shots)"]
    assert [run.seed for run in groups["CoOp"]] == [1, 2, 3, 10]
    assert [run.seed for run in groups["ZeroshotCLIP"]] == [None]
    assert gather([study, study / "CoOp"]) == groups
    assert gather([study / "nothing"]) == {}


def test_only_some_scores(study, write_run, gather):
    groups, notes = choose_scores(gather([study]), ["MCM"])
    assert all(list(r.figures) == ["MCM"] for runs in groups.values() for r in runs) and not notes
    with pytest.raises(InputError, match=r"Energy is in no run.*choose from MCM, GL-MCM"):
        choose_scores(gather([study]), ["Energy"])
    write_run(study / "CoOp/16shots/seed2", 2, "CoOp", scores=("GL-MCM",))
    groups, (note,) = choose_scores(gather([study]), ["MCM"])
    assert [run.seed for run in groups["CoOp"]] == [1, 3]
    assert "seed2: evaluated without MCM" in note


def test_parameters_of_other_scores_do_not_part_runs(write_run, tmp_path):
    scores = {"MCM": {"temperature": 1.0}, "GL-MCM": {"local_weight": 0.5}}
    run = write_run(tmp_path, provenance={"x": 1})
    run.result["provenance"]["comparable"]["scores"] = scores
    assert run.with_scores(["MCM"]).comparable["scores"] == {"MCM": {"temperature": 1.0}}
    assert run.comparable["scores"] == scores


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_results_that_cannot_be_read_are_set_apart(study, gather, text):
    (study / "CoOp/16shots/seed2/results.json").write_text(text)
    runs, (note,) = find_runs([study])
    assert len(runs) == 6 and "set apart" in note and "seed2" in note


@pytest.mark.parametrize(
    "change",
    [
        *({part: None} for part in (*PARTS, *OPTIONAL_PARTS)),
        *({part: "text"} for part in PARTS),
        {"figures": {}},
        {"figures": {"MCM": {"average": None}}},
        {"images": {"ID": "many"}},
    ],
)
def test_results_with_a_damaged_part_are_set_apart(study, change):
    path = study / "CoOp/16shots/seed2/results.json"
    whole = read_json(path)
    write_json({**whole, **change}, path)
    runs, (note,) = find_runs([study])
    assert len(runs) == 6 and f"seed2/results.json is damaged: {(*change,)[0]} missing" in note
    write_json({part: value for part, value in whole.items() if part not in change}, path)
    assert len(find_runs([study])[0]) == 6 + ((*change,)[0] in OPTIONAL_PARTS)


def test_missing_seeds_are_named(study, gather):
    assert missing_seeds(gather([study])) == []
    shutil.rmtree(study / "CoOp/16shots/seed2")
    assert missing_seeds(gather([study])) == ["CoOp has no run of seed 2"]


def test_older_results_have_one_mean_over_all_sets(study, gather):
    run = gather([study])["ZeroshotCLIP"][0]
    del run.result["means"]
    assert run.means == {"average": ["nature", "indoor"]} and run.ood_sets == ["nature", "indoor"]


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda rows: rows[:-1], "79 images with MCM, GL-MCM"),
        (lambda rows: [*rows, rows[-1].replace("indoor/", "more/")], "81 images with MCM, GL-MCM"),
        (lambda rows: [row.rpartition(",")[0] for row in rows], "80 images with MCM;"),
    ],
)
def test_scores_of_another_evaluation(study, gather, change, found):
    run = gather([study])["ZeroshotCLIP"][0]
    assert run.id_set == "ID" and run.ood_sets == ["nature", "indoor"]
    path = study / "ZeroshotCLIP/scores/indoor.csv"
    header = path.read_text(encoding="utf-8").splitlines()[0]
    assert header == "image,prediction,MCM,GL-MCM"
    path.write_text(
        "\n".join(change(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8"
    )
    told = rf"indoor.csv does not belong to the evaluation .* {found}"
    with pytest.raises(InputError, match=told):
        run.images  # noqa: B018
