"""The table of several runs, in all its forms, and the command that makes it."""

import csv
import io
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dassl.utils.errors import InputError
from results import tables
from results.averages import Spread
from results.bootstrap import interval, resample
from results.runs import gather
from results.summary import main, summarise
from results.tables import Block, Figure, Row

ROOT = Path(__file__).parents[2]


def values(runs, score, column="average", metric="auroc"):
    return [run.result["figures"][score][column][metric] for run in runs]


@pytest.fixture
def groups(study):
    return gather([study])


def test_text_table(groups):
    table = tables.as_text(summarise(groups).blocks)
    assert max(map(len, table.splitlines())) <= 100
    fpr = values(groups["LoCoOp"], "MCM", metric="fpr95_id_nearest")
    cell = f"{100 * statistics.fmean(fpr):.2f} ± {100 * statistics.stdev(fpr):.2f}"
    line = next(x for x in table.splitlines() if x.startswith("LoCoOp") and " MCM" in x)
    assert line.endswith(cell)
    assert "ID positive" in table and "OOD positive" in table
    single = f"{100 * values(groups['ZeroshotCLIP'], 'MCM')[0]:.2f}"
    assert any(x.startswith("ZeroshotCLIP") and single in x for x in table.splitlines())
    assert "±" not in "".join(x for x in table.splitlines() if x.startswith("ZeroshotCLIP"))


def test_markdown_table(groups):
    table = tables.as_markdown(summarise({"a|b": groups["CoOp"]}).blocks)
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == "| method | runs | score | nature | indoor | average |"
    assert rows[1] == "|---|---|---|---|---|---|"
    assert rows[2].startswith("| a\\|b | 3 | MCM | ")
    assert len(rows) == 3 * 4 + 3


def test_methods_need_the_same_sets(write_run, tmp_path):
    one = {name: [write_run(tmp_path / name, trainer=name)] for name in ("CoOp", "CLIPN")}
    one["LoCoOp"] = [write_run(tmp_path / "L", sets=("nature",))]
    with pytest.raises(InputError, match=r"CoOp and LoCoOp .*different OOD sets.*; nature"):
        summarise(one)
    assert summarise({"LoCoOp": one["LoCoOp"]}).blocks[0].columns == ["nature"]  # is the average


def test_accuracy_only_where_all_have_it(groups):
    assert "accuracy" in {block.metric for block in summarise(groups).blocks}
    groups["CoOp"][0].result.pop("accuracy")
    assert "accuracy" not in {block.metric for block in summarise(groups).blocks}


def test_decisions_are_averaged(write_run, tmp_path):
    runs = [write_run(tmp_path / f"seed{s}", s, "CLIPN", decisions=True) for s in (1, 2)]
    plain = write_run(tmp_path / "plain", trainer="CoOp")
    block = summarise({"CLIPN": runs, "CoOp": [plain]}).blocks[-1]
    assert block.metric == "decisions"
    assert block.columns == ["ID kept", "nature", "indoor", "average"]
    (row,) = block.rows
    rates = [run.result["decisions"]["CTW"] for run in runs]
    assert (row.method, row.score, row.runs) == ("CLIPN", "CTW", 2)
    assert row.figures[0].spread == Spread.of([rate["id_acceptance"] for rate in rates])
    assert row.figures[2].spread == Spread.of([r["sets"]["indoor"]["ood_rejection"] for r in rates])


def test_intervals_are_those_of_the_mean_over_runs(groups):
    block = summarise({"CoOp": groups["CoOp"]}, 150, seed=4).blocks[1]
    runs = groups["CoOp"]
    inside = [run.images["ID"].scores["MCM"] for run in runs]
    outside = {s: [run.images[s].scores["MCM"] for run in runs] for s in ("nature", "indoor")}
    auroc = resample(inside, outside, 150, 4)[..., 1].mean(axis=0)
    expected = [interval(auroc[:, 0]), interval(auroc[:, 1]), interval(auroc.mean(axis=1))]
    found = [figure.interval for figure in block.rows[0].figures]
    assert np.array(found) == pytest.approx(np.array(expected))


def test_best_and_what_cannot_be_told_from_it(write_run, tmp_path):
    methods = {"good": 3.0, "alike": 3.0, "poor": 0.5}
    groups = {name: [write_run(tmp_path / name, 1, name, shift)] for name, shift in methods.items()}
    auroc = summarise(groups, 200).blocks[1]
    best = {(row.method, row.score): row.figures[-1].best for row in auroc.rows}
    assert best["good", "MCM"] and best["alike", "MCM"] and not best["poor", "MCM"]
    assert not any(f.best for row in summarise(groups).blocks[1].rows for f in row.figures)


def test_runs_without_images_have_no_intervals(groups, study):
    shutil.rmtree(study / "CoOp/16shots/seed2/scores")
    summary = summarise(groups, 100)
    assert summary.notes == ["CoOp has no scores of single images (scores/*.csv): no intervals"]
    figures = {row.method: row.figures[0] for row in summary.blocks[0].rows}
    assert figures["CoOp"].interval is None and figures["LoCoOp"].interval is not None
    assert not any(figure.best for figure in figures.values())


STRANGE = Block(
    "auroc",
    "A & B (%)",
    ["SUN_2", "average"],
    [
        Row(
            r"a\b_{c}",
            2,
            "GL-MCM",
            [Figure(Spread(0.5, 0.01, 2), (0.4, 0.6), True), Figure(Spread(0.25, 0.02, 2))],
        ),
        Row(
            'say "x", 50 %',
            1,
            "~^#$",
            [Figure(Spread(1 / 3, None, 1)), Figure(Spread(0.1, None, 1))],
        ),
    ],
)


def test_csv_reads_back_with_all_digits():
    rows = list(csv.DictReader(io.StringIO(tables.as_csv([STRANGE]))))
    assert [(r["method"], r["set"]) for r in rows[::2]] == [
        (r"a\b_{c}", "SUN_2"),
        ('say "x", 50 %', "SUN_2"),
    ]
    assert [float(r["mean"]) for r in rows] == [0.5, 0.25, 1 / 3, 0.1]
    assert (rows[0]["low"], rows[0]["high"]) == ("0.4", "0.6")
    assert rows[1]["low"] == rows[2]["std"] == ""


def test_latex_reads_back():
    text = tables.as_latex([STRANGE], "note")
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{A \& B (\%) note}"):
        assert text.count(command) == 1
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [
        re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        for line in body.splitlines()
        if line.endswith(r"\\")
    ]
    assert [len(row) for row in rows] == [5, 5, 5] and "{@{}lllrr@{}}" in text
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0][3] == r"SUN\_2"
    assert cells[1][0] == r"a\textbackslash{}b\_\{c\}"
    assert cells[1][3:] == [r"\textbf{50.00 $\pm$ 1.00}", r"25.00 $\pm$ 2.00"]
    assert cells[2][2] == r"\textasciitilde{}\textasciicircum{}\#\$"
    depth = re.sub(r"\\[{}]", "", text)
    assert depth.count("{") == depth.count("}")


def test_the_script_prints_compares_and_saves(study, tmp_path):
    shutil.rmtree(study / "CoOp/16shots/seed2")
    done = subprocess.run(
        [
            "bash",
            ROOT / "scripts/results.sh",
            study,
            "--scores",
            "MCM",
            "--resamples",
            "100",
            "--compare",
            "LoCoOp",
            "ZeroshotCLIP",
            "--markdown",
            "m.md",
            "--latex",
            "t.tex",
            "--csv",
            "c.csv",
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "95 % interval over images" in done.stdout and "±" in done.stdout
    assert "CoOp has no run of seed 2, which LoCoOp has" in done.stdout
    assert "A = LoCoOp, MCM (3 runs), B = ZeroshotCLIP, MCM (1 run)" in done.stdout
    assert (tmp_path / "m.md").read_text(encoding="utf-8").count("| CoOp |") == 3 * 2 + 1
    assert (tmp_path / "t.tex").read_text(encoding="utf-8").count(r"\bottomrule") == 4
    assert (tmp_path / "c.csv").read_text(encoding="utf-8").startswith("metric,method,")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing"], "there are no results"),
        ([".", "--scores", "Energy"], "Energy is not in every run"),
        ([".", "--resamples", "5"], "at least 100 resamples"),
        ([".", "--seed", "-1"], "must not be negative"),
        ([".", "--resamples", "0", "--compare", "CoOp", "CoCoOp"], "Did you mean"),
    ],
)
def test_mistakes_are_told_in_a_sentence(study, monkeypatch, arguments, words):
    monkeypatch.chdir(study)
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    with pytest.raises(SystemExit, match=words):
        main()
