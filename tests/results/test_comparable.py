"""What belongs in one table, what is set apart from it."""

import copy
import re
from dataclasses import replace

import pytest

from results.runs import comparable_runs, load_groups

FILES = {"image_files": {"indoor": "cd34"}}


@pytest.fixture
def run(write_run, tmp_path):
    return lambda seed=1, **how: write_run(
        tmp_path / f"seed{seed}", seed, **{"provenance": FILES, "dataset": "pets", **how}
    )


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"classes": "cd34"}, r"classes cd34 \(the table: ab12\)"),
        ({"transform": "bilinear 224"}, r"transform bilinear 224 \(the table: none\)"),
        (
            {"parameters": {"MCM": {"temperature": 0.5}}},
            r"parameters.MCM.temperature 0.5 \(the table: 1.0\)",
        ),
        ({"scores": ("MCM",)}, r"scores found \['MCM'\] \(the table: \['GL-MCM', 'MCM'\]\)"),
        (
            {"sets": ("nature", "texture")},
            r"OOD set indoor none \(the table: 80\); OOD set texture 80 \(the table: none\)",
        ),
        ({"n": 121}, r"ID images 121 \(the table: 120\)"),
        ({"m": 81}, r"OOD set indoor 81 \(the table: 80\)"),
        ({"dataset": "other"}, r"ID dataset other \(the table: pets\)"),
        (
            {"provenance": {"image_files": {"indoor": "ab12"}}},
            r"files of indoor \(hash\) ab12 \(the table: cd34\)",
        ),
    ],
)
def test_what_differs_is_set_apart_and_named(run, change, reason):
    """One stray run does not block the others, wherever in the list it stands."""
    for stray in (1, 2, 3):
        runs = [run(seed, **(change if seed == stray else {})) for seed in (1, 2, 3)]
        kept, (note,) = comparable_runs({"CoOp": runs})
        assert [r.seed for r in kept["CoOp"]] == [s for s in (1, 2, 3) if s != stray]
        assert f"seed{stray}: " in note and "name only its folder" in note
        assert re.search(reason, note), note


def test_files_are_compared_where_they_are_recorded(run):
    """Earlier versions recorded only their number."""
    runs = [run(1, provenance={}), run(2), run(3, provenance={}), run(4)]
    assert comparable_runs({"CoOp": runs}) == ({"CoOp": runs}, [])


@pytest.mark.parametrize("newer", [{"folder": "pets"}, {"dataset": "pets", "folder": "pets"}])
def test_an_id_set_that_was_not_recorded_is_unknown(write_run, tmp_path, newer):
    """Missing or None; what is recorded still parts runs."""
    facts = ({}, {"dataset": None, "folder": None}, newer, {"folder": "other"})
    old, none, new, other = (write_run(tmp_path / f"s{i}", i, **x) for i, x in enumerate(facts))
    assert comparable_runs({"CoOp": [old, none, new]}) == ({"CoOp": [old, none, new]}, [])
    kept, (note,) = comparable_runs({"CoOp": [new, old, none], "SCT": [other]})
    assert kept == {"CoOp": [new, old, none]} and "ID folder other (the table: pets)" in note
    assert "evaluate it and the table's runs again" in note


@pytest.mark.parametrize(
    "seed, weights, same",
    [(1, None, "seed"), (2, "ab12", "weights"), (-1, "ab12", "weights"), (1, "cd34", "")],
)
def test_a_copied_run_counts_once(write_run, tmp_path, seed, weights, same):
    first, second = (
        write_run(tmp_path / name, provenance={"seed": s, "context": w and {"hash": w}})
        for name, s, w in (("seed1", 1, "ab12"), ("seed1_backup", seed, weights))
    )
    if not same:  # published weights, whose seed earlier versions took for the default
        assert comparable_runs({"CoOp": [first, second]}) == ({"CoOp": [first, second]}, [])
        return
    kept, (note,) = comparable_runs({"CoOp": [first, second]})
    assert kept == {"CoOp": [first]}
    assert f"seed1_backup: the {same} of {first.folder}" in note


@pytest.mark.parametrize("part", ["context", "no_encoder", "decoder"])
def test_what_a_run_learned_says_whether_it_is_a_copy(write_run, tmp_path, part):
    hashes = enumerate(("ab12", "cd34", "ab12"))
    runs = [write_run(tmp_path / f"{i}", i, provenance={part: {"hash": h}}) for i, h in hashes]
    kept, (note,) = comparable_runs({"CLIPN": runs})
    assert kept == {"CLIPN": runs[:2]} and f"{runs[2].folder}: the weights of" in note


def test_runs_without_a_seed_are_runs_of_their_own(write_run, tmp_path):
    for trainer, seed in (("CoOp", -1), ("CoOp", None), ("ZeroshotCLIP", 1)):
        folders = (tmp_path / f"{trainer}{seed}{i}" for i in (1, 2))
        runs = [write_run(f, trainer=trainer, provenance={"seed": seed}) for f in folders]
        assert comparable_runs({trainer: runs}) == ({trainer: runs}, [])


def test_runs_evaluated_amid_their_training_are_set_apart(write_run, tmp_path):
    early = write_run(tmp_path / "m/seed1", 1, provenance={"unfinished": "epoch 3 of 40"})
    groups, (note,) = load_groups([tmp_path])
    assert groups == {"CoOp": [early]} and note.startswith(f"{early.folder}: evaluated at epoch 3")
    late = write_run(tmp_path / "m/seed2", 2)
    groups, (note,) = load_groups([tmp_path])
    assert groups == {"CoOp": [late]} and note.startswith(f"set apart {early.folder}: evaluated at")


def test_other_conventions_are_set_apart(run):
    other = copy.deepcopy(run(2).result)
    other["conventions"]["fpr95_id"] = "something else"
    runs = [run(1), replace(run(2), result=other), run(3)]
    kept, (note,) = comparable_runs({"CoOp": runs})
    assert len(kept["CoOp"]) == 2 and "conventions.fpr95_id something else" in note


def test_the_sets_of_the_average_part_runs_and_its_wording_does_not(run):
    old, other = (copy.deepcopy(run(seed).result) for seed in (2, 3))
    old["conventions"]["average"] = "unweighted mean over the OOD sets"
    other["means"] = {"average": ["nature"]}
    runs = [run(1), replace(run(2), result=old), replace(run(3), result=other)]
    kept, (note,) = comparable_runs({"CoOp": runs})
    assert len(kept["CoOp"]) == 2 and "sets of average ['nature'] (the" in note


def test_methods_whose_averages_are_over_other_sets_share_no_table(write_run, tmp_path):
    """The figures of the sets are alike, those of the average are not."""
    runs = {name: [write_run(tmp_path / name, trainer=name)] for name in ("CoOp", "SCT", "CLIPN")}
    for run, names in zip(runs["CoOp"] + runs["SCT"], ("indoor", "nature"), strict=True):
        result = copy.deepcopy(run.result)
        result["means"] = {"average": [names]}
        runs[run.trainer] = [replace(run, result=result)]
    runs["LoCoOp"] = [write_run(tmp_path / "LoCoOp", trainer="LoCoOp")]
    kept, notes = comparable_runs(runs)
    assert list(kept) == ["CLIPN", "LoCoOp"]
    whole = r"\(the table: \['indoor', 'nature'\]\)"
    for note, name in zip(notes, ("indoor", "nature"), strict=True):
        assert re.search(rf"sets of average \['{name}'\] {whole}", note), note


def test_the_order_of_sets_parts_no_runs(write_run, tmp_path):
    orders = ("nature", "indoor"), ("indoor", "nature")
    runs = [write_run(tmp_path / f"seed{i}", i, sets=sets) for i, sets in enumerate(orders)]
    assert comparable_runs({"CoOp": runs}) == ({"CoOp": runs}, [])


def test_methods_of_other_images_are_set_apart(write_run, tmp_path):
    groups = {name: [write_run(tmp_path / name, trainer=name)] for name in ("CoOp", "CLIPN")}
    groups["LoCoOp"] = [write_run(tmp_path / "L", trainer="LoCoOp", sets=("nature",))]
    kept, (note,) = comparable_runs(groups)
    assert list(kept) == ["CoOp", "CLIPN"] and "OOD set indoor none" in note
    assert comparable_runs({"LoCoOp": groups["LoCoOp"]}) == ({"LoCoOp": groups["LoCoOp"]}, [])


def test_results_that_do_not_say_what_they_measured_are_set_apart(run):
    bare = copy.deepcopy(run(1).result)
    del bare["provenance"]["comparable"]
    groups = {"CoOp": [replace(run(1), result=bare), run(2), run(3)]}
    kept, (note,) = comparable_runs(groups)
    assert [r.seed for r in kept["CoOp"]] == [2, 3] and "trainer none (the table: CoOp)" in note
