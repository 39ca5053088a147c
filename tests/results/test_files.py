"""Results files, tables, provenance."""

import csv
import json
import re
import subprocess

import numpy as np
import pytest
import torch

import results.files as results_module
from dassl.utils.errors import InputError
from dassl.utils.provenance import git_state, versions
from ood.metrics import CONVENTIONS, ood_metrics
from ood.set_scores import SetScores
from results.files import evaluate_sets, read_results, read_scores, write_results
from results.runs import Run
from results.summary import overview, summarise
from results.tables import format_figures, format_rates

RNG = np.random.default_rng(5)
ID = {name: RNG.normal(1, 1, 400).astype(np.float32) for name in ("MCM", "GL-MCM")}
OOD = {
    "SUN": {name: RNG.normal(0, 1, 250).astype(np.float32) for name in ID},
    "Places": {name: RNG.normal(0.5, 1, 100).astype(np.float32) for name in ID},
}


def image_sets():
    labels = np.arange(400) % 3
    predictions = np.where(np.arange(400) < 300, labels, 7)
    sets = [SetScores("toy-id", [f"val/a, b/{i}.png" for i in range(400)], ID, labels, predictions)]
    for name, scores in OOD.items():
        sets.append(SetScores(name, [f"{i}.jpg" for i in range(len(scores["MCM"]))], scores))
    return sets


def write(folder, **provenance):
    return write_results(folder, evaluate_sets(ID, OOD), image_sets(), provenance)


def test_figures_and_their_average():
    figures = evaluate_sets(ID, OOD)
    assert list(figures) == ["MCM", "GL-MCM"]
    assert list(figures["MCM"]) == ["SUN", "Places", "average"]
    sun, places = (ood_metrics(ID["MCM"], OOD[name]["MCM"]) for name in ("SUN", "Places"))
    assert figures["MCM"]["SUN"] == sun
    average = figures["MCM"]["average"]
    assert average["auroc"] == pytest.approx((sun["auroc"] + places["auroc"]) / 2)  # not by images
    assert (average["n_id"], average["n_ood"]) == (400, 350)
    assert average.keys() == sun.keys()


def test_decisions_are_kept_image_by_image(tmp_path):
    rejected = {"CTW": np.arange(100) % 3 == 0, "ATD": np.arange(100) < 4}
    images = [f"{i}.jpg" for i in range(100)]
    written = SetScores("Places", images, OOD["Places"], rejected=rejected)
    write_results(tmp_path, evaluate_sets(ID, OOD), [written], {})
    found = read_scores(tmp_path / "scores" / "Places.csv")
    assert found.rejected.keys() == rejected.keys() and found.scores.keys() == ID.keys()
    for name, values in rejected.items():
        assert (found.rejected[name] == values).all()


def test_what_cannot_be_evaluated():
    with pytest.raises(InputError, match="no OOD set"):
        evaluate_sets(ID, {})
    with pytest.raises(InputError, match="MCM on OOD set SUN: OOD scores are empty"):
        evaluate_sets(ID, {"SUN": {name: np.array([]) for name in ID}})


def test_round_trip_of_results(tmp_path):
    path = write(
        tmp_path,
        comparable={"classes": "ab12"},
        loss=float("nan"),
        seed=np.int64(3),
        mean=(0.5, np.float32(0.25)),
        device=torch.device("cpu"),
        file=tmp_path,
    )
    content = read_results(tmp_path)
    assert content == read_results(path)
    assert content["figures"] == evaluate_sets(ID, OOD)
    assert content["conventions"] == CONVENTIONS and content["primary"] == "fpr95_id_nearest"
    assert content["accuracy"] == {"toy-id": 0.75}
    assert content["images"] == {"toy-id": 400, "SUN": 250, "Places": 100}
    assert content["provenance"] == {
        "comparable": {"classes": "ab12"},
        "loss": None,
        "seed": 3,
        "mean": [0.5, 0.25],
        "device": "cpu",
        "file": str(tmp_path),
    }


def test_results_csv_has_every_figure(tmp_path):
    write(tmp_path)
    figures = evaluate_sets(ID, OOD)
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["score"], r["set"]) for r in rows] == [(s, n) for s in figures for n in figures[s]]
    for row in rows:
        for metric, value in figures[row["score"]][row["set"]].items():
            assert float(row[metric]) == value


def test_scores_csv_keeps_every_bit(tmp_path):
    write(tmp_path)
    for written in image_sets():
        found = read_scores(tmp_path / "scores" / f"{written.name}.csv")
        assert list(found.images) == list(written.images)
        for name, values in written.scores.items():
            assert found.scores[name].dtype == np.float32
            assert (found.scores[name] == values).all()
    inside = read_scores(tmp_path / "scores" / "toy-id.csv")
    assert inside.accuracy == 0.75 and found.labels is None and found.accuracy is None


def test_strange_file_names_survive(tmp_path):
    names = ['quote".png', "comma,.png", "ünï.png", "new\nline.png"]
    undecodable = b"\xff.png".decode("utf-8", "surrogateescape")
    values = {"MCM": np.arange(5, dtype=np.float32)}
    sets = [SetScores("odd", [*names, undecodable], values)]
    write_results(tmp_path, evaluate_sets(ID, OOD), sets, {})
    assert read_scores(tmp_path / "scores" / "odd.csv").images == [*names, "\\xff.png"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "_x", "a\n"])
def test_set_names_that_are_no_file_names(name):
    with pytest.raises(InputError, match="becomes a file name"):
        SetScores(name, [], {})


def test_nothing_half_written(tmp_path, monkeypatch):
    """A run that dies on the way leaves no results.json, not even the one of an earlier run."""
    write(tmp_path)

    def die(path, figures):
        raise KeyboardInterrupt

    monkeypatch.setattr(results_module, "_write_figures", die)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    with pytest.raises(InputError, match="is missing"):
        read_results(tmp_path)
    files = {p.name for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"results.csv", "toy-id.csv", "SUN.csv", "Places.csv"}


def test_failed_json_leaves_no_file(tmp_path, monkeypatch):
    def die(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", die)
    with pytest.raises((InputError, OSError), match="No space left"):
        write(tmp_path)
    assert not [p for p in tmp_path.iterdir() if "json" in p.name]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "schema None, this version reads 1"),
        ('{"schema": 99}', "schema 99"),
    ],
)
def test_damaged_results(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


@pytest.mark.parametrize("text", ["", "image,MCM\na,high\n", "image,MCM\na\n", "MCM\n1\n"])
def test_damaged_scores(tmp_path, text):
    path = tmp_path / "SUN.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="not a file of per-image scores"):
        read_scores(path)


def test_files_saved_by_excel_are_read(tmp_path):
    path = write(tmp_path)
    expected = read_results(path), read_scores(tmp_path / "scores/SUN.csv").scores
    for file in (path, tmp_path / "scores/SUN.csv"):
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_results(path) == expected[0]
    np.testing.assert_equal(read_scores(tmp_path / "scores/SUN.csv").scores, expected[1])


def test_printed_table():
    figures = evaluate_sets(ID, OOD)
    table = format_figures(figures)
    assert max(map(len, table.splitlines())) <= 100
    assert "ID images: 400" in table and "nearest" in table and "OOD pos." in table
    assert "mean over the OOD sets that have no GROUP" in table
    row = figures["GL-MCM"]["Places"]
    order = ("fpr95_id_nearest", "auroc", "aupr_in", "aupr_out", "fpr95_ood_nearest")
    numbers = r"\s+".join(re.escape(f"{100 * row[m]:.2f}") for m in order)
    assert re.search(rf"Places\s+100\s+{numbers}\n", table)
    assert table.count("average") == 2 and table.count("SUN") == 2


def test_printed_decisions():
    row = {"ood_rejection": 0.5, "accuracy": 2 / 3}
    text = format_rates({"CTW": {"id_acceptance": 0.75, "sets": {"near": row, "average": row}}})
    assert re.search(r"CTW +near +75.00 +50.00 +66.67\n", text) and "average" in text
    assert format_rates({}) == ""


def test_git_state(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    assert git_state(tmp_path) is None  # no repository
    git("init")
    assert git_state(tmp_path) is None  # no commit
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first", "--no-gpg-sign")
    state = git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", state["commit"]) and state["dirty"] is False
    (tmp_path / "untracked").mkdir()
    assert git_state(tmp_path) == state
    assert git_state(tmp_path / "untracked") is None  # a copy inside somebody else's repository
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


def test_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


def test_versions():
    found = versions()
    assert found["numpy"] == np.__version__ and found["python"].startswith("3.")


def test_a_mean_is_over_its_own_sets(tmp_path):
    """Near and far sets are not averaged together; files, intervals and tables agree on it."""
    outside = {name: {s: RNG.normal(size=50) for s in ID} for name in ("SUN", "NINCO", "SSB")}
    means = {"average": ["SUN"], "average near": ["NINCO", "SSB"]}
    figures = evaluate_sets(ID, outside, means)
    assert list(figures["MCM"]) == ["SUN", "NINCO", "SSB", *means]
    mcm = {name: row["auroc"] for name, row in figures["MCM"].items()}
    assert mcm["average"] == mcm["SUN"]
    assert mcm["average near"] == pytest.approx((mcm["NINCO"] + mcm["SSB"]) / 2)
    sets = [SetScores(n, [f"{i}.jpg" for i in range(len(s["MCM"]))], s) for n, s in outside.items()]
    inside = SetScores("ID", [f"{i}.jpg" for i in range(len(ID["MCM"]))], ID)
    write_results(tmp_path, figures, [inside, *sets], {"comparable": {}}, means=means)
    run = Run(tmp_path, read_results(tmp_path))
    assert run.ood_sets == [*outside] and run.means == means
    summary = summarise({"one": [run]}, resamples=100)
    assert summary.blocks[0].columns == [*outside, *means]
    head, _, row, *_ = overview(summary).splitlines()
    assert "AUROC near" in head and f"{100 * mcm['average near']:.2f}" in row
    for figure in summary.blocks[0].rows[0].figures:
        low, high = figure.interval
        assert low <= figure.mean <= high
