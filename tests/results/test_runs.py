"""Runs on disk: grouped by all but their seed, and what is missing among them."""

import shutil

import pytest

from dassl.utils.errors import InputError
from dassl.utils.files import read_json, write_json
from results.files import OPTIONAL_PARTS, PARTS
from results.runs import choose_scores, find_runs, load_groups, missing_seeds


def test_runs_are_gathered_by_all_but_their_seed(study, write_run, gather):
    write_run(study / "LoCoOp/1shots/seed1", 1, "LoCoOp")
    write_run(study / "CoOp/16shots/seed10", 10, "CoOp")
    groups = gather([study])
    assert list(groups) == ["ZeroshotCLIP", "CoOp", "LoCoOp (16shots)", "LoCoOp (1shots)"]
    assert [run.seed for run in groups["CoOp"]] == [1, 2, 3, 10]
    assert [run.seed for run in groups["ZeroshotCLIP"]] == [None]
    assert gather([study, study / "CoOp"]) == groups
    assert gather([study / "nothing"]) == {}


def test_methods_are_named_after_their_folders_and_zero_shot_comes_first(
    write_run, tmp_path, gather
):
    for folder in ("a/16shots/seed1", "a/16shots/long/seed1"):
        write_run(tmp_path / folder, 1, "CoOp")
    write_run(tmp_path / "b/zero", 1, "ZeroshotCLIP")
    assert list(gather([tmp_path])) == ["ZeroshotCLIP", "CoOp (16shots)", "CoOp (long)"]


def test_every_run_that_is_set_apart_has_a_note(study, write_run):
    folder = study / "CoOp/16shots"
    (folder / "seed1/results.json").write_text("{")
    write_run(folder / "seed4", 4, "CoOp", provenance={"unfinished": "epoch 3 of 40"})
    write_run(folder / "seed5", 5, "CoOp", n=121)
    write_run(folder / "seed6", 6, "CoOp", scores=("Energy",))
    groups, notes = load_groups([study], "GL-MCM,MCM")
    assert [run.seed for run in groups["CoOp"]] == [2, 3]
    assert list(groups["CoOp"][0].figures) == ["GL-MCM", "MCM"]  # as asked
    assert len(notes) == 4 and all(note.startswith("set apart ") for note in notes[1:])
    words = "seed1/results.json", "seed4: evaluated at epoch 3", "seed5: ID images", "seed6: eval"
    assert all(word in note for word, note in zip(words, notes, strict=True))


def test_where_no_run_can_be_read_the_reason_is_told(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"there are no results in .*\n.*results.json cannot be"):
        load_groups([tmp_path])


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
