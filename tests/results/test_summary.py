"""The table of several runs, in all its forms, and the command that makes it."""

import csv
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dassl import command
from results import tables
from results.bootstrap import interval, resample
from results.files import write_csv
from results.runs import load_groups
from results.summary import main, summarise
from results.tables import Block, Figure, Row

ROOT = Path(__file__).parents[2]


def values(runs, score, column="average", metric="auroc"):
    return [run.result["figures"][score][column][metric] for run in runs]


@pytest.fixture
def groups(study, gather):
    return gather([study])


def test_text_table(groups):
    table = summarise(groups).as_text().partition("\n\nMean ±")[0]
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
    table = summarise({"a|b": groups["CoOp"]}).as_markdown()
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert rows[0] == "| method | runs | score | nature | indoor | average |"
    assert rows[1] == "|---|---|---|---|---|---|"
    assert rows[2].startswith("| a\\|b | 3 | MCM | ")
    assert len(rows) == 3 * 4 + 3
    assert "**" not in table.partition("AUROC")[0] or "**" in rows[2] + rows[3]


def test_one_set_is_its_own_average(write_run, tmp_path):
    run = write_run(tmp_path, sets=("nature",))
    assert summarise({"LoCoOp": [run]}).blocks[0].columns == ["nature"]


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
    assert not any(figure.best for figure in row.figures)
    assert row.figures[0].values == [rate["id_acceptance"] for rate in rates]
    assert row.figures[2].values == [r["sets"]["indoor"]["ood_rejection"] for r in rates]


def test_intervals_are_those_of_the_mean_over_runs(groups):
    block = summarise({"CoOp": groups["CoOp"]}, 150).blocks[1]
    runs = groups["CoOp"]
    inside = [run.images["ID"].scores["MCM"] for run in runs]
    outside = {s: [run.images[s].scores["MCM"] for run in runs] for s in ("nature", "indoor")}
    auroc = resample(inside, outside, 150)[..., 1].mean(axis=0)
    expected = [interval(auroc[:, i]) for i in range(3)]
    found = [figure.interval for figure in block.rows[0].figures]
    assert np.array(found) == pytest.approx(np.array(expected))


def lines_of(path):
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    return header, rows


def write_lines(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def test_the_order_of_images_changes_no_interval(study, gather):
    before = summarise(gather([study]), 100)
    for path in study.glob("CoOp/16shots/seed2/scores/*.csv"):
        header, rows = lines_of(path)
        write_lines(path, header, np.random.default_rng(1).permutation(rows))
    assert summarise(gather([study]), 100) == before
    assert before.blocks[0].rows[2].method == "CoOp" and before.has_intervals
    run = gather([study])["CoOp"][1]
    inside = run.images["ID"]
    assert inside.images == sorted(inside.images) and inside.accuracy == 0.5


def test_a_run_on_other_images_has_no_intervals(study, gather):
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    header, rows = lines_of(path)
    write_lines(path, header, [rows[0].replace("/0.png", "/other.png"), *rows[1:]])
    (note,) = summarise(gather([study]), 100).notes
    assert "CoOp has no intervals: " in note and "same images of nature (80 and 80" in note


def test_the_best_mean_of_each_column_is_marked_and_nothing_else(groups):
    for block in summarise(groups, 100).blocks[:3]:
        best = max if block.metric == "auroc" else min
        for column in range(len(block.columns)):
            figures = [row.figures[column] for row in block.rows]
            top = best(figure.mean for figure in figures)
            assert [f.best for f in figures] == [f.mean == top for f in figures]
    legend = summarise(groups).legend()
    assert "best mean" in legend and "no test is implied" in legend
    assert legend.endswith("ID: 120 images of ID.")
    alone = summarise({"CoOp": groups["CoOp"]}).blocks[-1]  # one row: nothing is best
    assert alone.metric == "accuracy" and not alone.rows[0].figures[0].best


def test_tables_name_their_id_set(write_run, tmp_path):
    where = {"dataset": "ShiftedImageNet", "folder": "imagenet-a"}
    run = write_run(tmp_path / "m/seed1", 1, provenance={"comparable": where})
    count = len(run.images[run.id_set].images)
    text = f"ID: {count} images of ShiftedImageNet imagenet-a."
    summary = summarise({"CoOp": [run]})
    assert text in summary.as_text() and text in summary.as_markdown()


def test_equally_printed_means_are_both_best(write_run, tmp_path):
    runs = {name: [write_run(tmp_path / name, 1, "CoOp")] for name in "ab"}
    assert all(figure.best for row in summarise(runs).blocks[-1].rows for figure in row.figures)


def test_every_score_is_shown(write_run, tmp_path):
    scores = ("MCM", "GL-MCM", "Energy", "MaxLogit")
    text = summarise({"CoOp": [write_run(tmp_path, scores=scores)]}).as_text()
    assert all(text.count(f" {score} ") == 3 for score in scores)  # a line a metric


@pytest.mark.parametrize("damage", ["remove", "cut", "garble"])
def test_runs_without_images_have_no_intervals(groups, study, damage):
    path = study / "CoOp/16shots/seed2/scores/nature.csv"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage != "remove":
        path.write_text(text[:-9] if damage == "cut" else "image,MCM\nx", encoding="utf-8")
    summary = summarise(groups, 100)
    (note,) = summary.notes
    assert note.startswith("CoOp has no intervals: ") and "nature.csv" in note
    figures = {row.method: row.figures[0] for row in summary.blocks[0].rows}
    assert figures["CoOp"].interval is None and figures["LoCoOp"].interval is not None


def facts(shots=None, backbone="ViT-B/16", **training):
    training = None if shots is None else {"shots": shots, **training}
    return {"training": training, "provenance": {"backbone": backbone}}


@pytest.mark.parametrize(
    "methods, sentences",
    [
        ({"CoOp": facts(2), "SCT": facts(16)}, ["Shots: CoOp 2, SCT 16."]),
        ({"CoOp": facts(16), "SCT": facts(16), "Zero": facts()}, []),
        ({"CoOp": facts(-1), "SCT": facts(1), "Zero": facts()}, ["Shots: CoOp all, SCT 1."]),
        ({"CoOp": facts(16), "CLIPN": facts(-1, pairs={"path": "cc3m"})}, []),
        ({"CoOp, 1 shot": facts(1), "CoOp, 16 shots": facts(16)}, []),
        ({"CoOp (b16_1shots/a)": facts(1), "CoOp (b16_4shots/a)": facts(4)}, []),
        ({"CoOp (4)": facts(1), "CoOp (b16_14shots)": facts(4)}, ["Shots: CoOp (4) 1, CoOp ("]),
        ({"CoOp": facts(1, "RN50"), "SCT": facts(1)}, ["Backbone: CoOp RN50, SCT ViT-B/16."]),
        ({"Zero": facts(None, "RN50"), "SCT": facts(1)}, ["Backbone: Zero RN50, SCT ViT-B/16."]),
        ({"CoOp": facts(1, "RN50"), "SCT": facts(2)}, ["Shots: CoOp 1, SCT 2.", "Backbone: CoOp"]),
        ({"CoOp": {"provenance": {}}, "SCT": facts(16)}, []),  # an earlier version's
    ],
)
def test_shots_and_backbones_that_differ_are_stated(write_run, tmp_path, methods, sentences):
    runs = {n: [write_run(tmp_path / str(i), **methods[n])] for i, n in enumerate(methods)}
    notes = summarise(runs).notes
    assert len(notes) == len(sentences)
    assert all(note.startswith(words) for note, words in zip(notes, sentences, strict=True))


def test_a_line_break_in_a_name_splits_no_row(write_run, tmp_path):
    write_run(tmp_path / "a", trainer="new\nline\u2028\x1b[1m")
    write_run(tmp_path / "b\nc", trainer="CoOp"), write_run(tmp_path / "d", trainer="CoOp")
    groups = load_groups([tmp_path])[0]
    assert sorted(groups, reverse=True) == [r"new\nline\u2028\x1b[1m", "CoOp (d)", r"CoOp (b\nc)"]
    summary = summarise(groups)
    assert r"CoOp (b\textbackslash{}nc) &" in tables.as_latex(summary.blocks, "")
    raw = {"new\nline": groups["CoOp (d)"], "CoOp": groups["CoOp (d)"]}  # named by a sweep
    for text in (summarise(raw).as_markdown(), summarise(raw).as_text()):
        assert "\nline" not in text and r"new\nline" in text


def strange(metric):
    """Return a table with all that LaTeX and CSV have to escape."""
    best = Figure([0.49, 0.51], (0.4, 0.6), True)
    rows = [
        Row(r"a\b_{c}", "GL-MCM", [best, Figure([0.23, 0.27])]),
        Row('say "x", 50 %', "~^#$", [Figure([1 / 3]), Figure([0.1])]),
    ]
    return Block(metric, "A & B (%)", ["SUN_2", "average"], rows)


def test_csv_reads_back_with_all_digits(tmp_path):
    write_csv(tmp_path / "t.csv", tables.CSV_COLUMNS, tables.csv_rows([strange("auroc")]))
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["set"]) for r in rows[::2]] == [
        (r"a\b_{c}", "SUN_2"),
        ('say "x", 50 %', "SUN_2"),
    ]
    assert [float(r["mean"]) for r in rows] == [0.5, 0.25, 1 / 3, 0.1]
    assert (rows[0]["low"], rows[0]["high"]) == ("0.4", "0.6")
    assert rows[1]["low"] == rows[2]["std"] == ""


def latex_rows(text):
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [re.split(r"(?<!\\)&", x[:-3]) for x in body.splitlines() if x.endswith(r"\\")]
    return [[cell.strip() for cell in row] for row in rows]


def test_latex_is_one_table_of_both_metrics(groups):
    text = tables.as_latex([strange("auroc"), strange("fpr95_id_nearest")], "of A & B")
    for macro in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{of A \& B}"):
        assert text.count(macro) == 1
    names, header, first, second = latex_rows(text)
    assert "{@{}llrrrr@{}}" in text and r"\cmidrule(lr){3-4} \cmidrule(lr){5-6}" in text
    assert names[2:] == [r"\multicolumn{2}{c}{SUN\_2}", r"\multicolumn{2}{c}{average}"]
    assert header[2:] == [r"FPR95 $\downarrow$", r"AUROC $\uparrow$"] * 2
    spread = r"{\scriptsize$\,\pm\,$%s}"
    assert first[0] == r"a\textbackslash{}b\_\{c\}"
    assert first[2:4] == [r"\textbf{50.00}" + spread % "1.41"] * 2
    assert first[4:] == ["25.00" + spread % "2.83"] * 2
    assert second[1] == r"\textasciitilde{}\textasciicircum{}\#\$"
    depth = re.sub(r"\\[{}]", "", text)
    assert depth.count("{") == depth.count("}")
    one = {name: [run.with_scores(["MCM"]) for run in runs] for name, runs in groups.items()}
    rows = latex_rows(tables.as_latex(summarise(one).blocks, ""))
    assert [row[0] for row in rows[2:]] == list(groups)  # one score: one row a method, no column
    assert {len(row) for row in rows[1:]} == {7}


def script(folder, *arguments):
    return subprocess.run(
        ["bash", ROOT / "scripts/results.sh", *map(str, arguments)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout


@pytest.mark.slow
def test_the_script_prints_and_saves(study, tmp_path, write_run):
    shutil.rmtree(study / "CoOp/16shots/seed2")
    write_run(study / "CoOp/stray/seed1", 1, "CoOp", sets=("other",))
    files = ("--markdown", "m.md", "--latex", "t.tex", "--csv", "c.csv")
    text = script(tmp_path, study, "--scores", "MCM", "--resamples", "100", *files)
    assert "95 % interval" in text and "±" in text and "stray" not in text.partition("Mean ±")[0]
    assert "CoOp has no run of seed 2" in text
    assert f"set apart {study / 'CoOp/stray/seed1'}: " in text
    assert (tmp_path / "m.md").read_text(encoding="utf-8").count("| CoOp |") == 3 + 1
    latex = (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert latex.count(r"\bottomrule") == 1 and "CoOp 2, LoCoOp 3" in latex
    assert (tmp_path / "c.csv").read_text(encoding="utf-8").startswith("metric,method,")


@pytest.mark.slow
def test_the_script_prints_a_comparison_and_nothing_before_it(study, tmp_path):
    options = ("--resamples", "100", "--compare", "LoCoOp:MCM", "ZeroshotCLIP")
    text = script(tmp_path, study, *options)
    assert text.startswith("A = LoCoOp, MCM (3 runs)\nB = ZeroshotCLIP, MCM (1 run)\n")
    assert len(text.splitlines()) < 20 and "not about other seeds" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing"], "there are no results"),
        ([".", "--scores", "Energy"], "Energy is in no run"),
        ([".", "--resamples", "5"], "at least 100 resamples"),
        ([".", "--resamples", "0", "--compare", "CoOp", "CoCoOp"], "Did you mean"),
    ],
)
def test_mistakes_are_told_in_a_sentence(study, monkeypatch, arguments, words):
    monkeypatch.chdir(study)
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    with pytest.raises(SystemExit, match=words):
        command.run(main)


def test_a_comparison_with_a_method_that_is_set_apart_says_so(study, write_run, monkeypatch):
    write_run(study / "CLIPN", trainer="CLIPN", sets=("nature",))
    monkeypatch.setattr("sys.argv", ["summary", str(study), "--compare", "CLIPN", "CoOp"])
    said = r"Unknown method 'CLIPN'(.|\n)*CLIPN: OOD set indoor none"
    with pytest.raises(SystemExit, match=said):
        command.run(main)


def test_the_overview_is_one_table_of_averages(study, capsys, monkeypatch):
    arguments = ["summary", str(study), "--overview", "--scores", "MCM", "--resamples", "0"]
    monkeypatch.setattr("sys.argv", arguments)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["method", "runs", "score", "FPR95", "AUROC", "ID", "accuracy"]
    row = next(line for line in lines if line.startswith("CoOp"))
    runs = load_groups([study], "MCM")[0]["CoOp"]
    mean = sum(100 * run.figures["MCM"]["average"]["auroc"] for run in runs) / len(runs)
    assert row.split()[:3] == ["CoOp", "3", "MCM"] and f"{mean:.2f}" in row
    assert "nature" not in "".join(lines)
